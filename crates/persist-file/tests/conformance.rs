//! The contract, for every way of keeping files.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use persist_core::{Array, BaseStorage, Key, ManualClock, OpenContext, Result, async_trait};
use persist_file::{Durability, FileConfig, FileStorage, MetadataMode};
use persist_testkit::{Harness, Variant};

struct Files {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    durability: Durability,
    metadata: MetadataMode,
}

impl Files {
    fn new(durability: Durability, metadata: MetadataMode) -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { place, clock: Arc::default(), durability, metadata }
    }

    fn strict() -> Self {
        Self::new(Durability::Strict, MetadataMode::Auto)
    }

    fn relaxed() -> Self {
        Self::new(Durability::Relaxed, MetadataMode::Auto)
    }

    fn envelope() -> Self {
        Self::new(Durability::Strict, MetadataMode::Envelope)
    }

    fn config(&self) -> FileConfig {
        FileConfig::new("files").durability(self.durability).metadata(self.metadata)
    }

    async fn open_with(&self, config: FileConfig) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        Ok(Arc::new(FileStorage::open("files", config, &context).await?))
    }

    /// The file of a key that needs no escaping.
    fn file(&self, key: &Key) -> Option<PathBuf> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/-_".contains(c);
        if !key.chars().all(plain) {
            return None;
        }
        let file = self.place.path().join("files").join(key.as_str());
        ["json", "bin", "npy", "pval"]
            .into_iter()
            .map(|ending| file.with_extension(ending))
            .find(|file| file.exists())
    }
}

fn flip_last_bit(file: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let at = file.metadata().unwrap().len().saturating_sub(1);
    let mut byte = [0];
    let _ = file.read_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ 1], at).unwrap();
}

#[async_trait]
impl Harness for Files {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.open_with(self.config()).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let mut config = self.config();
        if !variant.settle(&mut config.ttl, &mut config.max_value, &mut config.read_only) {
            return Ok(None);
        }
        self.open_with(config).await.map(Some)
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.open().await.map(Some)
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    async fn corrupt(&self, key: &Key) -> bool {
        match self.file(key) {
            Some(file) => {
                flip_last_bit(&file);
                true
            }
            None => false,
        }
    }

    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        match self.file(key).filter(|file| file.extension().is_some_and(|ending| ending == "npy")) {
            Some(file) => Ok(Array::from_npy(&std::fs::read(file).unwrap().into()).ok()),
            None => Ok(None),
        }
    }
}

persist_testkit::conformance! {
    "strict" => Files::strict,
    "relaxed" => Files::relaxed,
    "envelope" => Files::envelope,
}
