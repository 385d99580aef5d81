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

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::log::{AppendError, Frame, Log, Record};
use crate::pages::{PAGE, Page, PageSet, Pages, patch, pieces};

/// How an HDF5 file begins, at byte 0, 512, 1024, 2048, …
const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// What stands in its place during a checkpoint.
const UNFINISHED: [u8; 8] = *b"\x89PERSIST";

/// Data of fewer bytes go through the log also where they could be written directly: one fsync is cheaper than two.
const DIRECT: usize = 64 << 10;

/// The file, and what was committed and is not in it yet; shared by the writer and all readers.
#[derive(Debug)]
pub(crate) struct Medium {
    file: File,
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
    pub(crate) fn new(file: File, records: Vec<Record>) -> Result<Self, MediumError> {
        let len = file.metadata()?.len();
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
        let _ = flock(&self.file, FlockOperation::Unlock);
    }

    /// For the one who makes the checkpoints: what is read here may be older than the pages otherwise.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        read_file(&self.file, offset, buffer)?;
        patch(&self.committed.read().pages, offset, buffer);
        Ok(())
    }

    fn page(&self, number: u64) -> io::Result<Page> {
        if let Some(page) = self.committed.read().pages.get(&number) {
            return Ok(Page::clone(page));
        }
        let mut bytes = Box::new([0; PAGE]);
        read_file(&self.file, number * PAGE as u64, &mut bytes[..])?;
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
            read_file(&self.file, place, &mut below)?;
            if below == UNFINISHED {
                if !has_log {
                    return Err(MediumError::Unfinished);
                }
                self.overlay(place, &SIGNATURE)?;
            }
            if found == SIGNATURE || below == UNFINISHED {
                self.signature = place;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Committed bytes as they were at one moment.
#[derive(Debug)]
pub(crate) struct View {
    medium: Arc<Medium>,
    pages: Pages,
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
        read_file(&self.medium.file, offset, buffer)?;
        patch(&self.pages, offset, buffer);
        Ok(())
    }

    /// Reads them if that needs no disk; false if it would.
    pub(crate) fn try_read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        use rustix::io::{ReadWriteFlags, preadv2};
        let len = buffer.len();
        let mut slices = [io::IoSliceMut::new(buffer)];
        let read = preadv2(&self.medium.file, &mut slices, offset, ReadWriteFlags::NOWAIT);
        if read != Ok(len) {
            return false;
        }
        patch(&self.pages, offset, buffer);
        true
    }
}

/// Reads from the file; beyond its end there are zeros.
fn read_file(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[done..].fill(0);
    Ok(())
}

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
    medium: Arc<Medium>,
    /// `None`: for reading only.
    log: Option<Log>,
    /// Forces commits to the disk.
    strict: bool,
    /// What was written since the last commit.
    pending: Pages,
    /// Pages that the file, as it was last checkpointed, does not use.
    free: PageSet,
    /// Pages that were written directly since the last commit.
    direct: PageSet,
    /// How long the file was at its last checkpoint: readers in other processes count on so much.
    settled: u64,
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
        let settled = medium.file.metadata().map_or(end, |file| file.len());
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
            return self.medium.file.write_all_at(bytes, offset);
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
                false => self.overlay(start, part)?,
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
        self.medium.file.write_all_at(bytes, pages.start * PAGE as u64)?;
        self.pending.retain(|page, _| !pages.contains(page));
        self.direct.insert(pages);
        Ok(())
    }

    fn overlay(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, within, from, len) in pieces(offset, bytes.len()) {
            if !self.pending.contains_key(&number) {
                let mut page = self.medium.page(number)?;
                page.dirty = 0..0;
                self.pending.insert(number, Arc::new(page));
            }
            if let Some(page) = self.pending.get_mut(&number) {
                Arc::make_mut(page).write(within, &bytes[from..from + len]);
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
        if self.medium.file.metadata().is_ok_and(|file| file.len() > end) {
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
            return Err(CommitError::Undone(error));
        }
        let Some(log) = &mut self.log else {
            return Err(CommitError::Undone(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)));
        };
        if self.strict && !self.direct.is_empty() {
            self.medium.file.sync_data().map_err(CommitError::Sync)?;
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
        for (number, mut page) in self.pending.drain() {
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
        self.medium.file.sync_data().map_err(CommitError::Sync)?;
        match &self.log {
            Some(log) => log.sync().map_err(CommitError::Sync),
            None => Ok(()),
        }
    }

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
        match flock(&self.medium.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            // The attempt may have cost us our own lock.
            Err(Errno::WOULDBLOCK) => self.share_file().map(|()| false),
            Err(error) => Err(CommitError::Undone(error.into())),
        }
    }

    /// Lets readers in, and keeps other writers out.
    fn share_file(&self) -> Result<(), CommitError> {
        match flock(&self.medium.file, FlockOperation::NonBlockingLockShared) {
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
            file.write_all_at(mark, self.medium.signature).map_err(CommitError::Undone)?;
            file.sync_data().map_err(CommitError::Sync)
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
            file.write_all_at(&page.bytes[page.dirty.clone()], start).map_err(CommitError::Undone)?;
        }
        file.set_len(committed.end).map_err(CommitError::Undone)?;
        file.sync_data().map_err(CommitError::Sync)?;
        mark(&SIGNATURE)
    }
}

/// Pages that lie side by side.
struct Run {
    pages: Range<u64>,
    direct: bool,
}

/// All pages beyond the end of a file.
fn beyond(end: u64) -> Range<u64> {
    end.div_ceil(PAGE as u64)..u64::MAX / PAGE as u64
}
