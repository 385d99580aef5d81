//! Copies of a database that is being written, and putting one in the place of another, whatever happens on the way.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use persist_core::{
    Backend, BaseStorage, Consistency, Entry, ErrorKind, HumanDuration, Key, ListOptions, OpenContext,
    Operation, Restored, Result, SnapshotSink, SnapshotSource, StorageExt, StoreItem, StoreOptions, Value,
    async_trait,
};
use persist_sqlite::{SqliteBackend, SqliteConfig, SqliteStorage};
use persist_testkit::crash::protocol::Line;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::sweep::{Phase, Sweep};
use persist_testkit::crash::{self, Subject};
use persist_testkit::{FailingSource, HeldSource, TestSnapshot, hostile};
use tempfile::TempDir;
use tokio::runtime::Runtime;

type Test = fn();

fn main() -> ExitCode {
    let subject = Subject::custom("restore", restore_once, |root, history| {
        in_runtime(old_or_new(root, history.acknowledged()))
    });
    if let Some(code) = crash::serve(&[&subject]) {
        return code;
    }
    let tests: [(&str, Test); 10] = [
        ("everything_is_as_it_was_and_the_old_file_is_kept", || run(exact())),
        ("into_nothing_from_files_and_from_entries", || run(into_nothing())),
        ("an_open_database_is_refused_and_not_touched", || run(open_database())),
        ("a_source_that_fails_changes_nothing", || run(failing_source())),
        ("a_damaged_copy_changes_nothing", || run(damaged_copy())),
        ("a_damaged_database_is_replaced", || run(damaged_database())),
        ("a_database_of_others_is_not_replaced", || run(foreign_database())),
        ("who_waits_for_the_lock_gets_the_new_database", || run(waiting_opener())),
        ("a_copy_under_eight_writers_is_of_one_moment", || run(one_moment())),
        ("a_dropped_snapshot_ends_and_the_storage_works_on", || run(dropped())),
    ];
    let mut trials: Vec<Trial> = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    let cut = subject.clone();
    trials.push(Trial::test("a_kill_before_any_call_leaves_the_old_or_the_new", move || {
        let sweep = Sweep { steps: Vec::new(), phase: Phase::Opened, ..Sweep::default() };
        Ok(crash::judge(crash::sweep::run(&subject, &sweep))?)
    }));
    trials.push(Trial::test("a_power_cut_leaves_the_old_or_the_new", move || {
        let record = Record { maps_allowed: vec!["-shm"], ..Record::default() };
        let replay = Replay { record, states: 1000, ..Replay::default() };
        Ok(crash::judge(crash::replay::run(&cut, &replay))?)
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(test: impl Future<Output = ()>) {
    in_runtime(test);
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(test)
}

fn config(path: &Path) -> SqliteConfig {
    let mut config = SqliteConfig::new(path);
    config.busy_timeout = HumanDuration(Duration::from_secs(20));
    config
}

async fn open(path: &Path) -> SqliteStorage {
    SqliteStorage::open("main", config(path), &OpenContext::default()).await.unwrap()
}

async fn restore(path: &Path, source: &mut dyn SnapshotSource) -> Result<Restored> {
    SqliteBackend::restore("main", config(path), &OpenContext::default(), source).await
}

/// Everything in a database, key by key.
async fn entries(path: &Path) -> Vec<(Key, Entry)> {
    let storage = open(path).await;
    let found = all(&storage).await;
    storage.close().await.unwrap();
    found
}

async fn all(storage: &dyn BaseStorage) -> Vec<(Key, Entry)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list_keys("", ListOptions::new().after(after)).await.unwrap();
        for key in page.keys {
            let entry = storage.retrieve(&key).await.unwrap().unwrap();
            found.push((key, entry));
        }
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

/// A database with some of everything, and what it holds.
async fn filled(path: &Path) -> Vec<(Key, Entry)> {
    let storage = open(path).await;
    let hostile = hostile::keys().into_iter().take(60);
    let items = hostile.map(|key| StoreItem::new(key.clone(), Value::json(&key.as_str()).unwrap())).collect();
    for answer in storage.store_many(items).await {
        answer.unwrap();
    }
    let options = StoreOptions::new().ttl(Duration::from_secs(3600)).tag("a", "ü");
    storage.store(&Key::new("tagged").unwrap(), Value::bytes(vec![7; 300_000]), options).await.unwrap();
    let gone = StoreOptions::new().ttl(Duration::from_millis(1));
    storage.store(&Key::new("gone").unwrap(), Value::bytes(vec![7; 10]), gone).await.unwrap();
    storage.put("changed", &1).await.unwrap();
    storage.put("changed", &2).await.unwrap();
    storage.close().await.unwrap();
    std::thread::sleep(Duration::from_millis(5));
    entries(path).await
}

async fn snapshot_of(path: &Path) -> TestSnapshot {
    let storage = open(path).await;
    let mut snapshot = TestSnapshot::default();
    let summary = storage.snapshot(&mut snapshot).await.unwrap();
    assert_eq!(summary.consistency, Consistency::PointInTime);
    assert_eq!(snapshot.files().collect::<Vec<_>>(), ["persist.db"]);
    storage.close().await.unwrap();
    snapshot
}

/// What lies beside the database, without the logs of SQLite: they stay if a reader is closed after the writer.
fn beside(path: &Path) -> Vec<PathBuf> {
    let log = |path: &PathBuf| ["-wal", "-shm"].iter().any(|log| path.to_str().unwrap().ends_with(log));
    all_beside(path).into_iter().filter(|other| !log(other)).collect()
}

fn all_beside(path: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut others: Vec<PathBuf> = all.filter(|other| other != path).collect();
    others.sort();
    others
}

async fn exact() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let mut snapshot = snapshot_of(&path).await;
    let storage = open(&path).await;
    for key in ["!", "changed", "zzz"] {
        storage.put(key, &"later").await.unwrap();
    }
    storage.remove("tagged").await.unwrap();
    let last = storage.put("last", &0).await.unwrap().version;
    storage.close().await.unwrap();
    let later = entries(&path).await;
    let restored = restore(&path, &mut snapshot).await.unwrap();
    assert_eq!((restored.keys, restored.expired), (expected.len() as u64, 1));
    assert_eq!(restored.bytes, expected.iter().map(|(_, entry)| entry.metadata.size).sum::<u64>());
    let kept = restored.kept.unwrap();
    assert_eq!(all_beside(&path), std::slice::from_ref(&kept), "no log of the old database is left");
    assert!(entries(&path).await == expected, "values, versions and times are as they were");
    assert!(kept.file_name().unwrap().to_str().unwrap().starts_with("main.db.before-restore-"), "{kept:?}");
    assert_eq!(beside(&path), std::slice::from_ref(&kept));
    assert!(entries(&kept).await == later, "the old database is whole");
    let storage = open(&path).await;
    assert!(storage.put("new", &1).await.unwrap().version > last, "versions go on growing");
    assert!(storage.verify().await.unwrap().is_clean());
}

async fn into_nothing() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let other = place.path().join("deep/er/other.db");
    let restored = restore(&other, &mut snapshot_of(&path).await).await.unwrap();
    assert_eq!(restored.kept, None);
    assert!(entries(&other).await == expected);
    assert_eq!(beside(&other), Vec::<PathBuf>::new());
    // Entry by entry: new versions and times, the rest as it was. The log of a lost database must not get into it.
    let third = place.path().join("third/third.db");
    std::fs::create_dir(third.parent().unwrap()).unwrap();
    let storage = open(&path).await;
    storage.put("from the log", &1).await.unwrap();
    std::fs::copy(place.path().join("main.db-wal"), place.path().join("third/third.db-wal")).unwrap();
    storage.close().await.unwrap();
    restore(&third, &mut TestSnapshot::of(expected.clone())).await.unwrap();
    let bare = |entries: Vec<(Key, Entry)>| -> Vec<_> {
        let part = |(key, entry): (Key, Entry)| {
            (key, entry.value, entry.metadata.tags, entry.metadata.expires_at, entry.metadata.encodings)
        };
        entries.into_iter().map(part).collect()
    };
    assert!(bare(entries(&third).await) == bare(expected));
    assert_eq!(beside(&third), Vec::<PathBuf>::new());
}

async fn open_database() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let mut snapshot = snapshot_of(&path).await;
    for read_only in [false, true] {
        let context = OpenContext { read_only, ..OpenContext::default() };
        let storage = SqliteStorage::open("main", config(&path), &context).await.unwrap();
        let error = restore(&path, &mut snapshot).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(error.to_string().contains("close it everywhere"), "{error}");
        storage.close().await.unwrap();
    }
    assert!(entries(&path).await == expected);
    let read_only = config(&path).read_only();
    let refused = SqliteBackend::restore("main", read_only, &OpenContext::default(), &mut snapshot).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(beside(&path), Vec::<PathBuf>::new());
    restore(&path, &mut snapshot).await.unwrap();
}

async fn failing_source() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let mut failing = FailingSource {
        entries: TestSnapshot::of(expected[..30].to_vec()),
        failure: Some(ErrorKind::Corruption),
    };
    assert_eq!(restore(&path, &mut failing).await.unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(beside(&path), Vec::<PathBuf>::new());
    let mut slow = FailingSource { entries: TestSnapshot::of(expected[..30].to_vec()), failure: None };
    let dropped = tokio::time::timeout(Duration::from_millis(300), restore(&path, &mut slow)).await;
    assert!(dropped.is_err());
    assert!(entries(&path).await == expected);
    // What a dropped one left is cleared up by the next.
    restore(&path, &mut TestSnapshot::of(expected[..10].to_vec())).await.unwrap();
    assert_eq!((entries(&path).await.len(), beside(&path).len()), (10, 1));
}

async fn damaged_copy() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let snapshot = snapshot_of(&path).await;
    let copy = snapshot.file("persist.db").unwrap();
    let good = std::fs::read(&copy).unwrap();
    let (mut seed, mut found) = (7_u64, 0);
    for round in 0..60 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bytes = good.clone();
        match round % 4 {
            0 => bytes.truncate((seed >> 33) as usize % good.len()),
            _ => bytes[(seed >> 33) as usize % good.len()] ^= 1 << (seed >> 60 & 7),
        }
        std::fs::write(&copy, &bytes).unwrap();
        let mut source = InFolder(copy.parent().unwrap().to_owned());
        match restore(&path, &mut source).await {
            // A bit that nothing depends on.
            Ok(restored) => {
                std::fs::remove_file(restored.kept.unwrap()).unwrap();
            }
            Err(_) => found += 1,
        }
        assert!(entries(&path).await == expected, "round {round}");
        assert_eq!(beside(&path), Vec::<PathBuf>::new(), "round {round}");
    }
    assert!(found > 30, "{found} of 60 found");
}

async fn damaged_database() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let mut snapshot = snapshot_of(&path).await;
    let bytes = std::fs::read(&path).unwrap();
    let garbage = vec![0xA5; bytes.len()];
    let inside = [&bytes[..bytes.len() / 2], &garbage[bytes.len() / 2..]].concat();
    let cut = bytes[..bytes.len() / 2].to_vec();
    for (what, damaged) in [("all", garbage), ("inside", inside), ("cut", cut), ("empty", Vec::new())] {
        std::fs::write(&path, &damaged).unwrap();
        std::fs::write(place.path().join("main.db-wal"), "the log").unwrap();
        let restored = restore(&path, &mut snapshot).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(entries(&path).await == expected, "{what}");
        let kept = restored.kept.unwrap();
        assert!(std::fs::read(&kept).unwrap() == damaged, "{what}: the old file is kept as it was");
        let log = PathBuf::from(format!("{}-wal", kept.display()));
        // Where SQLite reads the database, it finds nothing in that log.
        let expected = if what == "inside" { None } else { Some(&b"the log"[..]) };
        assert_eq!(std::fs::read(log).ok().as_deref(), expected, "{what}: and its log");
        for other in all_beside(&path) {
            std::fs::remove_file(other).unwrap();
        }
    }
    // Who has it open is noticed all the same.
    let storage = open(&path).await;
    let mut head = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut head, &[0xA5; 200]).unwrap();
    let error = restore(&path, &mut snapshot).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    drop(storage);
}

async fn foreign_database() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    filled(&path).await;
    let mut snapshot = snapshot_of(&path).await;
    let foreign = place.path().join("foreign.db");
    let connection = rusqlite::Connection::open(&foreign).unwrap();
    connection.execute_batch("PRAGMA application_id = 7; CREATE TABLE precious (x)").unwrap();
    connection.close().unwrap();
    let before = std::fs::read(&foreign).unwrap();
    let error = restore(&foreign, &mut snapshot).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(std::fs::read(&foreign).unwrap() == before);
}

async fn waiting_opener() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let expected = filled(&path).await;
    let mut source = HeldSource::of(expected.clone());
    let (begun, go) = (Arc::clone(&source.asked), Arc::clone(&source.go));
    let target = path.clone();
    let task = tokio::spawn(async move { restore(&target, &mut source).await.unwrap() });
    begun.notified().await;
    let opened = path.clone();
    let opener = tokio::spawn(async move { open(&opened).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    go.notify_one();
    let restored = task.await.unwrap();
    let storage = opener.await.unwrap();
    storage.put("written after the restore", &1).await.unwrap();
    storage.close().await.unwrap();
    assert_eq!(entries(&path).await.len(), expected.len() + 1, "what was written is in the new database");
    assert!(entries(&restored.kept.unwrap()).await == expected, "and not in the old one");
}

/// Stores one number under two keys in one step, and then under a third.
async fn count_up(storage: SqliteStorage, task: usize, stop: Arc<AtomicBool>) -> u64 {
    let key = |name: &str| Key::new(format!("{name}/{task}")).unwrap();
    let mut number = 0_u64;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let value = || Value::json(&number).unwrap();
        let put = |name| Operation::Put(StoreItem::new(key(name), value()));
        storage.transact(vec![put("left"), put("right")]).await.unwrap();
        storage.store(&key("after"), value(), StoreOptions::new()).await.unwrap();
    }
    number
}

async fn one_moment() {
    let place = TempDir::new().unwrap();
    let (path, copy) = (place.path().join("main.db"), place.path().join("copy.db"));
    let storage = open(&path).await;
    let ballast =
        |i| StoreItem::new(Key::new(format!("ballast/{i}")).unwrap(), Value::bytes(vec![1; 50_000]));
    for answer in storage.store_many((0..200).map(ballast).collect()).await {
        answer.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..8).map(|task| tokio::spawn(count_up(storage.clone(), task, Arc::clone(&stop)))).collect();
    let mut last = 0;
    for round in 0..8 {
        let mut snapshot = TestSnapshot::default();
        storage.snapshot(&mut snapshot).await.unwrap();
        let _ = std::fs::remove_file(&copy);
        restore(&copy, &mut snapshot).await.unwrap();
        let restored = open(&copy).await;
        let mut sum = 0;
        for task in 0..8 {
            let [left, right, after] = ["left", "right", "after"].map(|name| format!("{name}/{task}"));
            let left: u64 = restored.get(&*left).await.unwrap().unwrap_or(0);
            let right: u64 = restored.get(&*right).await.unwrap().unwrap_or(0);
            let after: u64 = restored.get(&*after).await.unwrap().unwrap_or(0);
            assert_eq!(left, right, "round {round}, task {task}: stored in one step");
            assert!(after == left || after + 1 == left, "round {round}, task {task}: {after} after {left}");
            sum += left;
        }
        restored.close().await.unwrap();
        assert!(sum >= last);
        last = sum;
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    assert!(last > 8, "nobody wrote meanwhile");
}

async fn dropped() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    filled(&path).await;
    let storage = open(&path).await;
    for _ in 0..20 {
        let mut snapshot = TestSnapshot::default();
        tokio::select! {
            biased;
            _ = storage.snapshot(&mut snapshot) => {}
            () = tokio::task::yield_now() => {}
        }
    }
    storage.put("still", &"works").await.unwrap();
    let mut snapshot = TestSnapshot::default();
    storage.snapshot(&mut snapshot).await.unwrap();
    storage.close().await.unwrap();
    let closed = storage.snapshot(&mut TestSnapshot::default()).await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
}

/// A snapshot in a folder that stays when the process is killed.
struct InFolder(PathBuf);

#[async_trait]
impl SnapshotSink for InFolder {
    async fn entry(&mut self, _: Key, _: Entry) -> Result<()> {
        unreachable!("SQLite writes a file")
    }

    fn file(&mut self, name: &str) -> Result<PathBuf> {
        Ok(self.0.join(name))
    }
}

#[async_trait]
impl SnapshotSource for InFolder {
    async fn next(&mut self) -> Result<Option<(Key, Entry)>> {
        Ok(None)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.0.join(name))
    }
}

/// How many keys the two states of the crash tests have.
const STATES: [(&str, usize); 2] = [("old", 20), ("new", 30)];

async fn fill(path: &Path, (name, count): (&str, usize)) -> SqliteStorage {
    let storage = open(path).await;
    let item = |i| StoreItem::new(Key::new(format!("{name}/{i:03}")).unwrap(), Value::bytes(vec![3; 1000]));
    for answer in storage.store_many((0..count).map(item).collect()).await {
        answer.unwrap();
    }
    storage
}

/// The worker of the crash tests: an old database with a log, and a snapshot of a new one, which takes its place.
fn restore_once(plan: &crash::plan::Plan, acks: &crash::acks::Acks) -> std::result::Result<(), String> {
    let root = &plan.root;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().max_blocking_threads(1).build().unwrap();
    let (path, mut snapshot) = (root.join("main.db"), InFolder(root.join("snapshot")));
    let acknowledge = |generation| {
        let (key, version) = ("state".to_owned(), None);
        acks.tell(&Line::Acknowledged { key, generation, version });
    };
    runtime.block_on(async {
        std::fs::create_dir_all(&snapshot.0).unwrap();
        let made = fill(&root.join("made.db"), STATES[0]).await;
        std::fs::copy(root.join("made.db"), &path).unwrap();
        std::fs::copy(root.join("made.db-wal"), root.join("main.db-wal")).unwrap();
        made.close().await.unwrap();
        let new = fill(&root.join("new.db"), STATES[1]).await;
        new.snapshot(&mut snapshot).await.unwrap();
        new.close().await.unwrap();
        let files = [&*path, &root.join("main.db-wal"), &snapshot.0.join("persist.db"), &snapshot.0];
        for prepared in files.into_iter().chain([&**root, root.parent().unwrap()]) {
            std::fs::File::open(prepared).unwrap().sync_all().unwrap();
        }
    });
    for generation in [1, 2] {
        acks.tell(&Line::Attempt {
            key: "state".to_owned(),
            generation,
            verb: crash::protocol::Verb::Put,
            batch: None,
        });
        if generation == 1 {
            acknowledge(1);
            acks.tell(&Line::Opened);
            if plan.hold {
                let _ = std::io::stdin().read(&mut [0]);
            }
        }
    }
    runtime.block_on(restore(&path, &mut snapshot)).map_err(|error| error.to_string())?;
    acknowledge(2);
    acks.tell(&Line::Done);
    Ok(())
}

/// What is wrong with what a killed worker left.
async fn old_or_new(root: &Path, acknowledged: usize) -> Vec<String> {
    let path = root.join("main.db");
    if acknowledged == 0 {
        return Vec::new();
    }
    let found = entries(&path).await;
    let state = (found[0].0.as_str()[..3].to_owned(), found.len());
    let mut wrong = Vec::new();
    let allowed = if acknowledged > 1 { &STATES[1..] } else { &STATES[..] };
    if !allowed.iter().any(|(name, count)| (name.to_string(), *count) == state) {
        wrong.push(format!("after {acknowledged}, {state:?} was found"));
    }
    // Doing it again completes it and clears up.
    restore(&path, &mut InFolder(root.join("snapshot"))).await.unwrap();
    if entries(&path).await.len() != STATES[1].1 {
        wrong.push("a second restore did not restore".to_owned());
    }
    let left = beside(&path).into_iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let left: Vec<String> = left.filter(|name| name.starts_with("main.db")).collect();
    let most = if state.0 == "new" { 2 } else { 1 };
    if left.len() > most || left.iter().any(|name| !name.contains("before-restore")) {
        wrong.push(format!("left behind: {left:?}"));
    }
    wrong
}
