//! Shared syncs: callers who wait for the same folder at the same time pay for one fsync.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::fs::fstat;
use rustix::io::Errno;

/// One gate for each folder that somebody is syncing now.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    /// By inode: a folder that was removed and made again is another one.
    gates: Mutex<HashMap<u64, Arc<Gate>>>,
}

#[derive(Debug, Default)]
struct Gate {
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

/// A caller who arrives during round N waits for the end of round N + 1, because N may have begun before its change.
#[derive(Debug, Default)]
struct Rounds {
    started: u64,
    ended: u64,
    failed: Option<Errno>,
}

impl Gates {
    /// Returns once a sync of the folder that began after this call has ended. Gives true if this caller ran it.
    pub(crate) fn sync(&self, folder: &OwnedFd) -> Result<bool, Errno> {
        let inode = fstat(folder)?.st_ino;
        let gate = Arc::clone(self.gates.lock().entry(inode).or_default());
        let result = gate.pass(folder);
        let mut gates = self.gates.lock();
        // Two holders: the map and this caller.
        if Arc::strong_count(&gate) == 2 {
            gates.remove(&inode);
        }
        result
    }
}

impl Gate {
    fn pass(&self, folder: &OwnedFd) -> Result<bool, Errno> {
        let mut rounds = self.rounds.lock();
        let mine = rounds.started + 1;
        loop {
            if let Some(errno) = rounds.failed {
                return Err(errno);
            }
            if rounds.ended >= mine {
                return Ok(false);
            }
            if rounds.started == rounds.ended {
                break;
            }
            self.ended.wait(&mut rounds);
        }
        rounds.started += 1;
        drop(rounds);
        let result = rustix::io::retry_on_intr(|| rustix::fs::fsync(folder));
        let mut rounds = self.rounds.lock();
        rounds.ended = rounds.started;
        rounds.failed = rounds.failed.or(result.err());
        self.ended.notify_all();
        result.map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn concurrent_callers_share_and_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        let folder = OwnedFd::from(std::fs::File::open(place.path()).unwrap());
        let (gates, syncs) = (Gates::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        syncs.fetch_add(u64::from(gates.sync(&folder).unwrap()), Ordering::Relaxed);
                    }
                });
            }
        });
        let syncs = syncs.into_inner();
        assert!((1..=800).contains(&syncs), "{syncs}");
        assert!(gates.gates.lock().is_empty());
    }

    #[test]
    fn a_failed_sync_fails_everybody_who_waits() {
        let gates = Gates::default();
        let place = tempfile::tempdir().unwrap();
        let path = rustix::fs::openat(
            rustix::fs::CWD,
            place.path(),
            rustix::fs::OFlags::PATH,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        assert_eq!(gates.sync(&path), Err(Errno::BADF));
    }
}
