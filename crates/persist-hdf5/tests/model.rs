//! Random operations, each answered as the model answers.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::sync::Arc;

use persist_core::{BaseStorage, ManualClock, OpenContext, Result, async_trait};
use persist_hdf5::{Durability, Hdf5Config, Hdf5Storage};
use persist_testkit::Harness;
use persist_testkit::model::Model;

struct Hdf5 {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Hdf5 {
    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }
}

#[async_trait]
impl Harness for Hdf5 {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        let config = Hdf5Config::new("main.h5").durability(Durability::Relaxed);
        Ok(Arc::new(Hdf5Storage::open("main", config, &context).await?))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }
}

#[test]
fn random_operations_answer_as_the_model_does() {
    Model::new().run(Hdf5::new);
}
