//! SIGKILL at a random moment under concurrent load.
//!
//! Finds changes that are acknowledged too early, torn values, broken recovery. **Blind to a missing fsync**: what a
//! killed process wrote stays in the page cache; that is what [`replay`](super::replay) is for.

use std::path::PathBuf;
use std::time::Duration;

use super::history::History;
use super::plan::{Plan, Workload};
use super::process::{Ending, Process};
use super::report::{Report, Trouble};
use super::sample::Random;
use super::scratch::Scratch;
use super::subject::Subject;

/// How to kill.
#[derive(Clone, Debug)]
pub struct Kill {
    /// How many workers are killed.
    pub cycles: usize,
    /// How many of them follow one another on the same folder before a fresh one is taken.
    pub cycles_per_folder: usize,
    /// One in this many is killed while it opens the storage, not under load; 0: none.
    pub in_open_every: usize,
    /// How many tasks change the storage at once.
    pub tasks: u64,
    /// How many keys each of them owns.
    pub keys: u64,
    /// The longest value in bytes.
    pub max_value: usize,
    /// Everything random follows from it, but for what the machine's own timing adds.
    pub seed: u64,
}

impl Default for Kill {
    fn default() -> Self {
        Self {
            cycles: 60,
            cycles_per_folder: 10,
            in_open_every: 5,
            tasks: 4,
            keys: 4,
            max_value: 64 * 1024,
            seed: 1,
        }
    }
}

/// One folder and what was said about it.
struct Series {
    root: PathBuf,
    history: History,
}

/// Kills and checks.
///
/// # Errors
/// The tool itself failed: no scratch folder, no worker.
pub fn run(subject: &Subject, config: &Kill) -> Result<Report, Trouble> {
    let scratch = Scratch::new()?;
    let mut report = Report::new("kill", subject.name());
    let mut random = Random::new(config.seed);
    let mut series = None;
    for cycle in 0..config.cycles {
        if cycle % config.cycles_per_folder.max(1) == 0 {
            series = None;
        }
        let current = match &mut series {
            Some(current) => current,
            none => none.insert(Series { root: scratch.fresh()?.join("store"), history: History::new() }),
        };
        if !one(subject, config, cycle, &mut random, current, &mut report)? {
            series = None;
        }
    }
    Ok(report)
}

/// One worker; false if it left something broken, so that the next one needs a fresh folder.
fn one(
    subject: &Subject,
    config: &Kill,
    cycle: usize,
    random: &mut Random,
    series: &mut Series,
    report: &mut Report,
) -> Result<bool, Trouble> {
    let plan = plan(subject, config, random, series);
    let in_open = config.in_open_every > 0 && cycle % config.in_open_every == config.in_open_every - 1;
    let ending = kill(&plan, in_open, random)?;
    let before = series.history.acknowledged();
    series.history.feed(&ending.lines)?;
    let mut complaints = if ending.status.code().is_some() { ending.complaints() } else { Vec::new() };
    complaints.extend(subject.check(&series.root, &mut series.history));
    let whole = complaints.is_empty();
    let context = format!("cycle {cycle}, seed {}", plan.seed);
    report.count(&context, series.history.acknowledged() - before, complaints);
    Ok(whole)
}

fn plan(subject: &Subject, config: &Kill, random: &mut Random, series: &Series) -> Plan {
    let workload = Workload::Random { tasks: config.tasks, keys: config.keys, changes: None };
    Plan {
        seed: random.next_u64(),
        generation: series.history.last_generation(),
        max_value: config.max_value,
        blocking_threads: 16,
        ..Plan::new(subject.name(), workload).at(series.root.clone())
    }
}

fn kill(plan: &Plan, in_open: bool, random: &mut Random) -> Result<Ending, Trouble> {
    let mut process = Process::start(plan, &[])?;
    if in_open {
        std::thread::sleep(Duration::from_micros(random.below(12_000)));
    } else if process.wait_opened() {
        std::thread::sleep(Duration::from_micros(5_000 + random.below(55_000)));
    }
    Ok(process.kill()?)
}
