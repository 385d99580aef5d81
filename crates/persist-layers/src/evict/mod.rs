//! A budget of bytes over any storage.

mod config;
mod ledger;
mod storage;

pub use config::{EvictConfig, EvictPolicy};
pub use storage::{Evict, Hold};
