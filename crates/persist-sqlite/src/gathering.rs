//! How long a commit waits for company.

use std::time::{Duration, Instant};

/// The part of a commit's time that the next one may wait.
const SHARE: u32 = 4;

/// What is known of the callers: those who were answered last tend to come back at once, and if the next commit ends
/// before they do, only half of all callers ever share one.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    callers: usize,
    patience: Duration,
    /// Until when the commit under way waits, once there was something to wait for.
    end: Option<Instant>,
}

impl Gathering {
    /// Whether a commit that has so many changes should wait for others: until it has as many as there were callers a
    /// moment ago, so not at all for a single one, and never for longer than a quarter of what the last commit took.
    pub(crate) fn expects(&mut self, count: usize) -> bool {
        if count >= self.callers {
            return false;
        }
        let now = Instant::now();
        now < *self.end.get_or_insert(now + self.patience)
    }

    /// Notes how many were answered by a commit that took so long, and how many had come in the meantime.
    pub(crate) fn note(&mut self, answered: usize, queued: usize, took: Duration) {
        *self = Self { callers: answered + queued, patience: took / SHARE, end: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_those_who_were_answered_and_no_longer() {
        let mut gathering = Gathering::default();
        gathering.note(3, 2, Duration::from_secs(3600));
        assert_eq!([1, 4, 5, 6].map(|count| gathering.expects(count)), [true, true, false, false]);
    }

    #[test]
    fn a_single_caller_never_waits() {
        let mut gathering = Gathering::default();
        gathering.note(1, 0, Duration::from_secs(3600));
        assert!(!gathering.expects(1));
    }

    #[test]
    fn gives_up_on_those_who_stay_away() {
        let mut gathering = Gathering::default();
        gathering.note(3, 0, Duration::from_millis(40));
        assert!(gathering.expects(1));
        std::thread::sleep(Duration::from_millis(11));
        assert!(!gathering.expects(2), "the time is counted from the first time it waited");
        gathering.note(3, 0, Duration::from_millis(40));
        assert!(gathering.expects(1), "and anew for each commit");
    }
}
