//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to
//! its value. `PERSIST_CRASH_SCALE=10` runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use persist_core::{BaseStorage, ByteSize, HumanDuration, OpenContext, Result};
use persist_hdf5::{Durability, Hdf5Config, Hdf5Storage};
use persist_testkit::crash::inject::{Excuse, Inject};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{self, Report, Subject, Trouble, Workload, scale, seed};

/// `idle`: the log is copied into the file also when nothing is asked, and so when nobody can be told that it failed.
fn subject(name: &str, durability: Durability, compact_at: u8, idle: bool) -> Subject {
    let open = move |root: PathBuf| async move {
        let mut config = Hdf5Config::new(root.join("main.h5")).durability(durability);
        // Short, so that the log is copied and begun anew all the time.
        config.log_limit = ByteSize(64 << 10);
        config.compact_at = compact_at;
        if !idle {
            config.checkpoint_after = HumanDuration(Duration::from_secs(3600));
        }
        let storage = Hdf5Storage::open("main", config, &OpenContext::default()).await?;
        Ok(Arc::new(storage) as Arc<dyn BaseStorage>) as Result<_>
    };
    Subject::storage(name, open).without_residue(residue)
}

/// What must not be left once a storage was opened and closed: a log.
fn residue(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name != "main.h5").map(|name| name.to_string_lossy().into_owned()).collect()
}

type Run = fn(&Subject) -> std::result::Result<Report, Trouble>;

/// Sixteen writers at once, who share their commits.
fn kill(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::kill::run(subject, &Kill { cycles: 30 * scale(), tasks: 16, seed: seed(), ..Kill::default() })
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
    Record { seed: seed(), ..Record::default() }
}

/// Power cuts at every point of the script; with a scale above 1 also a second one during the recovery.
fn replay(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let recovery_every = if scale() > 1 { 40 } else { 0 };
    let replay = Replay { record: record(), states: 200 * scale(), recovery_every, ..Replay::default() };
    crash::replay::run(subject, &replay)
}

fn replay_concurrent(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let workload = Workload::Random { tasks: 16, keys: 4, changes: Some(4) };
    let record = Record { workload, ..record() };
    crash::replay::run(subject, &Replay { record, states: 100 * scale(), ..Replay::default() })
}

/// What need not be told: copying the log into the file is tried again, and the log has everything until it succeeds.
/// (A value that is written directly into the file is larger than those of this test.)
const EXCUSES: [Excuse; 5] = [
    Excuse { call: "pwrite64", error: None, path: "main.h5" },
    Excuse { call: "ftruncate", error: None, path: "main.h5" },
    // Changes that share a commit for which there is no room are tried one by one, and may find it then.
    Excuse { call: "pwrite64", error: Some("ENOSPC"), path: "main.h5-log" },
    Excuse { call: "pwrite64", error: Some("EDQUOT"), path: "main.h5-log" },
    // A log that was emptied may stay as long as it was.
    Excuse { call: "ftruncate", error: None, path: "main.h5-log" },
];

/// Each system call of the script fails once, and each name from some call on; a short run draws from them.
fn inject(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let faults = if scale() > 1 { usize::MAX } else { 40 };
    crash::inject::run(
        subject,
        &Inject { faults, excuses: EXCUSES.to_vec(), seed: seed(), ..Inject::default() },
    )
}

/// The same while files are compacted. HDF5 1.10.8 crashes if it cannot read while it copies objects, which costs nothing that is
/// stored, but the process; so reads do not fail here.
fn inject_writes(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let mut config = Inject { excuses: EXCUSES.to_vec(), seed: seed(), ..Inject::default() };
    config.faults = if scale() > 1 { usize::MAX } else { 40 };
    config.calls.retain(|call| !call.starts_with("pread"));
    crash::inject::run(subject, &config)
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict, 100, true);
    let relaxed = subject("relaxed", Durability::Relaxed, 100, true);
    let failing = subject("failing", Durability::Strict, 100, false);
    // Each `maintain` compacts the file.
    let compacting = subject("compacting", Durability::Strict, 0, true);
    let failing_to = subject("failing_to_compact", Durability::Strict, 0, false);
    if let Some(code) = crash::serve(&[&strict, &relaxed, &failing, &compacting, &failing_to]) {
        return code;
    }
    // A relaxed storage promises nothing about power cuts.
    let all: [(&str, &Subject, Run); 11] = [
        ("strict::kill", &strict, kill),
        ("strict::sweep", &strict, sweep),
        ("strict::sweep_of_open", &strict, sweep_of_open),
        ("strict::replay", &strict, replay),
        ("strict::replay_concurrent", &strict, replay_concurrent),
        ("strict::inject", &failing, inject),
        ("relaxed::kill", &relaxed, kill),
        ("compacting::kill", &compacting, kill),
        ("compacting::sweep", &compacting, sweep),
        ("compacting::replay", &compacting, replay),
        ("compacting::inject", &failing_to, inject_writes),
    ];
    let trial = |(name, subject, run): (&str, &Subject, Run)| {
        let subject = subject.clone();
        Trial::test(name, move || Ok(crash::judge(run(&subject))?))
    };
    libtest_mimic::run(&Arguments::from_args(), all.map(trial).into()).exit_code()
}
