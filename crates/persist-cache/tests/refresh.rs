//! Single flight, and handing out a stale value while one task computes the next.

// The helpers of this file are tests as well: a panic in them is the report.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use persist_cache::{CacheConfig, CacheStorage};
use persist_core::{BaseStorage, ErrorKind, ManualClock, StorageError, StorageExt, StoreOptions};
use support::{SECOND, figure, has, list, manual, put, wait_until};
use tokio::sync::Notify;

fn options() -> StoreOptions {
    StoreOptions::new().ttl(10 * SECOND)
}

/// A cache with a window of 5 s, and the value 1 under "k", which has just expired.
async fn expired() -> (Arc<CacheStorage>, Arc<ManualClock>) {
    let (cache, clock) = manual(CacheConfig::default().stale_while_revalidate(5 * SECOND));
    cache.put_with("k", &1, options()).await.unwrap();
    clock.advance(10 * SECOND);
    (Arc::new(cache), clock)
}

async fn get(cache: &CacheStorage, next: u32) -> u32 {
    cache.get_or_refresh("k", options(), move || async move { Ok(next) }).await.unwrap()
}

async fn wait_for(cache: &CacheStorage, name: &str, count: u64) {
    wait_until(&format!("{name} is {count}"), || async { figure(cache, name).await == count }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_callers_one_computes() {
    let cache = Arc::new(manual(CacheConfig::default()).0);
    for refreshing in [false, true] {
        let computed = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let (cache, computed) = (Arc::clone(&cache), Arc::clone(&computed));
                tokio::spawn(async move {
                    let compute = move || async move {
                        computed.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        Ok(7)
                    };
                    if refreshing {
                        cache.get_or_refresh("b", options(), compute).await
                    } else {
                        cache.get_or_compute("a", options(), compute).await
                    }
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap(), 7);
        }
        assert_eq!(computed.load(Ordering::SeqCst), 1, "refreshing: {refreshing}");
    }
    assert!(cache.describe().flights().is_empty());
}

#[tokio::test]
async fn a_fresh_value_is_not_refreshed() {
    let (cache, clock) = expired().await;
    cache.put_with("k", &2, options()).await.unwrap();
    clock.advance(9 * SECOND);
    assert_eq!(get(&cache, 3).await, 2);
    assert_eq!((figure(&cache, "refreshes").await, figure(&cache, "hits").await), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stale_callers_do_not_wait_and_one_task_refreshes() {
    let (cache, _clock) = expired().await;
    let (computed, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    for _ in 0..100 {
        let (computed, go) = (Arc::clone(&computed), Arc::clone(&go));
        let compute = move || async move {
            computed.fetch_add(1, Ordering::SeqCst);
            go.notified().await;
            Ok(2)
        };
        // None of them waits: nobody has let the task go on.
        assert_eq!(cache.get_or_refresh("k", options(), compute).await.unwrap(), 1);
    }
    // To every other read it has expired.
    assert!(!has(&cache, "k").await && list(&cache, "").await.is_empty());
    go.notify_one();
    wait_until("the next value is there", || async { has(&cache, "k").await }).await;
    assert_eq!(get(&cache, 99).await, 2);
    assert_eq!(computed.load(Ordering::SeqCst), 1);
    assert_eq!((figure(&cache, "stale_hits").await, figure(&cache, "refreshes").await), (100, 1));
}

#[tokio::test]
async fn after_the_window_callers_wait_for_the_next_value() {
    let (cache, clock) = expired().await;
    clock.advance(5 * SECOND - std::time::Duration::from_nanos(1));
    let failing = || async { Err::<u32, _>(StorageError::new(ErrorKind::Unavailable, "the origin is down")) };
    assert_eq!(cache.get_or_refresh("k", options(), failing).await.unwrap(), 1);
    wait_for(&cache, "refresh_failures", 1).await;
    clock.advance(std::time::Duration::from_nanos(1));
    let error = cache.get_or_refresh("k", options(), failing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(get(&cache, 2).await, 2);
    assert_eq!(figure(&cache, "memory_bytes").await, 640 + 1 + 1);
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_stale_value_and_is_tried_again() {
    let (cache, _clock) = expired().await;
    for round in 1..=3 {
        let fail = || async { Err::<u32, _>(StorageError::new(ErrorKind::Timeout, "too slow")) };
        assert_eq!(cache.get_or_refresh("k", options(), fail).await.unwrap(), 1);
        wait_for(&cache, "refresh_failures", round).await;
    }
    let panics = || async { if figure_is_odd() { panic!("a panic of the test") } else { Ok(0_u32) } };
    assert_eq!(cache.get_or_refresh("k", options(), panics).await.unwrap(), 1);
    wait_for(&cache, "refresh_failures", 4).await;
    assert_eq!(get(&cache, 5).await, 1);
    wait_until("it is fresh again", || async { has(&cache, "k").await }).await;
    assert_eq!(get(&cache, 6).await, 5);
}

/// True; the compiler need not know.
fn figure_is_odd() -> bool {
    std::hint::black_box(true)
}

#[tokio::test]
async fn a_refresh_never_undoes_a_later_change() {
    for change in ["store", "delete", "invalidate"] {
        let (cache, _clock) = expired().await;
        let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begun, wait) = (Arc::clone(&started), Arc::clone(&go));
        let compute = move || async move {
            begun.notify_one();
            wait.notified().await;
            Ok(2)
        };
        assert_eq!(cache.get_or_refresh("k", options(), compute).await.unwrap(), 1);
        started.notified().await;
        match change {
            "store" => drop(cache.put("k", &3).await.unwrap()),
            // It has expired, so it is not there to be deleted; but the caller wants it gone.
            "delete" => assert!(!cache.remove("k").await.unwrap()),
            _ => assert_eq!(cache.invalidate_prefix("k").await.unwrap(), 0),
        }
        go.notify_one();
        wait_for(&cache, "refreshes_outrun", 1).await;
        let expected = (change == "store").then_some(3);
        assert_eq!(cache.get::<u32>("k").await.unwrap(), expected, "{change}");
        assert_eq!(figure(&cache, "refresh_failures").await, 0);
    }
}

#[tokio::test]
async fn a_refresh_does_not_keep_the_cache_alive() {
    let (cache, _clock) = expired().await;
    let alive = cache.retrieve(&support::key("k")).await.unwrap();
    assert_eq!(alive, None);
    let guard = Arc::new(());
    let (held, go) = (Arc::clone(&guard), Arc::new(Notify::new()));
    let wait = Arc::clone(&go);
    let compute = move || async move {
        wait.notified().await;
        drop(held);
        Ok(2)
    };
    assert_eq!(cache.get_or_refresh("k", options(), compute).await.unwrap(), 1);
    let clock = Arc::downgrade(cache.describe().clock());
    drop(cache);
    drop(_clock);
    assert_eq!(clock.strong_count(), 0, "something still holds the engine");
    go.notify_one();
    wait_until("the task ended", || async { Arc::strong_count(&guard) == 1 }).await;
}

#[tokio::test]
async fn without_a_window_nothing_is_kept() {
    let (cache, clock) = manual(CacheConfig::default());
    cache.put_with("k", &1, options()).await.unwrap();
    clock.advance(10 * SECOND);
    assert_eq!(get(&cache, 2).await, 2);
    assert_eq!(figure(&cache, "refreshes").await, 0);
}

#[tokio::test]
async fn stale_values_make_room_first() {
    let (cache, clock) = manual(CacheConfig::default().max_entries(3).stale_while_revalidate(5 * SECOND));
    put(&cache, "oldest", 1, StoreOptions::new()).await;
    put(&cache, "stale", 1, StoreOptions::new().ttl(SECOND)).await;
    put(&cache, "newer", 1, StoreOptions::new()).await;
    clock.advance(SECOND);
    put(&cache, "newest", 1, StoreOptions::new()).await;
    assert_eq!(list(&cache, "").await, ["newer", "newest", "oldest"]);
    assert_eq!(figure(&cache, "stale_keys").await, 0);
}

#[test]
fn without_a_runtime_the_caller_computes() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (cache, _clock) = runtime.block_on(expired());
    drop(runtime);
    let mut waiting = pin!(get(&cache, 2));
    let Poll::Ready(value) = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for what nobody does");
    };
    assert_eq!(value, 2);
}
