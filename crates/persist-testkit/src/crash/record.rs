//! Records what a worker does to its files, with `strace`, as a list of changes that can be replayed.
//!
//! The record is exact: every call on a path or a descriptor is either understood, known to change nothing, or an
//! error. Not modelled, hence errors when used below the root: shared writable maps (but for names that
//! [`Record::maps_allowed`] lists), `io_uring`, cloning of extents, child processes, paths with `..`.
//! Modes, owners and times of files are not recorded.

use std::path::Path;
use std::time::Duration;

use super::disk::{Disk, Edit, Inode, Naming};
use super::plan::{Plan, Step, Workload};
use super::process::Process;
use super::report::Trouble;
use super::strace;
use super::subject::Subject;
use super::syscalls::Interpreter;
use super::trace;

/// What is recorded.
#[derive(Clone, Debug)]
pub struct Record {
    /// What the worker does.
    pub workload: Workload,
    /// The longest value in bytes.
    pub max_value: usize,
    /// How many threads may run blocking work.
    pub blocking_threads: usize,
    /// Files whose names end so may be mapped shared and writable; what is written through the map is not seen.
    /// (SQLite's `-shm` is such a file: it is rebuilt from the log.)
    pub maps_allowed: Vec<&'static str>,
    /// Each sync takes so much longer, as on a disk, so that storages that share one sync among writers do so.
    pub sync_delay: Duration,
    /// Everything random follows from it.
    pub seed: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            workload: Workload::Steps(Step::ALL.to_vec()),
            max_value: 16 * 1024,
            blocking_threads: 4,
            maps_allowed: Vec::new(),
            sync_delay: Duration::from_millis(2),
            seed: 1,
        }
    }
}

/// What happened, in order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The disk changed, or was told to keep what changed.
    Change(Change),
    /// The worker told a line.
    Told(String),
}

/// One change of the disk.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Names, all at once.
    Names(Vec<Naming>),
    /// Bytes of a file; `grows`: its length changes.
    Data {
        /// Which file.
        inode: Inode,
        /// How.
        edit: Edit,
        /// Its length changes.
        grows: bool,
    },
    /// An extended attribute; `None`: removed.
    Attribute {
        /// Of which file.
        inode: Inode,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// A file or folder is made durable (`None`: everything), as far as it had changed before the call began.
    Sync {
        /// Which.
        inode: Option<Inode>,
        /// As `fdatasync` does: without attributes.
        data_only: bool,
        /// The number of changes that had ended when the call began.
        covers: usize,
    },
}

/// A recorded run.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    /// The disk before.
    pub(super) before: Disk,
    /// The disk after; its nodes include all that ever were.
    pub(super) after: Disk,
    /// What happened in between.
    pub(super) events: Vec<Event>,
}

/// The calls that are recorded: all that take a path or a descriptor, those that make processes, acknowledgements.
const TRACED: &str =
    "trace=%file,%desc,%process,?sync,?io_uring_setup,?io_uring_enter,?io_uring_register,?sendto";

/// Runs a worker under the recorder on what lies in `top`; its storage is `top/store`.
pub(super) fn run(
    subject: &Subject,
    config: &Record,
    workload: &Workload,
    top: &Path,
    generation: u64,
) -> Result<Recording, Trouble> {
    strace::available()?;
    let fail = |error| format!("cannot read {}: {error}", top.display());
    let before = Disk::load(top).map_err(fail)?;
    let plan = Plan {
        seed: config.seed,
        generation,
        max_value: config.max_value,
        blocking_threads: config.blocking_threads,
        ..Plan::new(subject.name(), workload.clone()).at(top.join("store"))
    };
    let log = top.with_extension("strace");
    let ending = Process::start(&plan, &recorder(&log, config.sync_delay))?.wait()?;
    if let Some(complaint) = ending.complaints().first() {
        return Err(Trouble::Tool(format!("recording {}: {complaint}; {}", subject.name(), ending.lines)));
    }
    let text = std::fs::read_to_string(&log).map_err(|error| format!("no recording: {error}"))?;
    let _ = std::fs::remove_file(&log);
    let recording = Interpreter::new(top, before, &config.maps_allowed).run(&trace::parse(&text)?)?;
    confirm(&recording, top, &ending.lines)?;
    Ok(recording)
}

fn recorder(log: &Path, sync_delay: Duration) -> Vec<String> {
    let fixed =
        ["strace", "-f", "--seccomp-bpf", "-qq", "-xx", "-s", "16777216", "-e", "signal=none", "-e", TRACED];
    let mut words: Vec<String> = fixed.iter().map(|&word| word.to_owned()).collect();
    words.extend(["-o".to_owned(), log.to_string_lossy().into_owned()]);
    if !sync_delay.is_zero() {
        let syncs = strace::set(&["fsync", "fdatasync", "syncfs", "sync"]);
        words.extend(["-e".to_owned(), format!("inject={syncs}:delay_exit={}", sync_delay.as_micros())]);
    }
    words
}

/// The recording must end in what really lies on the disk, and hold every line that was told: else a call was missed.
fn confirm(recording: &Recording, top: &Path, lines: &str) -> Result<(), Trouble> {
    let real = Disk::load(top).map_err(|error| format!("cannot read {}: {error}", top.display()))?;
    // Lines that two threads tell at once may be recorded in another order than they arrive in.
    let mut recorded: Vec<&str> = recording.events.iter().filter_map(told).map(str::trim_end).collect();
    let mut arrived: Vec<&str> = lines.lines().collect();
    recorded.sort_unstable();
    arrived.sort_unstable();
    if recorded != arrived {
        return Err(Trouble::Tool(format!(
            "the recording has {} of {} lines",
            recorded.len(),
            arrived.len()
        )));
    }
    if let Some(difference) = super::tree::difference(&recording.after, &real) {
        return Err(Trouble::Tool(format!(
            "the recording does not end in what lies on the disk: {difference}"
        )));
    }
    Ok(())
}

impl Recording {
    /// The events with their numbers, one a line, for people.
    pub(super) fn describe(&self) -> String {
        let mut names: Vec<String> = vec![String::new(); self.after.nodes.len()];
        let mut text = String::new();
        for (number, event) in self.events.iter().enumerate() {
            let line = match event {
                Event::Told(line) => format!("told {}", line.trim_end()),
                Event::Change(change) => change.describe(&mut names),
            };
            text.push_str(&format!("{number} {line}\n"));
        }
        text
    }
}

impl Change {
    /// In words; `names` are those by which nodes were last seen.
    fn describe(&self, names: &mut [String]) -> String {
        let of = |names: &[String], inode: Inode| format!("{inode}:{}", names[inode]);
        match self {
            Self::Names(namings) => {
                let mut parts = Vec::new();
                for Naming { folder, name, inode } in namings {
                    let path = format!("{}/{}", names[*folder], String::from_utf8_lossy(name));
                    parts.push(format!("{path} -> {inode:?}"));
                    if let Some(inode) = inode {
                        names[*inode] = path;
                    }
                }
                format!("names {}", parts.join(", "))
            }
            Self::Data { inode, edit: Edit::Write(offset, data), .. } => {
                format!("write {} bytes at {offset} to {}", data.len(), of(names, *inode))
            }
            Self::Data { inode, edit, .. } => format!("{edit:?} of {}", of(names, *inode)),
            Self::Attribute { inode, name, value } => {
                let name = String::from_utf8_lossy(name);
                format!(
                    "attribute {name} ({:?} bytes) of {}",
                    value.as_ref().map(Vec::len),
                    of(names, *inode)
                )
            }
            Self::Sync { inode, data_only, covers } => {
                let what = inode.map_or("everything".into(), |inode| of(names, inode));
                let how = if *data_only { "data sync" } else { "sync" };
                format!("{how} of {what}, covers the first {covers} changes")
            }
        }
    }
}

fn told(event: &Event) -> Option<&str> {
    match event {
        Event::Told(line) => Some(line),
        Event::Change(_) => None,
    }
}
