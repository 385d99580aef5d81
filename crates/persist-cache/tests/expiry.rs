//! Lifetimes run by the monotonic clock, and what has expired leaves memory by itself.

mod support;

use std::time::Duration;

use persist_cache::{CacheConfig, CacheStorage};
use persist_core::{
    BaseStorage, Condition, ErrorKind, Expiry, Metadata, OpenContext, Result, StoreOptions, Timestamp, Value,
};
use support::{SECOND, figure, has, key, list, manual, put, wait_until};

#[tokio::test]
async fn the_moment_of_expiry_counts_as_expired() {
    let (cache, clock) = manual(CacheConfig::default());
    put(&cache, "k", 10, StoreOptions::new().ttl(SECOND)).await;
    clock.advance(SECOND - Duration::from_nanos(1));
    assert!(has(&cache, "k").await && list(&cache, "").await == ["k"]);
    clock.advance(Duration::from_nanos(1));
    assert!(!has(&cache, "k").await);
    assert!(!cache.contains(&key("k")).await.unwrap());
    assert_eq!(cache.metadata(&key("k")).await.unwrap(), None);
    assert_eq!(cache.touch(&key("k"), Expiry::Never).await.unwrap(), None);
    assert_eq!(list(&cache, "").await, [""; 0]);
    assert!(!cache.delete(&key("k"), persist_core::DeleteOptions::new()).await.unwrap());
    let stats = cache.stats().await.unwrap();
    assert_eq!((stats.keys, stats.bytes, stats.counters["expirations"]), (Some(0), Some(0), 1));
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_changes_nothing() {
    let (cache, clock) = manual(CacheConfig::default().ttl(10 * SECOND));
    let start = clock_wall(&cache);
    let at = StoreOptions::new().expires_at(start.saturating_add(10 * SECOND));
    for (name, options) in [("default", StoreOptions::new()), ("at", at)] {
        let stored = put(&cache, name, 10, options).await;
        assert_eq!(stored.expires_at, Some(start.saturating_add(10 * SECOND)), "{name}");
    }
    let created = cache.metadata(&key("at")).await.unwrap().unwrap().created_at;
    for jump in [Timestamp::from_millis(start.as_millis() + 86_400_000), Timestamp::from_millis(0)] {
        clock.set_wall(jump);
        assert_eq!(list(&cache, "").await, ["at", "default"], "at {jump}");
        assert!(has(&cache, "at").await && has(&cache, "default").await, "at {jump}");
        // Live for conditions and for what is kept on overwriting, too.
        let racer = create(&cache, "at").await;
        assert_eq!(racer.unwrap_err().kind(), ErrorKind::Conflict, "at {jump}");
        let again = put(&cache, "default", 11, StoreOptions::new().ttl(10 * SECOND)).await;
        assert_eq!(again.created_at, created, "at {jump}");
    }
    clock.advance(10 * SECOND - Duration::from_nanos(1));
    assert!(has(&cache, "at").await);
    clock.advance(Duration::from_nanos(1));
    assert!(!has(&cache, "at").await && !has(&cache, "default").await);
    // And expired for conditions, whatever the wall clock says.
    assert_eq!(create(&cache, "at").await.unwrap().size, 0);
}

async fn create(cache: &CacheStorage, text: &str) -> Result<Metadata> {
    cache.store(&key(text), Value::bytes(vec![]), StoreOptions::new().if_absent()).await
}

fn clock_wall(cache: &CacheStorage) -> Timestamp {
    cache.describe().now()
}

#[tokio::test]
async fn a_lifetime_of_zero_is_over_at_once() {
    let (cache, clock) = manual(CacheConfig::default().ttl(3600 * SECOND));
    let past = Timestamp::from_millis(clock_wall(&cache).as_millis() - 1);
    for options in [StoreOptions::new().ttl(Duration::ZERO), StoreOptions::new().expires_at(past)] {
        put(&cache, "k", 10, StoreOptions::new()).await;
        put(&cache, "k", 10, options).await;
        assert!(!has(&cache, "k").await);
        assert_eq!(figure(&cache, "memory_bytes").await, 0);
    }
    put(&cache, "k", 10, StoreOptions::new()).await;
    cache.touch(&key("k"), Expiry::After(Duration::ZERO)).await.unwrap().unwrap();
    assert_eq!(figure(&cache, "memory_bytes").await, 0);
    // Never is never, also against the default.
    put(&cache, "k", 10, StoreOptions { expiry: Expiry::Never, ..StoreOptions::new() }).await;
    clock.advance(1_000_000 * SECOND);
    assert!(has(&cache, "k").await);
}

#[tokio::test]
async fn a_lifetime_of_zero_leaves_nothing_stale() {
    let (cache, _clock) = manual(CacheConfig::default().stale_while_revalidate(SECOND));
    put(&cache, "k", 10, StoreOptions::new()).await;
    put(&cache, "k", 10, StoreOptions::new().ttl(Duration::ZERO)).await;
    assert_eq!(figure(&cache, "stale_keys").await, 0);
    put(&cache, "k", 10, StoreOptions::new()).await;
    cache.touch(&key("k"), Expiry::After(Duration::ZERO)).await.unwrap().unwrap();
    assert_eq!((figure(&cache, "stale_keys").await, figure(&cache, "expirations").await), (0, 2));
}

#[tokio::test]
async fn touch_changes_the_lifetime_alone() {
    let (cache, clock) = manual(CacheConfig::default());
    let stored = put(&cache, "k", 10, StoreOptions::new().ttl(SECOND).tag("t", "x")).await;
    let touched = cache.touch(&key("k"), Expiry::After(5 * SECOND)).await.unwrap().unwrap();
    assert!(touched.version > stored.version);
    assert_eq!((&touched.tags, touched.checksum), (&stored.tags, stored.checksum));
    clock.advance(4 * SECOND);
    assert!(has(&cache, "k").await);
    assert_eq!(cache.invalidate_tag("t", "x").await.unwrap(), 1);
}

#[tokio::test]
async fn writing_tidies_up_on_its_way() {
    let (cache, clock) = manual(CacheConfig::default());
    for i in 0..80 {
        put(&cache, &format!("{i}"), 10, StoreOptions::new().ttl(SECOND)).await;
    }
    clock.advance(SECOND);
    for i in 0..10 {
        put(&cache, &format!("new/{i}"), 10, StoreOptions::new()).await;
    }
    // `maintain` finds nothing left, and no read has helped.
    assert_eq!(cache.maintain().await.unwrap().expired, 0);
    assert_eq!(figure(&cache, "expirations").await, 80);
}

#[tokio::test]
async fn maintain_says_what_it_removed() {
    let (cache, clock) = manual(CacheConfig::default());
    for i in 0..2000 {
        put(&cache, &format!("{i}"), 10, StoreOptions::new().ttl(SECOND)).await;
    }
    put(&cache, "kept", 10, StoreOptions::new()).await;
    let before = figure(&cache, "memory_bytes").await;
    clock.advance(SECOND);
    let done = cache.maintain().await.unwrap();
    let after = figure(&cache, "memory_bytes").await;
    assert_eq!((done.expired, done.freed_bytes), (2000, before - after));
    assert!(after > 0 && has(&cache, "kept").await);
}

#[tokio::test]
async fn expired_values_leave_memory_without_a_call() {
    let config =
        CacheConfig::default().ttl(Duration::from_millis(30)).sweep_interval(Duration::from_millis(10));
    let cache = CacheStorage::open("test", &config, &OpenContext::default()).unwrap();
    put(&cache, "k", 1000, StoreOptions::new()).await;
    let entry = cache.retrieve(&key("k")).await.unwrap().unwrap();
    assert!(!entry.value.buffer().is_unique());
    // Nobody calls the cache: its hold on the buffer just ends.
    wait_until("the buffer was let go", || async { entry.value.buffer().is_unique() }).await;
}

#[tokio::test]
async fn a_dropped_cache_is_freed_at_once_though_its_sweeper_sleeps() {
    let (cache, _clock) = manual(CacheConfig::default());
    put(&cache, "k", 1000, StoreOptions::new()).await;
    let entry = cache.retrieve(&key("k")).await.unwrap().unwrap();
    drop(cache);
    assert!(entry.value.buffer().is_unique());
}

#[tokio::test]
async fn an_expired_version_is_no_version() {
    let (cache, clock) = manual(CacheConfig::default());
    let stored = put(&cache, "k", 10, StoreOptions::new().ttl(SECOND)).await;
    clock.advance(SECOND);
    let options = StoreOptions { condition: Condition::IfVersion(stored.version), ..StoreOptions::new() };
    let error = cache.store(&key("k"), Value::bytes(vec![]), options).await.unwrap_err();
    assert_eq!((error.kind(), error.found()), (ErrorKind::Conflict, None));
    let again = put(&cache, "k", 10, StoreOptions::new().if_absent()).await;
    assert!(again.version > stored.version && again.created_at > stored.created_at);
}
