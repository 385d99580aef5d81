//! Power cuts: what was recorded is replayed up to every point, and every state that a model of the file system
//! allows there is laid down in a folder, opened and checked.
//!
//! This finds what kills cannot: a missing `fsync` of a file, of a folder, of the parent of a new folder; an
//! acknowledgement that comes before the `fsync`; names that become durable before the bytes they lead to. The method
//! is that of ALICE (Pillai et al., OSDI 2014). Damage inside of the device and reordering across a sync are not
//! modelled.
//!
//! A state is laid down as a copy: **inode numbers and times are not those of the recording**. A storage that keeps
//! either on disk and trusts it is reported here though a real power cut would keep them; it would do wrong all the
//! same on a folder that was restored from a backup.
//!
//! The numbers of events in a violation are those that [`EVENTS_VARIABLE`] has written to a file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::history::History;
use super::model::{Loss, Model, Surface, Survival};
use super::plan::Workload;
use super::record::{self, Event, Record, Recording};
use super::report::{Report, Trouble};
use super::sample::Random;
use super::scratch::Scratch;
use super::subject::Subject;
use super::tree::Tree;

/// Which power cuts.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What is recorded.
    pub record: Record,
    /// Under which models.
    pub models: Vec<Model>,
    /// At most so many distinct states are checked, drawn at random if there are more; the report says how many there
    /// are (`distinct`).
    pub states: usize,
    /// After one in this many states, the opening of what is left is recorded and cut in the same way (a second power
    /// cut during the recovery from the first); 0: never. These come on top of `states`.
    pub recovery_every: usize,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            record: Record::default(),
            models: vec![Model::Journal, Model::Strict],
            states: 1_000,
            recovery_every: 0,
        }
    }
}

/// The environment variable that names a file to which the recorded events are written, with the numbers that the
/// violations name.
pub const EVENTS_VARIABLE: &str = "PERSIST_CRASH_EVENTS";

/// At most so many lengths of the prefix of undecided names are tried at one point.
const PREFIXES: usize = 24;

/// One state that a power cut may leave.
#[derive(Debug)]
struct State {
    tree: Tree,
    /// How many events were seen before the cut.
    seen: usize,
    model: Model,
    label: String,
}

/// What stays the same during one replay.
struct Task<'t> {
    subject: &'t Subject,
    config: &'t Replay,
    scratch: Scratch,
}

/// What was said before the recording began.
#[derive(Clone, Debug, Default)]
struct Past {
    history: History,
    label: String,
}

/// Records, cuts and checks.
///
/// # Errors
/// `Unavailable` without strace; `Tool` if the worker does something that is not modelled.
pub fn run(subject: &Subject, config: &Replay) -> Result<Report, Trouble> {
    let task = Task { subject, config, scratch: Scratch::new()? };
    let mut report = Report::new("replay", subject.name());
    let top = task.scratch.fresh()?;
    let recording = record::run(subject, &config.record, &config.record.workload, &top, 0)?;
    report.add("events", recording.events.len());
    note_down(&recording)?;
    let mut states = task.states(&recording, &config.models);
    report.add("distinct", states.len());
    draw(&mut states, config.states, config.record.seed);
    task.check_all(&Past::default(), &recording, &states, &mut report)?;
    if config.recovery_every > 0 {
        for state in states.iter().skip(config.recovery_every / 2).step_by(config.recovery_every) {
            task.cut_recovery(&recording, state, &mut report)?;
        }
    }
    Ok(report)
}

impl Task<'_> {
    fn states(&self, recording: &Recording, models: &[Model]) -> Vec<State> {
        let mut known = HashSet::new();
        let mut states = Vec::new();
        for &model in models {
            enumerate(recording, model, &mut known, &mut states);
        }
        states
    }

    /// Records the opening of one state, and cuts that. What lies there is durable: the power is back.
    fn cut_recovery(&self, first: &Recording, state: &State, report: &mut Report) -> Result<(), Trouble> {
        let history = state.history(&Past::default(), first)?;
        let top = self.lay(state)?;
        let opening = Workload::Steps(Vec::new());
        let generation = history.last_generation();
        let recording = match record::run(self.subject, &self.config.record, &opening, &top, generation) {
            Err(Trouble::Tool(text)) => {
                report.count(&state.label, history.acknowledged(), vec![text]);
                return Ok(());
            }
            recording => recording?,
        };
        let states = self.states(&recording, &[state.model]);
        report.add("in recovery", states.len());
        let past = Past { history, label: format!("{}, then, while opening, ", state.label) };
        self.check_all(&past, &recording, &states, report)?;
        remove(&top);
        Ok(())
    }

    /// Checks on all cores.
    fn check_all(
        &self,
        past: &Past,
        recording: &Recording,
        states: &[State],
        report: &mut Report,
    ) -> Result<(), Trouble> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let work = || {
            while let Some(state) = states.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = self.check(past, recording, state);
                results.lock().push((state, result));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
        let mut results = results.into_inner();
        results.sort_by_key(|(state, _)| (state.seen, state.label.clone()));
        for (state, result) in results {
            let (acknowledged, complaints) = result?;
            let (all, bad) = figures(state.model);
            report.add(all, 1);
            report.add(bad, usize::from(!complaints.is_empty()));
            report.count(&format!("{}{}", past.label, state.label), acknowledged, complaints);
        }
        Ok(())
    }

    /// The history up to the cut, checked against the tree.
    fn check(
        &self,
        past: &Past,
        recording: &Recording,
        state: &State,
    ) -> Result<(usize, Vec<String>), Trouble> {
        let mut history = state.history(past, recording)?;
        let top = self.lay(state)?;
        let complaints = self.subject.check(&top.join("store"), &mut history);
        remove(&top);
        Ok((history.acknowledged(), complaints))
    }

    fn lay(&self, state: &State) -> Result<PathBuf, Trouble> {
        let top = self.scratch.fresh()?;
        state.tree.lay(&top).map_err(|error| format!("cannot lay down a state: {error}"))?;
        Ok(top)
    }
}

impl State {
    /// Everything that was told before the cut.
    fn history(&self, past: &Past, recording: &Recording) -> Result<History, Trouble> {
        let mut history = past.history.clone();
        for event in &recording.events[..self.seen] {
            if let Event::Told(line) = event {
                history.feed(line)?;
            }
        }
        Ok(history)
    }
}

/// Every distinct pair of a tree and the acknowledgements before it.
fn enumerate(
    recording: &Recording,
    model: Model,
    known: &mut HashSet<([u8; 32], usize)>,
    states: &mut Vec<State>,
) {
    let mut surface = Surface::new(recording, model);
    let mut answers = 0;
    for (at, event) in recording.events.iter().enumerate() {
        match event {
            Event::Change(change) => surface.take(change),
            // An attempt only allows more; it need not be tried by itself.
            Event::Told(line) if line.starts_with(['K', 'E', 'R']) => answers += 1,
            Event::Told(_) => continue,
        }
        for (loss, survival) in cuts(&surface) {
            let tree = surface.tree(loss, survival);
            if known.insert((tree.hash(), answers)) {
                let label = format!("{model:?} model, cut after event {at}, lost {loss:?}, {survival:?}");
                states.push(State { tree, seen: at + 1, model, label });
            }
        }
    }
}

fn cuts(surface: &Surface) -> Vec<(Loss, Survival)> {
    let mut cuts = Vec::new();
    for loss in surface.losses() {
        for prefix in prefixes(surface.undecided()) {
            cuts.push((loss, Survival { prefix, no_attributes: false }));
            if prefix > 0 && surface.may_lose_attributes() {
                cuts.push((loss, Survival { prefix, no_attributes: true }));
            }
        }
    }
    cuts
}

/// All lengths from nothing to everything, or the first, the last and some between.
fn prefixes(undecided: usize) -> Vec<usize> {
    if undecided < PREFIXES {
        return (0..=undecided).collect();
    }
    let (few, many) = (PREFIXES / 3, undecided + 1 - PREFIXES / 3);
    let between = (few..many).step_by(((many - few) / few).max(1));
    (0..few).chain(between).chain(many..=undecided).collect()
}

/// Keeps `limit` states, in their order.
fn draw(states: &mut Vec<State>, limit: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut left = states.len() as u64;
    let mut wanted = limit as u64;
    states.retain(|_| {
        let keep = random.below(left) < wanted;
        left -= 1;
        wanted -= u64::from(keep);
        keep
    });
}

/// Writes the events to the file that [`EVENTS_VARIABLE`] names, if it is set.
fn note_down(recording: &Recording) -> Result<(), String> {
    let Some(path) = std::env::var_os(EVENTS_VARIABLE) else { return Ok(()) };
    std::fs::write(&path, recording.describe())
        .map_err(|error| format!("{}: {error}", Path::new(&path).display()))
}

fn figures(model: Model) -> (&'static str, &'static str) {
    match model {
        Model::Journal => ("journal states", "bad journal states"),
        Model::Strict => ("further strict states", "bad strict states"),
    }
}

fn remove(top: &Path) {
    let _ = std::fs::remove_dir_all(top);
}
