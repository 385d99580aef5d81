//! Random operations, each answered as the model answers.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::sync::Arc;

use persist_core::{BaseStorage, ManualClock, OpenContext, Result, async_trait};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::Harness;
use persist_testkit::model::Model;

struct Sqlite {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Sqlite {
    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }
}

#[async_trait]
impl Harness for Sqlite {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        let config = SqliteConfig::new("main.db").durability(Durability::Relaxed);
        Ok(Arc::new(SqliteStorage::open("main", config, &context).await?))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }
}

#[test]
fn random_operations_answer_as_the_model_does() {
    Model::new().run(Sqlite::new);
}
