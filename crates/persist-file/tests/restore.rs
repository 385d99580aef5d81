//! Restoring a whole folder: exactly what was there, in one step, whatever happens on the way.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{
    Backend, BaseStorage, Entry, ErrorKind, HumanDuration, Key, OpenContext, Restored, Result,
    SnapshotSource, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_file::{FileBackend, FileConfig, FileStorage};
use persist_testkit::adverse::Kills;
use persist_testkit::{FailingSource, HeldSource, TestSnapshot, hostile};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Names the folder that a worker restores.
const WORKER: &str = "PERSIST_RESTORE_WORKER";

type Test = fn();

fn main() -> ExitCode {
    if let Ok(path) = std::env::var(WORKER) {
        run(worker(Path::new(&path)));
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, Test); 7] = [
        ("everything_is_as_it_was_and_the_old_folder_is_kept", || run(exact())),
        ("into_a_folder_that_does_not_exist", || run(into_nothing())),
        ("an_open_storage_is_refused_and_not_touched", || run(open_storage())),
        ("a_source_that_fails_changes_nothing", || run(failing_source())),
        ("a_damaged_folder_is_replaced", || run(damaged_folder())),
        ("who_waits_for_the_lock_gets_the_new_folder", || run(waiting_opener())),
        ("a_kill_leaves_the_old_or_the_new_whole", || run(kills())),
    ];
    let trial = |(name, test): (&'static str, Test)| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests.into_iter().map(trial).collect()).exit_code()
}

fn run(test: impl Future<Output = ()>) {
    Runtime::new().unwrap().block_on(test);
}

fn config(path: &Path) -> FileConfig {
    let mut config = FileConfig::new(path);
    config.lock_timeout = HumanDuration(Duration::from_millis(300));
    config
}

async fn open(path: &Path) -> FileStorage {
    FileStorage::open("files", config(path), &OpenContext::default()).await.unwrap()
}

async fn restore(path: &Path, source: &mut dyn SnapshotSource) -> Result<Restored> {
    FileBackend::restore("files", config(path), &OpenContext::default(), source).await
}

async fn entries(path: &Path) -> Vec<(Key, Entry)> {
    let storage = open(path).await;
    let mut snapshot = TestSnapshot::default();
    storage.snapshot(&mut snapshot).await.unwrap();
    storage.close().await.unwrap();
    snapshot.entries.into()
}

/// A folder with some of everything, and what it holds.
async fn filled(path: &Path) -> Vec<(Key, Entry)> {
    let storage = open(path).await;
    let hostile = hostile::keys().into_iter().take(60);
    let items = hostile.map(|key| StoreItem::new(key.clone(), Value::json(&key.as_str()).unwrap())).collect();
    for answer in storage.store_many(items).await {
        answer.unwrap();
    }
    let options = StoreOptions::new().ttl(Duration::from_secs(3600)).tag("a", "ü");
    storage.store(&Key::new("tagged").unwrap(), Value::bytes(vec![7; 300_000]), options).await.unwrap();
    storage.put("changed", &1).await.unwrap();
    storage.put("changed", &2).await.unwrap();
    storage.close().await.unwrap();
    entries(path).await
}

/// What lies beside the folder.
fn beside(path: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut others: Vec<PathBuf> = all.filter(|other| other != path).collect();
    others.sort();
    others
}

async fn exact() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    let expected = filled(&path).await;
    let storage = open(&path).await;
    for key in ["!", "changed", "zzz"] {
        storage.put(key, &"later").await.unwrap();
    }
    storage.remove("tagged").await.unwrap();
    let last = storage.put("last", &0).await.unwrap().version;
    storage.close().await.unwrap();
    drop(storage);
    let later = entries(&path).await;
    let restored = restore(&path, &mut TestSnapshot::of(expected.clone())).await.unwrap();
    assert_eq!(restored.keys, expected.len() as u64);
    assert!(entries(&path).await == expected, "values, versions and times are as they were");
    let kept = restored.kept.unwrap();
    assert!(kept.file_name().unwrap().to_str().unwrap().starts_with("docs.before-restore-"), "{kept:?}");
    assert_eq!(beside(&path), std::slice::from_ref(&kept));
    assert!(entries(&kept).await == later, "the old folder is whole");
    let storage = open(&path).await;
    assert!(storage.put("new", &1).await.unwrap().version > last, "versions go on growing");
}

async fn into_nothing() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    let expected = filled(&path).await;
    let other = place.path().join("deep/er/other");
    let restored = restore(&other, &mut TestSnapshot::of(expected.clone())).await.unwrap();
    assert_eq!(restored.kept, None);
    assert!(entries(&other).await == expected);
    assert_eq!(beside(&other), Vec::<PathBuf>::new());
    // And nothing into something.
    restore(&other, &mut TestSnapshot::default()).await.unwrap();
    assert!(entries(&other).await.is_empty());
}

async fn open_storage() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    let expected = filled(&path).await;
    let storage = open(&path).await;
    let error = restore(&path, &mut TestSnapshot::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let process = format!("process {} has it open", std::process::id());
    assert!(error.to_string().contains(&process), "{error}");
    storage.put("still", &"works").await.unwrap();
    storage.remove("still").await.unwrap();
    storage.close().await.unwrap();
    drop(storage);
    assert!(entries(&path).await == expected);
    let error = FileBackend::restore(
        "files",
        config(&path).read_only(),
        &OpenContext::default(),
        &mut TestSnapshot::default(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert_eq!(beside(&path), Vec::<PathBuf>::new());
}

async fn failing_source() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    let expected = filled(&path).await;
    let mut failing = FailingSource {
        entries: TestSnapshot::of(expected[..30].to_vec()),
        failure: Some(ErrorKind::Corruption),
    };
    assert_eq!(restore(&path, &mut failing).await.unwrap_err().kind(), ErrorKind::Corruption);
    let mut slow = FailingSource { entries: TestSnapshot::of(expected[..30].to_vec()), failure: None };
    let dropped = tokio::time::timeout(Duration::from_millis(300), restore(&path, &mut slow)).await;
    assert!(dropped.is_err());
    let too_large = FileConfig { max_value: persist_core::ByteSize(1000), ..config(&path) };
    let mut source = TestSnapshot::of(expected.clone());
    let refused = FileBackend::restore("files", too_large, &OpenContext::default(), &mut source).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(entries(&path).await == expected);
    assert_eq!(beside(&path), Vec::<PathBuf>::new());
}

async fn damaged_folder() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    let expected = filled(&path).await;
    std::fs::remove_dir_all(path.join(".persist")).unwrap();
    std::fs::write(path.join(".persist"), "not a folder").unwrap();
    let error = restore(&path, &mut TestSnapshot::of(expected.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    std::fs::remove_file(path.join(".persist")).unwrap();
    for file in std::fs::read_dir(&path).unwrap().flatten().filter(|file| file.path().is_file()) {
        std::fs::write(file.path(), "garbage").unwrap();
    }
    restore(&path, &mut TestSnapshot::of(expected.clone())).await.unwrap();
    assert!(entries(&path).await == expected);
}

async fn waiting_opener() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    let expected = filled(&path).await;
    let (mut source, restored) = (HeldSource::of(expected.clone()), path.clone());
    let (begun, go) = (Arc::clone(&source.asked), Arc::clone(&source.go));
    let task = tokio::spawn(async move { restore(&restored, &mut source).await.unwrap() });
    begun.notified().await;
    let (opened, patient) = (path.clone(), FileConfig::new(&path));
    let opener =
        tokio::spawn(async move { FileStorage::open("files", patient, &OpenContext::default()).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    go.notify_one();
    task.await.unwrap();
    let storage = opener.await.unwrap().unwrap();
    storage.put("written after the restore", &1).await.unwrap();
    storage.close().await.unwrap();
    drop(storage);
    let now = entries(&opened).await;
    assert_eq!(now.len(), expected.len() + 1, "what was written is in the new folder");
}

/// What the two states of the kill test hold.
fn state(name: &str, count: usize) -> Vec<StoreItem> {
    let key = |i| Key::new(format!("{name}/{i:03}")).unwrap();
    (0..count).map(|i| StoreItem::new(key(i), Value::json(&vec![i; 20]).unwrap())).collect()
}

async fn fill(path: &Path, name: &str, count: usize) {
    let storage = open(path).await;
    for answer in storage.store_many(state(name, count)).await {
        answer.unwrap();
    }
    storage.close().await.unwrap();
}

/// Restores the folder `new` over the folder `docs`.
async fn worker(place: &Path) {
    let new = entries(&place.join("new")).await;
    restore(&place.join("docs"), &mut TestSnapshot::of(new)).await.unwrap();
}

fn start(place: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).env(WORKER, place).stdout(Stdio::null()).spawn().unwrap()
}

async fn kills() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("docs");
    fill(&place.path().join("new"), "new", 150).await;
    fill(&path, "old", 100).await;
    let mut kills = Kills::timed(|| assert!(start(place.path()).wait().unwrap().success()));
    let (mut old, mut new, mut met) = (0, 0, 0);
    for round in 0..50_u32 {
        if !path.exists() || entries(&path).await.len() != 100 {
            let _ = std::fs::remove_dir_all(&path);
            fill(&path, "old", 100).await;
        }
        met += u32::from(kills.meet(&mut start(place.path())));
        let found = entries(&path).await;
        let first = found.first().unwrap().0.as_str().to_owned();
        match found.len() {
            100 => old += u32::from(first == "old/000"),
            150 => new += u32::from(first == "new/000"),
            other => panic!("round {round}: {other} keys, from {first}"),
        }
        assert_eq!(old + new, round + 1, "round {round}");
    }
    assert!(
        met >= 10 && old >= 5,
        "{met} kills met it, {old} times the old one was there, {new} times the new"
    );
    let new = entries(&place.path().join("new")).await;
    restore(&path, &mut TestSnapshot::of(new.clone())).await.unwrap();
    assert!(entries(&path).await == new);
    let left = beside(&path);
    assert!(left.iter().all(|path| !path.to_str().unwrap().contains("docs.restoring-")), "{left:?}");
}
