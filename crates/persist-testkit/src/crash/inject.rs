//! System calls that fail: each call in turn, once or from then on, with each error.
//!
//! What must hold: a change that meets an error says so (never a false success); what was there before stays; after a
//! failed `fsync` the storage refuses further changes until it is opened again; the process neither dies nor hangs;
//! and a storage reopened without faults shows what the answers promised.

use std::collections::BTreeMap;
use std::path::Path;

use super::history::History;
use super::plan::{Plan, Step, Workload};
use super::process::Ending;
use super::protocol::{Line, Seen, parse_lines};
use super::report::{Report, Trouble};
use super::sample::Random;
use super::scratch::Scratch;
use super::strace::{self, CHANGES, READS};
use super::subject::Subject;
use super::sweep::{Phase, log_of, run_traced};

/// Calls after whose failure no change may be called durable.
const SYNCS: &[&str] = &["fsync", "fdatasync", "sync", "syncfs"];

/// Calls whose failure some answer must tell of by default. Others may have a way around (no attributes on this file
/// system, a temporary file that is left for the next sweep).
pub const MUST_TELL: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
];

/// Which faults.
#[derive(Clone, Debug)]
pub struct Inject {
    /// The script of the worker, without `Reopen`: what fails then is the opening, not a change.
    pub steps: Vec<Step>,
    /// Which system calls fail.
    pub calls: Vec<&'static str>,
    /// With which errors.
    pub errors: Vec<&'static str>,
    /// At most so many faults, drawn at random if there are more; the report says how many there are (`possible`).
    pub faults: usize,
    /// Calls whose failure some answer of the worker must tell of, unless the error is `EINTR` or it is excused.
    pub must_tell: Vec<&'static str>,
    /// Failures that need not be told.
    pub excuses: Vec<Excuse>,
    /// Errors of reads that the storage cannot tell from damage, so that it may answer `Corruption` to them.
    pub looks_like_damage: Vec<&'static str>,
    /// After a failed `fsync`, `fdatasync` or `syncfs` no later change of the same worker may be acknowledged.
    pub refuses_after_failed_sync: bool,
    /// The longest value in bytes.
    pub max_value: usize,
    /// Everything random follows from it.
    pub seed: u64,
}

impl Default for Inject {
    fn default() -> Self {
        Self {
            steps: Step::ALL.into_iter().filter(|step| *step != Step::Reopen).collect(),
            calls: CHANGES.iter().chain(READS).copied().collect(),
            errors: vec!["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EMFILE", "EINTR"],
            faults: 200,
            must_tell: MUST_TELL.to_vec(),
            excuses: Vec::new(),
            looks_like_damage: Vec::new(),
            refuses_after_failed_sync: true,
            max_value: 16 * 1024,
            seed: 1,
        }
    }
}

/// A failure that need not be told, because nothing that is promised depends on that call.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    /// The system call.
    pub call: &'static str,
    /// The error; `None`: any.
    pub error: Option<&'static str>,
    /// How the path ends of the file or folder that it was made on; the first path that it names, if it was made on none.
    pub path: &'static str,
}

impl Excuse {
    /// Whether it covers the call of a line of a log written with `-y`, such as `12 fsync(3</a/b>) = -1 EIO (…`.
    fn covers(&self, line: &str) -> bool {
        let named = line.split_once('>').map_or_else(|| line.split('"').nth(1), |(file, _)| Some(file));
        strace::call_name(line) == Some(self.call)
            && self.error.is_none_or(|error| line.contains(&format!(" = -1 {error} ")))
            && named.is_some_and(|named| named.ends_with(self.path))
    }
}

/// One fault: the `when`-th call of that name fails, and all later ones too if it `stays`.
#[derive(Clone, Debug)]
struct Fault {
    call: String,
    when: usize,
    stays: bool,
    error: &'static str,
}

/// Injects and checks.
///
/// # Errors
/// `Unavailable` without strace; otherwise the tool itself failed.
pub fn run(subject: &Subject, config: &Inject) -> Result<Report, Trouble> {
    strace::available()?;
    let scratch = Scratch::new()?;
    let mut report = Report::new("inject", subject.name());
    let calls = survey(subject, config, &scratch)?;
    let mut faults = faults(config, &calls);
    report.add("possible", faults.len());
    let mut random = Random::new(config.seed);
    while faults.len() > config.faults {
        faults.swap_remove(usize::try_from(random.below(faults.len() as u64)).unwrap_or(0));
    }
    for fault in &faults {
        one(subject, config, &scratch, fault, &mut report)?;
    }
    Ok(report)
}

/// A run without faults: which calls there are, and how many.
fn survey(subject: &Subject, config: &Inject, scratch: &Scratch) -> Result<BTreeMap<String, usize>, Trouble> {
    let root = scratch.fresh()?.join("store");
    let arguments = strace::command(&log_of(&root), &strace::set(&config.calls), &[]);
    let ending = run_traced(plan(subject, config, &root, true), Phase::Opened, &log_of(&root), &arguments)?;
    if let Some(complaint) = ending.complaints().first() {
        return Err(Trouble::Tool(format!("without any fault: {complaint}; {}", ending.lines)));
    }
    let log = std::fs::read_to_string(log_of(&root)).map_err(|error| format!("no log: {error}"))?;
    Ok(strace::tally(&log))
}

fn plan(subject: &Subject, config: &Inject, root: &Path, read_back: bool) -> Plan {
    Plan {
        seed: config.seed,
        max_value: config.max_value,
        read_back,
        ..Plan::new(subject.name(), Workload::Steps(config.steps.clone())).at(root.to_owned())
    }
}

/// Each call once with the errors in turn; each name with every error from some call on.
fn faults(config: &Inject, calls: &BTreeMap<String, usize>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, &count) in calls {
        for when in 1..=count {
            let error = config.errors[(when + faults.len()) % config.errors.len()];
            faults.push(Fault { call: call.clone(), when, stays: false, error });
        }
        // An endless EINTR is no fault: callers have to retry it.
        for (number, error) in config.errors.iter().filter(|error| **error != "EINTR").enumerate() {
            let when = 1 + number * count / config.errors.len();
            faults.push(Fault { call: call.clone(), when, stays: true, error });
        }
    }
    faults
}

fn one(
    subject: &Subject,
    config: &Inject,
    scratch: &Scratch,
    fault: &Fault,
    report: &mut Report,
) -> Result<(), Trouble> {
    let root = scratch.fresh()?.join("store");
    let (call, error) = (&fault.call, fault.error);
    let when = format!("{}{}", fault.when, if fault.stays { "+" } else { "" });
    let inject = format!("inject={call}:error={error}:when={when}");
    let arguments = strace::command(&log_of(&root), call, &["-y", "-e", &inject]);
    let plan = plan(subject, config, &root, !fault.stays);
    let ending = run_traced(plan, Phase::Opened, &log_of(&root), &arguments)?;
    let log = std::fs::read_to_string(log_of(&root)).map_err(|error| format!("no log: {error}"))?;
    let hits = hits(&log, &root, &config.excuses);
    report.add("hits", hits);
    let lines = parse_lines(&ending.lines)?;
    let mut history = History::new();
    let damage_is_error = config.looks_like_damage.contains(&error);
    lines.iter().filter(|line| !is_read_error(line, damage_is_error)).for_each(|line| history.add(line));
    let mut complaints = complaints(config, fault, hits, &ending, &lines);
    complaints.extend(subject.check(&root, &mut history));
    report.add("failed changes", history.failed());
    report.count(&format!("{call} {when} fails with {error}"), history.acknowledged(), complaints);
    let _ = std::fs::remove_dir_all(root.parent().unwrap_or(&root));
    Ok(())
}

/// How many calls on something below the root were made to fail, but for those that are excused.
fn hits(log: &str, root: &Path, excuses: &[Excuse]) -> usize {
    let root = root.to_string_lossy();
    let failed = log.lines().filter(|line| line.contains("(INJECTED)") && line.contains(&*root));
    failed.filter(|line| !excuses.iter().any(|excuse| excuse.covers(line))).count()
}

/// A read that fails while reads are made to fail is as it should be, unless it says that the data are damaged.
fn is_read_error(line: &Line, damage_is_error: bool) -> bool {
    let Line::Read { seen: Seen::Broken(text), .. } = line else { return false };
    text.starts_with("error ") && (damage_is_error || !text.starts_with("error Corruption"))
}

fn complaints(config: &Inject, fault: &Fault, hits: usize, ending: &Ending, lines: &[Line]) -> Vec<String> {
    let mut complaints = ending.complaints();
    let told = lines.iter().position(|line| matches!(line, Line::Failed { .. } | Line::Note(_)));
    let counts = hits > 0 && fault.error != "EINTR";
    if counts && told.is_none() && config.must_tell.contains(&fault.call.as_str()) {
        complaints.push(format!("{hits} calls failed and no answer says so"));
    }
    let later = lines.iter().skip(told.unwrap_or(lines.len()));
    // Without a version nothing was changed: a deletion or a touch of a key that is absent may still be answered.
    let went_on = later.filter(|line| matches!(line, Line::Acknowledged { version: Some(_), .. })).count();
    if counts && config.refuses_after_failed_sync && SYNCS.contains(&fault.call.as_str()) && went_on > 0 {
        complaints.push(format!("{went_on} changes were acknowledged after a failed {}", fault.call));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excuse_covers_one_call_on_one_file() {
        let log = "12 fsync(3</r/store>) = -1 EIO (Input/output error) (INJECTED)\n\
                   12 fsync(4</r/store/db>) = -1 EIO (Input/output error) (INJECTED)\n\
                   12 write(4</r/store/db>, \"a\", 1) = -1 ENOSPC (No space left on device) (INJECTED)\n\
                   12 write(4</r/store/db>, \"a\", 1) = -1 EIO (Input/output error) (INJECTED)\n\
                   12 rename(\"/r/store/db.tmp\", \"/r/store/db\") = -1 EIO (Input/output error) (INJECTED)\n";
        let root = Path::new("/r/store");
        let folder = Excuse { call: "fsync", error: None, path: "/store" };
        let full = Excuse { call: "write", error: Some("ENOSPC"), path: "db" };
        let renamed = Excuse { call: "rename", error: Some("EIO"), path: "db.tmp" };
        let into = Excuse { call: "rename", error: Some("EIO"), path: "db" };
        assert_eq!(hits(log, root, &[]), 5);
        assert_eq!(hits(log, root, &[folder]), 4);
        assert_eq!(hits(log, root, &[folder, full]), 3);
        assert_eq!(hits(log, root, &[folder, full, into]), 3);
        assert_eq!(hits(log, root, &[folder, full, renamed]), 2);
        assert_eq!(hits(log, Path::new("/other"), &[]), 0);
    }
}
