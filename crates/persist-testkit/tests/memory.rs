//! The reference storage runs the whole suite: as a disk, plainly, and under a fault layer that is not armed.

use std::sync::Arc;

use persist_core::{BaseStorage, Result, async_trait};
use persist_testkit::fault::FaultStorage;
use persist_testkit::memory::{MemoryHarness, MemoryStorage};
use persist_testkit::{Harness, Wrapped};

/// Without a place that outlives it, on the clock of the system, and without anything that a test may do to it.
struct Plain;

#[async_trait]
impl Harness for Plain {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(MemoryStorage::new("plain")))
    }
}

persist_testkit::conformance! {
    "memory" => MemoryHarness::new,
    "plain" => || Plain,
    "unarmed" => || Wrapped::new(MemoryHarness::new(), |storage| Arc::new(FaultStorage::new(storage))),
}
