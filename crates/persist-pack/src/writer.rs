//! The way to the thread that writes: a bounded queue, one sync for all that waits in it.
//!
//! A change is acknowledged after the sync that covers it. While one sync is under way the next changes gather in the
//! queue, so that many callers share one.

use std::sync::Arc;
use std::thread;

use persist_core::{ErrorKind, Result, StorageError};
use tokio::sync::{mpsc, oneshot};

use crate::change::{Answer, Change, Done};
use crate::core::Core;
use crate::engine::Engine;
use crate::fault::system;
use crate::folder::Lock;

/// How many calls wait in the queue; the others wait for room in it.
const QUEUE: usize = 1024;

/// A batch takes no more changes once it holds so many bytes.
const BATCH_BYTES: u64 = 16 << 20;

type Reply<T> = oneshot::Sender<T>;
type Task = Box<dyn FnOnce(&mut Engine) + Send>;

enum Job {
    Change(Change, Reply<Result<Answer>>),
    /// Something else that must not meet a commit.
    Task(Task),
    Close(Reply<Result<()>>),
}

/// The way to the thread that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
    core: Arc<Core>,
}

impl Writer {
    /// Takes over the folder, whose lock is held, and starts the thread.
    ///
    /// # Errors
    /// Why nothing can be written.
    pub(crate) fn open(core: &Arc<Core>, lock: Lock) -> Result<Self> {
        let fail = |what| move |error| system(&core.descriptor, "open", what, error);
        let engine = Engine::open(Arc::clone(core), lock).map_err(fail("the folder of the packs"))?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("persist-pack-writer".to_owned())
            .spawn(move || run(engine, jobs))
            .map_err(fail("the thread that writes"))?;
        Ok(Self { queue, core: Arc::clone(core) })
    }

    /// Has a change made. Once it is in the queue it takes place even if the caller does not wait for the answer, and
    /// before everything that comes into the queue later.
    ///
    /// # Errors
    /// Why it did not take place, or that this is unknown.
    pub(crate) async fn change(&self, change: Change) -> Result<Answer> {
        let operation = change.operation;
        self.core.admit(operation)?;
        self.ask(operation, |reply| Job::Change(change, reply)).await?
    }

    /// As [`change`](Self::change) with a single step.
    pub(crate) async fn one(&self, change: Change) -> Result<Done> {
        let operation = change.operation;
        let answer = self.change(change).await?.pop();
        answer.unwrap_or_else(|| {
            Err(self.core.descriptor.error(ErrorKind::Internal, operation, "a change got no answer"))
        })
    }

    /// Has something done between two commits.
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

    /// Writes everything that is in the queue, then ends the thread and gives up the lock.
    ///
    /// # Errors
    /// What could not be brought to an end.
    pub(crate) async fn close(&self) -> Result<()> {
        self.ask("close", Job::Close).await?
    }

    async fn ask<T>(&self, operation: &'static str, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let closed = || {
            self.core.descriptor.error(ErrorKind::Closed, operation, "the storage was closed; open it again")
        };
        self.queue.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| self.lost(operation))
    }

    fn lost(&self, operation: &'static str) -> StorageError {
        let message = "the thread that writes ended before it answered; open the storage again";
        self.core.descriptor.error(ErrorKind::Unavailable, operation, message).with_outcome_unknown()
    }
}

/// What waits for the same sync.
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

    fn commit(&mut self, engine: &mut Engine) {
        let batch = std::mem::take(self);
        if batch.changes.is_empty() {
            return;
        }
        let answers = engine.commit(&batch.changes);
        for (reply, answer) in batch.replies.into_iter().zip(answers) {
            // Whoever does not wait any more has no use for the answer.
            let _ = reply.send(answer);
        }
    }
}

fn run(mut engine: Engine, mut queue: mpsc::Receiver<Job>) {
    let mut closing = Vec::new();
    let mut batch = Batch::default();
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(job) = next {
            match job {
                Job::Change(change, reply) => batch.push(change, reply),
                Job::Task(task) => {
                    batch.commit(&mut engine);
                    task(&mut engine);
                }
                Job::Close(reply) => {
                    queue.close();
                    closing.push(reply);
                }
            }
            if batch.weight >= BATCH_BYTES {
                batch.commit(&mut engine);
            }
            count += 1;
            next = if count < QUEUE { queue.try_recv().ok() } else { None };
        }
        batch.commit(&mut engine);
    }
    if closing.is_empty() {
        // Every handle was dropped: what was acknowledged is there, and nobody waits.
        return;
    }
    let mut ended = Some(engine.close());
    for reply in closing {
        let _ = reply.send(ended.take().unwrap_or(Ok(())));
    }
}
