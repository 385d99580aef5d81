use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use persist_core::{Entry, ErrorKind, Key, Result, StorageError};
use tokio::time::Instant;

use super::note;
use super::queue::{Base, Change, Taken, item, removal};
use super::storage::Shared;

/// How many bytes are written together at most, unless one value alone is larger.
const BATCH_BYTES: u64 = 8 << 20;

/// How many keys are asked for, or deleted, at once.
const AT_ONCE: usize = 32;

/// How long it waits before it tries again what failed; twice as long each time.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is below after an attempt to write a change.
enum Attempt {
    /// The change, in this version.
    Written(Base),
    /// Something else than was thought; to be tried again.
    Moved,
    Failed(StorageError),
}

/// Writes what waits until nothing does.
pub(super) async fn drain(shared: Arc<Shared>) {
    // A task that is dropped on the way, because its runtime ends, leaves the queue to the next one.
    let mut running = Running { shared: Arc::clone(&shared), ended: false };
    let shared = &shared;
    loop {
        let due = {
            let mut queue = shared.queue.lock();
            if queue.is_empty() || shared.is_abandoned() {
                queue.running = false;
                running.ended = true;
                return;
            }
            shared.due(&queue)
        };
        match due {
            Some(due) if due <= Instant::now() => write(shared).await,
            Some(due) => {
                let _ = tokio::time::timeout_at(due, shared.work.notified()).await;
            }
            None => shared.work.notified().await,
        }
    }
}

struct Running {
    shared: Arc<Shared>,
    /// It came to its end, and another one may be running already.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut queue = self.shared.queue.lock();
        queue.running = false;
        queue.release();
    }
}

/// Writes the oldest changes together.
async fn write(shared: &Arc<Shared>) {
    let settled = match &shared.journal {
        // Where the journal is of no use any more, all that is written below is at least there.
        Some(journal) => journal.settle_all().await,
        None => None,
    };
    let taken = shared.queue.lock().take(shared.config.batch, BATCH_BYTES, settled);
    let keys: Vec<Key> = taken.iter().map(|taken| taken.key.clone()).collect();
    let mut attempts: Vec<Option<Attempt>> = Vec::new();
    attempts.resize_with(taken.len(), || None);
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    let looked = stream::iter(taken).map(|taken| look(shared, taken)).buffered(AT_ONCE);
    for (place, looked) in looked.collect::<Vec<_>>().await.into_iter().enumerate() {
        match looked {
            Ok(Taken { key, change: Change::Put(entry), base }) => puts.push((place, item(key, entry, base))),
            Ok(Taken { key, base, .. }) => deletes.push((place, key, base)),
            Err(attempt) => attempts[place] = Some(attempt),
        }
    }
    let (places, items): (Vec<usize>, Vec<_>) = puts.into_iter().unzip();
    let answers = if items.is_empty() { Vec::new() } else { shared.inner.store_many(items).await };
    for (place, answer) in places.into_iter().zip(answers) {
        attempts[place] = Some(attempt(answer.map(|metadata| Base::Version(metadata.version))));
    }
    let deleted = stream::iter(deletes).map(|(place, key, base)| async move {
        let answer = shared.inner.delete(&key, removal(base)).await;
        (place, attempt(answer.map(|_| Base::Absent)))
    });
    for (place, attempt) in deleted.buffered(AT_ONCE).collect::<Vec<_>>().await {
        attempts[place] = Some(attempt);
    }
    settle(shared, &keys, attempts);
    tidy(shared).await;
}

/// Finds out what is below, where that is not known; the attempt has ended if nothing is to be written.
async fn look(shared: &Shared, mut taken: Taken) -> Result<Taken, Attempt> {
    if taken.base == Base::Unknown {
        let found = match shared.inner.metadata(&taken.key).await {
            // What is damaged is replaced, whatever it was.
            Err(error) if error.kind() == ErrorKind::Corruption => return Ok(taken),
            found => found.map_err(Attempt::Failed)?,
        };
        taken.base = found.as_ref().map_or(Base::Absent, |metadata| Base::Version(metadata.version));
        // It was written before, and the answer was lost.
        let there = found.as_ref().and_then(note::version);
        if taken.change.metadata().is_some_and(|ours| there == Some(ours.version)) {
            return Err(Attempt::Written(taken.base));
        }
    }
    let gone = match &taken.change {
        Change::Delete(_) => true,
        Change::Put(Entry { metadata, .. }) => metadata.is_expired(shared.descriptor.now()),
    };
    match (gone, taken.base) {
        (true, Base::Absent) => Err(Attempt::Written(Base::Absent)),
        (true, _) => Ok(Taken { change: Change::Delete(taken.change.version()), ..taken }),
        (false, _) => Ok(taken),
    }
}

fn attempt(answer: Result<Base>) -> Attempt {
    match answer {
        Ok(base) => Attempt::Written(base),
        Err(error) if error.kind() == ErrorKind::Conflict => Attempt::Moved,
        Err(error) => Attempt::Failed(error),
    }
}

fn settle(shared: &Shared, keys: &[Key], attempts: Vec<Option<Attempt>>) {
    let mut queue = shared.queue.lock();
    let mut failure = None;
    for (key, attempt) in keys.iter().zip(attempts) {
        let error = match attempt {
            Some(Attempt::Written(base)) => {
                queue.written(key, base);
                continue;
            }
            // At once, the first time; whoever changes it again and again is told of below.
            Some(Attempt::Moved) => {
                queue.failed(key, |failures| if failures == 0 { Duration::ZERO } else { pause(failures) });
                let message = "the storage below was changed by somebody else; nobody else may write to it";
                shared.moved(StorageError::new(ErrorKind::Conflict, message).with_key(key));
                continue;
            }
            Some(Attempt::Failed(error)) => error,
            None => {
                let message =
                    "a batch was answered with too few answers; the storage below breaks its contract";
                StorageError::new(ErrorKind::Internal, message)
            }
        };
        queue.failed(key, pause);
        failure = Some(error.with_key(key));
    }
    shared.attempted(failure);
    drop(queue);
    shared.changed.notify_waiters();
}

fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE)
}

/// Removes the files of the journal that nothing needs any more.
async fn tidy(shared: &Arc<Shared>) {
    let Some(journal) = &shared.journal else { return };
    let needed = {
        let queue = shared.queue.lock();
        queue.oldest_segment().unwrap_or_else(|| journal.segment())
    };
    if !journal.is_behind(needed) {
        return;
    }
    // Until then the storage below may promise less than the journal does.
    let removed = match shared.inner.flush().await {
        Ok(()) => journal.release(needed).await,
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        shared.attempted(Some(error));
    }
}
