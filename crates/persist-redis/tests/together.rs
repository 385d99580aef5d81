//! Changes of many callers go out together, and yet each is alone: its condition, its failure, its caller who goes away.
#![allow(clippy::unwrap_used)] // A panic here is the report.

#[path = "support/harness.rs"]
mod harness;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use harness::config;
use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, Expiry, Key, ListOptions, OpenContext, Operation, StorageError,
    StoreItem, StoreOptions, Value, Version,
};
use persist_redis::{RedisConfig, RedisStorage};
use persist_testkit::redis::{Deployment, Server};

const CALLERS: usize = 256;

async fn open(config: RedisConfig) -> Arc<RedisStorage> {
    Arc::new(RedisStorage::open("hot", config, &OpenContext::default()).await.unwrap())
}

fn key(number: usize) -> Key {
    Key::new(format!("k/{number:03}")).unwrap()
}

fn value(number: usize) -> Value {
    Value::bytes(format!("value {number}"))
}

/// How many scripts the server has run.
fn scripts(server: &Server) -> usize {
    let stats = server.command(&["INFO", "commandstats"]).text();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.and_then(|rest| rest.split(',').next()).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_need_few_scripts_and_have_versions_of_their_own() {
    let Some(redis) = Deployment::standalone() else { return };
    let server = &redis.servers()[0];
    let storage = open(config(&redis, false, 1)).await;
    let before = scripts(server);
    let stores = (0..CALLERS).map(|number| {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move { storage.store(&key(number), value(number), StoreOptions::new()).await })
    });
    let stored = join_all(stores).await;
    let run = scripts(server) - before;
    assert!(run < CALLERS / 4, "{run} scripts for {CALLERS} callers");
    let mut versions = HashSet::new();
    for (number, stored) in stored.into_iter().enumerate() {
        let metadata = stored.unwrap().unwrap();
        assert!(versions.insert(metadata.version), "{number}: {metadata:?}");
        let entry = storage.retrieve(&key(number)).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.metadata), (value(number), metadata));
    }
    // A batch is as few.
    let before = scripts(server);
    let item = |number| StoreItem { key: key(number), value: value(0), options: StoreOptions::new() };
    for stored in storage.store_many((0..CALLERS).map(item).collect()).await {
        assert!(versions.insert(stored.unwrap().version));
    }
    let run = scripts(server) - before;
    assert!(run <= CALLERS / 32, "{run} scripts for a batch of {CALLERS}");
}

/// Conditions that do not hold, a foreign value in the place of an entry, transactions and deletes, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_one_caller_does_not_fail_for_another() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let base = format!("{}:{{0}}", config.namespace);
    let storage = open(config).await;
    for number in 0..CALLERS {
        storage.store(&key(number), value(0), StoreOptions::new()).await.unwrap();
    }
    let foreign = key(7);
    redis.servers()[0].command(&["DEL", &format!("{base}/{foreign}")]);
    redis.servers()[0].command(&["SET", &format!("{base}/{foreign}"), "not ours"]);
    let calls = (0..CALLERS).map(|number| {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move {
            let (key, stale) = (key(number), Version::from_u64(1));
            match number % 5 {
                0 => {
                    storage.store(&key, value(number), StoreOptions::new().if_version(stale)).await.map(drop)
                }
                1 => storage.delete(&key, DeleteOptions::new()).await.map(drop),
                2 => storage.store(&key, value(number), StoreOptions::new()).await.map(drop),
                3 => storage.touch(&key, Expiry::After(Duration::from_secs(60))).await.map(drop),
                _ => {
                    let put = Operation::put(key, value(number), StoreOptions::new());
                    let check = Operation::put(
                        Key::new("none").unwrap(),
                        value(0),
                        StoreOptions::new().if_version(stale),
                    );
                    storage.transact(vec![put, check]).await.map(drop)
                }
            }
        })
    });
    for (number, made) in join_all(calls).await.into_iter().enumerate() {
        let made = made.unwrap().map_err(|error| (error.kind(), error.key().map(ToString::to_string)));
        let expected = match number % 5 {
            0 => Err((ErrorKind::Conflict, Some(key(number).to_string()))),
            4 => Err((ErrorKind::Conflict, Some("none".to_owned()))),
            _ if number == 7 => Err((ErrorKind::Corruption, Some(key(number).to_string()))),
            _ => Ok(()),
        };
        assert_eq!(made, expected, "{number}");
    }
    for number in (0..CALLERS).filter(|number| *number != 7) {
        let found = storage.retrieve(&key(number)).await.unwrap();
        let expires = found.as_ref().is_some_and(|entry| entry.metadata.expires_at.is_some());
        let expected = match number % 5 {
            1 => None,
            2 => Some(value(number)),
            _ => Some(value(0)),
        };
        assert_eq!((found.map(|entry| entry.value), expires), (expected, number % 5 == 3), "{number}");
    }
    assert!(storage.retrieve(&Key::new("none").unwrap()).await.unwrap().is_none());
}

/// Callers who go away while they wait hold nobody up, and leave no half of a value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_may_go_away() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1)).await;
    for round in 0..20 {
        let calls: Vec<_> = (0..CALLERS)
            .map(|number| {
                let storage = Arc::clone(&storage);
                tokio::spawn(
                    async move { storage.store(&key(number), value(number), StoreOptions::new()).await },
                )
            })
            .collect();
        if round % 2 == 1 {
            tokio::time::sleep(Duration::from_micros(200 * round)).await;
        }
        calls.iter().step_by(2).for_each(tokio::task::JoinHandle::abort);
        let made = tokio::time::timeout(Duration::from_secs(30), join_all(calls)).await.unwrap();
        for (number, made) in made.into_iter().enumerate().filter(|(number, _)| number % 2 == 1) {
            assert_eq!(made.unwrap().unwrap().size, value(number).size(), "{number} in round {round}");
        }
        // Nothing is left behind that could come later.
        storage.store(&key(0), value(0), StoreOptions::new()).await.unwrap();
        let keys = storage.list_keys("", ListOptions::new()).await.unwrap().keys;
        for (entry, name) in storage.retrieve_many(&keys).await.into_iter().zip(&keys) {
            let entry = entry.unwrap().unwrap_or_else(|| panic!("{name} is listed and absent"));
            assert_eq!(entry.value, value(name.as_str()[2..].parse().unwrap()), "{name}");
        }
    }
}

/// A runtime that ends while its callers wait takes nobody else along; what it has sent for others may have an unknown
/// outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_may_end() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1)).await;
    for round in 0..10 {
        let other =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        for number in 0..CALLERS {
            let storage = Arc::clone(&storage);
            other.spawn(async move { storage.store(&key(number), value(number), StoreOptions::new()).await });
        }
        let ours = (0..CALLERS).map(|number| {
            let storage = Arc::clone(&storage);
            let key = Key::new(format!("ours/{number}")).unwrap();
            tokio::spawn(async move { storage.store(&key, value(number), StoreOptions::new()).await })
        });
        let ours: Vec<_> = ours.collect();
        tokio::time::sleep(Duration::from_micros(300 * round)).await;
        other.shutdown_background();
        for made in tokio::time::timeout(Duration::from_secs(30), join_all(ours)).await.unwrap() {
            let error: Option<StorageError> = made.unwrap().err();
            assert!(error.is_none_or(|error| error.outcome_unknown()), "round {round}");
        }
        storage.store(&key(0), value(round as usize), StoreOptions::new()).await.unwrap();
    }
}
