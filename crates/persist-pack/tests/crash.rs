//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to its
//! value, and nothing is left lying about. `PERSIST_CRASH_SCALE=10` runs ten times as many cases,
//! `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use persist_core::{BaseStorage, OpenContext, Result};
use persist_pack::{Durability, PackConfig, PackStorage};
use persist_testkit::crash::inject::{Excuse, Inject};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{self, Report, Subject, Trouble, Workload, scale, seed};

fn subject(name: &str, durability: Durability, pack_size: u64) -> Subject {
    let open = move |root: PathBuf| async move {
        let config = PackConfig::new(root.join("packs")).durability(durability).pack_size(pack_size);
        let storage = PackStorage::open("packs", config, &OpenContext::default()).await?;
        Ok(Arc::new(storage) as Arc<dyn BaseStorage>) as Result<_>
    };
    Subject::storage(name, open).without_residue(residue)
}

/// What must not be left once a storage was opened and closed: files that are not complete, packs that were replaced.
fn residue(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root.join("packs")).into_iter().flatten().flatten();
    let names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let span = |name: &str| {
        let (first, last) = name.strip_suffix(".pack")?.split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    };
    let replaced = |name: &str| {
        let number = name.strip_suffix(".pack").and_then(|stem| stem.parse::<u64>().ok());
        number.is_some_and(|number| {
            names.iter().filter_map(|name| span(name)).any(|(first, last)| (first..=last).contains(&number))
        })
    };
    names.iter().filter(|name| name.ends_with(".tmp") || replaced(name)).cloned().collect()
}

type Run = fn(&Subject) -> std::result::Result<Report, Trouble>;

/// Sixteen writers at once, who share their syncs; with a scale of 10 there are 500 kills.
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
    Record { seed: seed(), ..Record::default() }
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

/// What need not be told, because nothing that was acknowledged depends on it: the mark that cannot be written for want of
/// room is written by the next close.
const MARK: Excuse = Excuse { call: "write", error: None, path: "mark.tmp" };

/// A pack that cannot be sealed goes on as a log.
const SEALING: Excuse = Excuse { call: "pwrite64", error: None, path: ".pack" };

/// Each system call of the script fails once, and each name from some call on; a short run draws from them.
fn inject_but(subject: &Subject, excuses: &[Excuse]) -> std::result::Result<Report, Trouble> {
    let mut config = Inject { excuses: excuses.to_vec(), seed: seed(), ..Inject::default() };
    config.faults = if scale() > 1 { usize::MAX } else { 40 };
    crash::inject::run(subject, &config)
}

fn inject(subject: &Subject) -> std::result::Result<Report, Trouble> {
    inject_but(subject, &[MARK])
}

fn inject_small(subject: &Subject) -> std::result::Result<Report, Trouble> {
    inject_but(subject, &[MARK, SEALING])
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict, 256 << 20);
    // Sealed after every few changes, and compacted by every `maintain`.
    let small = subject("small", Durability::Strict, 24 << 10);
    let relaxed = subject("relaxed", Durability::Relaxed, 256 << 20);
    if let Some(code) = crash::serve(&[&strict, &small, &relaxed]) {
        return code;
    }
    // A relaxed storage promises nothing about power cuts.
    let all: [(&str, &Subject, Run); 13] = [
        ("strict::kill", &strict, kill),
        ("strict::sweep", &strict, sweep),
        ("strict::sweep_of_open", &strict, sweep_of_open),
        ("strict::replay", &strict, replay),
        ("strict::replay_concurrent", &strict, replay_concurrent),
        ("strict::inject", &strict, inject),
        ("small::kill", &small, kill),
        ("small::sweep", &small, sweep),
        ("small::sweep_of_open", &small, sweep_of_open),
        ("small::replay", &small, replay),
        ("small::replay_concurrent", &small, replay_concurrent),
        ("small::inject", &small, inject_small),
        ("relaxed::kill", &relaxed, kill),
    ];
    let trial = |(name, subject, run): (&str, &Subject, Run)| {
        let subject = subject.clone();
        Trial::test(name, move || Ok(crash::judge(run(&subject))?))
    };
    libtest_mimic::run(&Arguments::from_args(), all.map(trial).into()).exit_code()
}
