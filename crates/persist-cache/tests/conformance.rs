//! The conformance suite over the cache as it comes, and over one that keeps expired values for `get_or_refresh`.

#[path = "support/harness.rs"]
mod harness;

use std::time::Duration;

use harness::Cache;
use persist_cache::CacheConfig;

persist_testkit::conformance! {
    "cache" => Cache::default,
    "cache_with_a_window" => || {
        Cache::with(CacheConfig::default().stale_while_revalidate(Duration::from_secs(3600)))
    },
}
