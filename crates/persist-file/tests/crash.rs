//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to
//! its value. `PERSIST_CRASH_SCALE=10` runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use persist_core::{BaseStorage, OpenContext, Result};
use persist_file::{Durability, FileConfig, FileStorage, MetadataMode};
use persist_testkit::crash::inject::Inject;
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{self, Report, Subject, Trouble, Workload, scale, seed};

fn subject(name: &str, durability: Durability, metadata: MetadataMode) -> Subject {
    let open = move |root: PathBuf| async move {
        let config = FileConfig::new(root).durability(durability).metadata(metadata);
        let storage = FileStorage::open("files", config, &OpenContext::default()).await?;
        Ok(Arc::new(storage) as Arc<dyn BaseStorage>) as Result<_>
    };
    Subject::storage(name, open).without_residue(residue)
}

/// What must not be left once a storage was opened and closed: temp files and a journal.
fn residue(root: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for session in std::fs::read_dir(root.join(".persist/tmp")).into_iter().flatten().flatten() {
        left.push(session.path().display().to_string());
    }
    if std::fs::metadata(root.join(".persist/journal")).is_ok_and(|journal| journal.len() > 0) {
        left.push("a pending journal".to_owned());
    }
    left
}

type Run = fn(&Subject) -> std::result::Result<Report, Trouble>;

fn kill(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::kill::run(subject, &Kill { cycles: 500 * scale(), seed: seed(), ..Kill::default() })
}

fn sweep(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::sweep::run(subject, &Sweep::default())
}

fn sweep_of_open(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::sweep::run(subject, &Sweep::of_open())
}

/// Power cuts at every point of the script; with a scale above 1 also a second one during the recovery.
fn replay(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let recovery_every = if scale() > 1 { 20 } else { 0 };
    crash::replay::run(subject, &Replay { states: 500 * scale(), recovery_every, ..Replay::default() })
}

/// Sixteen writers at once, who share their syncs.
fn replay_concurrent(subject: &Subject) -> std::result::Result<Report, Trouble> {
    let workload = Workload::Random { tasks: 16, keys: 4, changes: Some(4) };
    let record = Record { workload, blocking_threads: 16, ..Record::default() };
    crash::replay::run(subject, &Replay { record, states: 500 * scale(), ..Replay::default() })
}

/// Every system call of the script fails once, and each name from some call on.
fn inject(subject: &Subject) -> std::result::Result<Report, Trouble> {
    crash::inject::run(subject, &Inject { faults: usize::MAX, seed: seed(), ..Inject::default() })
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict, MetadataMode::Auto);
    let relaxed = subject("relaxed", Durability::Relaxed, MetadataMode::Auto);
    let envelope = subject("envelope", Durability::Strict, MetadataMode::Envelope);
    if let Some(code) = crash::serve(&[&strict, &relaxed, &envelope]) {
        return code;
    }
    // A relaxed storage promises nothing about power cuts.
    let all: [(&str, &Subject, Run); 10] = [
        ("strict::kill", &strict, kill),
        ("strict::sweep", &strict, sweep),
        ("strict::sweep_of_open", &strict, sweep_of_open),
        ("strict::replay", &strict, replay),
        ("strict::replay_concurrent", &strict, replay_concurrent),
        ("strict::inject", &strict, inject),
        ("relaxed::kill", &relaxed, kill),
        ("relaxed::sweep", &relaxed, sweep),
        ("envelope::sweep", &envelope, sweep),
        ("envelope::replay", &envelope, replay),
    ];
    let trial = |(name, subject, run): (&str, &Subject, Run)| {
        let subject = subject.clone();
        Trial::test(name, move || Ok(crash::judge(run(&subject))?))
    };
    libtest_mimic::run(&Arguments::from_args(), all.map(trial).into()).exit_code()
}
