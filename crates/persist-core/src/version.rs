use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The version of a key: it grows with every change of the key and is never used again, not even after the key was
/// deleted and stored anew.
///
/// It is a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): microseconds of the wall clock,
/// pushed forward by one where the clock stands still or goes back. It stays below 2^53 until the year 2255, so that
/// JSON readers keep it exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// A version read back from where it was kept.
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// The number to keep.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hands out the versions of one storage.
#[derive(Debug, Default)]
pub struct Versions {
    last: AtomicU64,
}

impl Versions {
    /// A version greater than every one handed out before and than `previous`.
    pub fn next(&self, now: Timestamp, previous: Option<Version>) -> Version {
        let wall = u64::try_from(now.as_millis()).unwrap_or(0).saturating_mul(1000);
        let floor = previous.map_or(0, |version| version.0.saturating_add(1)).max(wall).max(1);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = floor.max(last.saturating_add(1));
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Version(next),
                Err(seen) => last = seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_whatever_the_clock_does() {
        let versions = Versions::default();
        let first = versions.next(Timestamp::from_millis(1_000_000), None);
        let back = versions.next(Timestamp::from_millis(10), None);
        assert!(back > first);
        let ahead = Version::from_u64(u64::MAX / 2);
        assert!(versions.next(Timestamp::from_millis(20), Some(ahead)) > ahead);
        assert!(Versions::default().next(Timestamp::from_millis(-5), None) > Version::from_u64(0));
    }
}
