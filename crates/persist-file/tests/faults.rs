//! Disks that are full or read-only, limits, rights, other processes: the right kind of error, and old values stay.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{
    BaseStorage, ErrorKind, HumanDuration, Key, ListOptions, OpenContext, StorageExt, StoreOptions, Value,
};
use persist_file::{FileConfig, FileStorage};
use persist_testkit::crash::{self, Trouble, mount::Tmpfs};
use tokio::runtime::Runtime;

/// Names what a worker does and where.
const WORKER: &str = "PERSIST_FILE_WORKER";

type Test = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    if let Ok(job) = std::env::var(WORKER) {
        return worker(&job);
    }
    if let Some(code) = crash::mount::in_own_namespace() {
        return code;
    }
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
    let trials = tests.map(|(name, test)| Trial::test(name, test)).into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

async fn open(root: &Path) -> persist_core::Result<FileStorage> {
    let mut config = FileConfig::new(root);
    config.lock_timeout = HumanDuration(Duration::from_millis(200));
    FileStorage::open("files", config, &OpenContext::default()).await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

fn value(byte: u8, len: usize) -> Value {
    Value::bytes(vec![byte; len])
}

async fn store(storage: &FileStorage, key: &str, value: Value) -> Result<(), ErrorKind> {
    let stored = storage.store(&Key::new(key).unwrap(), value, StoreOptions::new()).await;
    stored.map(drop).map_err(|error| error.kind())
}

/// A file system of its own, or a loud skip where none can be mounted.
fn tmpfs(bytes: u64, inodes: u64) -> Result<Option<Tmpfs>, Failed> {
    match Tmpfs::new(bytes, inodes) {
        Ok(disk) => Ok(Some(disk)),
        Err(Trouble::Unavailable(why)) => crash::skip(&why).map(|()| None).map_err(Failed::from),
        Err(other) => Err(Failed::from(format!("{other:?}"))),
    }
}

fn full_disk() -> Result<(), Failed> {
    let Some(disk) = tmpfs(2 << 20, 0)? else { return Ok(()) };
    block_on(async {
        let storage = open(&disk.path().join("s")).await.unwrap();
        store(&storage, "kept", value(1, 700_000)).await.unwrap();
        assert_eq!(store(&storage, "kept", value(2, 3 << 20)).await, Err(ErrorKind::Capacity));
        assert_eq!(store(&storage, "more", value(3, 1_500_000)).await, Err(ErrorKind::Capacity));
        assert_eq!(storage.get_bytes("kept").await.unwrap().unwrap(), vec![1; 700_000]);
        let keys = storage.list_keys("", ListOptions::new()).await.unwrap().keys;
        assert_eq!(keys, [Key::new("kept").unwrap()]);
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

/// Starts this program again as a worker; gives the last line it prints.
fn run(shell: Option<&str>, job: &str, root: &Path, as_nobody: bool) -> String {
    let program = std::env::current_exe().unwrap();
    let mut command = match shell {
        Some(limits) => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{limits}; exec \"$0\"")]).arg(program);
            command
        }
        None => Command::new(program),
    };
    if as_nobody {
        command.uid(65534).gid(65534);
    }
    let output =
        command.env(WORKER, format!("{job} {}", root.display())).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn worker(job: &str) -> ExitCode {
    let (job, root) = job.split_once(' ').unwrap();
    let answer = block_on(async {
        let storage = match open(Path::new(root)).await {
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
    });
    println!("{answer}");
    ExitCode::SUCCESS
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
    use std::os::unix::fs::{PermissionsExt, chown};
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("s");
    block_on(async {
        let storage = open(&root).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        storage.close().await.unwrap();
    });
    let is_root = rustix_is_root();
    if is_root {
        // The folder can be reached, but belongs to another user.
        for folder in [place.path(), &root] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let _ = chown(place.path(), None, None);
    } else {
        std::fs::set_permissions(root.join(".persist"), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let answer = run(None, "small", &root, is_root);
    if !is_root {
        std::fs::set_permissions(root.join(".persist"), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(answer.starts_with("AccessDenied: storage \"files\": open:"), "{answer}");
    assert!(answer.contains("give this user the right"), "{answer}");
    block_on(async {
        let storage = open(&root).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
    });
    Ok(())
}

fn rustix_is_root() -> bool {
    std::fs::metadata("/proc/self")
        .map(|me| std::os::unix::fs::MetadataExt::uid(&me))
        .is_ok_and(|uid| uid == 0)
}

fn file_size_limit() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    block_on(async {
        let storage = open(place.path()).await.unwrap();
        store(&storage, "k", value(1, 10)).await.unwrap();
        storage.close().await.unwrap();
    });
    // Without the trap the system would end the process instead of answering.
    let limited = Some("trap '' XFSZ; ulimit -f 8");
    assert_eq!(run(limited, "large", place.path(), false), "Capacity");
    block_on(async {
        let storage = open(place.path()).await.unwrap();
        assert_eq!(storage.get_bytes("k").await.unwrap().unwrap(), vec![1; 10]);
    });
    assert_eq!(run(limited, "small", place.path(), false), "Ok");
    Ok(())
}

fn open_files_limit() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let answer = run(Some("ulimit -n 40"), "starved", place.path(), false);
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
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| run(None, "count", root, false))).collect();
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
    let answer = run(None, "small", place.path(), false);
    let expected = format!("process {} holds the lock", std::process::id());
    assert!(answer.starts_with("Locked") && answer.contains(&expected), "{answer}");
    lock.unlock().unwrap();
    assert_eq!(run(None, "small", place.path(), false), "Ok");
    Ok(())
}

fn dead_process() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    run(None, "die", place.path(), false);
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
