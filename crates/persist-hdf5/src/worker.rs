//! The one thread that uses the library: a bounded queue before it, one commit for all changes that wait.
//!
//! A change is acknowledged after the commit that holds it. While one commit is under way the next changes gather in the
//! queue, so that many callers share one fsync. When there is nothing to do the log is copied into the file, so that
//! other programs find everything there soon.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::writing::{Answer, Calls, Done, QUEUE, Reply};
use persist_core::{ErrorKind, Result, StorageError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::change::{Change, Step};
use crate::engine::Engine;
use crate::error::system;
use crate::state::Shared;
use crate::watching::tell;

/// A commit takes no more changes once it holds so many bytes.
const COMMIT_BYTES: u64 = 16 << 20;

/// How long to wait before the log is tried to be copied again, if another process was reading.
const LONG_PAUSE: Duration = Duration::from_millis(500);

type Task = Box<dyn FnOnce(&mut Engine) + Send>;

enum Job {
    Change(Change, Reply<Answer>),
    /// Something else that needs the library, between two commits.
    Task(Task),
    Close(Option<Reply<()>>),
}

/// A job and its place in the queue.
type Queued = (Job, Option<OwnedSemaphorePermit>);

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Sender<Queued>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start(engine: Engine, pause: Duration) -> Result<Self> {
        let shared = Arc::clone(engine.shared());
        let (queue, jobs) = channel();
        let thread = std::thread::Builder::new()
            .name("persist-hdf5".to_owned())
            .spawn(move || run(engine, &jobs, pause))
            .map_err(|error| system(&shared.descriptor, "open", "the thread that writes", error))?;
        let room = Arc::new(Semaphore::new(QUEUE));
        Ok(Self { queue, room, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Has a change made. Once it is in the queue it takes place even if the caller does not wait for the answer, and
    /// before everything that comes into the queue later.
    ///
    /// # Errors
    /// Why it did not take place, or that this is unknown.
    pub(crate) async fn change(&self, change: Change) -> Result<Answer> {
        let operation = change.operation;
        self.shared.report.admit(&self.shared.descriptor, operation)?;
        self.ask(operation, |reply| Job::Change(change, reply)).await
    }

    /// As [`change`](Self::change) with a single step.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn one(&self, change: Change) -> Result<Done> {
        let operation = change.operation;
        let answer = self.change(change).await?.pop();
        answer.unwrap_or_else(|| {
            Err(self.shared.descriptor.error(ErrorKind::Internal, operation, "a change got no answer"))
        })
    }

    /// Has something done with the library, between two commits.
    ///
    /// # Errors
    /// What the work says; `Closed`.
    pub(crate) async fn task<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let task = |reply: Reply<T>| Job::Task(Box::new(move |engine| drop(reply.send(work(engine)))));
        self.ask(operation, task).await
    }

    /// Has something done with the library that nobody waits for.
    pub(crate) fn later(&self, work: impl FnOnce(&mut Engine) + Send + 'static) {
        // If the thread has ended there is nothing to do it with.
        let _ = self.queue.send((Job::Task(Box::new(work)), None));
    }

    /// Makes everything that is in the queue, then ends the thread and closes the file.
    ///
    /// # Errors
    /// What could not be brought to an end.
    pub(crate) async fn close(&self) -> Result<()> {
        self.ask("close", |reply| Job::Close(Some(reply))).await
    }

    async fn ask<T>(&self, operation: &'static str, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let closed = || self.shared.descriptor.error(ErrorKind::Closed, operation, "the storage was closed");
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| closed())?;
        self.queue.send((job(reply), Some(permit))).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(self.lost(operation)))
    }

    fn lost(&self, operation: &'static str) -> StorageError {
        let message = "the thread that writes ended before it answered; open the storage again";
        self.shared.descriptor.error(ErrorKind::Unavailable, operation, message).with_outcome_unknown()
    }
}

impl Drop for Worker {
    /// Waits until everything is written and the file is closed, so that it can be opened again at once.
    fn drop(&mut self) {
        let _ = self.queue.send((Job::Close(None), None));
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// Makes the changes that wait, tells those who watch, and then those who wait.
fn commit(calls: &mut Calls<Step>, engine: &mut Engine) {
    let calls = std::mem::take(calls);
    if calls.is_empty() {
        return;
    }
    let answers = engine.commit(&calls.changes);
    tell(&engine.shared().watchers, &calls.changes, &answers);
    calls.answer(answers);
}

/// Works until the storage is closed; after `idle` without a job the log is copied into the file.
fn run(mut engine: Engine, queue: &Receiver<Queued>, idle: Duration) {
    let mut calls = Calls::default();
    let mut pause = idle;
    loop {
        let first = match engine.is_unsettled() {
            true => queue.recv_timeout(pause),
            false => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let first = match first {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                pause = if engine.checkpoint().unwrap_or(false) { idle } else { idle.max(LONG_PAUSE) };
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => (Job::Close(None), None),
        };
        let mut next = Some(first);
        let mut count = 0;
        while let Some((job, permit)) = next {
            drop(permit);
            match job {
                Job::Change(change, reply) => calls.push(change, reply),
                Job::Task(task) => {
                    commit(&mut calls, &mut engine);
                    task(&mut engine);
                }
                Job::Close(reply) => {
                    commit(&mut calls, &mut engine);
                    return end(engine, queue, reply);
                }
            }
            if calls.weight() >= COMMIT_BYTES {
                commit(&mut calls, &mut engine);
            }
            count += 1;
            next = if count < QUEUE { queue.try_recv().ok() } else { None };
        }
        commit(&mut calls, &mut engine);
        engine.checkpoint_if_due();
    }
}

/// Makes what came into the queue before it was closed, and closes the file.
fn end(mut engine: Engine, queue: &Receiver<Queued>, reply: Option<Reply<()>>) {
    let mut calls = Calls::default();
    let mut closing: Vec<_> = reply.into_iter().collect();
    while let Ok((job, _)) = queue.try_recv() {
        match job {
            Job::Change(change, reply) => calls.push(change, reply),
            Job::Task(task) => {
                commit(&mut calls, &mut engine);
                task(&mut engine);
            }
            Job::Close(reply) => closing.extend(reply),
        }
    }
    commit(&mut calls, &mut engine);
    let mut ended = Some(engine.close());
    for reply in closing {
        let _ = reply.send(ended.take().unwrap_or(Ok(())));
    }
}
