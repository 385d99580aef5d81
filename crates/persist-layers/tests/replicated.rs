//! Replicas that fail, come back with old values, are slow, damaged or full.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;

use persist_core::{
    BaseStorage, ErrorKind, Event, HealthStatus, ListOptions, Operation, StorageExt, StoreItem, StoreOptions,
    Value,
};
use persist_layers::{Composite, ReadOnly, ReplicaRepair, Replicated, ReplicatedConfig};
use persist_testkit::fault::{Fault, FaultStorage};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{Storage, key, memory, millis};

struct Replicas {
    members: Vec<Arc<FaultStorage>>,
    storage: Replicated,
}

fn names(count: usize) -> ReplicatedConfig {
    ReplicatedConfig::new((0..count).map(|number| format!("r{number}")))
}

fn replicas(count: usize) -> Replicas {
    let open = |number| Arc::new(FaultStorage::new(memory(&format!("r{number}"))));
    let members: Vec<Arc<FaultStorage>> = (0..count).map(open).collect();
    let storages = members.iter().map(|member| Arc::clone(member) as Storage).collect();
    Replicas { storage: Replicated::new("all", &names(count), storages).unwrap(), members }
}

impl Replicas {
    fn down(&self, which: usize) {
        self.members[which].arm(Fault::fail(ErrorKind::Unavailable));
    }

    fn up(&self, which: usize) {
        self.members[which].disarm();
    }

    async fn listed(&self) -> Vec<String> {
        let page = self.storage.list_keys("", ListOptions::new()).await.unwrap();
        page.keys.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn any_one_of_three_may_fail_at_any_time() {
    let all = replicas(3);
    for down in 0..3 {
        all.down(down);
        let name = format!("k{down}");
        all.storage.put(&name, &1).await.unwrap();
        all.storage.update(&name, |old: Option<u64>| old.unwrap() + 1).await.unwrap();
        assert_eq!(all.storage.get::<u64>(&name).await.unwrap(), Some(2));
        assert_eq!(all.listed().await.len(), down + 1);
        assert_eq!(all.storage.health().await.status, HealthStatus::Degraded);
        all.up(down);
    }
    assert_eq!(all.storage.health().await.status, HealthStatus::Healthy);
    // Two at once are too many, and nothing is claimed.
    all.down(0);
    all.down(2);
    let error = all.storage.get::<u64>("k0").await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Unavailable, Some(&key("k0"))));
    assert!(error.message().contains("1 of 3 replicas answered and 2 are needed; `r0`"), "{error}");
    assert!(!all.storage.put("x", &1).await.unwrap_err().outcome_unknown());
    assert_eq!(all.storage.health().await.status, HealthStatus::Unhealthy);
}

#[tokio::test]
async fn an_old_value_in_a_replica_that_was_away_is_never_given() {
    for down in 0..3 {
        let all = replicas(3);
        all.storage.put("stored", &1).await.unwrap();
        all.storage.put("deleted", &1).await.unwrap();
        all.storage.put("ended", &1).await.unwrap();
        all.storage.flush().await.unwrap();
        all.down(down);
        all.storage.put("stored", &2).await.unwrap();
        assert!(all.storage.remove("deleted").await.unwrap());
        all.storage.put_with("ended", &2, StoreOptions::new().ttl(millis(1))).await.unwrap();
        all.storage.flush().await.unwrap();
        tokio::time::sleep(millis(5)).await;
        all.up(down);
        // Whichever of the others is away, the one that was away before knows nothing of it.
        for away in (0..3).filter(|at| *at != down) {
            all.down(away);
            assert_eq!(all.storage.get::<u64>("stored").await.unwrap(), Some(2));
            assert_eq!(all.storage.get::<u64>("deleted").await.unwrap(), None);
            assert_eq!(all.storage.get::<u64>("ended").await.unwrap(), None);
            assert_eq!(all.listed().await, ["stored"]);
            all.up(away);
        }
        assert!(all.storage.stats().await.unwrap().counters["replica_repairs"] > 0);
        // Repaired by reading: it has it itself now.
        assert_eq!(all.members[down].get::<u64>("stored").await.unwrap(), Some(2));
        assert_eq!(all.members[down].get::<u64>("deleted").await.unwrap(), None);
    }
}

#[tokio::test]
async fn repair_makes_all_the_same_and_forgets_tombstones() {
    let all = replicas(3);
    for number in 0..30 {
        all.storage.put(format!("k{number:02}"), &number).await.unwrap();
    }
    all.storage.flush().await.unwrap();
    all.down(1);
    for number in (0..30).step_by(3) {
        all.storage.put(format!("k{number:02}"), &(number + 100)).await.unwrap();
        all.storage.remove(format!("k{:02}", number + 1)).await.unwrap();
    }
    all.storage.flush().await.unwrap();
    let notes = all.storage.maintain().await.unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("r1: not maintained")), "{notes:?}");
    all.up(1);
    let repaired = all.storage.repair(false).await.unwrap();
    assert_eq!((repaired.repaired, repaired.forgotten), (20, 10));
    for member in &all.members {
        let keys = member.list_keys("", ListOptions::new()).await.unwrap().keys;
        assert_eq!(keys.len(), 20, "{keys:?}");
        assert_eq!(member.get::<u64>("k03").await.unwrap(), Some(103));
    }
    let again = all.storage.repair(true).await.unwrap();
    assert_eq!((again.checked, again.repaired, again.forgotten), (20, 0, 0));
}

#[tokio::test]
async fn what_is_damaged_in_one_replica_is_read_from_another_and_mended() {
    let places: Vec<MemoryPlace> = (0..3).map(|_| MemoryPlace::new()).collect();
    let open = |number: usize| -> Storage {
        Arc::new(MemoryStorage::builder(format!("r{number}")).as_disk().open(&places[number]))
    };
    let storage = Replicated::new("all", &names(3), vec![open(0), open(1), open(2)]).unwrap();
    storage.put("k", &"good").await.unwrap();
    storage.flush().await.unwrap();
    assert!(places[0].corrupt(&key("k")));
    let problems = storage.verify().await.unwrap().problems;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("in `r0`"), "{problems:?}");
    assert_eq!(storage.get::<String>("k").await.unwrap().as_deref(), Some("good"));
    assert_eq!(open(0).get::<String>("k").await.unwrap().as_deref(), Some("good"));
    // What nobody reads is found by comparing values.
    assert!(places[2].corrupt(&key("k")));
    assert_eq!(storage.repair(false).await.unwrap().repaired, 0);
    assert_eq!(storage.repair(true).await.unwrap().repaired, 1);
    assert!(storage.verify().await.unwrap().is_clean());
    // Damaged everywhere, it is an error, and can be stored anew.
    places.iter().for_each(|place| assert!(place.corrupt(&key("k"))));
    assert_eq!(storage.get::<String>("k").await.unwrap_err().kind(), ErrorKind::Corruption);
    storage.put("k", &"new").await.unwrap();
    storage.flush().await.unwrap();
    assert!(storage.verify().await.unwrap().is_clean());
}

/// What only one of three has could be forgotten by the next read, so it is not given before another one has it.
#[tokio::test]
async fn what_too_few_have_is_not_given_before_more_have_it() {
    let all = replicas(3);
    all.storage.put("a", &1).await.unwrap();
    all.storage.flush().await.unwrap();
    for replica in &all.members[1..] {
        replica.arm(Fault::fail(ErrorKind::Unavailable).on("store"));
    }
    assert!(all.storage.put("a", &2).await.unwrap_err().outcome_unknown());
    all.down(2);
    assert_eq!(all.storage.get::<u64>("a").await.unwrap_err().kind(), ErrorKind::Unavailable);
    // Without the first one the old value is what there is; with it, and one that can be written, the new one stays.
    all.up(1);
    assert_eq!(all.storage.get::<u64>("a").await.unwrap(), Some(2));
    all.down(0);
    all.up(2);
    assert_eq!(all.storage.get::<u64>("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_call_that_meets_a_close_says_so_whatever_else_fails() {
    let all = replicas(3);
    all.storage.put("a", &1).await.unwrap();
    all.members[0].arm(Fault::fail(ErrorKind::Unavailable).on("metadata"));
    all.members[1].arm(Fault::delay(millis(500)).on("metadata"));
    let storage = all.storage.clone();
    let call = tokio::spawn(async move { storage.put("a", &2).await });
    tokio::time::sleep(millis(50)).await;
    all.storage.close().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_slow_replica_is_not_waited_for_and_still_gets_everything_in_order() {
    let all = replicas(3);
    all.storage.repair(false).await.unwrap();
    let slow = millis(1_000);
    all.members[2].arm(Fault::delay(slow).on("store").nth(1));
    let begun = std::time::Instant::now();
    all.storage.put("a", &1).await.unwrap();
    assert!(begun.elapsed() < slow, "waited for the slow one");
    assert_eq!(all.storage.get::<u64>("a").await.unwrap(), Some(1));
    all.storage.put("a", &2).await.unwrap();
    all.storage.flush().await.unwrap();
    for member in &all.members {
        assert_eq!(member.get::<u64>("a").await.unwrap(), Some(2));
    }
    // Closing waits for it too.
    all.storage.put("b", &1).await.unwrap();
    all.storage.close().await.unwrap();
    assert_eq!(all.members[2].calls("store"), 3);
}

#[tokio::test]
async fn a_change_that_too_few_have_is_unknown_and_is_settled_by_the_next_read() {
    let all = replicas(3);
    all.storage.put("k", &1).await.unwrap();
    all.storage.flush().await.unwrap();
    for member in &all.members[1..] {
        member.arm(Fault::fail(ErrorKind::Unavailable).on("store"));
    }
    let error = all.storage.put("k", &2).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    all.up(1);
    // One replica has it. From the moment somebody has seen it, two have it.
    assert_eq!(all.storage.get::<u64>("k").await.unwrap(), Some(2));
    all.down(0);
    all.up(2);
    assert_eq!(all.storage.get::<u64>("k").await.unwrap(), Some(2));
}

#[tokio::test]
async fn batches_and_transactions_reach_enough_replicas() {
    let all = replicas(3);
    all.down(1);
    let item = |name: &str, number: u64| StoreItem::new(key(name), Value::json(&number).unwrap());
    let answers = all.storage.store_many(vec![item("a", 1), item("b", 2), item("a", 3)]).await;
    assert!(
        answers.iter().all(Result::is_ok)
            && answers[0].as_ref().unwrap().version < answers[2].as_ref().unwrap().version
    );
    let put = Operation::put(key("c"), Value::json(&4).unwrap(), StoreOptions::new().if_absent());
    all.storage.transact(vec![put.clone(), Operation::Delete(key("b"), Default::default())]).await.unwrap();
    let refused = all.storage.transact(vec![put, Operation::Delete(key("a"), Default::default())]).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    all.up(1);
    all.down(2);
    let found = all.storage.retrieve_many(&["a", "b", "c"].map(key)).await;
    let found: Vec<Option<u64>> =
        found.into_iter().map(|entry| entry.unwrap().map(|entry| entry.to().unwrap())).collect();
    assert_eq!(found, [Some(3), None, Some(4)]);
}

#[tokio::test]
async fn watchers_are_told_once_enough_replicas_have_it() {
    let all = replicas(3);
    let mut watch = all.storage.watch("").await.unwrap();
    let stored = all.storage.put("a", &1).await.unwrap();
    all.storage.remove("a").await.unwrap();
    let mut next = async || watch.next().await.unwrap().unwrap();
    assert_eq!(next().await, Event::Stored { key: key("a"), metadata: stored });
    assert_eq!(next().await, Event::Deleted { key: key("a") });
}

#[tokio::test]
async fn a_storage_with_values_becomes_a_replica() {
    let old = memory("r0");
    let before = old.put("k", &1).await.unwrap();
    let storage = Replicated::new("all", &names(2), vec![old, memory("r1")]).unwrap();
    assert_eq!(storage.repair(false).await.unwrap().repaired, 1);
    assert_eq!(storage.metadata(&key("k")).await.unwrap(), Some(before.clone()));
    let swapped = storage.put_with("k", &2, StoreOptions::new().if_version(before.version)).await.unwrap();
    assert!(swapped.version > before.version && swapped.created_at == before.created_at);
}

#[test]
fn what_cannot_be_replicas_is_refused() {
    let check = |write: Option<usize>, read: Option<usize>| {
        Replicated::check(&ReplicatedConfig { write_quorum: write, read_quorum: read, ..names(3) })
    };
    assert!(check(None, None).is_ok() && check(Some(3), Some(1)).is_ok() && check(Some(1), Some(3)).is_ok());
    assert!(check(Some(1), Some(2)).unwrap_err().contains("must be more than 3"));
    assert!(check(Some(4), None).unwrap_err().contains("1 to 3"));
    assert!(Replicated::check(&names(1)).unwrap_err().contains("at least two"));
    let fixed: Storage = Arc::new(ReadOnly::new(memory("r1")));
    let error = Replicated::new("all", &names(2), vec![memory("r0"), fixed]).unwrap_err();
    assert!(error.message().contains("`r1` takes no changes"), "{error}");
    assert_eq!(names(2).repair, ReplicaRepair::Keys);
}
