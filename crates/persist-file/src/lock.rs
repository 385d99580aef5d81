//! The lock that orders changes between processes: an advisory lock (flock) on one file, held for the microseconds
//! between checking what is stored and renaming.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use persist_core::Version;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

/// The lock of one storage; threads of this process queue at a mutex first.
#[derive(Debug)]
pub(crate) struct CommitLock {
    file: OwnedFd,
    queue: Mutex<()>,
    timeout: Duration,
}

/// Why the lock was not had.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Somebody held it for longer than the timeout: which process, if that can be told.
    Held(Option<u32>),
    /// The operating system says so.
    System(Errno),
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    file: &'a OwnedFd,
    _turn: MutexGuard<'a, ()>,
}

impl CommitLock {
    /// A lock on an open file.
    pub(crate) fn new(file: OwnedFd, timeout: Duration) -> Self {
        Self { file, queue: Mutex::new(()), timeout }
    }

    /// Waits for the lock, at most for the timeout.
    pub(crate) fn acquire(&self) -> Result<Held<'_>, LockError> {
        let deadline = Instant::now() + self.timeout;
        let Some(turn) = self.queue.try_lock_until(deadline) else {
            return Err(LockError::Held(self.holder()));
        };
        let mut pause = Duration::from_micros(20);
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Held { file: &self.file, _turn: turn }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => {
                    return Err(LockError::Held(self.holder()));
                }
                Err(Errno::WOULDBLOCK) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                Err(error) => return Err(LockError::System(error)),
            }
        }
    }

    /// The highest version of any key that was deleted, so that no process uses it again. For holders of the lock.
    ///
    /// It need not survive a power cut: versions follow the clock, which has moved on by then.
    pub(crate) fn version_floor(&self) -> Result<Version, Errno> {
        let mut bytes = [0; 8];
        let read = retry_on_intr(|| pread(&self.file, &mut bytes, 0))?;
        Ok(Version::from_u64(if read == 8 { u64::from_le_bytes(bytes) } else { 0 }))
    }

    /// Notes that a key was deleted in this version. For holders of the lock.
    pub(crate) fn raise_version_floor(&self, version: Version) -> Result<(), Errno> {
        if version > self.version_floor()? {
            retry_on_intr(|| pwrite(&self.file, &version.as_u64().to_le_bytes(), 0))?;
        }
        Ok(())
    }

    /// The process that holds the lock, as the kernel lists it in `/proc/locks`.
    fn holder(&self) -> Option<u32> {
        let inode = rustix::fs::fstat(&self.file).ok()?.st_ino.to_string();
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields.as_slice() {
                [_, "FLOCK", _, "WRITE", pid, place, ..] if place.rsplit(':').next() == Some(&inode) => {
                    pid.parse().ok()
                }
                _ => None,
            }
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Closing the file would release it as well; nothing can be done about a failure here.
        let _ = flock(self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(place.path()).unwrap());
        let (ours, theirs) =
            (CommitLock::new(open(), Duration::ZERO), CommitLock::new(open(), Duration::from_millis(30)));
        let held = ours.acquire().unwrap();
        match theirs.acquire() {
            Err(LockError::Held(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        assert!(theirs.acquire().is_ok());
    }
}
