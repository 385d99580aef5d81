//! Entries that expire leave nothing behind, and what is configured about lifetimes holds.
#![allow(clippy::unwrap_used)] // A panic here is the report.

#[path = "support/harness.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::config;
use persist_core::{
    BaseStorage, Expiry, Key, ManualClock, OpenContext, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_redis::{RedisConfig, RedisStorage};
use persist_testkit::redis::{Deployment, Reply};

const MINUTE: Duration = Duration::from_secs(60);

async fn open(config: RedisConfig) -> (RedisStorage, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let context = OpenContext { clock: clock.clone(), ..OpenContext::default() };
    (RedisStorage::open("hot", config, &context).await.unwrap(), clock)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn names(redis: &Deployment) -> Vec<String> {
    let mut names = match redis.servers()[0].command(&["KEYS", "*"]) {
        Reply::Array(names) => names.iter().map(Reply::text).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_expiring_keys_leave_nothing_behind() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let head = format!("{}:{{0}}#head", config.namespace);
    let (storage, clock) = open(config).await;
    for part in 0..100 {
        let item = |i: usize| StoreItem {
            key: key(&format!("{part}/{i}")),
            value: Value::bytes(vec![7; 20]),
            options: StoreOptions::new().ttl(MINUTE),
        };
        for answer in storage.store_many((0..1000).map(item).collect()).await {
            answer.unwrap();
        }
    }
    assert_eq!(storage.stats().await.unwrap().keys, Some(100_000));
    storage.store(&key("last"), Value::bytes("x"), StoreOptions::new().ttl(MINUTE)).await.unwrap();
    let limit = redis.servers()[0].command(&["PTTL", &format!("{}/last", head.trim_end_matches("#head"))]);
    assert!(
        (60_001..=120_000).contains(&limit.integer()),
        "the server's own expiry is a backstop, a minute later: {limit:?}"
    );
    clock.advance(MINUTE);
    assert_eq!(storage.stats().await.unwrap().keys, Some(0), "what has expired counts no more");
    let begun = Instant::now();
    while names(&redis) != [head.clone()] {
        assert!(begun.elapsed() < MINUTE, "{} names are still there", names(&redis).len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let Reply::Array(fields) = redis.servers()[0].command(&["HKEYS", &head]) else { panic!("no head") };
    assert_eq!(fields.iter().map(Reply::text).collect::<Vec<_>>(), ["tags", "version"]);
}

/// What the server has removed by itself while nobody looked is swept from the index later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_outlived_its_entries_is_swept() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let base = format!("{}:{{0}}", config.namespace);
    let (storage, clock) =
        open(RedisConfig { sweep_interval: persist_core::HumanDuration(1000 * MINUTE), ..config }).await;
    storage.store(&key("k"), Value::bytes("x"), StoreOptions::new().ttl(MINUTE)).await.unwrap();
    redis.servers()[0].command(&["DEL", &format!("{base}/k")]);
    assert_eq!(storage.retrieve(&key("k")).await.unwrap(), None);
    clock.advance(MINUTE);
    assert_eq!(storage.maintain().await.unwrap().expired, 1);
    assert_eq!(names(&redis), [format!("{base}#head")]);
}

/// A change that brings an expiring entry sweeps, also if no task does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiring_entries_make_room_for_expiring_entries() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let (storage, clock) =
        open(RedisConfig { sweep_interval: persist_core::HumanDuration(1000 * MINUTE), ..config }).await;
    for round in 0..5 {
        for i in 0..50 {
            let options = StoreOptions::new().ttl(MINUTE);
            storage.store(&key(&format!("{round}/{i}")), Value::bytes("x"), options).await.unwrap();
        }
        clock.advance(MINUTE);
    }
    let left = names(&redis).len();
    assert!(left <= 50 + 3, "{left} names for 50 entries at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_give_lifetimes_by_prefix() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, true, 1).ttl(10 * MINUTE).ttl_rule("a/", MINUTE).ttl_rule("a/b/", 5 * MINUTE);
    let (storage, clock) = open(config).await;
    for name in ["x", "a/x", "a/b/x", "a/own", "a/touched"] {
        storage.put(name, &1).await.unwrap();
    }
    let own = StoreOptions { expiry: Expiry::Never, ..StoreOptions::new() };
    storage.put_with("a/own", &1, own).await.unwrap();
    storage.touch(&key("a/touched"), Expiry::After(20 * MINUTE)).await.unwrap();
    storage.touch(&key("a/touched"), Expiry::Default).await.unwrap();
    let alive = async || {
        let page = storage.list_keys("", persist_core::ListOptions::new()).await.unwrap();
        page.keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    clock.advance(MINUTE);
    assert_eq!(alive().await, ["a/b/x", "a/own", "x"]);
    clock.advance(4 * MINUTE);
    assert_eq!(alive().await, ["a/own", "x"]);
    clock.advance(5 * MINUTE);
    assert_eq!(alive().await, ["a/own"]);
}
