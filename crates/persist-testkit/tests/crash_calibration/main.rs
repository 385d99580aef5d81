//! Each crash tool against storages with one known mistake, which it must catch, and against one without, which it
//! must pass: a harness that has not failed is no evidence.

mod folder_store;
mod syscall_zoo;

use std::io::Write;
use std::process::ExitCode;

use folder_store::{Flaw, FolderStore};
use libtest_mimic::{Arguments, Failed, Trial};
use persist_testkit::crash::{
    self, Report, Step, Subject, Trouble, Workload,
    inject::{self, Inject},
    kill::{self, Kill},
    mount::{self, Tmpfs},
    record::Record,
    replay::{self, Replay},
    sweep::{self, Sweep},
};

/// Every storage, by the name that its worker is started with.
const STORES: [(&str, Flaw); 14] = [
    ("good", Flaw::None),
    ("in-place", Flaw::InPlace),
    ("no-fsync", Flaw::NoFsync),
    ("no-folder-sync", Flaw::NoFolderSync),
    ("no-parent-sync", Flaw::NoParentSync),
    ("late-attributes", Flaw::LateAttributes),
    ("data-sync", Flaw::DataSync),
    ("early-answer", Flaw::EarlyAnswer),
    ("false-atomic", Flaw::FalseAtomic),
    ("swallows-sync", Flaw::SwallowsSync),
    ("goes-on", Flaw::GoesOn),
    ("shares-sync", Flaw::SharesSync),
    ("joins-sync", Flaw::JoinsSync),
    ("delete-first", Flaw::DeleteFirst),
];

type Tool = fn(&Subject) -> Result<Report, Trouble>;

fn subject(name: &str, flaw: Flaw) -> Subject {
    Subject::storage(name, move |root| async move { FolderStore::open(root, flaw) })
}

fn main() -> ExitCode {
    let subjects = STORES.map(|(name, flaw)| subject(name, flaw));
    let (zoo, forking) = (syscall_zoo::zoo(), syscall_zoo::forking());
    let all: Vec<&Subject> = subjects.iter().chain([&zoo, &forking]).collect();
    if let Some(code) = crash::serve(&all) {
        return code;
    }
    if let Some(code) = mount::in_own_namespace() {
        return code;
    }
    let mut trials = vec![
        Trial::test("tmpfs", small_file_systems),
        Trial::test("recorder: every call", move || Ok(crash::judge(replay(&zoo))?)),
        Trial::test("recorder: refuses processes", move || refuses(replay(&forking))),
    ];
    for (name, flaw) in STORES {
        trials.extend(trials_of(name, flaw));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// What each tool must say of each storage; what is not listed is not tried.
fn trials_of(name: &'static str, flaw: Flaw) -> Vec<Trial> {
    let passes = |tool: Tool| (tool, false);
    let catches = |tool: Tool| (tool, true);
    let expected = match flaw {
        Flaw::None => vec![
            ("kill", passes(kill)),
            ("sweep", passes(sweep)),
            ("sweep of open", passes(sweep_open)),
            ("replay", passes(replay)),
            ("replay of concurrent work", passes(replay_concurrent)),
            ("inject", passes(inject)),
        ],
        Flaw::InPlace => {
            vec![("kill", catches(kill_often)), ("sweep", catches(sweep)), ("replay", catches(replay))]
        }
        Flaw::EarlyAnswer => vec![("kill", catches(kill_often)), ("replay", catches(replay_short))],
        Flaw::FalseAtomic => vec![("sweep", catches(sweep)), ("replay", catches(replay))],
        Flaw::DeleteFirst => vec![("sweep", catches(sweep)), ("replay", catches(replay))],
        Flaw::NoFsync => vec![("sweep", passes(sweep_steps)), ("replay", catches(replay))],
        Flaw::NoFolderSync | Flaw::NoParentSync | Flaw::LateAttributes | Flaw::DataSync => {
            vec![("replay", catches(replay))]
        }
        Flaw::SharesSync => {
            vec![("kill", passes(kill)), ("replay of concurrent work", passes(replay_concurrent))]
        }
        Flaw::JoinsSync => vec![("replay of concurrent work", catches(replay_concurrent))],
        Flaw::SwallowsSync | Flaw::GoesOn => vec![("inject", catches(inject_syncs))],
    };
    let trial = |(tool, (run, bad)): (&str, (Tool, bool))| {
        Trial::test(format!("{name}: {tool}"), move || Ok(judge(run(&subject(name, flaw)), bad)?))
    };
    expected.into_iter().map(trial).collect()
}

/// A good storage must pass; a bad one must be caught, and the tool must have tried something.
fn judge(result: Result<Report, Trouble>, bad: bool) -> Result<(), String> {
    match result {
        Ok(report) if bad && report.bad > 0 => {
            let first = report.violations.first().cloned();
            let _ = writeln!(
                std::io::stderr(),
                "caught: {}",
                Report { violations: first.into_iter().collect(), ..report }
            );
            Ok(())
        }
        Ok(report) if bad => Err(format!("the mistake was not caught: {report}")),
        result => crash::judge(result),
    }
}

fn kill(subject: &Subject) -> Result<Report, Trouble> {
    kill::run(subject, &Kill { cycles: 30, ..Kill::default() })
}

/// Goes on until the mistake is caught: where a kill meets it is a matter of luck.
fn kill_often(subject: &Subject) -> Result<Report, Trouble> {
    let mut report = kill(subject)?;
    for seed in 2..=30 {
        if report.bad > 0 {
            break;
        }
        report = kill::run(subject, &Kill { cycles: 30, seed, ..Kill::default() })?;
    }
    Ok(report)
}

fn sweep(subject: &Subject) -> Result<Report, Trouble> {
    let (every, recovery_every) = match subject.name() {
        "good" => (1, 26),
        // It writes in many small pieces.
        "in-place" => (12, 0),
        _ => (2, 0),
    };
    sweep::run(subject, &Sweep { every, recovery_every, ..Sweep::default() })
}

/// A shorter sweep for storages that only a power cut can catch.
fn sweep_steps(subject: &Subject) -> Result<Report, Trouble> {
    let steps = vec![Step::Create, Step::Replace, Step::Delete];
    sweep::run(subject, &Sweep { steps, ..Sweep::default() })
}

fn sweep_open(subject: &Subject) -> Result<Report, Trouble> {
    sweep::run(
        subject,
        &Sweep { calls: vec!["mkdir", "fsync", "unlink"], recovery_every: 1, ..Sweep::of_open() },
    )
}

fn replay(subject: &Subject) -> Result<Report, Trouble> {
    let recovery_every = if subject.name() == "good" { 20 } else { 0 };
    replay::run(subject, &Replay { states: 400, recovery_every, ..Replay::default() })
}

/// Without reopening, which a storage that still writes in the background may not survive even without a crash.
fn replay_short(subject: &Subject) -> Result<Report, Trouble> {
    let workload = Workload::Steps(vec![Step::Create, Step::Replace, Step::StoreMany, Step::Delete]);
    let record = Record { workload, ..Record::default() };
    replay::run(subject, &Replay { record, states: 400, ..Replay::default() })
}

fn replay_concurrent(subject: &Subject) -> Result<Report, Trouble> {
    let workload = Workload::Random { tasks: 3, keys: 3, changes: Some(12) };
    let record = Record { workload, ..Record::default() };
    replay::run(subject, &Replay { record, states: 400, ..Replay::default() })
}

fn inject(subject: &Subject) -> Result<Report, Trouble> {
    inject::run(subject, &Inject { faults: 80, ..Inject::default() })
}

fn inject_syncs(subject: &Subject) -> Result<Report, Trouble> {
    inject::run(
        subject,
        &Inject { faults: 12, calls: vec!["fsync"], errors: vec!["EIO"], ..Inject::default() },
    )
}

/// What the recorder does not see must be an error, not be left out.
fn refuses(result: Result<Report, Trouble>) -> Result<(), Failed> {
    match result {
        Err(Trouble::Tool(text)) if text.contains("starts processes") => Ok(()),
        Err(Trouble::Unavailable(reason)) => Ok(crash::skip(&reason)?),
        other => Err(format!("should be refused: {other:?}").into()),
    }
}

/// Full, larger again, out of inodes, read-only.
fn small_file_systems() -> Result<(), Failed> {
    let disk = match Tmpfs::new(64 * 1024, 8) {
        Err(Trouble::Unavailable(reason)) => return Ok(crash::skip(&reason)?),
        disk => disk.map_err(|trouble| trouble.to_string())?,
    };
    let write = |name: &str, bytes: usize| std::fs::write(disk.path().join(name), vec![1; bytes]);
    let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
    assert_eq!(kind(write("large", 100_000)), Err(std::io::ErrorKind::StorageFull));
    disk.resize(1024 * 1024)?;
    assert_eq!(kind(write("large", 100_000)), Ok(()));
    let fits = (0..20).take_while(|number| write(&number.to_string(), 1).is_ok()).count();
    assert!((1..8).contains(&fits), "{fits} files fit");
    disk.set_read_only(true)?;
    assert_eq!(kind(write("late", 1)), Err(std::io::ErrorKind::ReadOnlyFilesystem));
    disk.set_read_only(false)?;
    assert_eq!(kind(write("large", 1)), Ok(()));
    Ok(())
}
