//! Forgetting by tag and by prefix.

mod support;

use persist_cache::CacheConfig;
use persist_core::{BaseStorage, ErrorKind, StoreOptions};
use support::{SECOND, figure, key, list, manual, put};

#[tokio::test]
async fn a_tag_takes_all_that_bear_it_and_nothing_else() {
    let (cache, _clock) = manual(CacheConfig::default());
    for i in 0..1500 {
        put(&cache, &format!("a/{i:04}"), 1, StoreOptions::new().tag("team", "engines")).await;
    }
    put(&cache, "other text", 1, StoreOptions::new().tag("team", "looms")).await;
    put(&cache, "other name", 1, StoreOptions::new().tag("crew", "engines")).await;
    put(&cache, "no tag", 1, StoreOptions::new()).await;
    assert_eq!(cache.invalidate_tag("team", "engines").await.unwrap(), 1500);
    assert_eq!(list(&cache, "").await, ["no tag", "other name", "other text"]);
    assert_eq!(cache.invalidate_tag("team", "engines").await.unwrap(), 0);
    assert_eq!(figure(&cache, "invalidations").await, 1500);
}

#[tokio::test]
async fn a_tag_that_was_replaced_is_forgotten() {
    let (cache, _clock) = manual(CacheConfig::default());
    put(&cache, "k", 1, StoreOptions::new().tag("t", "old").tag("u", "same")).await;
    put(&cache, "k", 1, StoreOptions::new().tag("t", "new").tag("u", "same")).await;
    assert_eq!(cache.invalidate_tag("t", "old").await.unwrap(), 0);
    assert_eq!(list(&cache, "").await, ["k"]);
    assert_eq!(cache.invalidate_tag("u", "same").await.unwrap(), 1);
    assert_eq!(cache.invalidate_tag("t", "new").await.unwrap(), 0);
}

#[tokio::test]
async fn a_prefix_is_literal() {
    let (cache, _clock) = manual(CacheConfig::default());
    for text in ["a%b/1", "a%b/2", "a_b/1", "axb/1", "a%b"] {
        put(&cache, text, 1, StoreOptions::new()).await;
    }
    assert_eq!(cache.invalidate_prefix("a%b/").await.unwrap(), 2);
    assert_eq!(list(&cache, "").await, ["a%b", "a_b/1", "axb/1"]);
    for i in 0..1500 {
        put(&cache, &format!("many/{i}"), 1, StoreOptions::new()).await;
    }
    assert_eq!(cache.invalidate_prefix("").await.unwrap(), 1503);
    assert_eq!(figure(&cache, "memory_bytes").await, 0);
    assert_eq!(cache.invalidate_prefix("a\0").await.unwrap_err().kind(), ErrorKind::InvalidKey);
}

#[tokio::test]
async fn what_has_expired_is_forgotten_but_not_counted() {
    let (cache, clock) = manual(CacheConfig::default().stale_while_revalidate(10 * SECOND));
    let tagged = || StoreOptions::new().tag("t", "x");
    put(&cache, "expired", 1, tagged().ttl(SECOND)).await;
    put(&cache, "live", 1, tagged()).await;
    clock.advance(2 * SECOND);
    assert_eq!(figure(&cache, "stale_keys").await, 1);
    assert_eq!(cache.invalidate_tag("t", "x").await.unwrap(), 1);
    assert_eq!((figure(&cache, "stale_keys").await, figure(&cache, "memory_bytes").await), (0, 0));
    assert_eq!(cache.metadata(&key("live")).await.unwrap(), None);
}

#[tokio::test]
async fn an_evicted_value_bears_no_tag() {
    let (cache, _clock) = manual(CacheConfig::default().max_entries(10));
    for i in 0..100 {
        put(&cache, &format!("{i}"), 1, StoreOptions::new().tag("t", "x")).await;
    }
    assert_eq!(cache.invalidate_tag("t", "x").await.unwrap(), 10);
}
