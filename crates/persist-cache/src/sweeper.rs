use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

/// What a sweeper looks after.
pub(crate) trait Sweep: Send + Sync + 'static {
    /// Removes what has expired.
    fn sweep(&self);
}

/// A thread that removes what has expired, in regular intervals.
///
/// A thread and not a task, because a cache may outlive the runtime it was opened in, or have none. It holds what it
/// sweeps weakly, so it keeps nothing alive, and it ends as soon as the sweeper is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Sweeper {
    /// Never sent over: the thread ends when this end is gone.
    line: Mutex<Option<Sender<()>>>,
    thread: JoinHandle<()>,
}

impl Sweeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// Why the operating system gives no thread.
    pub(crate) fn start<T: Sweep>(target: &Arc<T>, every: Duration) -> io::Result<Self> {
        let (line, end) = channel();
        let target = Arc::downgrade(target);
        let thread = thread::Builder::new()
            .name("persist-cache".to_owned())
            .stack_size(256 << 10)
            .spawn(move || run(&target, &end, every))?;
        Ok(Self { line: Mutex::new(Some(line)), thread })
    }

    /// Ends the thread, without waiting for it.
    pub(crate) fn stop(&self) {
        self.line.lock().take();
    }

    /// Whether the thread has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

fn run<T: Sweep>(target: &Weak<T>, end: &Receiver<()>, every: Duration) {
    while end.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        match target.upgrade() {
            Some(target) => target.sweep(),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Floor(AtomicU64);

    impl Sweep for Floor {
        fn sweep(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn it_sweeps_again_and_again_until_it_is_stopped() {
        let floor = Arc::new(Floor::default());
        let sweeper = Sweeper::start(&floor, Duration::from_millis(1)).unwrap();
        wait_until("it swept thrice", || floor.0.load(Ordering::SeqCst) >= 3);
        sweeper.stop();
        wait_until("it ended", || sweeper.has_ended());
    }

    #[test]
    fn stopping_does_not_wait_for_the_interval() {
        let floor = Arc::new(Floor::default());
        let sweeper = Sweeper::start(&floor, Duration::from_secs(3600)).unwrap();
        sweeper.stop();
        wait_until("it ended", || sweeper.has_ended());
    }

    #[test]
    fn it_keeps_nothing_alive_and_ends_with_what_it_sweeps() {
        let floor = Arc::new(Floor::default());
        let sweeper = Sweeper::start(&floor, Duration::from_millis(1)).unwrap();
        let weak = Arc::downgrade(&floor);
        drop(floor);
        wait_until("it was dropped", || weak.strong_count() == 0);
        wait_until("it ended", || sweeper.has_ended());
    }
}
