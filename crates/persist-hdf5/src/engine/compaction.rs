//! The file is exchanged for one without room that holds nothing.

use std::sync::Arc;

use persist_core::Result;

use super::Engine;
use crate::compaction::{Compacted, Fresh, build, install, is_due, unused};
use crate::error::system;
use crate::parts::remove;
use crate::report::Report;
use crate::site::compacting;

impl Engine {
    /// Compacts the file if much of it holds nothing.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub(crate) fn compact_if_due(&mut self) -> Result<Option<Compacted>> {
        let (end, unused) = self.room();
        // A file that is cut in another way than it should be is made anew.
        let recut = self.compact_at < 100
            && self.site.medium.parts().part_len().is_some() != self.max_file_size.is_some();
        match recut || is_due(end, unused, self.unused, self.compact_at) {
            true => self.compact().map(Some),
            false => Ok(None),
        }
    }

    /// How long the file is, and about how much of it holds nothing.
    fn room(&self) -> (u64, u64) {
        let index = self.shared.index.read();
        let (end, (keys, bytes)) = (index.medium().end(), index.size());
        (end, unused(end, keys, bytes))
    }

    /// Writes everything into a new file, which takes the place of the old one.
    ///
    /// # Errors
    /// What the library and the disk say; the old file stays then.
    pub(crate) fn compact(&mut self) -> Result<Compacted> {
        self.report().admit(&self.shared.descriptor, "maintain")?;
        // The log is the old file's: nothing of it may be left.
        if !self.checkpoint()? {
            return Ok(Compacted::Busy);
        }
        if let Some(why) = self.odd {
            return Ok(Compacted::Refused(why));
        }
        if !self.transfers.is_empty() {
            return Ok(Compacted::Refused("a large value is being stored; try again later"));
        }
        let Some(old) = &self.file else { return Err(self.ended("maintain")) };
        let before = self.site.medium.end();
        let Fresh { medium, session, file, found } =
            build(&self.shared.descriptor, &self.site, old, self.max_file_size)?;
        let moved = self.shared.index.read().moved(Arc::clone(&medium), found.records);
        let Some(index) = moved else {
            drop(file);
            let _ = remove(&compacting(&self.site.path));
            return Ok(Compacted::Refused("the copy is not the same; `verify` says what is damaged"));
        };
        let installed = install(&self.site.path).map_err(|error| {
            // Whether the new file has the name is unknown, and so is which of the two the next change belongs to.
            self.report().fail(&error);
            system(
                self.descriptor(),
                "maintain",
                "the compacted file cannot take the place of the old one",
                error,
            )
        })?;
        if !installed {
            drop(file);
            let _ = remove(&compacting(&self.site.path));
            return Ok(Compacted::Refused("this file system cannot exchange two folders in one step"));
        }
        session.lock().take_log(&mut self.site.session.lock());
        self.site.session.lock().forget();
        *self.shared.index.write() = index;
        drop(self.file.replace(file));
        self.site.medium.release();
        (self.site.medium, self.site.session) = (medium, session);
        self.groups = found.groups;
        self.unused = self.room().1;
        Report::count(&self.report().compactions, 1);
        Ok(Compacted::Done { before, after: self.site.medium.end() })
    }
}
