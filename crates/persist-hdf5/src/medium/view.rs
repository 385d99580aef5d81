//! Reading what was committed, while more is written.

use std::io;
use std::sync::Arc;

use super::Medium;
use crate::pages::{Pages, patch};

/// Committed bytes as they were at one moment.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) medium: Arc<Medium>,
    pub(super) pages: Pages,
}

impl View {
    /// How long the committed file is.
    pub(crate) fn end(&self) -> u64 {
        self.medium.end()
    }

    /// Reads them; what lies beyond the end is zero. May wait for the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.file.read(offset, buffer)?;
        patch(&self.pages, offset, buffer);
        Ok(())
    }

    /// Reads them if that needs no disk; false if it would.
    pub(crate) fn try_read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        if !self.medium.file.try_read(offset, buffer) {
            return false;
        }
        patch(&self.pages, offset, buffer);
        true
    }
}
