//! One place where errors of the operating system become errors of a storage.

use persist_core::{Descriptor, ErrorKind, StorageError};
use rustix::io::Errno;

/// What an error number means for a storage.
pub(crate) fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::FBIG
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM
        | Errno::MLINK => ErrorKind::Capacity,
        Errno::ACCESS | Errno::PERM => ErrorKind::AccessDenied,
        Errno::ROFS => ErrorKind::ReadOnly,
        Errno::LOOP | Errno::XDEV | Errno::ISDIR | Errno::NOTDIR => ErrorKind::Corruption,
        Errno::TIMEDOUT => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    }
}

fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC => "free some space on the disk, or inodes",
        Errno::DQUOT => "raise the quota or free some of it",
        Errno::FBIG => "raise the limit on file sizes (ulimit -f)",
        Errno::MFILE | Errno::NFILE => "raise the limit on open files (ulimit -n)",
        Errno::ACCESS | Errno::PERM => "give this user the right to the folder and its files",
        Errno::ROFS => "mount it writable, or open the storage with read_only",
        Errno::LOOP | Errno::XDEV => {
            "a symbolic link or another mount lies in the way, which persist never follows; remove it"
        }
        Errno::ISDIR | Errno::NOTDIR => {
            "something that persist did not make lies in the way; move it out of the folder"
        }
        Errno::IO => "the disk reports an error; check it and restore from a backup",
        _ => "check the folder and its disk",
    }
}

/// An error of the operating system, met while doing `what`.
pub(crate) fn system(
    descriptor: &Descriptor,
    operation: &'static str,
    what: &str,
    errno: impl Into<std::io::Error>,
) -> StorageError {
    let error = errno.into();
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    descriptor
        .error(kind_of(errno), operation, format!("{what}: {error}; {}", cure(errno)))
        .with_source(error)
}
