//! What is acknowledged before it is written: seen at once, written in order, never lost silently.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    BaseStorage, ByteSize, Capabilities, DeleteOptions, ErrorKind, Event, HealthStatus, HumanDuration,
    ListOptions, ManualClock, Operation, Outcome, Result, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_layers::{JournalConfig, WriteBehind, WriteBehindConfig};
use persist_testkit::fault::{Fault, FaultStorage};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{key, millis};

/// Nothing is written unless somebody asks for it.
fn idle() -> WriteBehindConfig {
    WriteBehindConfig { delay: HumanDuration(Duration::from_secs(3600)), ..WriteBehindConfig::default() }
}

fn disk(place: &MemoryPlace) -> Arc<MemoryStorage> {
    Arc::new(MemoryStorage::builder("below").as_disk().open(place))
}

fn behind(place: &MemoryPlace, config: WriteBehindConfig) -> WriteBehind {
    WriteBehind::new(disk(place), config).unwrap()
}

async fn journaled(place: &MemoryPlace, folder: &Path) -> Result<WriteBehind> {
    let journal = JournalConfig { lock_timeout: HumanDuration(millis(200)), ..JournalConfig::new("journal") };
    WriteBehind::open(disk(place), WriteBehindConfig { journal: Some(journal), ..idle() }, folder).await
}

async fn names(storage: &dyn BaseStorage, prefix: &str, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list_keys(prefix, ListOptions::new().limit(limit).after(after)).await.unwrap();
        assert!(
            page.keys.len() <= limit && (!page.keys.is_empty() || names.is_empty()),
            "no empty page follows"
        );
        names.extend(page.keys.iter().map(ToString::to_string));
        after = page.next;
        if after.is_none() {
            return names;
        }
    }
}

#[tokio::test]
async fn what_waits_is_read_and_only_a_flush_writes_it() {
    let place = MemoryPlace::new();
    let storage = behind(&place, idle());
    let stored =
        storage.store(&key("a"), Value::bytes("one"), StoreOptions::new().tag("t", "x")).await.unwrap();
    let touched = storage.store(&key("b"), Value::bytes("two"), StoreOptions::new()).await.unwrap();
    assert!(place.keys().is_empty(), "it was written at once");
    assert_eq!((storage.pending().entries, storage.is_pending(&key("a"))), (2, true));
    let found = storage.retrieve(&key("a")).await.unwrap().unwrap();
    assert_eq!((found.value, &found.metadata), (Value::bytes("one"), &stored));
    assert_eq!(storage.retrieve_range(&key("b"), 1..9).await.unwrap().unwrap(), "wo");
    assert_eq!(names(&storage, "", 10).await, ["a", "b"]);
    let swapped = StoreOptions::new().if_version(touched.version);
    storage.store(&key("b"), Value::bytes("three"), swapped.clone()).await.unwrap();
    let stale = storage.store(&key("b"), Value::bytes("four"), swapped).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    assert_eq!(storage.stats().await.unwrap().counters["pending_entries"], 2);
    storage.flush().await.unwrap();
    assert_eq!(place.peek(&key("b")).unwrap().value, Value::bytes("three"));
    assert_eq!((storage.pending().entries, storage.stats().await.unwrap().keys), (0, Some(2)));
    assert_eq!(
        storage.metadata(&key("a")).await.unwrap().unwrap(),
        stored,
        "the answer changes by being written"
    );
    // Another instance finds the same, by the note.
    assert_eq!(behind(&place, idle()).metadata(&key("a")).await.unwrap().unwrap(), stored);
}

#[tokio::test]
async fn what_is_stored_over_an_expired_value_has_not_expired() {
    let (place, clock) = (MemoryPlace::new(), Arc::new(ManualClock::default()));
    let below = MemoryStorage::builder("below").as_disk().clock(clock.clone()).open(&place);
    let storage = WriteBehind::new(Arc::new(below), idle()).unwrap();
    for name in ["again", "gone"] {
        storage.store(&key(name), Value::bytes("old"), StoreOptions::new().ttl(millis(10))).await.unwrap();
    }
    storage.flush().await.unwrap();
    clock.advance(millis(20));
    storage.store(&key("again"), Value::bytes("new"), StoreOptions::new()).await.unwrap();
    assert_eq!(storage.maintain().await.unwrap().expired, 1);
    assert_eq!(place.peek(&key("again")).unwrap().value, Value::bytes("new"));
}

#[tokio::test]
async fn a_listing_joins_what_waits_and_what_is_below() {
    let place = MemoryPlace::new();
    let storage = behind(&place, idle());
    for name in ["a/1", "a/2", "a/4", "b"] {
        storage.put(name, &1).await.unwrap();
    }
    storage.flush().await.unwrap();
    for name in ["a/0", "a/3", "c"] {
        storage.put(name, &2).await.unwrap();
    }
    for name in ["a/1", "a/2", "b"] {
        assert!(storage.delete(&key(name), DeleteOptions::new()).await.unwrap());
    }
    let gone = StoreOptions::new().ttl(Duration::ZERO);
    storage.store(&key("a/4"), Value::bytes(""), gone).await.unwrap();
    for limit in 1..6 {
        assert_eq!(names(&storage, "", limit).await, ["a/0", "a/3", "c"], "{limit}");
        assert_eq!(names(&storage, "a/", limit).await, ["a/0", "a/3"], "{limit}");
    }
    storage.flush().await.unwrap();
    assert_eq!(place.keys(), ["a/0", "a/3", "c"].map(key), "what is gone is gone below");
}

/// Of many changes of one key the last is written, in one batch with the others.
#[tokio::test]
async fn changes_of_a_key_become_one_and_all_become_a_batch() {
    let counted = Arc::new(FaultStorage::new(disk(&MemoryPlace::new())));
    let storage = WriteBehind::new(counted.clone(), idle()).unwrap();
    for number in 0..50 {
        storage.put("hot", &number).await.unwrap();
        storage.put(format!("k{number:02}"), &number).await.unwrap();
    }
    storage.flush().await.unwrap();
    assert_eq!(counted.calls("store_many"), 1, "one batch");
    assert_eq!(storage.get::<u32>("hot").await.unwrap(), Some(49));
    let below: Option<u32> = counted.get("hot").await.unwrap();
    assert_eq!(below, Some(49));
}

#[tokio::test]
async fn what_changes_while_it_is_written_is_written_again() {
    let place = MemoryPlace::new();
    let slow = Arc::new(FaultStorage::new(disk(&place)));
    let storage = WriteBehind::new(slow.clone(), idle()).unwrap();
    storage.put("a", &1).await.unwrap();
    slow.arm(Fault::delay(millis(300)).on("store_many").nth(1));
    let meanwhile = async {
        while slow.calls("store_many") == 0 {
            tokio::time::sleep(millis(5)).await;
        }
        storage.put("a", &2).await.unwrap();
    };
    let (flushed, ()) = tokio::join!(storage.flush(), meanwhile);
    flushed.unwrap();
    assert_eq!(storage.get::<u64>("a").await.unwrap(), Some(2));
    storage.flush().await.unwrap();
    assert_eq!(place.peek(&key("a")).unwrap().value, Value::json(&2).unwrap());
    assert_eq!(storage.pending().entries, 0);
}

#[tokio::test]
async fn it_is_written_by_itself_after_the_delay() {
    let place = MemoryPlace::new();
    let storage = behind(
        &place,
        WriteBehindConfig { delay: HumanDuration(millis(20)), ..WriteBehindConfig::default() },
    );
    storage.put("a", &1).await.unwrap();
    for _ in 0..500 {
        if place.peek(&key("a")).is_some() {
            return;
        }
        tokio::time::sleep(millis(10)).await;
    }
    panic!("it was never written");
}

#[tokio::test]
async fn a_full_queue_holds_up_and_then_refuses_what_changes_nothing() {
    let place = MemoryPlace::new();
    let config = WriteBehindConfig { max_entries: 2, wait: HumanDuration(millis(100)), ..idle() };
    let storage = behind(&place, config);
    // The queue is half full, so it is written without a delay, once the storage below works.
    for name in ["a", "b", "c"] {
        storage.put(name, &1).await.unwrap();
    }
    for name in ["x", "y"] {
        assert_eq!(storage.get::<u32>(name).await.unwrap(), None);
        // Known to be absent, so that nobody needs to ask below.
        storage.delete(&key(name), DeleteOptions::new()).await.unwrap();
    }
    storage.delete(&key("z"), DeleteOptions::new()).await.unwrap();
    storage.flush().await.unwrap();
    place.set_down(true);
    storage.put("x", &1).await.unwrap();
    storage.put("y", &1).await.unwrap();
    let full = storage.put("z", &1).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Timeout);
    assert!(full.message().contains("2 changes") && !full.outcome_unknown(), "{full}");
    place.set_down(false);
    storage.put("z", &2).await.unwrap();
    storage.flush().await.unwrap();
    assert_eq!(place.keys(), ["a", "b", "c", "x", "y", "z"].map(key));
}

#[tokio::test]
async fn bytes_are_bounded_and_what_is_larger_waits_alone() {
    let place = MemoryPlace::new();
    let config = WriteBehindConfig { max_bytes: ByteSize(10_000), wait: HumanDuration(millis(50)), ..idle() };
    let storage = behind(&place, config);
    storage.store(&key("huge"), Value::bytes(vec![7; 50_000]), StoreOptions::new()).await.unwrap();
    storage.flush().await.unwrap();
    for name in ["a", "b"] {
        storage.delete(&key(name), DeleteOptions::new()).await.unwrap();
    }
    place.set_down(true);
    storage.store(&key("a"), Value::bytes(vec![7; 8_000]), StoreOptions::new()).await.unwrap();
    let full = storage.store(&key("b"), Value::bytes(vec![7; 8_000]), StoreOptions::new()).await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_failure_below_is_told_by_flush_health_stats_and_close_and_nothing_is_lost() {
    let place = MemoryPlace::new();
    let storage = behind(&place, idle());
    storage.put("a", &1).await.unwrap();
    place.set_down(true);
    let told = storage.flush().await.unwrap_err();
    assert_eq!((told.kind(), told.key()), (ErrorKind::Unavailable, Some(&key("a"))));
    assert_eq!(
        storage.get::<u32>("a").await.unwrap(),
        Some(1),
        "what waits is read although it is down below"
    );
    place.set_down(false);
    // The next try is a moment away, so nobody has mended it.
    let health = storage.health().await;
    assert_eq!(health.status, HealthStatus::Degraded, "{health:?}");
    assert!(health.detail.contains("1 changes cannot be written"), "{health:?}");
    assert!(storage.stats().await.unwrap().counters["behind_failures"] > 0);
    place.set_down(true);
    assert_eq!(storage.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    place.set_down(false);
    storage.close().await.unwrap();
    storage.close().await.unwrap();
    assert_eq!(place.keys(), [key("a")]);
}

/// A value that the storage below refuses stays, is told of, and can be replaced or deleted.
#[tokio::test]
async fn what_is_refused_below_is_kept_told_of_and_replaced() {
    let place = MemoryPlace::new();
    let faulty = Arc::new(FaultStorage::new(disk(&place)));
    let storage = WriteBehind::new(faulty.clone(), idle()).unwrap();
    faulty.arm(Fault::fail(ErrorKind::InvalidValue).on("store_many"));
    storage.put("bad", &1).await.unwrap();
    let told = storage.flush().await.unwrap_err();
    assert_eq!((told.kind(), told.key()), (ErrorKind::InvalidValue, Some(&key("bad"))));
    assert_eq!(storage.get::<u32>("bad").await.unwrap(), Some(1));
    assert!(storage.delete(&key("bad"), DeleteOptions::new()).await.unwrap());
    storage.flush().await.unwrap();
    assert_eq!((storage.pending().entries, place.keys()), (0, Vec::new()));
    assert_eq!(storage.health().await.status, HealthStatus::Healthy);
}

/// The answer to a write was lost and the write took place: it is not made again over what came later.
#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_and_not_repeated() {
    let place = MemoryPlace::new();
    let faulty = Arc::new(FaultStorage::new(disk(&place)));
    let storage = WriteBehind::new(faulty.clone(), idle()).unwrap();
    faulty.arm(Fault::lose_answer(ErrorKind::Unavailable).on("store_many").nth(1));
    let stored = storage.put("a", &1).await.unwrap();
    assert_eq!(storage.flush().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let below = place.peek(&key("a")).unwrap().metadata.version;
    storage.flush().await.unwrap();
    assert_eq!(place.peek(&key("a")).unwrap().metadata.version, below, "it was written twice");
    assert_eq!(storage.metadata(&key("a")).await.unwrap().unwrap(), stored);
}

#[tokio::test]
async fn what_somebody_else_put_below_is_found_out() {
    let place = MemoryPlace::new();
    let storage = behind(&place, idle());
    storage.put("a", &1).await.unwrap();
    storage.flush().await.unwrap();
    disk(&place).put("a", &7).await.unwrap();
    storage.put("a", &2).await.unwrap();
    storage.flush().await.unwrap();
    assert_eq!(storage.stats().await.unwrap().counters["behind_conflicts"], 1);
    assert_eq!(disk(&place).get::<u32>("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_transaction_is_seen_whole_and_told_in_order() {
    let place = MemoryPlace::new();
    let storage = behind(&place, idle());
    let mut watch = storage.watch("").await.unwrap();
    storage.put("a", &1).await.unwrap();
    let batch = vec![
        Operation::put(key("b"), Value::bytes("x"), StoreOptions::new().if_absent()),
        Operation::Delete(key("a"), DeleteOptions::new()),
        Operation::Delete(key("none"), DeleteOptions::new()),
    ];
    let outcomes = storage.transact(batch.clone()).await.unwrap();
    assert_eq!(outcomes[1..], [Outcome::Deleted(true), Outcome::Deleted(false)]);
    assert_eq!(storage.transact(batch).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(names(&storage, "", 9).await, ["b"]);
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(watch.next().await.unwrap().unwrap());
    }
    assert_eq!(told[1].key(), Some(&key("b")));
    assert_eq!(told[2], Event::Deleted { key: key("a") });
}

#[tokio::test]
async fn it_claims_what_it_keeps() {
    let (place, folder) = (MemoryPlace::new(), tempfile::tempdir().unwrap());
    let below = disk(&place).describe().capabilities();
    let without = behind(&place, idle()).describe().capabilities();
    let kept =
        Capabilities { shared: false, durable: false, atomic_transact: false, native_watch: true, ..below };
    assert_eq!(without, kept);
    let with = journaled(&place, folder.path()).await.unwrap().describe().capabilities();
    assert_eq!(with, Capabilities { durable: true, atomic_transact: true, ..kept });
}

/// The process ends without a close: everything acknowledged is in the journal, and waits again.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_has_what_was_never_written() {
    let (place, folder) = (MemoryPlace::new(), tempfile::tempdir().unwrap());
    let storage = journaled(&place, folder.path()).await.unwrap();
    storage.put("old", &1).await.unwrap();
    storage.put("dead", &1).await.unwrap();
    storage.flush().await.unwrap();
    let stored =
        storage.store(&key("new"), Value::bytes("x"), StoreOptions::new().tag("t", "x")).await.unwrap();
    storage.put("old", &2).await.unwrap();
    storage.delete(&key("dead"), DeleteOptions::new()).await.unwrap();
    let batch =
        vec![StoreItem::new(key("m1"), Value::bytes("1")), StoreItem::new(key("m2"), Value::bytes("2"))];
    assert!(storage.store_many(batch).await.iter().all(Result::is_ok));
    drop(storage);
    assert_eq!(place.keys(), ["dead", "old"].map(key));
    let storage = journaled(&place, folder.path()).await.unwrap();
    assert_eq!(storage.metadata(&key("new")).await.unwrap().unwrap(), stored);
    assert_eq!(storage.get::<u32>("old").await.unwrap(), Some(2));
    assert_eq!(names(&storage, "", 2).await, ["m1", "m2", "new", "old"]);
    storage.close().await.unwrap();
    assert_eq!(place.keys(), ["m1", "m2", "new", "old"].map(key));
    // What is below does not wait again, and versions go on.
    let storage = journaled(&place, folder.path()).await.unwrap();
    assert_eq!(storage.pending().entries, 0);
    assert!(storage.put("dead", &2).await.unwrap().version > stored.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_storages_never_use_one_journal() {
    let (place, folder) = (MemoryPlace::new(), tempfile::tempdir().unwrap());
    let first = journaled(&place, folder.path()).await.unwrap();
    let second = journaled(&place, folder.path()).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Locked);
    first.close().await.unwrap();
    drop(first);
    journaled(&place, folder.path()).await.unwrap();
}

/// The files of the journal, the oldest first.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let found = fs::read_dir(folder.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        found.filter(|path| path.extension().is_some_and(|end| end == "journal")).collect();
    files.sort();
    files
}

async fn three_changes(place: &MemoryPlace, folder: &Path) -> std::path::PathBuf {
    let storage = journaled(place, folder).await.unwrap();
    for name in ["a", "b", "c"] {
        storage.put(name, &name).await.unwrap();
    }
    drop(storage);
    files(folder).pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_off_and_the_rest_is_there() {
    let (place, folder) = (MemoryPlace::new(), tempfile::tempdir().unwrap());
    let file = three_changes(&place, folder.path()).await;
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    for _ in 0..2 {
        let storage = journaled(&place, folder.path()).await.unwrap();
        assert_eq!(names(&storage, "", 9).await, ["a", "b"]);
    }
    // Not even the header is there.
    for unborn in [&b"persist-be"[..], &[0; 28], &[0; 4096]] {
        let last = files(folder.path()).pop().unwrap();
        fs::write(last, unborn).unwrap();
        let storage = journaled(&place, folder.path()).await.unwrap();
        assert_eq!(names(&storage, "", 9).await, ["a", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_what_was_acknowledged_is_corruption() {
    let (place, folder) = (MemoryPlace::new(), tempfile::tempdir().unwrap());
    let file = three_changes(&place, folder.path()).await;
    let mut damaged = fs::read(&file).unwrap();
    damaged[60] ^= 1;
    fs::write(&file, damaged).unwrap();
    let error = journaled(&place, folder.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.message().contains("byte 28"), "{error}");
    // Behind a header that cannot be read lie whole frames.
    let mut damaged = fs::read(&file).unwrap();
    (damaged[3], damaged[60]) = (damaged[3] ^ 1, damaged[60] ^ 1);
    fs::write(&file, damaged).unwrap();
    assert_eq!(journaled(&place, folder.path()).await.unwrap_err().kind(), ErrorKind::Corruption);
}

/// Files of the journal go when what they hold is below, and their values are nobody else's to read.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_stays_small_and_private() {
    let (place, folder) = (MemoryPlace::new(), tempfile::tempdir().unwrap());
    let journal = JournalConfig { segment: ByteSize(4096), ..JournalConfig::new("journal") };
    let config = WriteBehindConfig { journal: Some(journal), ..idle() };
    let storage = WriteBehind::open(disk(&place), config, folder.path()).await.unwrap();
    for round in 0..20 {
        for name in ["a", "b", "c"] {
            storage.store(&key(name), Value::bytes(vec![round; 1500]), StoreOptions::new()).await.unwrap();
        }
    }
    let before = files(folder.path()).len();
    assert!(before > 10, "{before}");
    storage.flush().await.unwrap();
    // They go after the answer.
    for _ in 0..400 {
        if files(folder.path()).len() <= 2 {
            break;
        }
        tokio::time::sleep(millis(5)).await;
    }
    let after = files(folder.path());
    assert!(after.len() <= 2, "{after:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&after[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }
    storage.close().await.unwrap();
    assert_eq!(fs::metadata(&files(folder.path())[0]).unwrap().len(), 28, "an empty file is left");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for config in [
        WriteBehindConfig { max_entries: 0, ..idle() },
        WriteBehindConfig { batch: 0, ..idle() },
        WriteBehindConfig { journal: Some(JournalConfig::new("x")), ..idle() },
    ] {
        let error = WriteBehind::new(Arc::new(MemoryStorage::new("m")), config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}
