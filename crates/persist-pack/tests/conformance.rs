//! The contract, for both promises of durability, and with packs so small that they are sealed all the time.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{Array, BaseStorage, HumanDuration, Key, ManualClock, OpenContext, Result, async_trait};
use persist_pack::{Compression, Durability, PackConfig, PackStorage};
use persist_testkit::{Harness, Variant};

struct Packs {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    durability: Durability,
    compression: Compression,
    pack_size: u64,
    deduplicate: bool,
}

impl Packs {
    fn new(durability: Durability, compression: Compression, pack_size: u64) -> Self {
        Self {
            place: tempfile::tempdir().unwrap(),
            clock: Arc::default(),
            durability,
            compression,
            pack_size,
            deduplicate: true,
        }
    }

    fn strict() -> Self {
        Self::new(Durability::Strict, Compression::Deflate, 256 << 20)
    }

    fn relaxed() -> Self {
        Self::new(Durability::Relaxed, Compression::None, 256 << 20)
    }

    /// Every value lies by itself, so that damage to one leaves the others whole.
    fn no_sharing() -> Self {
        Self { deduplicate: false, ..Self::new(Durability::Relaxed, Compression::Deflate, 64 << 10) }
    }

    /// Every few changes a pack is sealed.
    fn small_packs() -> Self {
        Self::new(Durability::Strict, Compression::Deflate, 2048)
    }

    fn config(&self) -> PackConfig {
        let mut config = PackConfig::new("packs").durability(self.durability).pack_size(self.pack_size);
        config.compression = self.compression;
        config.deduplicate = self.deduplicate;
        config.lock_timeout = HumanDuration(Duration::from_secs(1));
        config
    }

    async fn open_with(&self, config: PackConfig) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        Ok(Arc::new(PackStorage::open("packs", config, &context).await?))
    }

    /// The newest record with data of a key: its file, method, offset and length.
    fn data_of(&self, key: &Key) -> Option<(PathBuf, u16, usize, usize)> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.place.path().join("packs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "pack"));
        files.sort();
        files.into_iter().rev().find_map(|file| {
            let bytes = std::fs::read(&file).unwrap();
            let (method, at, len) = last_record(&bytes, key)?;
            Some((file, method, at, len))
        })
    }
}

/// Walks along the local headers of a ZIP file, as a foreign tool would that repairs it.
fn last_record(bytes: &[u8], key: &Key) -> Option<(u16, usize, usize)> {
    let number = |at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let mut wanted = Vec::new();
    wanted.extend(leb128(key.len()));
    wanted.extend(key.as_bytes());
    let (mut at, mut found) = (0, None);
    while bytes[at..].starts_with(b"PK\x03\x04") {
        let (method, packed, plain) = (number(at + 8, 2), number(at + 18, 4), number(at + 22, 4));
        let (name, extra) = (number(at + 26, 2), number(at + 28, 2));
        let data = at + 30 + name + extra;
        let note = &bytes[at + 30 + name..data];
        if packed > 0 && note.windows(wanted.len()).any(|part| part == wanted) {
            found = Some((method as u16, data, packed));
        }
        let chunks = if plain > 256 << 10 { plain.div_ceil(256 << 10) } else { 0 };
        at = data + packed + chunks * 12;
    }
    found
}

fn leb128(number: usize) -> Vec<u8> {
    if number < 128 { vec![number as u8] } else { vec![(number & 127) as u8 | 128, (number >> 7) as u8] }
}

#[async_trait]
impl Harness for Packs {
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

    /// Flips the last bit of the data, where it lies in the file. Where equal values share their data, it depends on what was sealed
    /// by then whose data it is; so only what shares nothing is damaged.
    async fn corrupt(&self, key: &Key) -> bool {
        if self.deduplicate {
            return false;
        }
        let Some((file, _, at, len)) = self.data_of(key) else { return false };
        let file: File = OpenOptions::new().read(true).write(true).open(file).unwrap();
        let (mut byte, at) = ([0], (at + len - 1) as u64);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        true
    }

    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        let Some((file, method, at, len)) = self.data_of(key) else { return Ok(None) };
        let mut data = std::fs::read(file).unwrap()[at..at + len].to_vec();
        if method == 8 {
            use std::io::Read as _;
            let packed = std::mem::take(&mut data);
            flate2::read::DeflateDecoder::new(&packed[..]).read_to_end(&mut data).unwrap();
        }
        Ok(Array::from_npy(&data.into()).ok())
    }
}

persist_testkit::conformance! {
    "strict" => Packs::strict,
    "relaxed" => Packs::relaxed,
    "small_packs" => Packs::small_packs,
    "no_sharing" => Packs::no_sharing,
}
