//! What the thread that writes tells of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use persist_core::{Descriptor, ErrorKind, Result};

/// Counters since it was opened, and whether it still writes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Why it refuses to write until the storage is opened again.
    failure: Mutex<Option<String>>,
    /// Why the log could not be copied into the file the last time.
    pub(crate) trouble: Mutex<Option<String>>,
    pub(crate) commits: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) largest_batch: AtomicU64,
    pub(crate) retried_batches: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) delayed_checkpoints: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) arrays_hashed: AtomicU64,
    pub(crate) largest_step: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
}

impl Report {
    /// Why nothing is written any more.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Nothing is written from now on; the first reason stays.
    pub(crate) fn fail(&self, why: &dyn std::fmt::Display) {
        self.failure.lock().get_or_insert_with(|| why.to_string());
    }

    /// Lets a change begin.
    ///
    /// # Errors
    /// `Unavailable` after a commit or sync that failed.
    pub(crate) fn admit(&self, descriptor: &Descriptor, operation: &'static str) -> Result<()> {
        match self.failure() {
            None => Ok(()),
            Some(why) => Err(descriptor.error(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "a commit or sync failed before ({why}); nothing is written until the storage is opened again: \
                     check the disk first"
                ),
            )),
        }
    }

    /// Notes how many bytes were moved while everybody else waited.
    pub(crate) fn step(&self, bytes: u64) {
        self.largest_step.fetch_max(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
