//! Disks that are full or read-only, limits, rights, other processes: the right kind of error, and old values stay.
#![allow(clippy::unwrap_used)] // A panic here is the report.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Failed;
use persist_core::{BaseStorage, ErrorKind, HumanDuration, ListOptions, OpenContext, StorageExt};
use persist_file::{FileConfig, FileStorage};
use persist_testkit::adverse::{self, Job, Test, block_on, keys, set_mode, store, tmpfs, value};

fn main() -> ExitCode {
    let tests: [(&str, Test); 9] = [
        ("a_full_disk_keeps_old_values_and_works_again", full_disk),
        ("no_inodes_left", no_inodes),
        ("a_read_only_medium_can_be_read", read_only_medium),
        ("a_folder_without_rights", no_rights),
        ("a_limit_on_file_sizes", file_size_limit),
        ("a_limit_on_open_files", open_files_limit),
        ("processes_lose_no_increment", processes_count),
        ("a_held_lock_names_the_process", held_lock),
        ("a_dead_process_leaves_nothing", dead_process),
    ];
    adverse::main(work, &tests)
}

async fn open(root: &Path) -> persist_core::Result<FileStorage> {
    let mut config = FileConfig::new(root);
    config.lock_timeout = HumanDuration(Duration::from_millis(200));
    FileStorage::open("files", config, &OpenContext::default()).await
}

fn full_disk() -> Result<(), Failed> {
    let Some(disk) = tmpfs(2 << 20, 0)? else { return Ok(()) };
    block_on(async {
        let storage = open(&disk.path().join("s")).await.unwrap();
        store(&storage, "kept", value(1, 700_000)).await.unwrap();
        assert_eq!(store(&storage, "kept", value(2, 3 << 20)).await, Err(ErrorKind::Capacity));
        assert_eq!(store(&storage, "more", value(3, 1_500_000)).await, Err(ErrorKind::Capacity));
        assert_eq!(storage.get_bytes("kept").await.unwrap().unwrap(), vec![1; 700_000]);
        assert_eq!(keys(&storage).await, ["kept"]);
        // Failed stores left nothing behind: a value that fits still fits.
        store(&storage, "fits", value(4, 900_000)).await.unwrap();
        assert!(storage.remove("fits").await.unwrap(), "deleting works on a disk that is nearly full");
        disk.resize(8 << 20).unwrap();
        store(&storage, "kept", value(5, 3 << 20)).await.unwrap();
        storage.close().await.unwrap();
    });
    Ok(())
}

fn no_inodes() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 20)? else { return Ok(()) };
    block_on(async {
        let storage = open(&disk.path().join("s")).await.unwrap();
        let mut stored = 0;
        let kind = loop {
            match store(&storage, &format!("k{stored}"), value(1, 10)).await {
                Ok(()) => stored += 1,
                Err(kind) => break kind,
            }
        };
        assert_eq!(kind, ErrorKind::Capacity);
        assert!((5..20).contains(&stored), "{stored}");
        for at in 0..stored {
            assert!(storage.get_bytes(format!("k{at}")).await.unwrap().is_some());
        }
        // Deleting needs none. A writing thread may need one for a folder of its own beside that of the value.
        for at in 0..5 {
            assert!(storage.remove(format!("k{at}")).await.unwrap());
        }
        store(&storage, "k0", value(2, 10)).await.unwrap();
    });
    Ok(())
}

fn read_only_medium() -> Result<(), Failed> {
    let Some(disk) = tmpfs(8 << 20, 0)? else { return Ok(()) };
    let root = disk.path().join("s");
    block_on(async {
        let storage = open(&root).await.unwrap();
        store(&storage, "a/b", value(1, 100)).await.unwrap();
        storage.close().await.unwrap();
    });
    disk.set_read_only(true).unwrap();
    block_on(async {
        assert_eq!(open(&root).await.unwrap_err().kind(), ErrorKind::ReadOnly);
        let config = FileConfig::new(&root).read_only();
        let storage = FileStorage::open("files", config, &OpenContext::default()).await.unwrap();
        assert_eq!(storage.get_bytes("a/b").await.unwrap().unwrap(), vec![1; 100]);
        assert_eq!(storage.list_keys("a/", ListOptions::new()).await.unwrap().keys.len(), 1);
        let report = storage.verify().await.unwrap();
        assert!(report.is_clean() && report.checked == 1, "{report:?}");
        assert_eq!(store(&storage, "x", value(2, 1)).await, Err(ErrorKind::ReadOnly));
        assert_eq!(storage.remove("a/b").await.unwrap_err().kind(), ErrorKind::ReadOnly);
        storage.close().await.unwrap();
    });
    disk.set_read_only(false).unwrap();
    Ok(())
}

fn work(job: &str, root: &Path) -> String {
    block_on(async {
        let storage = match open(root).await {
            Ok(storage) => storage,
            Err(error) => return format!("{}: {error}", error.kind()),
        };
        match job {
            "small" => kind(store(&storage, "k", value(9, 10)).await),
            "large" => kind(store(&storage, "k", value(9, 100_000)).await),
            "starved" => starved(&storage).await,
            "count" => count(&storage).await,
            "die" => {
                store(&storage, "k", value(1, 1000)).await.unwrap();
                let _ =
                    tokio::time::timeout(Duration::from_micros(300), store(&storage, "k", value(2, 5 << 20)))
                        .await;
                std::process::abort()
            }
            other => panic!("unknown job {other}"),
        }
    })
}

fn kind(result: Result<(), ErrorKind>) -> String {
    result.map_or_else(|kind| kind.to_string(), |()| "Ok".to_owned())
}

/// Stores while others hold nearly all descriptors that this process may have: all of them, then one less each time.
async fn starved(storage: &FileStorage) -> String {
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let mut kinds = Vec::new();
    while held.pop().is_some() {
        let kind = kind(store(storage, "starved", value(1, 10)).await);
        if kinds.last() != Some(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(",")
}

async fn count(storage: &FileStorage) -> String {
    for _ in 0..100 {
        storage.update("counter", |old: Option<u64>| old.unwrap_or(0) + 1).await.unwrap();
    }
    "Ok".to_owned()
}

fn no_rights() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("s");
    block_on(async {
        let storage = open(&root).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        storage.close().await.unwrap();
    });
    let is_root = adverse::is_root();
    if is_root {
        // The folder can be reached, but belongs to another user.
        for folder in [place.path(), &root] {
            set_mode(folder, 0o755);
        }
    } else {
        set_mode(&root.join(".persist"), 0o000);
    }
    let job = Job::new("small", &root);
    let answer = if is_root { job.as_nobody() } else { job }.run();
    if !is_root {
        set_mode(&root.join(".persist"), 0o700);
    }
    assert!(answer.starts_with("AccessDenied: storage \"files\": open:"), "{answer}");
    assert!(answer.contains("give this user the right"), "{answer}");
    block_on(async {
        let storage = open(&root).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
    });
    Ok(())
}

fn file_size_limit() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    block_on(async {
        let storage = open(place.path()).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        storage.close().await.unwrap();
    });
    // Without the trap the system would end the process instead of answering.
    let limited = "trap '' XFSZ; ulimit -f 8";
    assert_eq!(Job::new("large", place.path()).under(limited).run(), "Capacity");
    block_on(async {
        let storage = open(place.path()).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
    });
    assert_eq!(Job::new("small", place.path()).under(limited).run(), "Ok");
    Ok(())
}

fn open_files_limit() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let answer = Job::new("starved", place.path()).under("ulimit -n 40").run();
    assert_eq!(answer, "Capacity,Ok", "refused without room, done once there is some");
    block_on(async {
        let storage = open(place.path()).await.unwrap();
        let report = storage.verify().await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        store(&storage, "after", value(1, 1)).await.unwrap();
    });
    Ok(())
}

fn processes_count() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| Job::new("count", root).run())).collect();
        for worker in workers {
            assert_eq!(worker.join().unwrap(), "Ok");
        }
    });
    let counted = block_on(async { open(root).await.unwrap().get::<u64>("counter").await.unwrap() });
    assert_eq!(counted, Some(400));
    Ok(())
}

fn held_lock() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    block_on(async { open(place.path()).await.unwrap().close().await.unwrap() });
    let lock = std::fs::File::open(place.path().join(".persist/lock")).unwrap();
    lock.lock().unwrap();
    let answer = Job::new("small", place.path()).run();
    let expected = format!("process {} holds the lock", std::process::id());
    assert!(answer.starts_with("Locked") && answer.contains(&expected), "{answer}");
    lock.unlock().unwrap();
    assert_eq!(Job::new("small", place.path()).run(), "Ok");
    Ok(())
}

fn dead_process() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    Job::new("die", place.path()).run();
    // One folder or more for each session, named after its process.
    let sessions = || {
        let folders = std::fs::read_dir(place.path().join(".persist/tmp")).unwrap();
        let name =
            |folder: std::io::Result<std::fs::DirEntry>| folder.unwrap().file_name().into_string().unwrap();
        let session = |name: String| name.rsplit_once('-').unwrap().0.to_owned();
        folders.map(name).map(session).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(sessions(), 1, "the worker died with its folder");
    block_on(async {
        let alive = open(place.path()).await.unwrap();
        assert_eq!(sessions(), 1, "the dead one's folder went, the living one's came");
        let held = alive.get_bytes("k").await.unwrap().unwrap();
        assert!(held == vec![1; 1000] || held == vec![2; 5 << 20]);
        let second = open(place.path()).await.unwrap();
        assert_eq!(sessions(), 2, "two that live");
        alive.close().await.unwrap();
        second.close().await.unwrap();
    });
    Ok(())
}
