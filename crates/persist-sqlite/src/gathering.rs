//! How long a commit waits for company.

use std::thread;
use std::time::{Duration, Instant};

/// The part of a commit's time that the next one may wait.
const SHARE: u32 = 4;

/// What is known of the callers: those who were answered last tend to come back at once, and if the next commit begins
/// before they do, only half of all callers ever share one.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    callers: usize,
    patience: Duration,
}

impl Gathering {
    /// Waits until as many are in the queue as there were callers a moment ago: not at all for a single one, and never
    /// for longer than a quarter of what the last commit took.
    pub(crate) fn wait(&self, queued: impl Fn() -> usize) {
        if queued() >= self.callers {
            return;
        }
        let end = Instant::now() + self.patience;
        while queued() < self.callers && Instant::now() < end {
            thread::yield_now();
        }
    }

    /// Notes how many were answered after a commit that took so long, and how many had come in the meantime.
    pub(crate) fn note(&mut self, answered: usize, queued: usize, took: Duration) {
        self.callers = answered + queued;
        self.patience = took / SHARE;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn waits_for_those_who_were_answered_and_no_longer() {
        let mut gathering = Gathering::default();
        gathering.note(3, 2, Duration::from_secs(3600));
        let looks = Cell::new(0);
        gathering.wait(|| {
            looks.set(looks.get() + 1);
            looks.get()
        });
        assert_eq!(looks.get(), 5);
    }

    #[test]
    fn a_single_caller_never_waits() {
        let mut gathering = Gathering::default();
        gathering.note(1, 0, Duration::from_secs(3600));
        gathering.wait(|| 1);
    }

    #[test]
    fn gives_up_on_those_who_stay_away() {
        let mut gathering = Gathering::default();
        gathering.note(3, 0, Duration::from_millis(4));
        gathering.wait(|| 1);
    }
}
