//! A budget of bytes: what is worth the least goes, and nothing that must stay.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, ListOptions, ManualClock, Operation, Result, StorageExt,
    StoreItem, StoreOptions, Value,
};
use persist_layers::{Evict, EvictConfig, EvictPolicy};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{key, millis};

fn over(place: &MemoryPlace, config: EvictConfig) -> Evict {
    Evict::new(Arc::new(MemoryStorage::builder("below").open(place)), config).unwrap()
}

fn budget(bytes: u64, policy: EvictPolicy) -> EvictConfig {
    EvictConfig { policy, ..EvictConfig::new(bytes) }
}

/// A value that takes 100 bytes with its key.
fn hundred(name: &str) -> Value {
    Value::bytes(vec![7; 100 - name.len()])
}

async fn put(storage: &Evict, name: &str, options: StoreOptions) -> Result<()> {
    let tags = options.tags.byte_size();
    let value = Value::bytes(vec![7; 100 - name.len() - tags]);
    storage.store(&key(name), value, options).await.map(drop)
}

async fn names(storage: &dyn BaseStorage) -> Vec<String> {
    let page = storage.list_keys("", ListOptions::new()).await.unwrap();
    page.keys.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_when_there_is_no_room() {
    let place = MemoryPlace::new();
    let storage = over(&place, budget(300, EvictPolicy::Lru));
    for name in ["a", "b", "c"] {
        put(&storage, name, StoreOptions::new()).await.unwrap();
    }
    storage.retrieve(&key("a")).await.unwrap();
    storage.retrieve_range(&key("b"), 0..1).await.unwrap();
    put(&storage, "d", StoreOptions::new()).await.unwrap();
    assert_eq!(names(&storage).await, ["a", "b", "d"]);
    storage.retrieve_many(&[key("a")]).await;
    put(&storage, "e", StoreOptions::new()).await.unwrap();
    assert_eq!(names(&storage).await, ["a", "d", "e"]);
    let stats = storage.stats().await.unwrap();
    assert_eq!(
        (stats.counters["budget_used"], stats.counters["evicted"], stats.counters["evicted_bytes"]),
        (300, 2, 200)
    );
}

#[tokio::test]
async fn what_was_dear_to_compute_stays_longest() {
    let storage = over(&MemoryPlace::new(), budget(300, EvictPolicy::Cost));
    for (name, cost) in [("dear", "900"), ("cheap", "1"), ("middle", "30")] {
        put(&storage, name, StoreOptions::new().tag("cost", cost)).await.unwrap();
    }
    put(&storage, "x", StoreOptions::new().tag("cost", "60")).await.unwrap();
    put(&storage, "y", StoreOptions::new().tag("cost", "60")).await.unwrap();
    assert_eq!(names(&storage).await, ["dear", "x", "y"]);
}

#[tokio::test]
async fn what_is_pinned_or_held_never_goes() {
    let config = EvictConfig { pinned: vec!["keep/".to_owned()], ..budget(300, EvictPolicy::Lru) };
    let storage = over(&MemoryPlace::new(), config);
    put(&storage, "keep/1", StoreOptions::new()).await.unwrap();
    put(&storage, "tagged", StoreOptions::new().tag("pin", "true")).await.unwrap();
    put(&storage, "held", StoreOptions::new()).await.unwrap();
    let held = storage.hold(&key("held")).await.unwrap().unwrap();
    assert!(storage.hold(&key("none")).await.unwrap().is_none());
    // Using one gives it a new place, and it keeps what protects it.
    for name in names(&storage).await {
        assert!(storage.retrieve(&key(&name)).await.unwrap().is_some());
    }
    let full = put(&storage, "new", StoreOptions::new()).await.unwrap_err();
    assert_eq!((full.kind(), full.key()), (ErrorKind::Capacity, Some(&key("new"))));
    assert_eq!(names(&storage).await, ["held", "keep/1", "tagged"]);
    drop(held);
    put(&storage, "new", StoreOptions::new()).await.unwrap();
    assert_eq!(names(&storage).await, ["keep/1", "new", "tagged"]);
}

#[tokio::test]
async fn what_can_never_fit_or_is_refused_costs_nobody_his_place() {
    let storage = over(&MemoryPlace::new(), budget(300, EvictPolicy::Lru));
    for name in ["a", "b", "c"] {
        put(&storage, name, StoreOptions::new()).await.unwrap();
    }
    let huge = storage.store(&key("d"), Value::bytes(vec![0; 300]), StoreOptions::new()).await.unwrap_err();
    assert_eq!((huge.kind(), huge.key()), (ErrorKind::TooLarge, Some(&key("d"))));
    let refused = put(&storage, "a", StoreOptions::new().if_absent()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let batch =
        (0..4).map(|n| Operation::put(key(&format!("t{n}")), hundred("t0"), StoreOptions::new())).collect();
    assert_eq!(storage.transact(batch).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(names(&storage).await, ["a", "b", "c"]);
    // A value in the place of another needs only what it has more.
    put(&storage, "a", StoreOptions::new()).await.unwrap();
    storage.delete(&key("b"), DeleteOptions::new()).await.unwrap();
    put(&storage, "e", StoreOptions::new()).await.unwrap();
    assert_eq!(names(&storage).await, ["a", "c", "e"]);
}

#[tokio::test]
async fn batches_larger_than_the_budget_leave_their_end() {
    let storage = over(&MemoryPlace::new(), budget(1000, EvictPolicy::Lru));
    let items = (0..30).map(|n| StoreItem::new(key(&format!("k{n:02}")), hundred("k00"))).collect();
    assert!(storage.store_many(items).await.iter().all(Result::is_ok));
    let names = names(&storage).await;
    assert_eq!((names.len(), names[0].as_str(), names[9].as_str()), (10, "k20", "k29"));
}

#[tokio::test]
async fn after_a_restart_the_books_are_those_of_what_is_there() {
    let place = MemoryPlace::new();
    let storage = over(&place, budget(300, EvictPolicy::Lru));
    for name in ["a", "b", "c"] {
        put(&storage, name, StoreOptions::new()).await.unwrap();
        tokio::time::sleep(millis(2)).await;
    }
    drop(storage);
    let storage = over(&place, budget(300, EvictPolicy::Lru));
    put(&storage, "d", StoreOptions::new()).await.unwrap();
    assert_eq!(names(&storage).await, ["b", "c", "d"], "the one that was changed longest ago goes first");
    // Smaller than what is there, it makes room when it is maintained.
    let storage = over(&place, budget(150, EvictPolicy::Lru));
    storage.maintain().await.unwrap();
    assert_eq!(names(&storage).await, ["d"]);
}

#[tokio::test]
async fn what_another_changed_below_is_not_taken_for_what_it_was() {
    let place = MemoryPlace::new();
    let storage = over(&place, budget(300, EvictPolicy::Lru));
    for name in ["a", "b", "c"] {
        put(&storage, name, StoreOptions::new()).await.unwrap();
    }
    let other = MemoryStorage::builder("below").open(&place);
    other.put("a", &"new").await.unwrap();
    other.delete(&key("b"), DeleteOptions::new()).await.unwrap();
    put(&storage, "d", StoreOptions::new()).await.unwrap();
    assert_eq!(
        names(&storage).await,
        ["a", "c", "d"],
        "the one that was just changed is spared, the one that is gone is forgotten"
    );
}

#[tokio::test]
async fn what_has_expired_takes_no_room() {
    let (place, clock) = (MemoryPlace::new(), Arc::new(ManualClock::default()));
    let below = MemoryStorage::builder("below").clock(clock.clone()).open(&place);
    let storage = Evict::new(Arc::new(below), budget(200, EvictPolicy::Lru)).unwrap();
    put(&storage, "keep", StoreOptions::new()).await.unwrap();
    put(&storage, "brief", StoreOptions::new().ttl(millis(100))).await.unwrap();
    clock.advance(millis(200));
    put(&storage, "new", StoreOptions::new()).await.unwrap();
    assert_eq!(names(&storage).await, ["keep", "new"]);
    assert_eq!(storage.stats().await.unwrap().counters["evicted"], 0);
}
