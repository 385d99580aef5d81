//! Disks that are full or read-only, rights, locks: the right kind of error, and old values stay.
#![allow(clippy::unwrap_used, clippy::panic)] // A panic here is the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::Failed;
use persist_core::{BaseStorage, ErrorKind, HealthStatus, OpenContext, StorageExt};
use persist_hdf5::{Hdf5Config, Hdf5Storage};
use persist_testkit::adverse::{
    self, Job, Test, block_on, fill, is_root, keys, let_all_read, set_mode, store, tmpfs, value,
};
use persist_testkit::crash;

fn main() -> ExitCode {
    let tests: [(&str, Test); 9] = [
        ("a_full_disk_keeps_old_values_and_works_again", full_disk),
        ("a_disk_that_is_full_at_the_opening", full_at_opening),
        ("a_checkpoint_that_has_no_room_is_made_up_for", no_room_for_the_checkpoint),
        ("a_read_only_medium_can_be_read", read_only_medium),
        ("a_read_only_medium_with_a_log_can_be_read", read_only_medium_with_log),
        ("a_folder_that_may_only_be_read", folder_without_rights),
        ("a_file_without_rights", file_without_rights),
        ("a_file_that_another_program_writes", locked_by_another_program),
        ("what_is_no_hdf5_file_is_left_alone", no_hdf5_file),
    ];
    adverse::main(work, &tests)
}

async fn open(path: &Path) -> persist_core::Result<Hdf5Storage> {
    Hdf5Storage::open("main", Hdf5Config::new(path), &OpenContext::default()).await
}

async fn open_to_read(path: &Path) -> persist_core::Result<Hdf5Storage> {
    Hdf5Storage::open("main", Hdf5Config::new(path).read_only(), &OpenContext::default()).await
}

fn full_disk() -> Result<(), Failed> {
    let Some(disk) = tmpfs(4 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.h5");
    block_on(async {
        let storage = open(&path).await.unwrap();
        store(&storage, "kept", value(1, 700_000)).await.unwrap();
        assert_eq!(store(&storage, "kept", value(2, 6 << 20)).await, Err(ErrorKind::Capacity));
        assert_eq!(store(&storage, "more/below", value(3, 6 << 20)).await, Err(ErrorKind::Capacity));
        assert_eq!(storage.get_bytes("kept").await.unwrap().unwrap(), vec![1; 700_000]);
        assert_eq!(keys(&storage).await, ["kept"]);
        // Failed stores left nothing that keeps a value that fits from being stored, also below the same group.
        store(&storage, "more/fits", value(4, 100_000)).await.unwrap();
        assert!(storage.remove("more/fits").await.unwrap(), "deleting works on a disk that is full");
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
    let path = disk.path().join("main.h5");
    let filler = disk.path().join("filler");
    fill(&filler);
    let made = block_on(open(&path)).unwrap_err();
    assert_eq!(made.kind(), ErrorKind::Capacity, "{made}");
    std::fs::remove_file(&filler).unwrap();
    block_on(async {
        let storage = open(&path).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        storage.close().await.unwrap();
    });
    fill(&filler);
    block_on(async {
        // Reading needs no room, and writing says what is missing.
        let storage = open(&path).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
        assert_eq!(store(&storage, "l", value(2, 10)).await, Err(ErrorKind::Capacity));
        storage.close().await.unwrap();
    });
    std::fs::remove_file(&filler).unwrap();
    block_on(async {
        let storage = open(&path).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
        assert_eq!(keys(&storage).await, ["k"]);
        storage.close().await.unwrap();
    });
    Ok(())
}

/// What is in the log alone is not lost if there is no room to copy it into the file.
fn no_room_for_the_checkpoint() -> Result<(), Failed> {
    let Some(disk) = tmpfs(2 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.h5");
    let filler = disk.path().join("filler");
    block_on(async {
        let storage = open(&path).await.unwrap();
        // Whoever reads the file keeps the log from being copied.
        let reader = std::fs::File::open(&path).unwrap();
        reader.lock_shared().unwrap();
        for at in 0..8 {
            store(&storage, &format!("k{at}"), value(at, 50_000)).await.unwrap();
        }
        fill(&filler);
        drop(reader);
        let error = storage.maintain().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Capacity, "{error}");
        let health = storage.health().await;
        assert_eq!(health.status, HealthStatus::Degraded, "{}", health.detail);
        assert_eq!(storage.get_bytes("k7").await.unwrap().unwrap(), vec![7; 50_000]);
        storage.close().await.unwrap();
        let storage = open(&path).await.unwrap();
        assert_eq!(storage.get_bytes("k7").await.unwrap().unwrap(), vec![7; 50_000]);
        std::fs::remove_file(&filler).unwrap();
        storage.maintain().await.unwrap();
        assert_eq!(storage.health().await.status, HealthStatus::Healthy);
        storage.close().await.unwrap();
        assert!(!log_of(&path).exists(), "the log was left");
        let storage = open(&path).await.unwrap();
        assert_eq!(keys(&storage).await.len(), 8);
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    });
    Ok(())
}

fn read_only_medium() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.h5");
    store_and_close(&path);
    disk.set_read_only(true).unwrap();
    assert_eq!(block_on(open(&path)).unwrap_err().kind(), ErrorKind::ReadOnly);
    let missing = block_on(open_to_read(&disk.path().join("other.h5"))).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::InvalidConfig, "{missing}");
    assert_eq!(block_on(read(&path)), "k: 1000 bytes of 7");
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
    storage.close().await.unwrap();
    lines.join(", ")
}

/// A process that died left a log with an acknowledged value in it.
fn read_only_medium_with_log() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 0)? else { return Ok(()) };
    let path = disk.path().join("main.h5");
    leave_log(&path);
    disk.set_read_only(true).unwrap();
    assert_eq!(block_on(read(&path)), "k: 1000 bytes of 7");
    disk.set_read_only(false).unwrap();
    Ok(())
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-log", path.display()))
}

/// Has a process store something and die.
fn leave_log(path: &Path) {
    Job::new("die", path).run();
    assert!(std::fs::metadata(log_of(path)).unwrap().len() > 1024, "the log was left");
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
    let path = place.path().join("main.h5");
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
    let (_left, path) = foreign_folder(leave_log);
    assert_eq!(Job::new("read", &path).as_nobody().run(), expected, "with a log");
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

/// HDF5 takes the file for itself while it writes to it.
fn locked_by_another_program() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("main.h5");
    store_and_close(&path);
    let other = std::fs::File::open(&path)?;
    other.lock()?;
    for opened in [block_on(open(&path)), block_on(open_to_read(&path))] {
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    }
    drop(other);
    assert_eq!(block_on(read(&path)), "k: 1000 bytes of 7");
    Ok(())
}

fn no_hdf5_file() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("main.h5");
    std::fs::write(&path, "a text that is no HDF5 file, and long enough to be one\n".repeat(40))?;
    let before = std::fs::read(&path)?;
    let error = block_on(open(&path)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert_eq!(std::fs::read(&path)?, before);
    // A log without its file, and an interrupted checkpoint without its log.
    let path = place.path().join("other.h5");
    leave_log(&path);
    let kept = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    let error = block_on(open(&path)).unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.message().contains("is missing"), "{error}");
    assert!(!path.exists(), "an empty file was left in its place");
    std::fs::write(&path, [b"\x89PERSIST", &kept[8..]].concat())?;
    assert_eq!(block_on(read(&path)), "k: 1000 bytes of 7", "the log mends what a checkpoint left");
    std::fs::remove_file(log_of(&path))?;
    let error = block_on(open(&path)).unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.message().contains("interrupted"), "{error}");
    Ok(())
}
