//! The one who writes: changes lie over the file until they are committed.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Medium;
use crate::log::{AppendError, Frame, Log};
use crate::pages::{PAGE, Page, PageSet, Pages, patch, pieces};

/// Data of fewer bytes go through the log also where they could be written directly: one fsync is cheaper than two.
const DIRECT: usize = 64 << 10;

/// How much is compared in one go with what is there: it stays in the cache of a core.
const COMPARED: usize = 64 << 10;

/// Why a commit or a checkpoint did not take place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// It did not take place.
    #[error("{0}")]
    Undone(io::Error),
    /// A sync failed: nobody knows what is on the disk.
    #[error("{0}")]
    Sync(io::Error),
    /// Another program took the file for itself.
    #[error("another program has opened the file for writing")]
    Taken,
}

/// The one who writes: what the library sees, and what becomes of its writes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) medium: Arc<Medium>,
    /// `None`: for reading only.
    pub(super) log: Option<Log>,
    /// Forces commits to the disk.
    strict: bool,
    /// What was written since the last commit.
    pending: Pages,
    /// Pages that the file, as it was last checkpointed, does not use.
    pub(super) free: PageSet,
    /// Pages that were written directly since the last commit.
    direct: PageSet,
    /// How long the file was at its last checkpoint: readers in other processes count on so much.
    pub(super) settled: u64,
    /// How far the library has reserved room.
    reserved: u64,
    /// The file as the library sees it ends here.
    end: u64,
    /// Takes writes and forgets them: what is not committed is being given up.
    forgetting: bool,
    /// Why the library was refused something.
    failure: Option<io::Error>,
    /// Writes into the file at once: nobody needs it before it is complete.
    unguarded: bool,
}

impl Session {
    /// Begins on a medium.
    pub(crate) fn new(medium: Arc<Medium>, log: Option<Log>, strict: bool) -> Self {
        let end = medium.end();
        let settled = medium.file.len().unwrap_or(end);
        let mut free = PageSet::default();
        if medium.overlaid() == 0 {
            free.insert(beyond(end));
        }
        Self {
            medium,
            log,
            strict,
            pending: Pages::default(),
            free,
            direct: PageSet::default(),
            settled,
            reserved: 0,
            end,
            forgetting: false,
            failure: None,
            unguarded: false,
        }
    }

    /// Begins on a file that counts only when it is complete.
    pub(crate) fn unguarded(medium: Arc<Medium>) -> Self {
        Self { unguarded: true, ..Self::new(medium, None, false) }
    }

    /// Takes the log over from another session on the same path, whose file has everything.
    pub(crate) fn take_log(&mut self, other: &mut Self) {
        self.log = other.log.take();
        self.strict = other.strict;
    }

    /// Forces the file itself to the disk, as long as the library has made it.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.medium.file.set_len(self.end)?;
        self.medium.file.sync_all()
    }

    /// Reads what was written last.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.read(offset, buffer)?;
        patch(&self.pending, offset, buffer);
        Ok(())
    }

    /// Writes; visible to nobody else before the commit.
    ///
    /// The library is never told of a failure, because it is not at its best when it cannot write: from then on everything is
    /// taken and forgotten, and the commit fails.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if self.forgetting {
            return;
        }
        if let Err(error) = self.put(offset, bytes) {
            self.fail(error);
            self.forgetting = true;
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.end = self.end.max(offset.saturating_add(bytes.len() as u64));
        if self.unguarded {
            return self.medium.file.write(offset, bytes);
        }
        let page = PAGE as u64;
        let whole = offset.div_ceil(page)..(offset + bytes.len() as u64) / page;
        if bytes.len() < DIRECT || whole.is_empty() {
            return self.overlay(offset, bytes);
        }
        for run in self.runs(whole.clone()) {
            let (start, end) = (run.pages.start * page, run.pages.end * page);
            let part = &bytes[(start - offset) as usize..(end - offset) as usize];
            match run.direct {
                true => self.write_directly(run.pages, part)?,
                false => self.overlay_changed(start, part)?,
            }
        }
        let (head, tail) = ((whole.start * page - offset) as usize, (whole.end * page - offset) as usize);
        self.overlay(offset, &bytes[..head])?;
        self.overlay(whole.end * page, &bytes[tail..])
    }

    /// Cuts pages into runs that may be written directly, or may not.
    fn runs(&self, pages: Range<u64>) -> Vec<Run> {
        let committed = self.medium.committed.read();
        let mut runs: Vec<Run> = Vec::new();
        for page in pages {
            let direct = self.free.contains(page) && !committed.pages.contains_key(&page);
            match runs.last_mut() {
                Some(run) if run.direct == direct => run.pages.end = page + 1,
                _ => runs.push(Run { pages: page..page + 1, direct }),
            }
        }
        runs
    }

    fn write_directly(&mut self, pages: Range<u64>, bytes: &[u8]) -> io::Result<()> {
        self.medium.file.write(pages.start * PAGE as u64, bytes)?;
        self.pending.retain(|page, _| !pages.contains(page));
        self.direct.insert(pages);
        Ok(())
    }

    /// As [`overlay`](Self::overlay) for many pages, of which few may differ from what is there: the others are not touched.
    fn overlay_changed(&mut self, mut offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut before = [0; COMPARED];
        for bytes in bytes.chunks(COMPARED) {
            let before = &mut before[..bytes.len()];
            self.read(offset, before)?;
            for (number, _, from, len) in pieces(offset, bytes.len()) {
                let (page, place) = (number * PAGE as u64, from..from + len);
                if self.free.contains(number) || before[place.clone()] != bytes[place.clone()] {
                    self.overlay(page.max(offset), &bytes[place])?;
                }
            }
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn overlay(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, within, from, len) in pieces(offset, bytes.len()) {
            if !self.pending.contains_key(&number) {
                let mut page = self.medium.page(number)?;
                page.dirty = 0..0;
                self.pending.insert(number, Arc::new(page));
            }
            // What lies in a free place may have been left by a change that was undone, and be on no disk.
            let unused = self.free.contains(number);
            if let Some(page) = self.pending.get_mut(&number).map(Arc::make_mut) {
                let bytes = &bytes[from..from + len];
                if unused { page.write(within, bytes) } else { page.update(within, bytes) }
            }
        }
        Ok(())
    }

    /// How far the library has reserved room.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Lets the library reserve room, or give it back.
    pub(crate) fn reserve(&mut self, end: u64) {
        self.reserved = end;
    }

    /// Where the file as the library sees it ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Lets the file end where the room ends that the library has reserved.
    pub(crate) fn truncate(&mut self) {
        if !self.forgetting {
            self.end = self.reserved;
        }
    }

    /// Remembers why the library was refused something; the first reason stays.
    pub(crate) fn fail(&mut self, error: io::Error) {
        self.failure.get_or_insert(error);
    }

    /// Why the library was refused something since the last look.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// From here on, writes are taken and forgotten; the library can be made to close a file that is half changed.
    pub(crate) fn forget(&mut self) {
        self.forgetting = true;
    }

    /// Goes back to the last commit.
    pub(crate) fn roll_back(&mut self) {
        let end = self.medium.end().max(self.settled);
        if self.medium.file.len().is_ok_and(|len| len > end) {
            // What was written directly takes room on a disk that may be full. If it stays, it is written over later.
            let _ = self.medium.file.set_len(end);
        }
        self.pending.clear();
        self.direct = PageSet::default();
        self.end = self.medium.end();
        self.forgetting = false;
        self.failure = None;
    }

    /// How long the log is, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::len)
    }

    /// Makes what was written durable. It is seen by readers with [`publish`](Self::publish).
    ///
    /// # Errors
    /// If it did not take place, or nobody knows.
    pub(crate) fn commit(&mut self) -> Result<(), CommitError> {
        if let Some(error) = self.failure.take() {
            return Err(self.unwritten(error));
        }
        let Some(log) = &mut self.log else {
            return Err(CommitError::Undone(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)));
        };
        if self.strict && !self.direct.is_empty() {
            self.medium.file.sync().map_err(CommitError::Sync)?;
        }
        let mut changed: Vec<(&u64, &Arc<Page>)> = self.pending.iter().collect();
        changed.sort_unstable_by_key(|(number, _)| **number);
        let frames: Vec<Frame<'_>> = changed
            .into_iter()
            .filter(|(_, page)| !page.dirty.is_empty())
            .map(|(number, page)| Frame {
                offset: *number * PAGE as u64 + page.dirty.start as u64,
                bytes: &page.bytes[page.dirty.clone()],
            })
            .collect();
        if log.is_unbegun() {
            log.reset(0).map_err(CommitError::Undone)?;
        }
        log.append(self.end, &frames, self.strict).map_err(|error| match error {
            AppendError::Write(error) => CommitError::Undone(error),
            AppendError::Sync(error) => CommitError::Sync(error),
        })
    }

    /// Lets readers see what was committed.
    pub(crate) fn publish(&mut self) {
        let mut committed = self.medium.committed.write();
        for (number, mut page) in self.pending.drain().filter(|(_, page)| !page.dirty.is_empty()) {
            if let Some(before) = committed.pages.get(&number) {
                // What differs from the file since the last checkpoint.
                Arc::make_mut(&mut page).mark(&before.dirty);
            }
            committed.pages.insert(number, page);
        }
        committed.end = self.end;
        for pages in std::mem::take(&mut self.direct).iter() {
            self.free.remove(pages);
        }
    }

    /// Forces to the disk what was committed without that.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn sync(&self) -> Result<(), CommitError> {
        self.medium.file.sync().map_err(CommitError::Sync)?;
        match &self.log {
            Some(log) => log.sync().map_err(CommitError::Sync),
            None => Ok(()),
        }
    }

    /// What it means that the file cannot be written.
    pub(super) fn unwritten(&self, error: io::Error) -> CommitError {
        match self.medium.file.has_failed() {
            true => CommitError::Sync(error),
            false => CommitError::Undone(error),
        }
    }
}

/// Pages that lie side by side.
struct Run {
    pages: Range<u64>,
    direct: bool,
}

/// All pages beyond the end of a file.
pub(super) fn beyond(end: u64) -> Range<u64> {
    end.div_ceil(PAGE as u64)..u64::MAX / PAGE as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use super::*;
    use crate::parts::Parts;

    /// What the records of a log change, in order: offset and length.
    fn logged(path: &std::path::Path) -> Vec<(u64, usize)> {
        let (_, records) = Log::open(std::fs::File::open(path).unwrap()).unwrap();
        records
            .iter()
            .flat_map(|record| &record.frames)
            .map(|(offset, bytes)| (*offset, bytes.len()))
            .collect()
    }

    fn commit(session: &mut Session) {
        session.commit().unwrap();
        session.publish();
    }

    #[test]
    fn only_what_differs_is_logged_but_in_free_places_all_of_it() {
        let place = tempfile::tempdir().unwrap();
        let parts = Parts::open(&place.path().join("file"), None).unwrap();
        let path = place.path().join("log");
        let log =
            std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let medium = Arc::new(Medium::new(parts, Vec::new()).unwrap());
        let mut session = Session::new(medium, Some(Log::open(log).unwrap().0), true);
        session.write(0, &[7; 256 << 10]);
        commit(&mut session);
        let free = (64 << 10)..(192 << 10);
        assert!(session.checkpoint(std::slice::from_ref(&free), 0).unwrap());
        // What is on the disk for good.
        session.write(100, &[7, 7, 8, 7, 9, 7]);
        commit(&mut session);
        assert_eq!(logged(&path), [(102, 3)]);
        // What a change that was undone left in a free place may be on no disk.
        session.write(64 << 10, &[9; 128 << 10]);
        session.forget();
        session.roll_back();
        session.write((64 << 10) + 10, &[9; 1000]);
        commit(&mut session);
        assert_eq!(logged(&path), [(102, 3), ((64 << 10) + 10, 1000)]);
        // Of a large write over what is there, too.
        let mut large = vec![7; DIRECT];
        (large[5000], large[9000]) = (8, 9);
        session.write(192 << 10, &large);
        large[9000] = 7;
        session.write(192 << 10, &large);
        commit(&mut session);
        assert_eq!(logged(&path)[2..], [((192 << 10) + 5000, 1), ((192 << 10) + 9000, 1)]);
        let mut read = vec![0; DIRECT];
        session.read(192 << 10, &mut read).unwrap();
        assert_eq!(read, large);
    }
}
