//! A checkpoint: all pages are copied into the file, and the log is emptied.

use std::ops::Range;
use std::sync::Arc;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::session::{CommitError, Session, beyond};
use super::signature::{SIGNATURE, UNFINISHED};
use crate::log::Log;
use crate::pages::{PAGE, PageSet};

impl Session {
    /// Copies all pages into the file and empties the log, unless another process reads the file: then false, and nothing
    /// is changed. `free` are the places that the file does not use, as the library tells them after a commit; a log file
    /// longer than `keep` bytes is cut.
    ///
    /// # Errors
    /// What the disk says; all that was committed is still there, and can still be read.
    pub(crate) fn checkpoint(&mut self, free: &[Range<u64>], keep: u64) -> Result<bool, CommitError> {
        if !self.take_file()? {
            return Ok(false);
        }
        let copied = self.copy_pages().and_then(|()| match &mut self.log {
            Some(log) => log.reset(keep).map_err(CommitError::Sync),
            None => Ok(()),
        });
        self.share_file()?;
        copied?;
        let mut committed = self.medium.committed.write();
        committed.pages.clear();
        self.settled = committed.end;
        self.free = PageSet::default();
        for place in free {
            self.free.insert(place.start.div_ceil(PAGE as u64)..place.end / PAGE as u64);
        }
        self.free.insert(beyond(committed.end));
        Ok(true)
    }

    /// True if everything that was committed is in the file.
    pub(crate) fn is_settled(&self) -> bool {
        self.medium.overlaid() == 0 && self.log.as_ref().is_none_or(Log::is_empty)
    }

    /// Keeps other readers out, if there are none.
    fn take_file(&self) -> Result<bool, CommitError> {
        match self.medium.file.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            // The attempt may have cost us our own lock.
            Err(Errno::WOULDBLOCK) => self.share_file().map(|()| false),
            Err(error) => Err(CommitError::Undone(error.into())),
        }
    }

    /// Lets readers in, and keeps other writers out.
    fn share_file(&self) -> Result<(), CommitError> {
        match self.medium.file.lock(FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(CommitError::Taken),
            Err(error) => Err(CommitError::Undone(error.into())),
        }
    }

    fn copy_pages(&self) -> Result<(), CommitError> {
        let committed = self.medium.committed.read();
        let file = &self.medium.file;
        // What was written directly, and not synced because that was not promised, must be there before the log goes.
        let mark = |mark: &[u8; 8]| {
            file.write(self.medium.signature, mark).map_err(CommitError::Undone)?;
            file.sync().map_err(CommitError::Sync)
        };
        mark(&UNFINISHED)?;
        let mut numbers: Vec<&u64> = committed.pages.keys().collect();
        numbers.sort_unstable();
        for number in numbers {
            let mut page = Arc::clone(&committed.pages[number]);
            if *number == self.medium.signature / PAGE as u64 {
                // The signature comes last.
                let at = (self.medium.signature % PAGE as u64) as usize;
                Arc::make_mut(&mut page).bytes[at..at + UNFINISHED.len()].copy_from_slice(&UNFINISHED);
            }
            let start = number * PAGE as u64 + page.dirty.start as u64;
            file.write(start, &page.bytes[page.dirty.clone()]).map_err(|error| self.unwritten(error))?;
        }
        file.set_len(committed.end).map_err(|error| self.unwritten(error))?;
        file.sync().map_err(CommitError::Sync)?;
        mark(&SIGNATURE)
    }
}
