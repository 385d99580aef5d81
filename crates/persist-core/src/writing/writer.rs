use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Answer, Change, Done, Poison, Step};
use crate::{Descriptor, ErrorKind, Result, StorageError};

/// How many calls wait in the queue; the others wait for room in it.
pub const QUEUE: usize = 1024;

/// The way back to somebody who waits.
pub type Reply<T> = oneshot::Sender<Result<T>>;

/// What comes to the thread that writes; `E` is what the thread works with.
pub enum Job<E, S> {
    /// A change, and who waits for it.
    Change(Change<S>, Reply<Answer>),
    /// Something else that must not meet a commit.
    Task(Box<dyn FnOnce(&mut E) + Send>),
    /// The last job.
    Close(Reply<()>),
}

/// The way to a thread that writes: a bounded queue. While it commits, the next calls gather in the queue, so that many
/// callers share a commit.
pub struct Writer<E, S> {
    queue: mpsc::Sender<Job<E, S>>,
    descriptor: Arc<Descriptor>,
    poison: Arc<Poison>,
}

impl<E, S> fmt::Debug for Writer<E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("poison", &self.poison).finish_non_exhaustive()
    }
}

impl<E, S: Step> Writer<E, S> {
    /// The way to a thread, and the end of it that the thread takes.
    pub fn new(descriptor: &Arc<Descriptor>, poison: &Arc<Poison>) -> (Self, mpsc::Receiver<Job<E, S>>) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        (Self { queue, descriptor: Arc::clone(descriptor), poison: Arc::clone(poison) }, jobs)
    }

    /// Has a change made. Once it is in the queue it takes place even if the caller does not wait for the answer, and
    /// before everything that comes into the queue later.
    ///
    /// # Errors
    /// Why it did not take place, or that this is unknown.
    pub async fn change(&self, change: Change<S>) -> Result<Answer> {
        let operation = change.operation;
        self.poison.admit(&self.descriptor, operation)?;
        self.ask(operation, |reply| Job::Change(change, reply)).await
    }

    /// As [`change`](Self::change) with a single step.
    ///
    /// # Errors
    /// As there.
    pub async fn one(&self, change: Change<S>) -> Result<Done> {
        let operation = change.operation;
        let answer = self.change(change).await?.pop();
        answer.unwrap_or_else(|| {
            Err(self.descriptor.error(ErrorKind::Internal, operation, "a change got no answer"))
        })
    }

    /// Has something done between two commits.
    ///
    /// # Errors
    /// What the work says; `Closed`.
    pub async fn task<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut E) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let task = |reply: Reply<T>| Job::Task(Box::new(move |engine| drop(reply.send(work(engine)))));
        self.ask(operation, task).await
    }

    /// Has everything written that is in the queue, and the thread ended.
    ///
    /// # Errors
    /// What could not be brought to an end.
    pub async fn close(&self) -> Result<()> {
        self.ask("close", Job::Close).await
    }

    async fn ask<T>(&self, operation: &'static str, job: impl FnOnce(Reply<T>) -> Job<E, S>) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let message = "the storage was closed; open it again to use it";
        let closed = |_| self.descriptor.error(ErrorKind::Closed, operation, message);
        self.queue.send(job(reply)).await.map_err(closed)?;
        answer.await.unwrap_or_else(|_| Err(self.lost(operation)))
    }

    fn lost(&self, operation: &'static str) -> StorageError {
        let message = "the thread that writes ended before it answered; open the storage again";
        self.descriptor.error(ErrorKind::Unavailable, operation, message).with_outcome_unknown()
    }
}

/// Changes that wait for the same commit.
#[derive(Debug)]
pub struct Calls<S> {
    /// In the order in which they came.
    pub changes: Vec<Change<S>>,
    replies: Vec<Reply<Answer>>,
    weight: u64,
}

impl<S> Default for Calls<S> {
    fn default() -> Self {
        Self { changes: Vec::new(), replies: Vec::new(), weight: 0 }
    }
}

impl<S: Step> Calls<S> {
    /// One more.
    pub fn push(&mut self, change: Change<S>, reply: Reply<Answer>) {
        self.join(&change, reply);
        self.changes.push(change);
    }

    /// One whose change is with the others already, where [`changes`](Self::changes) was taken out to be committed.
    pub fn join(&mut self, change: &Change<S>, reply: Reply<Answer>) {
        self.weight += change.weight();
        self.replies.push(reply);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// True if there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// How many bytes they write, about.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Gives each its answer, which come in their order.
    pub fn answer(self, answers: Vec<Result<Answer>>) {
        for (reply, answer) in self.replies.into_iter().zip(answers) {
            // Whoever does not wait any more has no use for the answer.
            let _ = reply.send(answer);
        }
    }
}
