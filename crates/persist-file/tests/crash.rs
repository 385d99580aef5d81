//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to
//! its value. `PERSIST_CRASH_SCALE=10` runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use persist_core::{BaseStorage, OpenContext, Result};
use persist_file::{Durability, FileConfig, FileStorage, MetadataMode};
use persist_testkit::crash::inject::Inject;
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::suite::{Suite, faults, kills, replays, sweeps};
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{Subject, Workload, if_long};

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

/// Power cuts at every point of the script; in a long run also a second one during the recovery.
fn replay() -> Replay {
    Replay { states: 500, recovery_every: if_long(20, 0), ..Replay::default() }
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict, MetadataMode::Auto);
    let relaxed = subject("relaxed", Durability::Relaxed, MetadataMode::Auto);
    let envelope = subject("envelope", Durability::Strict, MetadataMode::Envelope);
    let kill = Kill { cycles: 500, ..Kill::default() };
    let crowd = Record { workload: Workload::crowd(), blocking_threads: 16, ..Record::default() };
    // Every system call of the script fails once, and each name from some call on.
    let inject = Inject { faults: usize::MAX, ..Inject::default() };
    // A relaxed storage promises nothing about power cuts.
    Suite::default()
        .test("strict::kill", &strict, kills(kill.clone()))
        .test("strict::sweep", &strict, sweeps(Sweep::default()))
        .test("strict::sweep_of_open", &strict, sweeps(Sweep::of_open()))
        .test("strict::replay", &strict, replays(replay()))
        .test(
            "strict::replay_concurrent",
            &strict,
            replays(Replay { record: crowd, states: 500, ..Replay::default() }),
        )
        .test("strict::inject", &strict, faults(inject))
        .test("relaxed::kill", &relaxed, kills(kill))
        .test("relaxed::sweep", &relaxed, sweeps(Sweep::default()))
        .test("envelope::sweep", &envelope, sweeps(Sweep::default()))
        .test("envelope::replay", &envelope, replays(replay()))
        .main()
}
