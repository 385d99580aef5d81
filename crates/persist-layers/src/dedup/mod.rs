//! Equal contents stored once.

mod chunker;
mod chunks;
mod config;
mod manifest;
mod storage;
mod sweep;

pub use config::DedupConfig;
pub use storage::Dedup;
pub use sweep::DedupUsage;
