//! The one connection that writes: a thread of its own, a bounded queue before it, one commit for all that waits.
//!
//! A change is acknowledged after the commit that holds it; with strict durability that commit has forced the log to the
//! disk. While one commit is under way the next changes gather in the queue, so that many callers share one fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use persist_core::{Descriptor, ErrorKind, Result, StorageError, Watchers};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::change::{Answer, Change, Done};
use crate::database::Database;
use crate::engine::Engine;
use crate::gathering::Gathering;
use crate::watching::tell;

/// How many calls wait in the queue; the others wait for room in it.
const QUEUE: usize = 1024;

/// A transaction takes no more changes once it holds so many bytes.
pub(crate) const TRANSACTION_BYTES: u64 = 32 << 20;

/// After so long without a change the log is copied into the database: reading is cheaper when it is empty.
const IDLE: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<T>;
type Task = Box<dyn FnOnce(&mut Engine) + Send>;

/// A change and who waits for it.
type Call = (Change, Reply<Result<Answer>>);

enum Job {
    Change(Change, Reply<Result<Answer>>),
    /// Something else that needs the connection, between two transactions.
    Task(Task),
    Close(Reply<Result<()>>),
}

/// What the writer tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Why it refuses to write until the database is opened again.
    failure: Mutex<Option<String>>,
    pub(crate) commits: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) largest_batch: AtomicU64,
    pub(crate) retried_batches: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) busy_waits: AtomicU64,
}

impl Report {
    /// Why nothing is written any more.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Nothing is written from now on; the first reason stays.
    pub(crate) fn fail(&self, why: &dyn std::fmt::Display) {
        self.failure.lock().get_or_insert_with(|| why.to_string());
    }

    /// Lets a change begin.
    ///
    /// # Errors
    /// `Unavailable` after a commit or sync that failed.
    pub(crate) fn admit(&self, descriptor: &Descriptor, operation: &'static str) -> Result<()> {
        match self.failure() {
            None => Ok(()),
            Some(why) => Err(descriptor.error(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "a commit or sync failed before ({why}); nothing is written until the storage is opened again: \
                     check the disk first"
                ),
            )),
        }
    }

    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// The way to the thread that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
    descriptor: Arc<Descriptor>,
    pub(crate) report: Arc<Report>,
}

impl Writer {
    /// Opens the connection that writes, and starts its thread.
    ///
    /// # Errors
    /// Why the database cannot be opened for writing.
    pub(crate) fn open(
        database: &Arc<Database>,
        descriptor: &Arc<Descriptor>,
        watchers: &Watchers,
    ) -> Result<Self> {
        let watchers = watchers.clone();
        let report = Arc::new(Report::default());
        let engine = Engine::open(database, descriptor, &report)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| {
            crate::error::system(descriptor, "open", "the clock of the thread that writes", error)
        })?;
        thread::Builder::new()
            .name("persist-sqlite-writer".to_owned())
            .spawn(move || run(engine, jobs, clock, watchers))
            .map_err(|error| crate::error::system(descriptor, "open", "the thread that writes", error))?;
        Ok(Self { queue, descriptor: Arc::clone(descriptor), report })
    }

    /// Has a change made. Once it is in the queue it takes place even if the caller does not wait for the answer, and
    /// before everything that comes into the queue later.
    ///
    /// # Errors
    /// Why it did not take place, or that this is unknown.
    pub(crate) async fn change(&self, change: Change) -> Result<Answer> {
        let operation = change.operation;
        self.report.admit(&self.descriptor, operation)?;
        self.ask(operation, |reply| Job::Change(change, reply)).await?
    }

    /// As [`change`](Self::change) with a single step.
    pub(crate) async fn one(&self, change: Change) -> Result<Done> {
        let operation = change.operation;
        let answer = self.change(change).await?.pop();
        answer.unwrap_or_else(|| {
            Err(self.descriptor.error(ErrorKind::Internal, operation, "a change got no answer"))
        })
    }

    /// Has something done with the connection, between two transactions.
    ///
    /// # Errors
    /// What the work says; `Closed`.
    pub(crate) async fn task<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let task =
            |reply: Reply<Result<T>>| Job::Task(Box::new(move |engine| drop(reply.send(work(engine)))));
        self.ask(operation, task).await?
    }

    /// Writes everything that is in the queue, then ends the thread and its connection.
    ///
    /// # Errors
    /// What could not be brought to an end.
    pub(crate) async fn close(&self) -> Result<()> {
        self.ask("close", Job::Close).await?
    }

    async fn ask<T>(&self, operation: &'static str, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let closed = || self.descriptor.error(ErrorKind::Closed, operation, "the storage was closed");
        self.queue.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| self.lost(operation))
    }

    fn lost(&self, operation: &'static str) -> StorageError {
        let message = "the thread that writes ended before it answered; open the storage again";
        self.descriptor.error(ErrorKind::Unavailable, operation, message).with_outcome_unknown()
    }
}

/// What waits for the same commit.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    replies: Vec<Reply<Result<Answer>>>,
    weight: u64,
}

impl Batch {
    fn push(&mut self, change: Change, reply: Reply<Result<Answer>>) {
        self.weight += change.weight();
        self.changes.push(change);
        self.replies.push(reply);
    }

    /// Commits what is in it, and what comes from `more` meanwhile; how many calls that answered.
    fn commit(
        &mut self,
        engine: &mut Engine,
        watchers: &Watchers,
        mut more: impl FnMut(usize, u64) -> Option<Call>,
    ) -> usize {
        let Self { mut changes, mut replies, mut weight } = std::mem::take(self);
        if changes.is_empty() {
            return 0;
        }
        let mut company = || {
            let (change, reply) = more(replies.len(), weight)?;
            weight += change.weight();
            replies.push(reply);
            Some(change)
        };
        let answers = engine.commit(&mut changes, &mut company);
        tell(watchers, &changes, &answers);
        let answered = replies.len();
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever does not wait any more has no use for the answer.
            let _ = reply.send(answer);
        }
        answered
    }
}

fn run(mut engine: Engine, queue: mpsc::Receiver<Job>, clock: Runtime, watchers: Watchers) {
    let mut waiting = Waiting { queue, clock, held: None };
    let (mut closing, mut jobs) = (Vec::new(), Vec::new());
    let mut batch = Batch::default();
    let mut gathering = Gathering::default();
    while let Some(first) = waiting.next(&mut engine) {
        let begun = Instant::now();
        jobs.push(first);
        jobs.extend(std::iter::from_fn(|| waiting.queue.try_recv().ok()).take(QUEUE - 1));
        for job in jobs.drain(..) {
            match job {
                Job::Change(change, reply) => batch.push(change, reply),
                Job::Task(task) => {
                    batch.commit(&mut engine, &watchers, |_, _| None);
                    task(&mut engine);
                }
                Job::Close(reply) => {
                    waiting.queue.close();
                    closing.push(reply);
                }
            }
            if batch.weight >= TRANSACTION_BYTES {
                batch.commit(&mut engine, &watchers, |_, _| None);
            }
        }
        let answered =
            batch.commit(&mut engine, &watchers, |count, weight| match weight < TRANSACTION_BYTES {
                true => waiting.more(count, &mut gathering),
                false => None,
            });
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
    queue: mpsc::Receiver<Job>,
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
