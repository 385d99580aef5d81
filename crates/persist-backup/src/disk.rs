//! The few things that are done to folders, each of them durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use persist_core::Result;
use rustix::fs::{FlockOperation, OFlags, RenameFlags, flock, renameat_with};

use crate::error::system;

/// Forces a folder or file to the disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| system("forced to the disk", path, error))
}

/// Makes a folder and those above it, for the owner alone; each is on the disk with its name afterwards.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    make_folder(above)?;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(system("made", path, error)),
        _ => sync(above),
    }
}

/// The folder that something lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a new file for the owner alone.
pub(crate) fn create(path: &Path) -> Result<File> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| system("made", path, error))
}

/// Opens a regular file for reading; a link is refused and a FIFO does not hold it up.
pub(crate) fn open(path: &Path) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let failed = |error| system("read", path, error);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(crate::error::damaged(path, "it is no regular file"));
    }
    Ok(file)
}

/// Gives a folder its final name; it is an error if something has that name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE)
        .map_err(|error| system("renamed", from, error))?;
    sync(parent(to))
}

/// Locks a folder, shared by readers or alone; `None` if somebody else holds it. Dropping the file gives it back.
pub(crate) fn lock(path: &Path, alone: bool) -> Result<Option<File>> {
    let folder = File::open(path).map_err(|error| system("read", path, error))?;
    let operation = match alone {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    match flock(&folder, operation) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(system("locked", path, error)),
    }
}

/// The names in a folder, in order; one that is no text is damage.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let failed = |error| system("read", path, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.push(name.into_string().map_err(|_| crate::error::damaged(path, "a name in it is no text"))?);
    }
    names.sort_unstable();
    Ok(names)
}
