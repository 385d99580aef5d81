//! Storages that are broken on purpose, one [`Bug`] each: what the suite must catch.
//!
//! They are a test of the suite: `tests/mutations.rs` says for every bug which clauses it breaks.

mod bug;
mod harness;
mod keys;
mod listing;
mod options;
mod snapshot;
mod storage;
mod store;
mod transact;
mod values;
mod watching;

pub use bug::Bug;
pub use harness::BrokenHarness;
pub use storage::BrokenStorage;

/// The moment between two steps that should be one.
async fn let_others_in() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}
