use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use parking_lot::Mutex;

use crate::{Event, Key, Metadata, Result, StorageError, Watch};

/// How many events wait for a watcher. One that falls further behind is told [`Event::Lost`] in place of them.
pub const MAX_WAITING_EVENTS: usize = 1024;

/// Everybody who watches a storage, for backends that notice changes themselves. Cloning gives another handle.
///
/// Telling never waits: each watcher has a bounded queue. While nobody watches, [`is_watched`](Self::is_watched) is one
/// load, and a backend asks it before it makes an event.
#[derive(Clone, Default)]
pub struct Watchers(Arc<Hub>);

#[derive(Default)]
struct Hub {
    watched: AtomicUsize,
    closed: AtomicBool,
    queues: Mutex<Vec<Arc<Queue>>>,
}

/// The events that wait for one watcher.
struct Queue {
    prefix: String,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Result<Event>>,
    ended: bool,
    waker: Option<Waker>,
}

impl Watchers {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether anybody watches. A backend asks after a change took place and before it acknowledges it.
    pub fn is_watched(&self) -> bool {
        // In one order with the look into the storage that a new watcher takes: it sees the change, or is told of it.
        self.0.watched.load(Ordering::SeqCst) > 0
    }

    /// True for handles on the same ones.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A watch of the keys that begin with `prefix`.
    pub fn watch(&self, prefix: &str) -> Watch<'static> {
        let queue = Arc::new(Queue { prefix: prefix.to_owned(), waiting: Mutex::default() });
        let mut queues = self.0.queues.lock();
        queues.push(Arc::clone(&queue));
        self.0.watched.fetch_add(1, Ordering::SeqCst);
        if self.0.closed.load(Ordering::SeqCst) {
            queue.end();
        }
        drop(queues);
        Watch::new(Receiver { watchers: self.clone(), queue })
    }

    /// Tells that a value was stored or touched.
    pub fn stored(&self, key: &Key, metadata: &Metadata) {
        self.tell(key, || Event::Stored { key: key.clone(), metadata: metadata.clone() });
    }

    /// Tells that a value was deleted.
    pub fn deleted(&self, key: &Key) {
        self.tell(key, || Event::Deleted { key: key.clone() });
    }

    /// Tells everybody that events may have been missed.
    pub fn lost(&self) {
        self.each(|queue| queue.push(Ok(Event::Lost)));
    }

    /// Tells everybody why nothing is told at the moment.
    pub fn failed(&self, error: impl Fn() -> StorageError) {
        self.each(|queue| queue.push(Err(error())));
    }

    /// Ends all watches, also those to come.
    pub fn close(&self) {
        let queues = self.0.queues.lock();
        self.0.closed.store(true, Ordering::SeqCst);
        queues.iter().for_each(|queue| queue.end());
    }

    fn tell(&self, key: &Key, event: impl Fn() -> Event) {
        self.each(|queue| {
            if key.starts_with(&queue.prefix) {
                queue.push(Ok(event()));
            }
        });
    }

    fn each(&self, tell: impl Fn(&Queue)) {
        if self.is_watched() {
            self.0.queues.lock().iter().for_each(|queue| tell(queue));
        }
    }

    fn leave(&self, queue: &Arc<Queue>) {
        let mut queues = self.0.queues.lock();
        queues.retain(|other| !Arc::ptr_eq(other, queue));
        self.0.watched.store(queues.len(), Ordering::SeqCst);
    }
}

/// How many there are.
impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watchers").field(&self.0.watched.load(Ordering::Relaxed)).finish()
    }
}

impl Queue {
    fn push(&self, event: Result<Event>) {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            return;
        }
        if waiting.events.len() >= MAX_WAITING_EVENTS {
            waiting.events.clear();
            waiting.events.push_back(Ok(Event::Lost));
        }
        // One is as good as two.
        if !(is_lost(&event) && waiting.events.back().is_some_and(is_lost)) {
            waiting.events.push_back(event);
        }
        wake(waiting.waker.take());
    }

    fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        wake(waiting.waker.take());
    }
}

fn is_lost(event: &Result<Event>) -> bool {
    matches!(event, Ok(Event::Lost))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The watcher's end of its queue.
struct Receiver {
    watchers: Watchers,
    queue: Arc<Queue>,
}

impl Stream for Receiver {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.queue.waiting.lock();
        match waiting.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if waiting.ended => Poll::Ready(None),
            None => {
                waiting.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.watchers.leave(&self.queue);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use crate::ErrorKind;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    /// What waits, without waiting for more; errors as `None`.
    fn waiting(watch: &mut Watch<'_>) -> Vec<Option<Event>> {
        let next = || watch.next().now_or_never().flatten().map(Result::ok);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_is_told_what_is_under_its_prefix() {
        let watchers = Watchers::new();
        assert!(!watchers.is_watched());
        let (mut all, mut some) = (watchers.watch(""), watchers.watch("a/"));
        assert!(watchers.is_watched());
        for text in ["a", "a/b", "b"] {
            watchers.deleted(&key(text));
        }
        assert_eq!(waiting(&mut all).len(), 3);
        assert_eq!(waiting(&mut some), [Some(Event::Deleted { key: key("a/b") })]);
        drop(all);
        assert!(watchers.is_watched());
        drop(some);
        assert!(!watchers.is_watched());
    }

    #[test]
    fn whoever_falls_behind_is_told_so_and_what_comes_later() {
        let watchers = Watchers::new();
        let mut watch = watchers.watch("");
        for _ in 0..MAX_WAITING_EVENTS {
            watchers.deleted(&key("a"));
        }
        assert_eq!(waiting(&mut watch).len(), MAX_WAITING_EVENTS, "what fits is not lost");
        for _ in 0..=MAX_WAITING_EVENTS {
            watchers.deleted(&key("a"));
        }
        watchers.deleted(&key("b"));
        let late = [
            Some(Event::Lost),
            Some(Event::Deleted { key: key("a") }),
            Some(Event::Deleted { key: key("b") }),
        ];
        assert_eq!(waiting(&mut watch), late);
        watchers.lost();
        watchers.lost();
        assert_eq!(waiting(&mut watch), [Some(Event::Lost)]);
    }

    #[test]
    fn closing_ends_every_watch_after_what_waits() {
        let watchers = Watchers::new();
        let mut watch = watchers.watch("");
        watchers.failed(|| StorageError::new(ErrorKind::Unavailable, "gone"));
        watchers.close();
        watchers.deleted(&key("late"));
        assert_eq!(waiting(&mut watch), [None]);
        assert!(watch.next().now_or_never().expect("it has ended").is_none());
        assert!(watchers.watch("").next().now_or_never().expect("it has ended").is_none());
    }
}
