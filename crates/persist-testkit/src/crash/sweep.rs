//! SIGKILL before every single system call that changes files, one run for each.
//!
//! Deterministic where [`kill`](super::kill) is random: the worker runs a script, and `strace` kills it as it enters
//! the N-th `fsync`, `rename`, … for N = 1, 2, 3 and so on until it ends by itself. Like every kill it is blind to a
//! missing fsync. Coverage is exact as long as one thread makes the calls of one name; the report says how many calls
//! a run without faults made (`calls`), which a full sweep reaches with the number of kills (`tried`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::history::History;
use super::plan::{Plan, Step, Workload};
use super::process::{Ending, Process};
use super::report::{Report, Trouble};
use super::scratch::{Scratch, copy_tree};
use super::strace::{self, Attached};
use super::subject::Subject;

/// From where on calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the start of the process: creating and opening the storage is swept too.
    Start,
    /// Once the storage is open: `strace` is attached to the waiting worker.
    Opened,
}

/// What to sweep.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The script of the worker.
    pub steps: Vec<Step>,
    /// From where on.
    pub phase: Phase,
    /// Which system calls.
    pub calls: Vec<&'static str>,
    /// Only every so many-th call; 1: each.
    pub every: usize,
    /// After one in this many kills, the opening of what is left is swept in the same way (a crash in the recovery
    /// from a crash); 0: never.
    pub recovery_every: usize,
    /// The longest value in bytes.
    pub max_value: usize,
    /// What the script stores follows from it.
    pub seed: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            steps: Step::ALL.to_vec(),
            phase: Phase::Opened,
            calls: strace::changes_but_opens(),
            every: 1,
            recovery_every: 0,
            max_value: 16 * 1024,
            seed: 1,
        }
    }
}

impl Sweep {
    /// A sweep of creating and opening an empty storage, without any change.
    pub fn of_open() -> Self {
        let calls = strace::CHANGES.to_vec();
        Self { steps: Vec::new(), phase: Phase::Start, calls, ..Self::default() }
    }
}

/// A folder in the state before the worker starts, and what was said about it.
#[derive(Clone, Debug, Default)]
struct Base {
    template: Option<PathBuf>,
    history: History,
}

/// Everything that stays the same during one sweep.
struct Task<'t> {
    subject: &'t Subject,
    config: &'t Sweep,
    scratch: &'t Scratch,
    base: Base,
    phase: Phase,
    steps: &'t [Step],
}

/// Sweeps and checks.
///
/// # Errors
/// `Unavailable` without strace; otherwise the tool itself failed.
pub fn run(subject: &Subject, config: &Sweep) -> Result<Report, Trouble> {
    strace::available()?;
    let scratch = Scratch::new()?;
    let mut report = Report::new("sweep", subject.name());
    let task = Task {
        subject,
        config,
        scratch: &scratch,
        base: Base::default(),
        phase: config.phase,
        steps: &config.steps,
    };
    task.sweep(&mut report, config.recovery_every)?;
    Ok(report)
}

impl Task<'_> {
    fn sweep(&self, report: &mut Report, recovery_every: usize) -> Result<(), Trouble> {
        let calls = self.survey(report)?;
        report.add("calls", calls.values().sum());
        for call in calls.keys() {
            for when in (1..).step_by(self.config.every.max(1)) {
                let root = self.folder()?;
                let ending = self.run_worker(&root, call, Some(when))?;
                if ending.status.success() {
                    break;
                }
                self.judge(&root, &ending, &format!("killed before {call} {when}"), report, recovery_every)?;
                if ending.status.code().is_some() {
                    break;
                }
                let _ = std::fs::remove_dir_all(root.parent().unwrap_or(&root));
            }
        }
        Ok(())
    }

    /// Checks what a killed worker left, and perhaps sweeps the recovery from it.
    fn judge(
        &self,
        root: &Path,
        ending: &Ending,
        context: &str,
        report: &mut Report,
        recovery_every: usize,
    ) -> Result<(), Trouble> {
        let mut history = self.base.history.clone();
        history.feed(&ending.lines)?;
        let mut complaints = if ending.status.code().is_some() { ending.complaints() } else { Vec::new() };
        let deeper = recovery_every > 0 && report.tried.is_multiple_of(recovery_every) && root.exists();
        let template = if deeper { Some(self.keep(root)?) } else { None };
        complaints.extend(self.subject.check(root, &mut history.clone()));
        report.count(context, history.acknowledged(), complaints);
        if let Some(template) = template {
            let base = Base { template: Some(template), history };
            let task = Task { base, phase: Phase::Start, steps: &[], ..*self };
            let before = report.tried;
            task.sweep(report, 0)?;
            report.add("in recovery", report.tried - before);
        }
        Ok(())
    }

    /// A run without faults: which calls there are, and how many.
    fn survey(&self, report: &mut Report) -> Result<BTreeMap<String, usize>, Trouble> {
        let root = self.folder()?;
        let set = strace::set(&self.config.calls);
        let ending = self.run_worker(&root, &set, None)?;
        let mut complaints = ending.complaints();
        let mut history = self.base.history.clone();
        history.feed(&ending.lines)?;
        complaints.extend(self.subject.check(&root, &mut history));
        if !complaints.is_empty() {
            report.count("without any fault", history.acknowledged(), complaints);
            return Ok(BTreeMap::new());
        }
        let log = std::fs::read_to_string(log_of(&root)).map_err(|error| format!("no log: {error}"))?;
        Ok(strace::tally(&log))
    }

    fn run_worker(&self, root: &Path, calls: &str, when: Option<usize>) -> Result<Ending, Trouble> {
        let inject = when.map(|when| format!("inject={calls}:signal=KILL:when={when}"));
        let more: Vec<&str> = inject.iter().flat_map(|inject| ["-e", inject]).collect();
        let arguments = strace::command(&log_of(root), calls, &more);
        let mut plan = Plan::new(self.subject.name(), Workload::Steps(self.steps.to_vec())).at(root.into());
        plan.seed = self.config.seed;
        plan.max_value = self.config.max_value;
        plan.generation = self.base.history.last_generation();
        run_traced(plan, self.phase, &log_of(root), &arguments)
    }

    fn folder(&self) -> Result<PathBuf, Trouble> {
        let root = self.scratch.fresh()?.join("store");
        if let Some(template) = &self.base.template {
            copy_tree(template, &root).map_err(|error| format!("cannot copy a folder: {error}"))?;
        }
        Ok(root)
    }

    fn keep(&self, root: &Path) -> Result<PathBuf, Trouble> {
        let kept = self.scratch.fresh()?.join("store");
        copy_tree(root, &kept).map_err(|error| format!("cannot copy a folder: {error}"))?;
        Ok(kept)
    }
}

/// Runs a worker to its end, traced from its start or once it is open.
pub(super) fn run_traced(
    mut plan: Plan,
    phase: Phase,
    log: &Path,
    arguments: &[String],
) -> Result<Ending, Trouble> {
    if phase == Phase::Start {
        return Ok(Process::start(&plan, arguments)?.wait()?);
    }
    plan.hold = true;
    let mut process = Process::start(&plan, &[])?;
    if !process.wait_opened() {
        return Ok(process.wait()?);
    }
    let attached = Attached::to(process.id(), log, arguments)?;
    process.go();
    let ending = process.wait()?;
    drop(attached);
    Ok(ending)
}

/// The log lies beside the folder of the run.
pub(super) fn log_of(root: &Path) -> PathBuf {
    root.parent().unwrap_or(root).with_extension("strace")
}
