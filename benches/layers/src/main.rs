//! What layers cost: a call that they hand on, a value that they encode, a copy that they find, each beside the bare thing, interleaved.
//!
//! `cargo run --release -p persist-bench-layers`
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

mod bare;
mod calls;
mod values;

use std::error::Error;
use std::sync::Arc;

use persist_cache::{CacheConfig, CacheStorage};
use persist_core::{BaseStorage, OpenContext};

pub(crate) type Storage = Arc<dyn BaseStorage>;
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How often everything is measured, one after the other each time.
pub(crate) const ROUNDS: usize = 15;

#[tokio::main]
async fn main() -> Outcome<()> {
    calls::run().await?;
    values::run()
}

/// The storage under every layer.
pub(crate) fn cache() -> Outcome<Storage> {
    let config = CacheConfig::default().max_bytes(1 << 30);
    Ok(Arc::new(CacheStorage::open("bench", &config, &OpenContext::default())?))
}

/// The one in the middle.
pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
