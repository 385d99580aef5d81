//! What the tests of the cache share.

// Every test binary uses a part of it; a panic here is a report as in the tests themselves.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use persist_cache::{CacheConfig, CacheStorage};
use persist_core::{BaseStorage, Key, ManualClock, Metadata, OpenContext, StoreOptions, Value};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A cache whose time a test moves. Its sweeper is out of the way: it wakes once a day.
pub(crate) fn manual(config: CacheConfig) -> (CacheStorage, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let context = OpenContext { clock: clock.clone(), ..OpenContext::default() };
    let config = config.sweep_interval(Duration::from_secs(86_400));
    (CacheStorage::open("test", &config, &context).unwrap(), clock)
}

pub(crate) fn key(text: impl Into<Arc<str>>) -> Key {
    Key::new(text).unwrap()
}

/// Stores so many zeros.
pub(crate) async fn put(cache: &CacheStorage, text: &str, size: usize, options: StoreOptions) -> Metadata {
    cache.store(&key(text), Value::bytes(vec![0; size]), options).await.unwrap()
}

/// The keys of the first page.
pub(crate) async fn list(cache: &CacheStorage, prefix: &str) -> Vec<String> {
    let page = cache.list_keys(prefix, persist_core::ListOptions::new()).await.unwrap();
    page.keys.iter().map(ToString::to_string).collect()
}

pub(crate) async fn has(cache: &CacheStorage, text: &str) -> bool {
    cache.retrieve(&key(text)).await.unwrap().is_some()
}

/// One of the figures of `stats`.
pub(crate) async fn figure(cache: &CacheStorage, name: &str) -> u64 {
    *cache.stats().await.unwrap().counters.get(name).unwrap_or_else(|| panic!("no figure {name}"))
}

/// Waits for something that happens in the background.
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
