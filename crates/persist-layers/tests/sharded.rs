//! Shards that are added and taken away, forgotten, unreachable or strange.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use persist_core::{
    BaseStorage, ErrorKind, Event, ListOptions, ManualClock, Operation, Result, StorageExt, StoreOptions,
    Value,
};
use persist_layers::{Sharded, ShardedConfig};
use persist_testkit::fault::{Fault, FaultStorage};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{Storage, key};

/// The places of shards called `a`, `b`, `c` and `d`.
#[derive(Default)]
struct Shards([MemoryPlace; 4]);

impl Shards {
    fn member(&self, name: &str) -> Storage {
        let place = &self.0[usize::from(name.as_bytes()[0] - b'a')];
        Arc::new(MemoryStorage::builder(name).as_disk().open(place))
    }

    fn open_as(&self, name: &str, config: &ShardedConfig) -> Sharded {
        let members = config.shards.iter().chain(&config.draining).map(|shard| self.member(shard)).collect();
        Sharded::new(name, config, members).unwrap()
    }

    fn open(&self, config: &ShardedConfig) -> Sharded {
        self.open_as("all", config)
    }
}

fn shards(names: &str) -> ShardedConfig {
    ShardedConfig::new(names.chars().map(String::from))
}

fn moving(names: &str, draining: &str) -> ShardedConfig {
    ShardedConfig { draining: draining.chars().map(String::from).collect(), rebalance: true, ..shards(names) }
}

async fn fill(storage: &Sharded, count: u64) {
    for number in 0..count {
        storage.put(format!("k{number:03}"), &number).await.unwrap();
    }
}

async fn check(storage: &Sharded, count: u64) {
    let listed: Vec<String> = pages(storage, 7).await;
    let wanted: Vec<String> = (0..count).map(|number| format!("k{number:03}")).collect();
    assert_eq!(listed, wanted);
    for number in 0..count {
        assert_eq!(
            storage.get::<u64>(&wanted[usize::try_from(number).unwrap()]).await.unwrap(),
            Some(number)
        );
    }
}

async fn pages(storage: &Sharded, limit: usize) -> Vec<String> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list_keys("", ListOptions::new().after(after).limit(limit)).await.unwrap();
        listed.extend(page.keys.iter().map(ToString::to_string));
        after = page.next;
        if after.is_none() {
            return listed;
        }
    }
}

async fn kind<T: std::fmt::Debug>(answer: impl Future<Output = Result<T>>) -> (ErrorKind, String) {
    let error = answer.await.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn keys_are_spread_over_all_shards_and_in_one_each() {
    let places = Shards::default();
    let storage = places.open(&shards("abc"));
    fill(&storage, 300).await;
    check(&storage, 300).await;
    let mut sum = 0;
    for name in ["a", "b", "c"] {
        let own = places.member(name).stats().await.unwrap().keys.unwrap() - 1;
        assert!((60..140).contains(&own), "{name} has {own} of 300");
        sum += own;
    }
    assert_eq!((sum, storage.stats().await.unwrap().keys), (300, Some(300)));
}

#[tokio::test]
async fn an_added_shard_takes_its_keys_and_no_others_move() {
    let places = Shards::default();
    fill(&places.open(&shards("abc")), 200).await;
    let grown = places.open(&moving("abcd", ""));
    assert_eq!(pages(&grown, 9).await.len(), 200);
    let before: Vec<Vec<String>> = before_of(&places).await;
    let moved = grown.rebalance().await.unwrap();
    check(&grown, 200).await;
    let taken = places.member("d").stats().await.unwrap().keys.unwrap() - 1;
    assert_eq!(moved, taken);
    assert!((25..85).contains(&taken), "{taken} of 200 moved");
    for (name, old) in ["a", "b", "c"].into_iter().zip(before) {
        let left = places.member(name).list_keys("k", ListOptions::new()).await.unwrap().keys;
        assert!(left.iter().all(|key| old.contains(&key.to_string())), "{name} was given keys");
    }
    assert_eq!(grown.rebalance().await.unwrap(), 0);
    check(&places.open(&shards("dcba")), 200).await;
}

async fn before_of(places: &Shards) -> Vec<Vec<String>> {
    let mut before = Vec::new();
    for name in ["a", "b", "c"] {
        let page = places.member(name).list_keys("k", ListOptions::new()).await.unwrap();
        before.push(page.keys.iter().map(ToString::to_string).collect());
    }
    before
}

#[tokio::test]
async fn a_shard_that_leaves_is_emptied_and_may_be_taken_out() {
    let places = Shards::default();
    fill(&places.open(&shards("abc")), 100).await;
    let config = ShardedConfig { draining: vec!["b".to_owned()], ..shards("ac") };
    let shrinking = places.open(&config);
    check(&shrinking, 100).await;
    assert!(!shrinking.describe().capabilities().shared);
    let notes = shrinking.maintain().await.unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("take `rebalance` and `draining` out")), "{notes:?}");
    assert_eq!(places.member("b").stats().await.unwrap().keys, Some(0));
    let after = places.open(&shards("ac"));
    check(&after, 100).await;
    assert!(after.describe().capabilities().shared);
    // Nobody had to move between those that stay.
    assert_eq!(after.stats().await.unwrap().keys, Some(100));
}

#[tokio::test]
async fn other_shards_than_before_are_refused_until_it_is_said() {
    let places = Shards::default();
    fill(&places.open(&shards("abc")), 10).await;
    let (found, text) = kind(places.open(&shards("abcd")).get::<u64>("k001")).await;
    assert_eq!(found, ErrorKind::InvalidConfig);
    assert!(text.contains("were a, b, c and are a, b, c, d") && text.contains("rebalance: true"), "{text}");
    let lost = places.open(&shards("ab"));
    let (found, text) = kind(lost.list_keys("", ListOptions::new())).await;
    assert_eq!(found, ErrorKind::InvalidConfig);
    assert!(text.contains("`c` is missing") && text.contains("draining"), "{text}");
    assert_eq!(lost.health().await.status, persist_core::HealthStatus::Unhealthy);
    let batch = lost.retrieve_many(&[key("k001")]).await.remove(0).unwrap_err();
    assert_eq!((batch.kind(), batch.key()), (ErrorKind::InvalidConfig, Some(&key("k001"))));
    // What is a shard of one storage is not one of another.
    let (_, text) = kind(places.open_as("other", &shards("abc")).get::<u64>("k001")).await;
    assert!(text.contains("a shard of the storage `all`"), "{text}");
    // The right ones, in any order, still work.
    check(&places.open(&shards("cab")), 10).await;
}

#[tokio::test]
async fn a_move_that_was_broken_off_cannot_be_forgotten() {
    let places = Shards::default();
    fill(&places.open(&shards("abc")), 50).await;
    // Something has moved, by a read even, and then it ended.
    check(&places.open(&moving("abcd", "")), 50).await;
    let (_, text) = kind(places.open(&shards("abc")).get::<u64>("k001")).await;
    assert!(text.contains("`d` is missing"), "{text}");
    let (_, text) = kind(places.open(&shards("abcd")).get::<u64>("k001")).await;
    assert!(text.contains("did not come to its end"), "{text}");
    let again = places.open(&moving("abcd", ""));
    again.rebalance().await.unwrap();
    check(&places.open(&shards("abcd")), 50).await;
}

#[tokio::test]
async fn storages_that_hold_keys_become_shards_only_if_that_is_wanted() {
    let places = Shards::default();
    places.member("b").put("k000", &0).await.unwrap();
    let (found, text) = kind(places.open(&shards("ab")).get::<u64>("k000")).await;
    assert_eq!(
        (found, text.contains("`b` holds keys and was never a shard")),
        (ErrorKind::InvalidConfig, true)
    );
    let adopted = places.open(&moving("ab", ""));
    check(&adopted, 1).await;
    adopted.rebalance().await.unwrap();
    check(&places.open(&shards("ab")), 1).await;
}

#[tokio::test]
async fn two_programs_may_be_the_first_at_once() {
    let places = Shards::default();
    let late: Vec<Arc<FaultStorage>> =
        ["a", "b"].map(|name| Arc::new(FaultStorage::new(places.member(name)))).into();
    // It has seen that there are no notes, and looks for keys when the other one has written both.
    late.iter().for_each(|member| member.arm(Fault::delay(support::millis(60)).on("list_keys")));
    let members = late.iter().map(|member| Arc::clone(member) as Storage).collect();
    let late = Sharded::new("all", &shards("ab"), members).unwrap();
    let other = places.open(&shards("ab"));
    let first = async {
        tokio::time::sleep(support::millis(20)).await;
        fill(&other, 10).await;
    };
    let (found, ()) = tokio::join!(late.get::<u64>("k001"), first);
    assert!(found.is_ok(), "{found:?}");
    check(&late, 10).await;
}

#[tokio::test]
async fn a_change_while_keys_move_is_never_undone_by_the_move() {
    let places = Shards::default();
    fill(&places.open(&shards("ab")), 60).await;
    let storage = places.open(&moving("abcd", ""));
    let mover = storage.clone();
    let mover = tokio::spawn(async move { mover.rebalance().await.unwrap() });
    for number in 0..60_u64 {
        let name = format!("k{number:03}");
        match number % 3 {
            0 => drop(storage.put(&name, &(number + 1000)).await.unwrap()),
            1 => assert!(storage.remove(&name).await.unwrap()),
            _ => drop(storage.update(&name, |old: Option<u64>| old.unwrap() + 2000).await.unwrap()),
        }
        tokio::task::yield_now().await;
    }
    mover.await.unwrap();
    let settled = places.open(&moving("abcd", ""));
    settled.rebalance().await.unwrap();
    for storage in [settled, places.open(&shards("abcd"))] {
        for number in 0..60_u64 {
            let wanted =
                [Some(number + 1000), None, Some(number + 2000)][usize::try_from(number % 3).unwrap()];
            assert_eq!(storage.get::<u64>(&format!("k{number:03}")).await.unwrap(), wanted, "{number}");
        }
    }
}

/// A key that has not come to its new shard when that is listed, and has left the old one when that is.
#[tokio::test]
async fn a_key_that_moves_while_it_is_listed_is_listed() {
    let places = Shards::default();
    fill(&places.open(&shards("a")), 20).await;
    let config = moving("ab", "");
    let slow = Arc::new(FaultStorage::new(places.member("a")));
    let storage =
        Sharded::new("all", &config, vec![Arc::clone(&slow) as Storage, places.member("b")]).unwrap();
    storage.get::<u64>("k000").await.unwrap();
    slow.arm(Fault::delay(support::millis(500)).on("list_keys").nth(1));
    let mover = places.open(&config);
    let moved = async {
        tokio::time::sleep(support::millis(100)).await;
        mover.rebalance().await.unwrap()
    };
    let (page, moved) = tokio::join!(storage.list_keys("", ListOptions::new()), moved);
    assert!(moved > 3, "{moved}");
    assert_eq!(page.unwrap().keys.len(), 20);
}

/// Versions follow the clock of a shard; they grow all the same when a key moves to one whose clock is behind.
#[tokio::test]
async fn a_key_that_moves_to_a_shard_whose_clock_is_behind_has_a_greater_version() {
    let (old, new) = (MemoryPlace::new(), MemoryPlace::new());
    let clock = |ahead: u64| {
        let clock = ManualClock::default();
        clock.advance(support::millis(1_000_000 + ahead));
        Arc::new(clock)
    };
    let (ahead, behind) = (clock(20), clock(0));
    let open = |config: &ShardedConfig, behind: Arc<ManualClock>| {
        let member = |name: &String| -> Storage {
            let (place, clock) = if name == "a" { (&old, &ahead) } else { (&new, &behind) };
            Arc::new(MemoryStorage::builder(name).as_disk().clock(clock.clone()).open(place))
        };
        let members = config.shards.iter().chain(&config.draining).map(member).collect();
        Sharded::new("all", config, members).unwrap()
    };
    let before = open(&moving("a", "b"), behind.clone());
    fill(&before, 20).await;
    let after = open(&moving("b", "a"), behind.clone());
    let ticking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(support::millis(1)).await;
            behind.advance(support::millis(1));
        }
    });
    for number in 0..20 {
        let key = key(&format!("k{number:03}"));
        let old = before.metadata(&key).await.unwrap().unwrap();
        assert_eq!(after.get::<u64>(key.as_str()).await.unwrap(), Some(number));
        let new = after.metadata(&key).await.unwrap().unwrap();
        assert!(new.version > old.version, "{:?} after {:?}", new.version, old.version);
    }
    ticking.abort();
}

#[tokio::test]
async fn a_copy_that_a_crash_left_behind_never_wins() {
    let places = Shards::default();
    let storage = places.open(&moving("abc", ""));
    let owner = storage.shard(&key("k")).to_owned();
    let other = ["a", "b", "c"].into_iter().find(|name| *name != owner).unwrap();
    // It was copied to its shard, and the copy was not removed.
    for name in [other, &owner] {
        places.member(name).put("k", &"old").await.unwrap();
    }
    storage.put("k", &"new").await.unwrap();
    assert_eq!(storage.get::<String>("k").await.unwrap().as_deref(), Some("new"));
    assert!(!places.member(other).contains(&key("k")).await.unwrap());
    places.member(other).put("k", &"old").await.unwrap();
    storage.remove("k").await.unwrap();
    storage.rebalance().await.unwrap();
    assert_eq!(storage.get::<String>("k").await.unwrap(), None);
}

#[tokio::test]
async fn transactions_stay_in_one_shard_and_braces_keep_keys_together() {
    let storage = Shards::default().open(&shards("abc"));
    let put = |name: &str| Operation::put(key(name), Value::json(&1).unwrap(), StoreOptions::new());
    let together: Vec<Operation> = (0..20).map(|number| put(&format!("order/{{7}}/{number}"))).collect();
    storage.transact(together).await.unwrap();
    assert_eq!(storage.stats().await.unwrap().keys, Some(20));
    let across: Vec<Operation> = (0..20).map(|number| put(&format!("order/{number}"))).collect();
    let error = storage.transact(across).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("braces"), "{error}");
    assert_eq!(storage.stats().await.unwrap().keys, Some(20));
}

#[tokio::test]
async fn one_shard_that_is_down_concerns_its_own_keys_alone() {
    let members: Vec<Arc<FaultStorage>> =
        ["a", "b", "c"].map(|name| Arc::new(FaultStorage::new(support::memory(name)))).into();
    let storages = members.iter().map(|member| Arc::clone(member) as Storage).collect();
    let storage = Sharded::new("all", &shards("abc"), storages).unwrap();
    fill(&storage, 30).await;
    members[1].arm(Fault::fail(ErrorKind::Unavailable));
    let mut failed = BTreeSet::new();
    for number in 0..30_u64 {
        let name = format!("k{number:03}");
        match storage.get::<u64>(&name).await {
            Ok(found) => assert_eq!(found, Some(number)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                failed.insert(storage.shard(&key(&name)).to_owned());
            }
        }
    }
    assert_eq!(failed, BTreeSet::from(["b".to_owned()]));
    // A listing without it would be wrong.
    assert_eq!(kind(storage.list_keys("", ListOptions::new())).await.0, ErrorKind::Unavailable);
    let health = storage.health().await;
    assert!(
        health.status == persist_core::HealthStatus::Unhealthy && health.detail.contains("b: "),
        "{health:?}"
    );
}

#[tokio::test]
async fn what_moves_is_not_told_as_deleted() {
    let places = Shards::default();
    fill(&places.open(&shards("ab")), 20).await;
    let storage = places.open(&moving("cd", "ab"));
    let mut watch = storage.watch("k").await.unwrap();
    assert_eq!(storage.rebalance().await.unwrap(), 20);
    storage.remove("k003").await.unwrap();
    // What different shards tell comes in any order.
    let (mut stored, mut deleted) = (BTreeSet::new(), Vec::new());
    while stored.len() < 20 || deleted.is_empty() {
        match watch.next().await.unwrap().unwrap() {
            Event::Stored { key, .. } => drop(stored.insert(key)),
            Event::Deleted { key } => deleted.push(key),
            Event::Lost => panic!("nobody was slow"),
        }
    }
    assert_eq!(deleted, [key("k003")]);
    assert!(watch.next().now_or_never().is_none(), "nothing else was told");
}

#[tokio::test]
async fn the_note_is_nobodys_key() {
    let storage = Shards::default().open(&shards("ab"));
    assert_eq!(kind(storage.put(Sharded::NOTE, &1)).await.0, ErrorKind::InvalidKey);
    assert_eq!(kind(storage.retrieve(&key(Sharded::NOTE))).await.0, ErrorKind::InvalidKey);
    let batch = storage.delete_many(&[key("x"), key(Sharded::NOTE)]).await;
    assert!(batch[0].is_ok() && batch[1].as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidKey));
    assert!(pages(&storage, 10).await.is_empty());
    let config = ShardedConfig { draining: vec!["a".to_owned()], ..shards("ab") };
    let error = Sharded::new("all", &config, Vec::new()).unwrap_err();
    assert!(error.message().contains("`a` is named twice"), "{error}");
}
