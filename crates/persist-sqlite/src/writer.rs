//! The one connection that writes: a thread of its own, a bounded queue before it, one commit for all that waits.
//!
//! A change is acknowledged after the commit that holds it; with strict durability that commit has forced the log to the
//! disk. While one commit is under way the next changes gather in the queue, so that many callers share one fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use persist_core::writing::{self, Answer, Calls, Poison, QUEUE, Reply, tell};
use persist_core::{Descriptor, Result, Watchers};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::change::{Change, Step};
use crate::database::Database;
use crate::engine::Engine;
use crate::error::system;
use crate::gathering::Gathering;

/// A transaction takes no more changes once it holds so many bytes.
pub(crate) const TRANSACTION_BYTES: u64 = 32 << 20;

/// After so long without a change the log is copied into the database: reading is cheaper when it is empty.
const IDLE: Duration = Duration::from_secs(1);

/// A change and who waits for it.
type Call = (Change, Reply<Answer>);

/// What the writer tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) poison: Arc<Poison>,
    pub(crate) commits: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) largest_batch: AtomicU64,
    pub(crate) retried_batches: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) busy_waits: AtomicU64,
}

impl Report {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// The way to the thread that writes.
pub(crate) type Writer = writing::Writer<Engine, Step>;

type Job = writing::Job<Engine, Step>;
type Jobs = mpsc::Receiver<Job>;

/// Opens the connection that writes, and starts its thread.
///
/// # Errors
/// Why the database cannot be opened for writing.
pub(crate) fn start(
    database: &Arc<Database>,
    descriptor: &Arc<Descriptor>,
    report: &Arc<Report>,
    watchers: &Watchers,
) -> Result<Writer> {
    let fail = |what| move |error| system(descriptor, "open", what, error);
    let engine = Engine::open(database, descriptor, report)?;
    let (writer, jobs) = Writer::new(descriptor, &report.poison);
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let clock = clock.map_err(fail("the clock of the thread that writes"))?;
    let watchers = watchers.clone();
    thread::Builder::new()
        .name("persist-sqlite-writer".to_owned())
        .spawn(move || run(engine, jobs, clock, watchers))
        .map_err(fail("the thread that writes"))?;
    Ok(writer)
}

/// Commits some calls, and what comes from `more` meanwhile; how many that answered.
fn commit(
    calls: &mut Calls<Step>,
    engine: &mut Engine,
    watchers: &Watchers,
    mut more: impl FnMut(usize, u64) -> Option<Call>,
) -> usize {
    let mut calls = std::mem::take(calls);
    if calls.is_empty() {
        return 0;
    }
    let mut changes = std::mem::take(&mut calls.changes);
    let mut company = || {
        let (change, reply) = more(calls.len(), calls.weight())?;
        calls.join(&change, reply);
        Some(change)
    };
    let answers = engine.commit(&mut changes, &mut company);
    tell(watchers, &changes, &answers);
    let answered = calls.len();
    calls.answer(answers);
    answered
}

fn run(mut engine: Engine, queue: Jobs, clock: Runtime, watchers: Watchers) {
    let mut waiting = Waiting { queue, clock, held: None };
    let (mut closing, mut jobs) = (Vec::new(), Vec::new());
    let mut calls = Calls::default();
    let mut gathering = Gathering::default();
    while let Some(first) = waiting.next(&mut engine) {
        let begun = Instant::now();
        jobs.push(first);
        jobs.extend(std::iter::from_fn(|| waiting.queue.try_recv().ok()).take(QUEUE - 1));
        for job in jobs.drain(..) {
            match job {
                Job::Change(change, reply) => calls.push(change, reply),
                Job::Task(task) => {
                    commit(&mut calls, &mut engine, &watchers, |_, _| None);
                    task(&mut engine);
                }
                Job::Close(reply) => {
                    waiting.queue.close();
                    closing.push(reply);
                }
            }
            if calls.weight() >= TRANSACTION_BYTES {
                commit(&mut calls, &mut engine, &watchers, |_, _| None);
            }
        }
        let more = |count, weight| match weight < TRANSACTION_BYTES {
            true => waiting.more(count, &mut gathering),
            false => None,
        };
        let answered = commit(&mut calls, &mut engine, &watchers, more);
        gathering.note(answered, waiting.queue.len(), begun.elapsed());
        engine.checkpoint_if_due();
    }
    let mut ended = Some(engine.close());
    for reply in closing {
        let _ = reply.send(ended.take().unwrap_or(Ok(())));
    }
}

/// The queue, and a clock to wait by.
struct Waiting {
    queue: Jobs,
    clock: Runtime,
    /// What came while a commit gathered company, and cannot be part of it.
    held: Option<Job>,
}

impl Waiting {
    /// What comes next; `None`: nothing will. If it takes its time, the log is copied into the database meanwhile.
    fn next(&mut self, engine: &mut Engine) -> Option<Job> {
        if self.held.is_some() {
            return self.held.take();
        }
        if engine.has_log() && self.queue.is_empty() {
            match self.clock.block_on(async { timeout(IDLE, self.queue.recv()).await }) {
                Ok(job) => return job,
                Err(_) => engine.checkpoint_at_rest(),
            }
        }
        self.queue.blocking_recv()
    }

    /// Another change for a commit that has so many; waits a moment for those who are about to come.
    fn more(&mut self, count: usize, gathering: &mut Gathering) -> Option<Call> {
        while count < QUEUE && self.held.is_none() {
            match self.queue.try_recv() {
                Ok(Job::Change(change, reply)) => return Some((change, reply)),
                Ok(other) => self.held = Some(other),
                Err(_) if gathering.expects(count) => thread::yield_now(),
                Err(_) => break,
            }
        }
        None
    }
}
