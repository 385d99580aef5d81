//! One place where errors of the operating system and damage become errors of a snapshot.

use std::io;
use std::path::Path;

use persist_core::{ErrorKind, StorageError};
use rustix::io::Errno;

/// An error of the operating system, met while doing `what` with a file or folder.
pub(crate) fn system(what: &str, path: &Path, error: impl Into<io::Error>) -> StorageError {
    let error = error.into();
    let (kind, cure) = match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => (ErrorKind::Capacity, "free some space"),
        Some(Errno::MFILE | Errno::NFILE) => {
            (ErrorKind::Capacity, "raise the limit on open files (ulimit -n)")
        }
        Some(Errno::ACCESS | Errno::PERM) => (ErrorKind::AccessDenied, "give this user the right to it"),
        Some(Errno::ROFS) => (ErrorKind::ReadOnly, "mount it writable or choose another folder"),
        Some(Errno::NOENT) => (ErrorKind::NotFound, "check the path"),
        _ => (ErrorKind::Unavailable, "check the folder and its disk"),
    };
    let message = format!("`{}` cannot be {what}: {error}; {cure}", path.display());
    StorageError::new(kind, message).with_source(error)
}

/// Something in a snapshot is not as it was written.
pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> StorageError {
    let message = format!("the snapshot `{}` is damaged: {what}; use another one", path.display());
    StorageError::new(ErrorKind::Corruption, message)
}
