//! A process that takes and removes snapshots is killed at random: what it acknowledged is there and good.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use persist_backup::{Retention, Snapshot, Vault};
use persist_core::{BaseStorage, StorageExt};
use persist_testkit::adverse::Kills;
use persist_testkit::memory::MemoryStorage;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Names the vault that a worker fills.
const WORKER: &str = "PERSIST_BACKUP_WORKER";

const KEEP: usize = 3;

fn main() -> ExitCode {
    if let Ok(path) = std::env::var(WORKER) {
        Runtime::new().unwrap().block_on(worker(Path::new(&path)));
        return ExitCode::SUCCESS;
    }
    let trial = Trial::test("what_was_acknowledged_survives_kills", || {
        Runtime::new().unwrap().block_on(kills());
        Ok::<(), Failed>(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

/// Takes and removes snapshots until it is killed; tells the name of each that it took.
async fn worker(path: &Path) {
    let (vault, storage) = (Vault::new(path), MemoryStorage::new("main"));
    for i in 0..300 {
        storage.put(format!("key{i}").as_str(), &vec![i; 50]).await.unwrap();
    }
    loop {
        let taken = vault.take(&storage).await.unwrap();
        println!("{}", taken.name());
        std::io::stdout().flush().unwrap();
        let now = storage.describe().now();
        vault.prune("main", &Retention::count(KEEP as u32), now).await.unwrap();
    }
}

fn start(place: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).env(WORKER, place).stdout(Stdio::piped()).spawn().unwrap()
}

/// The time in which a worker takes a handful of snapshots.
fn a_handful() -> Kills {
    let place = TempDir::new().unwrap();
    let mut child = start(place.path());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let kills = Kills::timed(|| assert_eq!(lines.take(6).filter(Result::is_ok).count(), 6));
    child.kill().unwrap();
    child.wait().unwrap();
    kills
}

async fn kills() {
    let place = TempDir::new().unwrap();
    let vault = Vault::new(place.path());
    let (mut taken, mut halves, mut kills) = (Vec::new(), 0, a_handful());
    for round in 0..60 {
        let mut child = start(place.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(kills.meet(&mut child), "round {round}: it ended by itself");
        taken.extend(lines.map_while(Result::ok));
        let (found, unreadable) = vault.list("main").await.unwrap();
        assert_eq!(unreadable, [], "round {round}");
        let names: Vec<String> = found.iter().map(Snapshot::name).collect();
        // One may be complete and not acknowledged: it counts like the others.
        taken.extend(names.iter().cloned());
        taken.sort_unstable();
        taken.dedup();
        let newest = &taken[taken.len().saturating_sub(KEEP)..];
        assert!(
            newest.iter().all(|name| names.contains(name)),
            "round {round}: {names:?} lacks some of {newest:?}"
        );
        for snapshot in found {
            snapshot.verify().await.unwrap();
        }
        let folder = place.path().join("main");
        let hidden = |name: std::ffi::OsString| name.to_string_lossy().starts_with('.');
        halves += match std::fs::read_dir(&folder) {
            Ok(entries) => entries.filter(|entry| hidden(entry.as_ref().unwrap().file_name())).count(),
            Err(_) => 0,
        };
    }
    assert!(taken.len() > 30 && halves > 5, "{} snapshots, {halves} halves", taken.len());
    vault.prune("main", &Retention::count(1), MemoryStorage::new("x").describe().now()).await.unwrap();
    let left = std::fs::read_dir(place.path().join("main")).unwrap().count();
    assert_eq!(left, 1, "what dead processes left is removed");
}
