//! Disks that are full or read-only, rights, connections that do not come free: the right kind of error, and old values
//! stay.
#![allow(clippy::unwrap_used)] // A panic here is the report.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Failed;
use parking_lot::{Condvar, Mutex};
use persist_core::{
    BaseStorage, Clock, ErrorKind, HumanDuration, ListOptions, OpenContext, StorageExt, SystemClock,
    Timestamp,
};
use persist_sqlite::{SqliteConfig, SqliteStorage};
use persist_testkit::adverse::{
    self, Job, Test, block_on, fill, is_root, keys, let_all_read, set_mode, store, tmpfs, value,
};
use persist_testkit::crash;

fn main() -> ExitCode {
    let tests: [(&str, Test); 9] = [
        ("a_full_disk_keeps_old_values_and_works_again", full_disk),
        ("a_disk_that_is_full_at_the_opening", full_at_opening),
        ("a_read_only_medium_can_be_read", read_only_medium),
        ("a_read_only_medium_with_a_log_can_be_read", read_only_medium_with_log),
        ("a_folder_that_may_only_be_read", folder_without_rights),
        ("what_is_read_without_locks_must_not_change", changed_meanwhile),
        ("a_file_without_rights", file_without_rights),
        ("a_connection_that_does_not_come_free", no_free_connection),
        ("the_name_of_the_log_that_cannot_be_synced", unsynced_folder),
    ];
    adverse::main(work, &tests)
}

async fn open(path: &Path) -> persist_core::Result<SqliteStorage> {
    SqliteStorage::open("main", SqliteConfig::new(path), &OpenContext::default()).await
}

async fn open_to_read(path: &Path) -> persist_core::Result<SqliteStorage> {
    SqliteStorage::open("main", SqliteConfig::new(path).read_only(), &OpenContext::default()).await
}

fn full_disk() -> Result<(), Failed> {
    let Some(disk) = tmpfs(4 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.db");
    block_on(async {
        let storage = open(&path).await.unwrap();
        store(&storage, "kept", value(1, 700_000)).await.unwrap();
        assert_eq!(store(&storage, "kept", value(2, 6 << 20)).await, Err(ErrorKind::Capacity));
        assert_eq!(store(&storage, "more", value(3, 6 << 20)).await, Err(ErrorKind::Capacity));
        assert_eq!(storage.get_bytes("kept").await.unwrap().unwrap(), vec![1; 700_000]);
        assert_eq!(keys(&storage).await, ["kept"]);
        // Failed stores left no more than a log that is used again: a value that fits still fits.
        store(&storage, "fits", value(4, 100_000)).await.unwrap();
        assert!(storage.remove("fits").await.unwrap(), "deleting works on a disk that is full");
        // One neighbour in the same commit that has no room must not fail the others.
        let (small, large) =
            tokio::join!(store(&storage, "small", value(5, 10)), store(&storage, "large", value(6, 8 << 20)));
        assert_eq!((small, large), (Ok(()), Err(ErrorKind::Capacity)));
        storage.close().await.unwrap();
    });
    disk.resize(32 << 20).unwrap();
    block_on(async {
        let storage = open(&path).await.unwrap();
        assert_eq!(keys(&storage).await, ["kept", "small"]);
        store(&storage, "kept", value(7, 6 << 20)).await.unwrap();
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    });
    Ok(())
}

fn full_at_opening() -> Result<(), Failed> {
    let Some(disk) = tmpfs(1 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.db");
    let filler = disk.path().join("filler");
    fill(&filler);
    let made = block_on(open(&path)).unwrap_err();
    assert_eq!(made.kind(), ErrorKind::Capacity, "{made}");
    assert!(!path.exists(), "half a database");
    std::fs::remove_file(&filler).unwrap();
    block_on(async {
        let storage = open(&path).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        storage.close().await.unwrap();
    });
    fill(&filler);
    let opened = block_on(open(&path)).unwrap_err();
    assert_eq!(opened.kind(), ErrorKind::Capacity, "{opened}");
    std::fs::remove_file(&filler).unwrap();
    block_on(async {
        let storage = open(&path).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
        storage.close().await.unwrap();
    });
    Ok(())
}

fn read_only_medium() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.db");
    block_on(async {
        let storage = open(&path).await.unwrap();
        store(&storage, "a/b", value(1, 100)).await.unwrap();
        storage.close().await.unwrap();
    });
    disk.set_read_only(true).unwrap();
    assert_eq!(block_on(open(&path)).unwrap_err().kind(), ErrorKind::ReadOnly);
    let missing = block_on(open(&disk.path().join("other.db"))).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::ReadOnly, "{missing}");
    assert_eq!(block_on(read(&path)), "a/b: 100 bytes of 1");
    disk.set_read_only(false).unwrap();
    Ok(())
}

/// What can be read with a read-only opening, in words; every way of reading must agree.
async fn read(path: &Path) -> String {
    let storage = match open_to_read(path).await {
        Ok(storage) => storage,
        Err(error) => return format!("{}: {error}", error.kind()),
    };
    let report = storage.verify().await.unwrap();
    let listed = keys(&storage).await;
    assert!(report.is_clean() && report.checked == listed.len() as u64, "{report:?}");
    let mut lines = Vec::new();
    for key in listed {
        let bytes = storage.get_bytes(&*key).await.unwrap().unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        lines.push(format!("{key}: {} bytes of {}", bytes.len(), bytes[0]));
    }
    assert_eq!(store(&storage, "x", value(2, 1)).await, Err(ErrorKind::ReadOnly));
    assert_eq!(storage.remove("a/b").await.unwrap_err().kind(), ErrorKind::ReadOnly);
    storage.close().await.unwrap();
    lines.join(", ")
}

/// A process that died left a log with an acknowledged value in it; with and without the index of the log.
fn read_only_medium_with_log() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.db");
    leave_log(&path);
    for with_index in [true, false] {
        if !with_index {
            std::fs::remove_file(disk.path().join("main.db-shm")).unwrap();
        }
        disk.set_read_only(true).unwrap();
        assert_eq!(block_on(read(&path)), "k: 1000 bytes of 7", "with the index: {with_index}");
        disk.set_read_only(false).unwrap();
    }
    Ok(())
}

/// Has a process store something and die.
fn leave_log(path: &Path) {
    Job::new("die", path).run();
    let log = PathBuf::from(format!("{}-wal", path.display()));
    assert!(std::fs::metadata(&log).unwrap().len() > 0, "the log was left");
}

fn work(job: &str, path: &Path) -> String {
    block_on(async {
        match job {
            "read" => read(path).await,
            "store" => match open(path).await {
                Ok(storage) => format!("{:?}", store(&storage, "k", value(9, 10)).await),
                Err(error) => format!("{}: {error}", error.kind()),
            },
            "die" => {
                // Dropped, it would be closed, and the log with it.
                let storage = open(path).await.unwrap();
                store(&storage, "k", value(7, 1000)).await.unwrap();
                std::process::abort()
            }
            other => panic!("unknown job {other}"),
        }
    })
}

/// A folder in which another user may read but not write, as root leaves it.
fn foreign_folder(store: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.db");
    store(&path);
    let_all_read(place.path());
    (place, path)
}

fn store_and_close(path: &Path) {
    block_on(async {
        let storage = open(path).await.unwrap();
        store(&storage, "k", value(7, 1000)).await.unwrap();
        storage.close().await.unwrap();
    });
}

fn folder_without_rights() -> Result<(), Failed> {
    if !is_root() {
        return crash::skip("only root can become another user").map_err(Failed::from);
    }
    let expected = "k: 1000 bytes of 7";
    let (closed, path) = foreign_folder(store_and_close);
    assert_eq!(Job::new("read", &path).as_nobody().run(), expected, "without a log");
    let answer = Job::new("store", &path).as_nobody().run();
    assert!(answer.starts_with("AccessDenied: storage \"main\": open:"), "{answer}");
    assert!(answer.contains("give this user the right"), "{answer}");
    drop(closed);
    let (left, path) = foreign_folder(leave_log);
    assert_eq!(Job::new("read", &path).as_nobody().run(), expected, "with a log and its index");
    std::fs::remove_file(left.path().join("main.db-shm")).unwrap();
    assert_eq!(Job::new("read", &path).as_nobody().run(), expected, "with a log");
    Ok(())
}

/// A database that was opened as nobody could change it says so once somebody does.
fn changed_meanwhile() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.db");
    store_and_close(&path);
    disk.set_read_only(true).unwrap();
    block_on(async {
        let reader = open_to_read(&path).await.unwrap();
        assert_eq!(reader.get_bytes("k").await.unwrap().unwrap(), vec![7; 1000]);
        disk.set_read_only(false).unwrap();
        let writer = open(&path).await.unwrap();
        store(&writer, "k", value(8, 100_000)).await.unwrap();
        let during = reader.get_bytes("k").await.unwrap_err();
        assert_eq!(during.kind(), ErrorKind::Unavailable, "{during}");
        assert!(during.message().contains("open it again"), "{during}");
        writer.close().await.unwrap();
        let after = reader.list_keys("", ListOptions::new()).await.unwrap_err();
        assert_eq!(after.kind(), ErrorKind::Unavailable, "{after}");
        assert_eq!(reader.verify().await.unwrap_err().kind(), ErrorKind::Unavailable);
        reader.close().await.unwrap();
        let again = open_to_read(&path).await.unwrap();
        assert_eq!(again.get_bytes("k").await.unwrap().unwrap(), vec![8; 100_000]);
    });
    Ok(())
}

fn file_without_rights() -> Result<(), Failed> {
    if !is_root() {
        return crash::skip("only root can become another user").map_err(Failed::from);
    }
    let (_place, path) = foreign_folder(store_and_close);
    set_mode(&path, 0o600);
    for job in ["read", "store"] {
        let answer = Job::new(job, &path).as_nobody().run();
        assert!(answer.starts_with("AccessDenied: storage \"main\": open:"), "{job}: {answer}");
        assert!(answer.contains("give this user the right"), "{answer}");
    }
    Ok(())
}

/// SQLite takes no notice if the sync of the folder fails; a power cut would take the log with all that is in it.
fn unsynced_folder() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.db");
    store_and_close(&path);
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:error=EIO:when=1",
    ]);
    let Ok(output) = Job::new("store", &path).given_to(command).output() else {
        return crash::skip("strace is not installed").map_err(Failed::from);
    };
    let answer = String::from_utf8(output.stdout).unwrap();
    if answer.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return crash::skip(&format!("strace may not trace here: {why}")).map_err(Failed::from);
    }
    let expected = "Unavailable: storage \"main\": open: the folder of the log";
    assert!(answer.starts_with(expected), "{answer}");
    assert_eq!(Job::new("store", &path).run(), "Ok(())");
    Ok(())
}

/// A clock that stops whoever asks for the time next, if it was told to.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    turned: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Open,
    /// The next one is stopped.
    Armed,
    /// Somebody stands there.
    Taken,
}

impl Gate {
    fn set(&self, state: GateState) {
        *self.state.lock() = state;
        self.turned.notify_all();
    }

    fn wait_while(&self, state: GateState) {
        self.turned.wait_while(&mut self.state.lock(), |now| *now == state);
    }
}

impl Clock for Gate {
    fn now(&self) -> Timestamp {
        if *self.state.lock() == GateState::Armed {
            self.set(GateState::Taken);
            self.wait_while(GateState::Taken);
        }
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

fn no_free_connection() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    block_on(async {
        let mut context = OpenContext::new(place.path());
        context.clock = Arc::clone(&gate) as Arc<dyn Clock>;
        let mut config = SqliteConfig::new("main.db");
        config.pool_size = 1;
        config.acquire_timeout = HumanDuration(Duration::from_millis(200));
        let storage = SqliteStorage::open("main", config, &context).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        // `verify` asks for the time while it holds the only connection.
        gate.set(GateState::Armed);
        let verifier = storage.clone();
        let verifying = tokio::spawn(async move { verifier.verify().await });
        let waiter = Arc::clone(&gate);
        tokio::task::spawn_blocking(move || waiter.wait_while(GateState::Armed)).await.unwrap();
        let late = storage.get_bytes("k").await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
        assert!(late.message().contains("raise pool_size"), "{late}");
        store(&storage, "k", value(2, 10)).await.unwrap();
        gate.set(GateState::Open);
        assert!(verifying.await.unwrap().unwrap().is_clean());
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![2; 10]);
        storage.close().await.unwrap();
    });
    Ok(())
}
