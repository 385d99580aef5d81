//! Kills, power cuts and failing system calls: what was acknowledged is there, nothing is torn, metadata belongs to
//! its value. `PERSIST_CRASH_SCALE=10` runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{BaseStorage, ByteSize, HumanDuration, OpenContext, Result};
use persist_hdf5::{Durability, Hdf5Config, Hdf5Storage};
use persist_testkit::crash::inject::{Excuse, Inject};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::record::Record;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::suite::{Suite, faults, kills, replays, sweeps};
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{Subject, Workload, if_long};

/// `idle`: the log is copied into the file also when nothing is asked, and so when nobody can be told that it failed.
fn subject(name: &str, durability: Durability, compact_at: u8, idle: bool) -> Subject {
    cut_subject(name, durability, compact_at, idle, None)
}

/// The same with files of at most `part` bytes.
fn cut_subject(
    name: &str,
    durability: Durability,
    compact_at: u8,
    idle: bool,
    part: Option<ByteSize>,
) -> Subject {
    let open = move |root: PathBuf| async move {
        let mut config = Hdf5Config::new(root.join("main.h5")).durability(durability);
        // Short, so that the log is copied and begun anew all the time.
        config.log_limit = ByteSize(64 << 10);
        config.compact_at = compact_at;
        config.max_file_size = part;
        config.piece = ByteSize(128 << 10);
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

/// What need not be told: copying the log into the file is tried again, and the log has everything until it succeeds.
/// (A value that is written directly into the file is larger than those of this test.)
const EXCUSES: [Excuse; 5] = [
    Excuse { call: "pwrite64", error: None, path: ".h5" },
    Excuse { call: "ftruncate", error: None, path: ".h5" },
    // Changes that share a commit for which there is no room are tried one by one, and may find it then.
    Excuse { call: "pwrite64", error: Some("ENOSPC"), path: "main.h5-log" },
    Excuse { call: "pwrite64", error: Some("EDQUOT"), path: "main.h5-log" },
    // A log that was emptied may stay as long as it was.
    Excuse { call: "ftruncate", error: None, path: "main.h5-log" },
];

/// Sixteen writers at once, who share their commits.
fn kill() -> Kill {
    Kill { cycles: 30, tasks: 16, ..Kill::default() }
}

/// Values of several pieces, some of which are written directly into the file.
const LARGE: usize = 600 << 10;

fn kill_large() -> Kill {
    Kill { cycles: 20, tasks: 4, max_value: LARGE, ..Kill::default() }
}

/// A short run kills before every fifth call of a name, a long one before each.
fn sweep() -> Sweep {
    Sweep { every: if_long(1, 5), ..Sweep::default() }
}

/// Power cuts at every point of the script; in a long run also a second one during the recovery.
fn replay() -> Replay {
    Replay { states: 200, recovery_every: if_long(40, 0), ..Replay::default() }
}

fn crowded() -> Replay {
    let record = Record { workload: Workload::crowd(), ..Record::default() };
    Replay { record, states: 100, ..Replay::default() }
}

/// Each system call of the script fails once, and each name from some call on; a short run draws from them.
fn inject() -> Inject {
    Inject { faults: if_long(usize::MAX, 40), excuses: EXCUSES.to_vec(), ..Inject::default() }
}

/// The same while files are compacted. HDF5 1.10.8 crashes if it cannot read while it copies objects, which costs nothing that is
/// stored, but the process; so reads do not fail here.
fn inject_writes() -> Inject {
    let mut writes = inject();
    writes.calls.retain(|call| !call.starts_with("pread"));
    writes
}

fn main() -> ExitCode {
    let strict = subject("strict", Durability::Strict, 100, true);
    let relaxed = subject("relaxed", Durability::Relaxed, 100, true);
    let failing = subject("failing", Durability::Strict, 100, false);
    // Each `maintain` compacts the file.
    let compacting = subject("compacting", Durability::Strict, 0, true);
    let failing_to = subject("failing_to_compact", Durability::Strict, 0, false);
    // Files of 64 KiB, so that values lie across them and new ones are made all the time.
    let part = Some(ByteSize(64 << 10));
    let parts = cut_subject("parts", Durability::Strict, 100, true, part);
    let compacting_parts = cut_subject("compacting_parts", Durability::Strict, 0, true, part);
    let failing_parts = cut_subject("failing_parts", Durability::Strict, 100, false, part);
    let large = Record { max_value: LARGE, ..Record::default() };
    let large = Replay { record: large, states: 100, ..Replay::default() };
    // A relaxed storage promises nothing about power cuts.
    Suite::default()
        .test("strict::kill", &strict, kills(kill()))
        .test("strict::sweep", &strict, sweeps(sweep()))
        .test("strict::sweep_of_open", &strict, sweeps(Sweep::of_open()))
        .test("strict::replay", &strict, replays(replay()))
        .test("strict::replay_concurrent", &strict, replays(crowded()))
        .test("strict::inject", &failing, faults(inject()))
        .test("strict::kill_large", &strict, kills(kill_large()))
        .test("strict::replay_large", &strict, replays(large))
        .test("relaxed::kill", &relaxed, kills(kill()))
        .test("compacting::kill", &compacting, kills(kill()))
        .test("compacting::sweep", &compacting, sweeps(sweep()))
        .test("compacting::replay", &compacting, replays(replay()))
        .test("compacting::inject", &failing_to, faults(inject_writes()))
        .test("parts::kill", &parts, kills(kill()))
        .test("parts::kill_large", &parts, kills(kill_large()))
        .test("parts::sweep", &parts, sweeps(sweep()))
        .test("parts::replay", &parts, replays(replay()))
        .test("parts::replay_concurrent", &parts, replays(crowded()))
        .test("parts::inject", &failing_parts, faults(inject()))
        .test("compacting_parts::kill", &compacting_parts, kills(kill()))
        .test("compacting_parts::replay", &compacting_parts, replays(replay()))
        .main()
}
