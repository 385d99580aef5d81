//! Random operations, each answered as the model answers; with packs that are sealed after every few changes.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::sync::Arc;

use persist_core::{BaseStorage, ManualClock, OpenContext, Result, async_trait};
use persist_pack::{Durability, PackConfig, PackStorage};
use persist_testkit::Harness;
use persist_testkit::model::Model;

struct Packs {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    pack_size: u64,
}

impl Packs {
    fn new(pack_size: u64) -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default(), pack_size }
    }
}

#[async_trait]
impl Harness for Packs {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        let config = PackConfig::new("packs").durability(Durability::Relaxed).pack_size(self.pack_size);
        Ok(Arc::new(PackStorage::open("packs", config, &context).await?))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }
}

#[test]
fn random_operations_answer_as_the_model_does() {
    Model::new().run(|| Packs::new(256 << 20));
}

#[test]
fn random_operations_answer_as_the_model_does_in_small_packs() {
    Model::new().cases(128).run(|| Packs::new(1 << 10));
}
