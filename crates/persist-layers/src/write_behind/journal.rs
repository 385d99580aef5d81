use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use persist_core::{ErrorKind, Key, Result, StorageError, Version};

use super::config::JournalDurability;
use super::frame::{self, Found, Read};
use super::queue::Staged;

/// What every file begins with; after it stand the greatest version of what came before, and a CRC-32 of both.
const MAGIC: [u8; 16] = *b"persist-behind/1";

/// Bytes before the first frame.
const HEADER: usize = 28;

/// The changes that wait, on the disk: files that are only ever appended to, and removed, the oldest first, when everything in them
/// is below.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    durability: JournalDurability,
    segment_bytes: u64,
    tail: Mutex<Tail>,
    /// Whoever has it writes; the others find that theirs was written with his.
    writer: Arc<tokio::sync::Mutex<Writer>>,
    /// Held as long as the journal is open.
    lock: Mutex<Option<File>>,
}

/// Where the journal ends, with what is not yet written.
#[derive(Debug)]
struct Tail {
    /// Frames to write, each run of them with its file.
    waiting: Vec<(u64, Vec<u8>)>,
    /// How many frames there have been.
    appended: u64,
    /// How many of them have reached the disk.
    settled: u64,
    segment: u64,
    /// How long the last file is with what waits, and how much of it has reached the disk.
    length: u64,
    synced: u64,
    last_version: Option<Version>,
    /// The oldest file that is there.
    oldest: u64,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

#[derive(Debug)]
struct Writer {
    segment: u64,
    file: File,
}

/// What an opening found.
pub(super) struct Replayed {
    /// The last change of each key, with the file that it is in, in the order of the changes.
    pub(super) changes: Vec<(Key, Read, u64)>,
    /// No version up to this may be given again.
    pub(super) last_version: Option<Version>,
}

/// A frame that was appended: the how manieth since the opening, and in which file. Zero: none was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    pub(super) number: u64,
    pub(super) segment: u64,
}

impl Journal {
    /// Opens a journal, or makes it; blocks.
    pub(super) fn open(
        folder: &Path,
        durability: JournalDurability,
        segment_bytes: u64,
        patience: Duration,
    ) -> Result<(Self, Replayed)> {
        let failed = |error| cannot("be opened", folder, &error);
        make_folder(folder).map_err(failed)?;
        let lock = lock(folder, patience)?;
        let mut segments = segments(folder).map_err(failed)?;
        segments.sort_unstable();
        let mut replayed = Replayed { changes: Vec::new(), last_version: None };
        for (index, segment) in segments.iter().enumerate() {
            replay(folder, *segment, index + 1 == segments.len(), &mut replayed)?;
        }
        // What was cut off is not appended to: a new file begins.
        let next = segments.last().map_or(1, |last| last + 1);
        let file = create(folder, next, replayed.last_version).map_err(failed)?;
        let tail = Tail {
            waiting: Vec::new(),
            appended: 0,
            settled: 0,
            segment: next,
            length: HEADER as u64,
            synced: HEADER as u64,
            last_version: replayed.last_version,
            oldest: segments.first().copied().unwrap_or(next),
            failed: None,
        };
        let journal = Self {
            folder: folder.to_owned(),
            durability,
            segment_bytes,
            tail: Mutex::new(tail),
            writer: Arc::new(tokio::sync::Mutex::new(Writer { segment: next, file })),
            lock: Mutex::new(Some(lock)),
        };
        Ok((journal, replayed))
    }

    /// Appends changes that belong together; they are on the disk when [`settle`](Self::settle) says so.
    ///
    /// # Errors
    /// `Unavailable` once something could not be written.
    pub(super) fn append(&self, staged: &[Staged]) -> Result<Position> {
        let mut tail = self.tail.lock();
        if let Some(why) = &tail.failed {
            return Err(StorageError::new(ErrorKind::Unavailable, why.clone()));
        }
        if tail.length >= self.segment_bytes {
            tail.segment += 1;
            (tail.length, tail.synced) = (HEADER as u64, 0);
        }
        let (segment, synced) = (tail.segment, tail.synced);
        if tail.waiting.last().is_none_or(|(last, _)| *last != segment) {
            tail.waiting.push((segment, Vec::new()));
        }
        if let Some((_, frames)) = tail.waiting.last_mut() {
            let before = frames.len();
            frame::append(frames, synced, staged);
            let grown = (frames.len() - before) as u64;
            tail.length += grown;
        }
        let versions = staged.iter().map(|staged| staged.change.version());
        tail.last_version = tail.last_version.max(versions.max());
        tail.appended += 1;
        Ok(Position { number: tail.appended, segment })
    }

    /// Waits until a frame has reached the disk. Whoever comes first writes and syncs what all have appended.
    ///
    /// # Errors
    /// `Unavailable`, and that the outcome is unknown, if it could not be written.
    pub(super) async fn settle(self: &Arc<Self>, position: Position) -> Result<()> {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        if self.tail.lock().settled >= position.number {
            return Ok(());
        }
        let journal = Arc::clone(self);
        // To its end, whatever becomes of the caller.
        let written = tokio::task::spawn_blocking(move || journal.write(writer)).await;
        written.map_err(StorageError::broken_task)?.map_err(StorageError::with_outcome_unknown)
    }

    fn write(&self, mut writer: tokio::sync::OwnedMutexGuard<Writer>) -> Result<()> {
        let (waiting, appended, version) = {
            let mut tail = self.tail.lock();
            if let Some(why) = &tail.failed {
                return Err(StorageError::new(ErrorKind::Unavailable, why.clone()));
            }
            (std::mem::take(&mut tail.waiting), tail.appended, tail.last_version)
        };
        let done = waiting.iter().try_for_each(|(segment, frames)| {
            if *segment != writer.segment {
                // Only the last file may end in the middle of something.
                writer.file.sync_data()?;
                writer.file = create(&self.folder, *segment, version)?;
                writer.segment = *segment;
            }
            writer.file.write_all(frames)
        });
        let done = done.and_then(|()| self.sync(&writer.file)).and_then(|()| writer.file.metadata());
        let mut tail = self.tail.lock();
        match done {
            Ok(metadata) => {
                tail.settled = appended;
                // What was not synced proves nothing.
                if tail.segment == writer.segment && self.durability == JournalDurability::Strict {
                    tail.synced = metadata.len();
                }
                Ok(())
            }
            Err(error) => {
                let why = format!(
                    "the journal in {} could not be written ({error}); nothing more is taken until the storage is opened \
                     anew, because nobody knows what has reached the disk",
                    self.folder.display()
                );
                tail.failed = Some(why.clone());
                Err(StorageError::new(ErrorKind::Unavailable, why).with_source(error))
            }
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        match self.durability {
            JournalDurability::Strict => file.sync_data(),
            JournalDurability::Relaxed => Ok(()),
        }
    }

    /// Sees to it that all that was appended has reached the disk; gives how many frames have. `None`: it cannot be written any more.
    pub(super) async fn settle_all(self: &Arc<Self>) -> Option<u64> {
        let last = {
            let tail = self.tail.lock();
            Position { number: tail.appended, segment: tail.segment }
        };
        self.settle(last).await.ok().map(|()| last.number)
    }

    /// Why nothing can be written any more.
    pub(super) fn failure(&self) -> Option<String> {
        self.tail.lock().failed.clone()
    }

    /// The file that is appended to.
    pub(super) fn segment(&self) -> u64 {
        self.tail.lock().segment
    }

    /// True if there are files before the one that is still needed.
    pub(super) fn is_behind(&self, needed: u64) -> bool {
        self.tail.lock().oldest < needed
    }

    /// Removes the files before the one that is still needed.
    pub(super) async fn release(self: &Arc<Self>, needed: u64) -> Result<()> {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        let journal = Arc::clone(self);
        let removed = tokio::task::spawn_blocking(move || journal.remove_before(needed.min(writer.segment)));
        let removed = removed.await.map_err(StorageError::broken_task)?;
        removed.map_err(|error| cannot("be tidied up", &self.folder, &error))
    }

    /// The oldest file goes first: what is left must begin with the oldest change, or one that was undone would come back.
    fn remove_before(&self, end: u64) -> io::Result<()> {
        let mut oldest = self.tail.lock().oldest;
        while oldest < end {
            match fs::remove_file(path(&self.folder, oldest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => sync_folder(&self.folder)?,
            }
            oldest += 1;
            self.tail.lock().oldest = oldest;
        }
        Ok(())
    }

    /// Begins a new file, which says which versions were given, removes all others, and lets the journal go. Only when nothing
    /// waits and nothing more will.
    pub(super) async fn finish(self: &Arc<Self>) -> Result<()> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let journal = Arc::clone(self);
        let finished = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let lock = journal.lock.lock().take();
            let (segment, version) = {
                let mut tail = journal.tail.lock();
                if lock.is_none() || tail.length == HEADER as u64 || tail.failed.is_some() {
                    return Ok(());
                }
                // What was not yet written is below by now.
                tail.waiting.clear();
                tail.segment += 1;
                (tail.length, tail.synced) = (HEADER as u64, 0);
                (tail.segment, tail.last_version)
            };
            writer.file = create(&journal.folder, segment, version)?;
            writer.segment = segment;
            journal.remove_before(segment)?;
            drop(lock);
            Ok(())
        });
        let finished = finished.await.map_err(StorageError::broken_task)?;
        finished.map_err(|error| cannot("be finished", &self.folder, &error))
    }
}

fn cannot(what: &str, folder: &Path, error: &io::Error) -> StorageError {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::AccessDenied,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Capacity,
        _ => ErrorKind::Unavailable,
    };
    StorageError::new(kind, format!("the journal in {} cannot {what}: {error}", folder.display()))
}

fn path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:016}.journal"))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Opens a file that its owner alone may read: values lie in it as they are.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn lock(folder: &Path, patience: Duration) -> Result<File> {
    let failed = |error| cannot("be locked", folder, &error);
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    let file = private(options).open(folder.join("lock")).map_err(failed)?;
    let end = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "the journal in {} is used by another storage that is open; close that one, or give each a journal of its own",
                    folder.display()
                );
                return Err(StorageError::new(ErrorKind::Locked, message));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// The numbers of the files that are there.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".journal"));
        found.extend(number.and_then(|digits| digits.parse::<u64>().ok()));
    }
    Ok(found)
}

/// Makes a file with its header. It is complete or, after a crash, shorter than a header.
fn create(folder: &Path, segment: u64, last_version: Option<Version>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = private(options.create_new(true).append(true)).open(path(folder, segment))?;
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&last_version.map_or(0, Version::as_u64).to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    file.write_all(&header)?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(file)
}

/// Reads a file of the journal. Only the last one may end in the middle of something.
fn replay(folder: &Path, segment: u64, is_last: bool, replayed: &mut Replayed) -> Result<()> {
    let path = path(folder, segment);
    let file = fs::read(&path).map_err(|error| cannot("be read", folder, &error))?;
    let file = Bytes::from(file);
    let damaged = |at: usize| {
        let message = format!(
            "the journal {} is damaged at byte {at}, in changes that were acknowledged; restore it from a backup, or move it \
             away to go on without the changes in it",
            path.display()
        );
        Err(StorageError::new(ErrorKind::Corruption, message))
    };
    let Some(version) = header(&file) else {
        // Nothing is appended to a file before its header has reached the disk.
        let unborn = is_last && !frame::holds_any(&file);
        return if unborn { cut(folder, &path, 0) } else { damaged(0) };
    };
    replayed.last_version = replayed.last_version.max(Some(version));
    let mut at = HEADER;
    loop {
        match frame::read(&file, at) {
            Found::End => return Ok(()),
            Found::Broken if is_last && !frame::was_synced(&file, at) => return cut(folder, &path, at),
            Found::Broken => return damaged(at),
            Found::Frame { changes, next } => {
                at = next;
                for (key, read) in changes {
                    let version = match &read {
                        Read::Put(entry) => entry.metadata.version,
                        Read::Delete(version) => *version,
                    };
                    replayed.last_version = replayed.last_version.max(Some(version));
                    replayed.changes.push((key, read, segment));
                }
            }
        }
    }
}

/// Cuts off what was never acknowledged, so that it stands in nobody's way when it is no longer the last file.
fn cut(folder: &Path, path: &Path, at: usize) -> Result<()> {
    let cut = || match at {
        0 => fs::remove_file(path).and_then(|()| sync_folder(folder)),
        _ => {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(at as u64).and_then(|()| file.sync_all())
        }
    };
    cut().map_err(|error| cannot("be mended", folder, &error))
}

fn header(file: &[u8]) -> Option<Version> {
    let header = file.get(..HEADER)?;
    let crc = u32::from_le_bytes(header[24..].try_into().ok()?);
    let version = u64::from_le_bytes(header[16..24].try_into().ok()?);
    (header[..16] == MAGIC && crc32fast::hash(&header[..24]) == crc).then_some(Version::from_u64(version))
}
