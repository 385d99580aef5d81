//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to its
//! value, and nothing is left lying about. `PERSIST_CRASH_SCALE=10` runs ten times as many cases,
//! `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use persist_core::{BaseStorage, OpenContext, Result};
use persist_pack::{Compression, Durability, PackConfig, PackStorage};
use persist_testkit::crash::inject::{Excuse, Inject};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::suite::{Suite, faults, kills, replays, sweeps};
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{Step, Subject, Workload, if_long};

fn subject(name: &str, durability: Durability, pack_size: u64) -> Subject {
    packed(name, durability, pack_size, Compression::Deflate)
}

fn packed(name: &str, durability: Durability, pack_size: u64, compression: Compression) -> Subject {
    let open = move |root: PathBuf| async move {
        let config = PackConfig::new(root.join("packs")).durability(durability).pack_size(pack_size);
        let config = config.compression(compression);
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

/// Values that are replaced and deleted, so that packs are half dead when `maintain` comes, three times.
fn wasteful() -> Vec<Step> {
    use Step::{
        ChangeKind, Create, Delete, DeleteMany, Maintain, Nested, Reopen, Replace, StoreMany, Touch, Transact,
    };
    let first = [Create, Replace, ChangeKind, Replace, StoreMany, Touch, Maintain];
    let second = [Nested, StoreMany, DeleteMany, Transact, Replace, Delete, Maintain];
    let third = [Create, StoreMany, Replace, Reopen, DeleteMany, Maintain, Replace];
    [first, second, third].concat()
}

/// A short run kills before every fifth call of a name, a long one before each.
fn sweep() -> Sweep {
    Sweep { every: if_long(1, 5), ..Sweep::default() }
}

/// Power cuts at every point of the script; in a long run also a second one during the recovery.
fn replay() -> Replay {
    Replay { states: 250, recovery_every: if_long(40, 0), ..Replay::default() }
}

fn crowded() -> Replay {
    let record = Record { workload: Workload::crowd(), ..Record::default() };
    Replay { record, states: 100, ..Replay::default() }
}

/// What need not be told, because nothing that was acknowledged depends on it: the mark that cannot be written for want of
/// room is written by the next close.
const MARK: [Excuse; 6] = [
    mark("write", "ENOSPC"),
    mark("write", "EDQUOT"),
    mark("write", "EMFILE"),
    mark("rename", "ENOSPC"),
    mark("rename", "EDQUOT"),
    mark("rename", "EMFILE"),
];

const fn mark(call: &'static str, error: &'static str) -> Excuse {
    Excuse { call, error: Some(error), path: "mark.tmp" }
}

/// A pack that cannot be sealed goes on as a log.
const SEALING: Excuse = Excuse { call: "pwrite64", error: None, path: ".pack" };

/// Each system call of the script fails once, and each name from some call on; a short run draws from them.
fn inject(excuses: &[Excuse]) -> Inject {
    Inject { faults: if_long(usize::MAX, 40), excuses: excuses.to_vec(), ..Inject::default() }
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict, 256 << 20);
    // Sealed after every few changes, and compacted by every `maintain`.
    let small = subject("small", Durability::Strict, 24 << 10);
    // Each change fills a pack, and values are as long as they look.
    let tiny = packed("tiny", Durability::Strict, 4 << 10, Compression::None);
    let relaxed = subject("relaxed", Durability::Relaxed, 256 << 20);
    // Sixteen writers at once, who share their syncs; with a scale of 10 there are 500 kills.
    let kill = Kill { cycles: 50, tasks: 16, ..Kill::default() };
    let compactions = Record { workload: Workload::Steps(wasteful()), ..Record::default() };
    let compactions = Replay { record: compactions, states: 250, ..Replay::default() };
    // A relaxed storage promises nothing about power cuts.
    Suite::default()
        .test("strict::kill", &strict, kills(kill.clone()))
        .test("strict::sweep", &strict, sweeps(sweep()))
        .test("strict::sweep_of_open", &strict, sweeps(Sweep::of_open()))
        .test("strict::replay", &strict, replays(replay()))
        .test("strict::replay_concurrent", &strict, replays(crowded()))
        .test("strict::inject", &strict, faults(inject(&MARK)))
        .test("small::kill", &small, kills(kill.clone()))
        .test("small::sweep", &small, sweeps(sweep()))
        .test("small::sweep_of_open", &small, sweeps(Sweep::of_open()))
        .test("small::replay", &small, replays(replay()))
        .test("small::replay_concurrent", &small, replays(crowded()))
        .test("small::inject", &small, faults(inject(&[&MARK[..], &[SEALING]].concat())))
        .test("tiny::kill", &tiny, kills(kill.clone()))
        .test("tiny::sweep", &tiny, sweeps(Sweep { steps: wasteful(), ..sweep() }))
        .test("tiny::replay", &tiny, replays(compactions))
        .test("relaxed::kill", &relaxed, kills(kill))
        .main()
}
