//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to
//! its value, and SQLite's own check finds nothing. `PERSIST_CRASH_SCALE=10` runs ten times as many cases,
//! `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use persist_core::{BaseStorage, ByteSize, OpenContext, Result};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::crash::inject::{Excuse, Inject};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::suite::{Suite, faults, kills, replays, sweeps};
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{Subject, Workload, if_long};

fn subject(name: &str, durability: Durability) -> Subject {
    let open = move |root: PathBuf| async move {
        let mut config = SqliteConfig::new(root.join("main.db")).durability(durability);
        // Short, so that the log is copied and begun anew all the time.
        config.log_limit = ByteSize(64 << 10);
        let storage = SqliteStorage::open("main", config, &OpenContext::default()).await?;
        Ok(Arc::new(storage) as Arc<dyn BaseStorage>) as Result<_>
    };
    Subject::storage(name, open).without_residue(residue)
}

/// What must not be left once a storage was opened and closed: a log, its index, a half-made database.
fn residue(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name != "main.db").map(|name| name.to_string_lossy().into_owned()).collect()
}

/// What SQLite need not tell: it syncs the name of the log a second time; it gives the file system a hint how long the
/// file will be; changes that share a commit are tried one by one if that fails for want of space; and a log that
/// cannot be copied for want of space stays.
const EXCUSES: [Excuse; 4] = [
    Excuse { call: "fsync", error: None, path: "/store" },
    Excuse { call: "ftruncate", error: None, path: "main.db" },
    Excuse { call: "pwrite64", error: Some("ENOSPC"), path: "main.db-wal" },
    Excuse { call: "pwrite64", error: Some("ENOSPC"), path: "main.db" },
];

fn record() -> Record {
    Record { maps_allowed: vec!["-shm"], ..Record::default() }
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict);
    let relaxed = subject("relaxed", Durability::Relaxed);
    // Sixteen writers at once, who share their commits.
    let kill = Kill { cycles: 50, tasks: 16, ..Kill::default() };
    // A short run kills before every fifth call of a name, a long one before each.
    let sweep = Sweep { every: if_long(1, 5), ..Sweep::default() };
    // Power cuts at every point of the script; in a long run also a second one during the recovery.
    let cuts = Replay { record: record(), states: 250, recovery_every: if_long(40, 0), ..Replay::default() };
    let crowd = Record { workload: Workload::crowd(), ..record() };
    let crowded = Replay { record: crowd, states: 100, ..Replay::default() };
    // Each system call of the script fails once, and each name from some call on; a short run draws from them.
    let inject = Inject {
        faults: if_long(usize::MAX, 40),
        excuses: EXCUSES.to_vec(),
        looks_like_damage: vec!["EIO"],
        ..Inject::default()
    };
    // A relaxed storage promises nothing about power cuts.
    Suite::default()
        .test("strict::kill", &strict, kills(kill.clone()))
        .test("strict::sweep", &strict, sweeps(sweep))
        .test("strict::sweep_of_open", &strict, sweeps(Sweep::of_open()))
        .test("strict::replay", &strict, replays(cuts))
        .test("strict::replay_concurrent", &strict, replays(crowded))
        .test("strict::inject", &strict, faults(inject))
        .test("relaxed::kill", &relaxed, kills(kill))
        .main()
}
