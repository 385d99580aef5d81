//! Tiers and fallbacks with members that fail, are slow, are full or are gone.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, Expiry, HealthStatus, HumanDuration, Operation, StorageExt,
    StoreItem, StoreOptions, Value,
};
use persist_layers::{
    Fallback, FallbackOn, ReadOnly, SizeLimit, SizeLimitConfig, Tiered, TieredCoherence, TieredConfig,
    TieredFailure, TieredWrite,
};
use persist_testkit::fault::{Fault, FaultStorage};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{Storage, key, memory, millis};

struct Tiers {
    hot: Arc<FaultStorage>,
    main: Arc<FaultStorage>,
    storage: Tiered,
}

fn faulty(name: &str) -> Arc<FaultStorage> {
    Arc::new(FaultStorage::new(memory(name)))
}

fn tiers(adjust: impl FnOnce(TieredConfig) -> TieredConfig) -> Tiers {
    let (hot, main) = (faulty("hot"), faulty("main"));
    let config = adjust(TieredConfig::new(["hot".to_owned(), "main".to_owned()]));
    let storage = Tiered::new("live", vec![hot.clone(), main.clone()], &config).unwrap();
    Tiers { hot, main, storage }
}

#[tokio::test]
async fn the_last_tier_is_read_once_and_the_first_one_after_that() {
    let Tiers { hot, main, storage } = tiers(|config| config);
    let stored = main.put("a", &1).await.unwrap();
    for _ in 0..3 {
        let entry = storage.retrieve(&key("a")).await.unwrap().unwrap();
        assert_eq!((entry.to::<u8>().unwrap(), &entry.metadata), (1, &stored));
        assert_eq!(storage.metadata(&key("a")).await.unwrap().as_ref(), Some(&stored));
    }
    assert_eq!((main.calls("retrieve"), main.calls("metadata")), (1, 0));
    // A store puts the value into both, with the version of the last.
    let stored = storage.put("b", &2).await.unwrap();
    assert_eq!(Some(stored), main.metadata(&key("b")).await.unwrap());
    assert_eq!(storage.get("b").await.unwrap(), Some(2));
    assert_eq!((main.calls("retrieve"), hot.get("b").await.unwrap()), (1, Some(2)));
    let counters = storage.stats().await.unwrap().counters;
    assert_eq!((counters["tier_hits"], counters["tier_misses"], counters["tier_failures"]), (3, 1, 0));
}

#[tokio::test]
async fn around_leaves_the_value_out_of_the_first_tier_until_it_is_read() {
    let Tiers { hot, storage, .. } = tiers(|config| TieredConfig { write: TieredWrite::Around, ..config });
    storage.put("a", &1).await.unwrap();
    assert_eq!(hot.get::<u8>("a").await.unwrap(), None);
    assert_eq!(storage.get("a").await.unwrap(), Some(1));
    assert_eq!(hot.get("a").await.unwrap(), Some(1));
    storage.put("a", &2).await.unwrap();
    assert_eq!(storage.get("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn every_sort_of_change_is_seen_at_once() {
    let Tiers { storage, .. } = tiers(|config| config);
    let seen = async |wanted: Option<u8>| {
        assert_eq!(storage.get::<u8>("a").await.unwrap(), wanted);
        assert_eq!(storage.contains(&key("a")).await.unwrap(), wanted.is_some());
        let many = storage.retrieve_many(&[key("a")]).await.remove(0).unwrap();
        assert_eq!(many.map(|entry| entry.to::<u8>().unwrap()), wanted);
    };
    let value = |n: u8| Value::json(&n).unwrap();
    storage.put("a", &1).await.unwrap();
    seen(Some(1)).await;
    storage.store_many(vec![StoreItem::new(key("a"), value(2))]).await.remove(0).unwrap();
    seen(Some(2)).await;
    storage.transact(vec![Operation::put(key("a"), value(3), StoreOptions::new())]).await.unwrap();
    seen(Some(3)).await;
    storage.touch(&key("a"), Expiry::After(millis(0))).await.unwrap();
    seen(None).await;
    storage.put("a", &4).await.unwrap();
    assert!(storage.delete_many(&[key("a")]).await.remove(0).unwrap());
    seen(None).await;
    storage.put("a", &5).await.unwrap();
    assert!(storage.delete(&key("a"), DeleteOptions::new()).await.unwrap());
    seen(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_miss_together_read_the_last_tier_once() {
    let Tiers { main, storage, .. } = tiers(|config| config);
    main.put("a", &1).await.unwrap();
    main.arm(Fault::delay(millis(50)).on("retrieve"));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.get::<u8>("a").await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Some(1));
    }
    assert_eq!(main.calls("retrieve"), 1);
}

#[tokio::test]
async fn absence_is_remembered_if_that_is_wanted() {
    let Tiers { main, storage, .. } =
        tiers(|config| TieredConfig { negative_ttl: Some(HumanDuration(millis(60_000))), ..config });
    for _ in 0..5 {
        assert_eq!(storage.get::<u8>("a").await.unwrap(), None);
        assert!(!storage.contains(&key("a")).await.unwrap());
    }
    assert_eq!(main.calls("retrieve"), 1);
    assert!(storage.list_keys("", Default::default()).await.unwrap().keys.is_empty());
    storage.put("a", &1).await.unwrap();
    assert_eq!(storage.get("a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_first_tier_that_fails_is_passed_by_when_reading_and_stops_a_change() {
    let Tiers { hot, main, storage } = tiers(|config| config);
    storage.put("a", &1).await.unwrap();
    hot.arm(Fault::fail(ErrorKind::Unavailable));
    assert_eq!(storage.get("a").await.unwrap(), Some(1));
    assert_eq!(storage.health().await.status, HealthStatus::Degraded);
    let error = storage.put("a", &2).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Unavailable, false));
    assert!(error.message().contains("`hot`"), "{error}");
    assert_eq!(main.get("a").await.unwrap(), Some(1));
    hot.disarm();
    storage.put("a", &2).await.unwrap();
    assert_eq!(storage.get("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn with_bypass_a_copy_that_could_not_be_removed_is_not_believed() {
    let Tiers { hot, storage, .. } =
        tiers(|config| TieredConfig { on_failure: TieredFailure::Bypass, ..config });
    storage.put("a", &1).await.unwrap();
    hot.arm(Fault::fail(ErrorKind::Unavailable).on("delete_many"));
    storage.put("a", &2).await.unwrap();
    assert_eq!(hot.get("a").await.unwrap(), Some(1));
    assert_eq!(storage.get("a").await.unwrap(), Some(2));
    assert!(storage.metadata(&key("a")).await.unwrap().is_some_and(|metadata| metadata.size == 1));
    hot.disarm();
    storage.put("a", &3).await.unwrap();
    assert_eq!((hot.get("a").await.unwrap(), storage.get("a").await.unwrap()), (Some(3), Some(3)));
}

#[tokio::test]
async fn after_an_unknown_outcome_the_last_tier_is_asked() {
    let Tiers { hot, main, storage } = tiers(|config| config);
    storage.put("a", &1).await.unwrap();
    main.arm(Fault::lose_answer(ErrorKind::Timeout).on("store").nth(1));
    assert!(storage.put("a", &2).await.unwrap_err().outcome_unknown());
    // Even if something old gets into the first tier now, it is not believed.
    for _ in 0..2 {
        assert_eq!(storage.get("a").await.unwrap(), Some(2));
    }
    assert_eq!((main.calls("retrieve"), hot.get::<u8>("a").await.unwrap()), (2, None));
}

#[tokio::test]
async fn a_value_that_the_first_tier_has_no_room_for_is_read_from_the_last() {
    let small: Storage = Arc::new(SizeLimit::new(memory("hot"), &SizeLimitConfig::new(10)));
    let config = TieredConfig::new(Vec::new());
    let storage = Tiered::new("live", vec![small, memory("main")], &config).unwrap();
    storage.put("a", "much more than ten bytes").await.unwrap();
    storage.put("b", "few").await.unwrap();
    assert_eq!(storage.get::<String>("a").await.unwrap().as_deref(), Some("much more than ten bytes"));
    assert_eq!(storage.get::<String>("b").await.unwrap().as_deref(), Some("few"));
}

/// A caller who gives up while the last tier works must not leave an old copy behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_caller_has_gone_leaves_no_old_copy() {
    let Tiers { main, storage, .. } = tiers(|config| config);
    storage.put("a", &1).await.unwrap();
    main.arm(Fault::delay(millis(500)).on("store").nth(1));
    assert!(tokio::time::timeout(millis(20), storage.put("a", &2)).await.is_err());
    // This read waits for the change, which goes on.
    assert_eq!(storage.get("a").await.unwrap(), Some(2));
    assert_eq!(main.get("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn what_cannot_be_tiers_is_refused() {
    let config = TieredConfig::new(Vec::new());
    let fixed: Storage = Arc::new(ReadOnly::new(memory("seed")));
    let error = Tiered::new("live", vec![fixed.clone(), memory("main")], &config).unwrap_err();
    assert_eq!((error.kind(), error.message().contains("`seed`")), (ErrorKind::InvalidConfig, true));
    assert_eq!(Tiered::new("live", vec![memory("m")], &config).unwrap_err().kind(), ErrorKind::InvalidConfig);
    // The last one may be read-only, and then all of them.
    let below = memory("main");
    below.put("a", &1).await.unwrap();
    let last: Storage = Arc::new(ReadOnly::new(below));
    for upper in [memory("hot"), fixed] {
        let storage = Tiered::new("live", vec![upper, last.clone()], &config).unwrap();
        assert!(storage.describe().capabilities().read_only);
        assert_eq!(storage.put("a", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(storage.get("a").await.unwrap(), Some(1));
        assert_eq!(storage.stats().await.unwrap().counters["tier_failures"], 0);
    }
}

/// One of several programs: a cache of its own over a last tier that all of them use.
fn program(place: &MemoryPlace, coherence: TieredCoherence) -> (Arc<FaultStorage>, Tiered) {
    let last = MemoryStorage::builder("main").as_disk().open(place);
    let last = Arc::new(FaultStorage::new(Arc::new(last)));
    let config = TieredConfig { coherence, ..TieredConfig::new(Vec::new()) };
    (last.clone(), Tiered::new("live", vec![memory("hot"), last], &config).unwrap())
}

/// Asks until it is answered so.
async fn until<T: PartialEq>(wanted: T, question: impl AsyncFn() -> T) {
    let patience = std::time::Instant::now();
    while question().await != wanted {
        assert!(patience.elapsed() < millis(30_000), "it never was so");
        tokio::time::sleep(millis(5)).await;
    }
}

#[tokio::test]
async fn copies_follow_what_another_program_changes() {
    let place = MemoryPlace::new();
    let (_, one) = program(&place, TieredCoherence::Watch);
    let (_, other) = program(&place, TieredCoherence::Watch);
    let (_, deaf) = program(&place, TieredCoherence::Expiry);
    let hits = async || one.stats().await.unwrap().counters["tier_hits"];
    other.put("a", &1).await.unwrap();
    assert_eq!(deaf.get("a").await.unwrap(), Some(1));
    // As soon as it is told of changes it believes its copies.
    until(true, async || one.get("a").await.unwrap() == Some(1) && hits().await > 0).await;
    other.put("a", &2).await.unwrap();
    until(Some(2), async || one.get("a").await.unwrap()).await;
    other.remove("a").await.unwrap();
    until(None, async || one.get::<u8>("a").await.unwrap()).await;
    // What it changes itself is seen at once, and read from its copy.
    one.put("b", &3).await.unwrap();
    let before = hits().await;
    assert_eq!(one.get("b").await.unwrap(), Some(3));
    assert_eq!(hits().await, before + 1);
    assert_eq!(deaf.get("a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn while_nothing_is_told_no_copy_is_believed() {
    let place = MemoryPlace::new();
    let (last, one) = program(&place, TieredCoherence::Watch);
    let (_, other) = program(&place, TieredCoherence::Watch);
    last.arm(Fault::fail(ErrorKind::Unavailable).on("watch"));
    for number in 0..10 {
        other.put("a", &number).await.unwrap();
        assert_eq!(one.get("a").await.unwrap(), Some(number));
    }
    assert_eq!(one.stats().await.unwrap().counters["tier_hits"], 0);
}

fn fallback(on: &[FallbackOn]) -> (Arc<FaultStorage>, Arc<FaultStorage>, Fallback) {
    let (first, second) = (faulty("first"), faulty("second"));
    let storage = Fallback::new("both", vec![first.clone(), second.clone()], on).unwrap();
    (first, second, storage)
}

#[tokio::test]
async fn reads_fall_back_on_failures_and_not_on_absence() {
    let (first, second, storage) = fallback(&[FallbackOn::Unavailable, FallbackOn::Corruption]);
    first.put("a", &1).await.unwrap();
    second.put("a", &10).await.unwrap();
    second.put("b", &20).await.unwrap();
    assert_eq!((storage.get("a").await.unwrap(), storage.get::<u8>("b").await.unwrap()), (Some(1), None));
    for kind in [ErrorKind::Unavailable, ErrorKind::Corruption] {
        first.disarm();
        first.arm(Fault::fail(kind));
        assert_eq!(storage.get("a").await.unwrap(), Some(10));
        assert_eq!(storage.list_keys("", Default::default()).await.unwrap().keys.len(), 2);
        let many = storage.retrieve_many(&[key("b"), key("x")]).await;
        assert!(many[0].as_ref().is_ok_and(Option::is_some) && many[1].as_ref().is_ok_and(Option::is_none));
    }
    // Another failure does not lead on.
    first.disarm();
    first.arm(Fault::fail(ErrorKind::AccessDenied).on("retrieve"));
    assert_eq!(storage.get::<u8>("a").await.unwrap_err().kind(), ErrorKind::AccessDenied);
    assert!(storage.stats().await.unwrap().counters["fallback_answers"] >= 6);
}

#[tokio::test]
async fn changes_concern_the_first_and_fail_with_it() {
    let (first, second, storage) = fallback(&[FallbackOn::Unavailable]);
    storage.put("a", &1).await.unwrap();
    assert_eq!((first.get("a").await.unwrap(), second.get::<u8>("a").await.unwrap()), (Some(1), None));
    first.arm(Fault::fail(ErrorKind::Unavailable));
    assert_eq!(storage.put("a", &2).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let health = storage.health().await;
    assert_eq!(health.status, HealthStatus::Degraded);
    assert!(health.detail.contains("`second`"), "{}", health.detail);
    second.arm(Fault::fail(ErrorKind::Timeout));
    // What the first one said is what must be mended.
    assert_eq!(storage.get::<u8>("a").await.unwrap_err().storage(), Some("first"));
    assert_eq!(storage.health().await.status, HealthStatus::Unhealthy);
}
