//! The file and its log where they lie: found, made, and kept from others who would write.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use persist_core::{Descriptor, ErrorKind, Result, StorageError};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::system;
use crate::ffi::SharedSession;
use crate::log::{Log, LogError, Record};
use crate::medium::{Medium, MediumError, Session};
use crate::parts::{self, Parts, first_of};

/// What is added to the name of the file for its log.
const LOG: &str = "-log";

/// What is added to its name for the compacted one that is being made.
const COMPACTING: &str = "-compacting";

/// How long to wait for somebody who has the file for a moment only.
const PATIENCE: Duration = Duration::from_millis(300);

/// An opened file.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) path: PathBuf,
    pub(crate) medium: Arc<Medium>,
    pub(crate) session: SharedSession,
    /// True if there was nothing yet.
    pub(crate) is_new: bool,
    writable: bool,
}

impl Site {
    /// Opens or makes the file and its log, and keeps everybody else from writing to them; a new file is cut into parts of
    /// `limit` bytes, if there is one.
    ///
    /// # Errors
    /// `Locked` if somebody else writes; `Corruption`, and what the disk says.
    pub(crate) fn open(
        descriptor: &Descriptor,
        path: PathBuf,
        limit: Option<u64>,
        strict: bool,
    ) -> Result<Self> {
        // Beside the file itself, not beside a link to it.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let fail = |what: &str, error: io::Error| {
            system(descriptor, "open", &format!("{what} {}", path.display()), error)
        };
        make_folders(folder(&path)).map_err(|error| fail("the folder cannot be made for", error))?;
        let log_file = lock_log(descriptor, &path)?;
        let (log, records) = Log::open(log_file).map_err(|error| log_error(descriptor, &path, error))?;
        if !records.is_empty() && !first_of(&path).exists() {
            let message = format!(
                "{} is missing, but its log {} holds changes; put the file back beside it, or remove the log",
                path.display(),
                log_of(&path).display()
            );
            return Err(descriptor.error(ErrorKind::Corruption, "open", message));
        }
        parts::remove(&compacting(&path))
            .map_err(|error| fail("cannot remove what was left beside", error))?;
        let file = Parts::open(&path, limit).map_err(|error| fail("cannot open", error))?;
        if !lock_shared(&file).map_err(|error| fail("cannot lock", error))? {
            return Err(locked(descriptor, &path, "another program has it open for writing"));
        }
        sync_folder(folder(&path)).map_err(|error| fail("cannot sync the folder of", error))?;
        // What a process left that died: from here on all that is in the file is on the disk.
        file.sync().map_err(|error| fail("cannot sync", error))?;
        let is_new = records.is_empty() && file.len().map_err(|error| fail("cannot read", error))? == 0;
        Self::over(descriptor, path, file, (Some(log), records), strict, is_new)
    }

    /// Opens the file for reading as it is at this moment. Nobody is kept from writing to it.
    ///
    /// # Errors
    /// `InvalidConfig` if it is not there; `Locked`, `Corruption`, and what the disk says.
    pub(crate) fn open_to_read(descriptor: &Descriptor, path: PathBuf) -> Result<Self> {
        // Beside the file itself, not beside a link to it.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let fail = |what: &str, error: io::Error| {
            system(descriptor, "open", &format!("{what} {}", path.display()), error)
        };
        loop {
            let file = Parts::open_to_read(&path).map_err(|error| fail("cannot open", error))?;
            if !lock_shared(&file).map_err(|error| fail("cannot lock", error))? {
                return Err(locked(descriptor, &path, "another program has it open for writing"));
            }
            // While the lock is held no checkpoint takes place, and the log only grows.
            let records = match File::open(log_of(&path)) {
                Ok(log) => Log::open(log).map_err(|error| log_error(descriptor, &path, error))?.1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(fail("cannot open the log of", error)),
            };
            // If a compacted file has taken its place meanwhile, the log is that one's.
            let file = file.find_others(&path).map_err(|error| fail("cannot open", error))?;
            if file.is_at(&path).map_err(|error| fail("cannot read", error))? {
                return Self::over(descriptor, path, file, (None, records), false, false);
            }
        }
    }

    fn over(
        descriptor: &Descriptor,
        path: PathBuf,
        file: Parts,
        (log, records): (Option<Log>, Vec<Record>),
        strict: bool,
        is_new: bool,
    ) -> Result<Self> {
        let medium = Medium::new(file, records).map_err(|error| match error {
            MediumError::Io(error) => {
                system(descriptor, "open", &format!("cannot read {}", path.display()), error)
            }
            MediumError::Unfinished => {
                let message = format!(
                    "{}: {error}; put its log {} back beside it, or restore it from a backup",
                    path.display(),
                    log_of(&path).display()
                );
                descriptor.error(ErrorKind::Corruption, "open", message)
            }
        })?;
        let (medium, writable) = (Arc::new(medium), log.is_some());
        let session = Arc::new(Mutex::new(Session::new(Arc::clone(&medium), log, strict)));
        Ok(Self { path, medium, session, is_new, writable })
    }

    /// True unless it was opened for reading only.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Leaves no log beside a file that could not be opened, unless there is something in it.
    pub(crate) fn tidy(&self) {
        if self.is_writable() && self.session.lock().is_settled() {
            // It is empty; whoever comes next makes use of it.
            let _ = self.remove_log();
        }
    }

    /// Removes the log, which must be empty.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn remove_log(&self) -> io::Result<()> {
        std::fs::remove_file(log_of(&self.path))
    }
}

/// The log of a file.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(LOG);
    PathBuf::from(name)
}

pub(crate) fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

/// Opens the log and locks it: whoever holds that lock is the one who writes.
fn lock_log(descriptor: &Descriptor, path: &Path) -> Result<File> {
    let log = log_of(path);
    let fail = |error: io::Error| system(descriptor, "open", &format!("the log {}", log.display()), error);
    loop {
        let file = writable().open(&log).map_err(fail)?;
        patiently(|| flock(&file, FlockOperation::NonBlockingLockExclusive))
            .map_err(fail)?
            .ok_or_else(|| locked(descriptor, path, "another storage has it open for writing"))?;
        // Whoever closed it last may have removed it meanwhile.
        if is_named(&file, &log).map_err(fail)? {
            return Ok(file);
        }
    }
}

/// True if a path leads to an open file.
pub(crate) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    let named = std::fs::metadata(path);
    Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())))
}

/// Where a compacted file is made, before it takes the place of the old one.
pub(crate) fn compacting(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(COMPACTING);
    PathBuf::from(name)
}

/// Removes a file that may not be there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a lock; `None`: somebody else has it, and did not give it back soon.
fn patiently(lock: impl Fn() -> std::result::Result<(), Errno>) -> io::Result<Option<()>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match lock() {
            Ok(()) => return Ok(Some(())),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Keeps those out who would write to a file; false if there are some.
pub(crate) fn lock_shared(file: &Parts) -> io::Result<bool> {
    patiently(|| file.lock(FlockOperation::NonBlockingLockShared)).map(|locked| locked.is_some())
}

fn locked(descriptor: &Descriptor, path: &Path, why: &str) -> StorageError {
    let message = format!("{}: {why}; close it there first, or open it here with read_only", path.display());
    descriptor.error(ErrorKind::Locked, "open", message)
}

fn log_error(descriptor: &Descriptor, path: &Path, error: LogError) -> StorageError {
    let log = log_of(path);
    match error {
        LogError::Io(error) => system(descriptor, "open", &format!("cannot read {}", log.display()), error),
        LogError::Damaged(what) => {
            let message = format!(
                "{}: {what}; restore the file from a backup, or remove the log to go on without the changes in it",
                log.display()
            );
            descriptor.error(ErrorKind::Corruption, "open", message)
        }
    }
}

pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a folder and those above it; each name is on the disk when this returns.
fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make_folders(folder(path))?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(folder(path)),
    }
}

/// Forces the names in a folder to the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
