//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to
//! its value, and SQLite's own check finds nothing. `PERSIST_CRASH_SCALE=10` runs ten times as many cases,
//! `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use persist_core::{BaseStorage, ByteSize, OpenContext, Result};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::crash::inject::{Excuse, Inject};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{self, Report, Subject, Trouble, Workload, scale, seed};

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

type Run = fn(&Subject) -> std::result::Result<Report, Trouble>;

/// Sixteen writers at once, who share their commits.
fn kill(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::kill::run(subject, &Kill { cycles: 50 * scale(), tasks: 16, seed: seed(), ..Kill::default() })
}

/// A short run kills before every fifth call of a name, a long one before each.
fn sweep(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let every = if scale() > 1 { 1 } else { 5 };
    crash::sweep::run(subject, &Sweep { every, ..Sweep::default() })
}

fn sweep_of_open(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::sweep::run(subject, &Sweep::of_open())
}

fn record() -> Record {
    Record { maps_allowed: vec!["-shm"], seed: seed(), ..Record::default() }
}

/// Power cuts at every point of the script; with a scale above 1 also a second one during the recovery.
fn replay(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let recovery_every = if scale() > 1 { 40 } else { 0 };
    let replay = Replay { record: record(), states: 250 * scale(), recovery_every, ..Replay::default() };
    crash::replay::run(subject, &replay)
}

fn replay_concurrent(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let workload = Workload::Random { tasks: 16, keys: 4, changes: Some(4) };
    let record = Record { workload, ..record() };
    crash::replay::run(subject, &Replay { record, states: 100 * scale(), ..Replay::default() })
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

/// Each system call of the script fails once, and each name from some call on; a short run draws from them.
fn inject(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let mut config = Inject { excuses: EXCUSES.to_vec(), seed: seed(), ..Inject::default() };
    config.faults = if scale() > 1 { usize::MAX } else { 40 };
    config.looks_like_damage = vec!["EIO"];
    crash::inject::run(subject, &config)
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict);
    let relaxed = subject("relaxed", Durability::Relaxed);
    if let Some(code) = crash::serve(&[&strict, &relaxed]) {
        return code;
    }
    // A relaxed storage promises nothing about power cuts.
    let all: [(&str, &Subject, Run); 7] = [
        ("strict::kill", &strict, kill),
        ("strict::sweep", &strict, sweep),
        ("strict::sweep_of_open", &strict, sweep_of_open),
        ("strict::replay", &strict, replay),
        ("strict::replay_concurrent", &strict, replay_concurrent),
        ("strict::inject", &strict, inject),
        ("relaxed::kill", &relaxed, kill),
    ];
    let trial = |(name, subject, run): (&str, &Subject, Run)| {
        let subject = subject.clone();
        Trial::test(name, move || Ok(crash::judge(run(&subject))?))
    };
    libtest_mimic::run(&Arguments::from_args(), all.map(trial).into()).exit_code()
}
