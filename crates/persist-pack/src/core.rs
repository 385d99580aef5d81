//! What the thread that writes and all who read share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use persist_core::writing::Poison;
use persist_core::{Descriptor, Key, Result, Watchers};

use crate::config::PackConfig;
use crate::fault::{Fault, damage};
use crate::folder::{Folder, Look};
use crate::state::State;
use crate::wire::Wrong;

/// What the writer tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) poison: Arc<Poison>,
    pub(crate) commits: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) largest_batch: AtomicU64,
    /// Values that were in a pack already.
    pub(crate) shared_values: AtomicU64,
    pub(crate) sealed: AtomicU64,
    pub(crate) compactions: AtomicU64,
}

impl Report {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// A folder of packs, as a storage sees it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) config: PackConfig,
    pub(crate) folder: Folder,
    pub(crate) state: RwLock<State>,
    pub(crate) report: Report,
    pub(crate) watchers: Watchers,
    /// Held while it is tidied up.
    pub(crate) maintaining: tokio::sync::Mutex<()>,
}

impl Core {
    /// What is stored now. A storage that only reads looks first what others have written.
    ///
    /// # Errors
    /// Why the packs cannot be read.
    pub(crate) fn look(&self) -> std::result::Result<RwLockReadGuard<'_, State>, Fault> {
        if self.config.read_only {
            self.follow()?;
        }
        Ok(self.state.read())
    }

    /// Takes in what another process has written.
    fn follow(&self) -> std::result::Result<(), Fault> {
        let state = self.state.read();
        match &state.log {
            Some(log) => {
                if !log.has_changed()? {
                    return Ok(());
                }
                drop(state);
                let mut state = self.state.write();
                let watchers = &self.watchers;
                let anew = state.log.as_mut().map_or(Ok(true), |log| log.follow(watchers))?;
                if anew {
                    *state = State::open(&self.folder, false)?;
                    watchers.lost();
                }
            }
            None => {
                let unchanged = state.look.is_still_right(&self.folder)?;
                drop(state);
                if unchanged {
                    return Ok(());
                }
                let look = Look::take(&self.folder)?;
                let mut state = self.state.write();
                if look.packs == state.look.packs {
                    state.look = look;
                } else {
                    *state = State::open(&self.folder, false)?;
                    self.watchers.lost();
                }
            }
        }
        Ok(())
    }

    /// Lets a change begin.
    ///
    /// # Errors
    /// `Unavailable` after a sync that failed.
    pub(crate) fn admit(&self, operation: &'static str) -> Result<()> {
        self.report.poison.admit(&self.descriptor, operation)
    }

    /// The error of a record that is damaged.
    pub(crate) fn damage(
        &self,
        operation: &'static str,
        key: &Key,
        wrong: Wrong,
    ) -> persist_core::StorageError {
        damage(&self.descriptor, operation, wrong).with_key(key)
    }

    /// The error of something that cannot be read.
    pub(crate) fn fault(
        &self,
        operation: &'static str,
        key: Option<&Key>,
        fault: Fault,
    ) -> persist_core::StorageError {
        fault.into_error(&self.descriptor, operation, key)
    }
}
