//! The second half of every change: under the commit lock conditions are checked and names change; then the folders
//! are forced to the disk, once for all who wait.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use persist_core::{Condition, ErrorKind, Expiry, Key, Metadata, StorageError, Version};
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::commit::Commit;
use crate::config::{Durability, FileConfig, MetadataMode};
use crate::error::system;
use crate::gate::Gates;
use crate::journal::Journal;
use crate::lock::{CommitLock, Held, LockError};
use crate::name::split;
use crate::place::Place;
use crate::root::Root;
use crate::session::{CONTROL, Session, sweep};
use crate::stage::Staged;

/// What writing needs beside the [`Place`].
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) session: Arc<Session>,
    pub(crate) strict: bool,
    pub(crate) envelope: bool,
    pub(crate) journal: Journal,
    pub(crate) lock: CommitLock,
    gates: Gates,
    /// Folders known to be on the disk with all those above them, by path and inode.
    known: Mutex<HashMap<String, u64>>,
    /// Why a sync failed; after that every change is refused.
    failed: OnceLock<String>,
    pub(crate) counters: Counters,
}

/// Whether somebody still waits for a change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller(Arc<AtomicBool>);

/// Held by the future of a change; dropping it early tells that the caller has gone away.
#[derive(Debug)]
pub(crate) struct Waiting(Caller);

impl Caller {
    /// The other end, for the future.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting(self.clone())
    }

    fn is_gone(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// What `stats` shows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) folder_syncs: AtomicU64,
    pub(crate) shared_folder_syncs: AtomicU64,
    pub(crate) journaled: AtomicU64,
}

/// One step of a change.
#[derive(Debug)]
pub(crate) enum Step {
    /// Give a staged value its place.
    Put(Box<Staged>),
    /// Remove a key.
    Delete { key: Key, condition: Condition },
    /// Remove a key if it has expired in this version.
    Expire { key: Key, version: Version },
    /// Change when a key expires.
    Touch { key: Key, expiry: Expiry },
    /// Change nothing, but check.
    Check { key: Key, condition: Condition },
}

/// What a step did.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Stored(Metadata),
    Deleted(bool),
    Touched(Option<Metadata>),
    Checked,
}

/// How many known folders are remembered.
const MAX_KNOWN: usize = 100_000;

impl Writer {
    /// Makes what writing needs in the folder, finishes what a dead process began and removes what it left.
    pub(crate) fn open(root: &Root, config: &FileConfig) -> Result<Self, WriterError> {
        let (control, made) = root.make_folder(CONTROL)?;
        if !made.is_empty() {
            rustix::fs::fsync(root.folder())?;
        }
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CREATE;
        let lock = CommitLock::new(root.open_at(&format!("{CONTROL}/lock"), flags)?, config.lock_timeout.0);
        let strict = config.durability == Durability::Strict;
        let journal = Journal::open(root, strict)?;
        let held = lock.acquire()?;
        // Now, while there is room: on a full disk keys must still be deletable.
        lock.raise_version_floor(lock.version_floor()?.max(Version::from_u64(1)))?;
        if journal.pending()? {
            journal.recover(root)?;
        }
        sweep(root)?;
        let session = Arc::new(Session::open(root, strict)?);
        drop((held, control));
        Ok(Self {
            session,
            strict,
            envelope: config.metadata == MetadataMode::Envelope,
            journal,
            lock,
            gates: Gates::default(),
            known: Mutex::default(),
            failed: OnceLock::new(),
            counters: Counters::default(),
        })
    }

    /// Applies changes, each as a whole and each on its own; none if the caller has gone away by the time the lock is
    /// had, because it may have made a newer change since.
    pub(crate) fn commit(
        &self,
        place: &Place,
        changes: Vec<Vec<Step>>,
        operation: &'static str,
        caller: &Caller,
    ) -> Vec<Answer> {
        if let Err(error) = self.check_failed(place, operation) {
            return changes.iter().map(|_| Err(error.again(operation))).collect();
        }
        let mut commit = Commit::new(place, self, operation);
        let mut answers: Vec<Answer> = match self.hold(place, operation) {
            Ok(_held) if caller.is_gone() => {
                let gone =
                    || place.descriptor.error(ErrorKind::Unavailable, operation, "the caller went away");
                return changes.iter().map(|_| Err(gone())).collect();
            }
            Ok(_held) => changes.into_iter().map(|change| commit.change(change)).collect(),
            Err(error) => return changes.iter().map(|_| Err(error.again(operation))).collect(),
        };
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = commit.finish() {
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = Err(error.again(operation).with_outcome_unknown());
            }
        }
        answers
    }

    /// Applies one change.
    pub(crate) fn commit_one(
        &self,
        place: &Place,
        change: Vec<Step>,
        operation: &'static str,
        caller: &Caller,
    ) -> Answer {
        let none = || Err(place.descriptor.error(ErrorKind::Internal, operation, "a change got no answer"));
        self.commit(place, vec![change], operation, caller).pop().unwrap_or_else(none)
    }

    /// Waits for the commit lock, and finishes what somebody began who died with it.
    pub(crate) fn hold<'a>(
        &'a self,
        place: &Place,
        operation: &'static str,
    ) -> Result<Held<'a>, StorageError> {
        let held = self.lock.acquire().map_err(|error| lock_error(place, operation, error))?;
        self.check_failed(place, operation)?;
        let what = "a change that was begun cannot be finished";
        let unfinished = |errno| system(&place.descriptor, operation, what, errno);
        if self.journal.pending().map_err(unfinished)? {
            let folders = self.journal.redo(&place.root).map_err(unfinished)?;
            let settled = self.journal.settle(&place.root, &folders);
            settled.map_err(|errno| self.fail(place, operation, errno))?;
        }
        Ok(held)
    }

    /// Refuses once a sync has failed.
    pub(crate) fn check_failed(&self, place: &Place, operation: &'static str) -> Result<(), StorageError> {
        match self.failed.get() {
            None => Ok(()),
            Some(why) => Err(place.descriptor.error(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "an earlier sync failed ({why}), so nothing more is written; check the disk, then reopen"
                ),
            )),
        }
    }

    /// Whether a sync has failed, and why.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Notes a failed sync. What the kernel could not write it may drop and then report success (Rebello et al.,
    /// "Can Applications Recover from fsync Failures?", 2020), so trying again proves nothing.
    pub(crate) fn fail(&self, place: &Place, operation: &'static str, errno: Errno) -> StorageError {
        let _ = self.failed.set(errno.to_string());
        let what = "the disk did not take a sync; nothing more is written until the storage is reopened";
        let error = system(&place.descriptor, operation, what, errno);
        match error.kind() {
            ErrorKind::Capacity | ErrorKind::ReadOnly => error,
            _ => place.descriptor.error(ErrorKind::Unavailable, operation, error.message().to_owned()),
        }
    }

    /// Forces a folder to the disk, together with all who wait for the same.
    pub(crate) fn sync_folder(&self, folder: &OwnedFd) -> Result<(), Errno> {
        let ran = self.gates.sync(folder)?;
        let counter = if ran { &self.counters.folder_syncs } else { &self.counters.shared_folder_syncs };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Forces to the disk what is needed to reach `path` itself after a power cut: the folders above it, up to one
    /// that is known to be there. Folders are compared by inode, because others may remove one and make it again.
    pub(crate) fn sync_above(&self, place: &Place, path: &str, folder: &OwnedFd) -> Result<(), Errno> {
        let stat = fstat(folder)?;
        if path.is_empty() || self.is_known(path, stat.st_ino) {
            return Ok(());
        }
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            // Removed by now: then nothing in it is left to be reached.
            let Some(folder) = place.folder(above)? else { return Ok(()) };
            self.sync_folder(&folder)?;
            if self.is_known(above, fstat(&folder)?.st_ino) {
                break;
            }
        }
        // A removed folder has no links, and its inode may be given to another.
        if fstat(folder)?.st_nlink > 0 {
            self.now_known(path, stat.st_ino);
        }
        Ok(())
    }

    fn is_known(&self, path: &str, inode: u64) -> bool {
        self.known.lock().get(path) == Some(&inode)
    }

    /// A folder is on the disk with all those above it.
    fn now_known(&self, path: &str, inode: u64) {
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(path.to_owned(), inode);
    }

    /// A folder was removed.
    fn no_longer_known(&self, path: &str) {
        self.known.lock().remove(path);
    }

    /// Removes a folder that is empty, with those above it that become so; gives the first that stays.
    pub(crate) fn prune(&self, place: &Place, path: &str) -> Result<Option<String>, Errno> {
        if path.is_empty() {
            return Ok(None);
        }
        let (above, name) = split(path);
        let Some(parent) = place.folder(above)? else { return Ok(None) };
        match rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.no_longer_known(path);
                // A folder above that cannot be removed now stays; `maintain` tries again.
                let higher = self.prune(place, above).unwrap_or(None);
                Ok(higher.or_else(|| Some(above.to_owned())))
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the temp files of dead processes.
    pub(crate) fn sweep(&self, place: &Place) -> Result<u64, StorageError> {
        let _held = self.hold(place, "maintain")?;
        sweep(&place.root).map_err(|errno| {
            system(&place.descriptor, "maintain", "the temp files of a dead process cannot be removed", errno)
        })
    }
}

/// What a change is answered with.
pub(crate) type Answer = Result<Vec<Done>, StorageError>;

/// Why a storage cannot be written to.
#[derive(Debug)]
pub(crate) enum WriterError {
    System(Errno),
    Lock(LockError),
}

impl From<Errno> for WriterError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<LockError> for WriterError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

/// A lock that was not had.
pub(crate) fn lock_error(place: &Place, operation: &'static str, error: LockError) -> StorageError {
    match error {
        LockError::Held(holder) => {
            let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            let message =
                format!("{who} holds the lock {CONTROL}/lock; wait for it or end it, then try again");
            place.descriptor.error(ErrorKind::Locked, operation, message)
        }
        LockError::System(errno) => system(&place.descriptor, operation, "the lock cannot be taken", errno),
    }
}
