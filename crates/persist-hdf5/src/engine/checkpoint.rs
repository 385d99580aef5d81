//! The log is copied into the file.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use persist_core::Result;

use super::Engine;
use crate::error::system;
use crate::medium::CommitError;
use crate::report::Report;

/// How often closing tries to copy the log into a file that others read, and how long it waits between.
const PATIENCE: u32 = 20;
const MOMENT: Duration = Duration::from_millis(10);

impl Engine {
    pub(super) fn note_log(&self) {
        let bytes = self.site.session.lock().log_bytes();
        self.report().log_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Copies the log into the file if it has grown long.
    pub(crate) fn checkpoint_if_due(&mut self) {
        if self.report().log_bytes.load(Ordering::Relaxed) < self.due_at || self.report().failure().is_some()
        {
            return;
        }
        let complete = self.checkpoint().unwrap_or(false);
        let bytes = self.report().log_bytes.load(Ordering::Relaxed);
        self.due_at = if complete { self.log_limit } else { bytes + self.log_limit };
    }

    /// True if the file lacks something that was committed, and it may be put there.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.site.is_writable() && self.report().failure().is_none() && !self.site.session.lock().is_settled()
    }

    /// Copies the log into the file, unless another process reads it; true if the file is complete then.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn checkpoint(&mut self) -> Result<bool> {
        if !self.transfers.is_empty() {
            // The file must not end before what was written of them.
            self.seal().map_err(|failure| self.give_up(failure, &[]).error("maintain"))?;
        }
        let free = self.free_places();
        if self.site.session.lock().is_settled() {
            return Ok(true);
        }
        let done = self.site.session.lock().checkpoint(&free, self.log_limit);
        *self.report().trouble.lock() = done.as_ref().err().map(ToString::to_string);
        self.note_log();
        match done {
            Ok(complete) => {
                let counter =
                    if complete { &self.report().checkpoints } else { &self.report().delayed_checkpoints };
                Report::count(counter, 1);
                Ok(complete)
            }
            Err(CommitError::Undone(error)) => {
                Err(system(self.descriptor(), "maintain", "the log cannot be copied into the file", error))
            }
            Err(error) => Err(self.judge(error).error("maintain")),
        }
    }

    /// The same, with some patience for somebody who reads for a moment only.
    pub(super) fn last_checkpoint(&mut self) -> Result<bool> {
        for _ in 0..PATIENCE {
            if self.checkpoint()? {
                return Ok(true);
            }
            std::thread::sleep(MOMENT);
        }
        self.checkpoint()
    }

    /// Places that hold nothing; an answer is not needed, it only saves a second writing.
    fn free_places(&self) -> Vec<Range<u64>> {
        let mut free = self.file.as_ref().and_then(|file| file.free_places().ok()).unwrap_or_default();
        // Nobody needs what is on its way before it has a name.
        free.extend(self.transfers.places());
        free
    }
}
