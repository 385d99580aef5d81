//! The file as a medium for the HDF5 library that changes only from one commit to the next.
//!
//! The library updates its structures in place, and a process that dies meanwhile leaves a file that cannot be opened, or
//! worse, one that can. So nothing that the library writes reaches the bytes on which the committed state stands: it goes
//! into pages that lie over the file, and with a commit into the log. Only places that the file as it was last checkpointed
//! does not use (its free space, and all beyond its end) are written directly, so that large arrays are written once.
//!
//! A checkpoint copies the pages into the file, at a moment when no other process reads it. While it is under way the
//! file's signature is invalid, so that whoever finds the file after a crash is told, and does not read half of it.
//! The reasons stand in `docs/decisions/0007-hdf5.md`.

mod checkpoint;
mod session;
mod signature;
mod view;

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::FlockOperation;

use crate::log::Record;
use crate::pages::{PAGE, Page, Pages, patch, pieces};
use crate::parts::Parts;

pub(crate) use session::{CommitError, Session};
pub(crate) use view::View;

use signature::{SIGNATURE, is_mark};

/// The file, and what was committed and is not in it yet; shared by the writer and all readers.
#[derive(Debug)]
pub(crate) struct Medium {
    file: Parts,
    committed: RwLock<Committed>,
    /// Where the signature stands.
    signature: u64,
}

#[derive(Debug, Default)]
struct Committed {
    pages: Pages,
    /// How long the file is, pages included.
    end: u64,
}

/// Why a file is no medium.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediumError {
    /// The disk says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A checkpoint was not brought to its end, and the log that could do so is gone.
    #[error("a checkpoint was interrupted and its log is missing or empty")]
    Unfinished,
}

impl Medium {
    /// Takes a file and what stands in its log.
    ///
    /// # Errors
    /// If the two do not belong together, and what the disk says.
    pub(crate) fn new(file: Parts, records: Vec<Record>) -> Result<Self, MediumError> {
        let len = file.len()?;
        let mut medium = Self { file, committed: RwLock::default(), signature: 0 };
        medium.committed.get_mut().end = records.last().map_or(len, |record| record.end);
        for (offset, bytes) in records.iter().flat_map(|record| &record.frames) {
            medium.overlay(*offset, bytes)?;
        }
        medium.find_signature(!records.is_empty())?;
        Ok(medium)
    }

    /// How long the committed file is.
    pub(crate) fn end(&self) -> u64 {
        self.committed.read().end
    }

    /// Where its bytes lie.
    pub(crate) fn parts(&self) -> &Parts {
        &self.file
    }

    /// How many pages lie over the file.
    pub(crate) fn overlaid(&self) -> usize {
        self.committed.read().pages.len()
    }

    /// What was committed, at one moment, from `offset` on.
    pub(crate) fn view(self: &Arc<Self>, offset: u64, len: u64) -> View {
        let committed = self.committed.read();
        let (first, last) = (offset / PAGE as u64, offset.saturating_add(len).div_ceil(PAGE as u64));
        let pages = match last.saturating_sub(first) <= committed.pages.len() as u64 {
            true => {
                let found = |page| committed.pages.get(&page).map(|found| (page, Arc::clone(found)));
                (first..last).filter_map(found).collect()
            }
            false => {
                let within = committed.pages.iter().filter(|(page, _)| (first..last).contains(*page));
                within.map(|(page, found)| (*page, Arc::clone(found))).collect()
            }
        };
        View { medium: Arc::clone(self), pages }
    }

    /// Gives up the lock that keeps the file as it is.
    pub(crate) fn release(&self) {
        // What fails here ends with the process.
        let _ = self.file.lock(FlockOperation::Unlock);
    }

    /// For the one who makes the checkpoints: what is read here may be older than the pages otherwise.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, buffer)?;
        patch(&self.committed.read().pages, offset, buffer);
        Ok(())
    }

    pub(super) fn page(&self, number: u64) -> io::Result<Page> {
        if let Some(page) = self.committed.read().pages.get(&number) {
            return Ok(Page::clone(page));
        }
        let mut bytes = Box::new([0; PAGE]);
        self.file.read(number * PAGE as u64, &mut bytes[..])?;
        Ok(Page::clean(bytes))
    }

    fn overlay(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, within, from, len) in pieces(offset, bytes.len()) {
            let mut page = self.page(number)?;
            page.write(within, &bytes[from..from + len]);
            self.committed.get_mut().pages.insert(number, Arc::new(page));
        }
        Ok(())
    }

    /// Finds the signature, and mends the one that an interrupted checkpoint left.
    fn find_signature(&mut self, has_log: bool) -> Result<(), MediumError> {
        let end = self.end();
        let places = std::iter::once(0).chain((9..63).map(|power| 1 << power));
        for place in places.take_while(|place| place + SIGNATURE.len() as u64 <= end) {
            let mut found = [0; SIGNATURE.len()];
            self.read(place, &mut found)?;
            let mut below = [0; SIGNATURE.len()];
            self.file.read(place, &mut below)?;
            let unfinished = below != SIGNATURE && is_mark(&below);
            if unfinished {
                if !has_log {
                    return Err(MediumError::Unfinished);
                }
                self.overlay(place, &SIGNATURE)?;
            }
            if found == SIGNATURE || unfinished {
                self.signature = place;
                return Ok(());
            }
        }
        Ok(())
    }
}
