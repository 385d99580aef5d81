//! Why something cannot be read or written, and what that means for a storage.

use std::io;

use persist_core::{Descriptor, ErrorKind, Key, StorageError};
use rustix::io::Errno;

use crate::wire::Wrong;

/// Why a record cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is damaged.
    Damage(Wrong),
    /// A pack as a whole is damaged, or another file than it should be: what is wrong, in words.
    Pack(String),
    /// The operating system says so.
    System(io::Error),
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Self::Damage(wrong)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        // What should be there and is not, is damage.
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damage(Wrong("the file is shorter than it should be")),
            _ => Self::System(error),
        }
    }
}

impl Fault {
    /// As the error of a storage.
    pub(crate) fn into_error(
        self,
        descriptor: &Descriptor,
        operation: &'static str,
        key: Option<&Key>,
    ) -> StorageError {
        let error = match self {
            Self::Damage(wrong) => damage(descriptor, operation, wrong),
            Self::Pack(what) => {
                let message = format!("{what}; restore the folder of the packs from a backup");
                descriptor.error(ErrorKind::Corruption, operation, message)
            }
            Self::System(error) => system(descriptor, operation, "a pack cannot be read", error),
        };
        match key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }
}

/// What is stored is damaged.
pub(crate) fn damage(descriptor: &Descriptor, operation: &'static str, wrong: Wrong) -> StorageError {
    let message = format!(
        "the record in the pack is damaged ({}); restore it from a backup, or store or delete the key",
        wrong.0
    );
    descriptor.error(ErrorKind::Corruption, operation, message)
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            ErrorKind::Capacity
        }
        Errno::ACCESS | Errno::PERM => ErrorKind::AccessDenied,
        Errno::ROFS => ErrorKind::ReadOnly,
        Errno::NOTDIR | Errno::ISDIR => ErrorKind::InvalidConfig,
        _ => ErrorKind::Unavailable,
    }
}

fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC => "free some space on the disk, or inodes",
        Errno::DQUOT => "raise the quota or free some of it",
        Errno::FBIG => "raise the limit on file sizes (ulimit -f), or make pack_size smaller",
        Errno::MFILE | Errno::NFILE => "raise the limit on open files (ulimit -n)",
        Errno::ACCESS | Errno::PERM => "give this user the right to the folder and its files",
        Errno::ROFS => "mount it writable, or open the storage with read_only",
        Errno::NOTDIR | Errno::ISDIR => "pack_path must be a folder that is nothing but packs; correct it",
        Errno::IO => "the disk reports an error; check it and restore from a backup",
        _ => "check the folder and its disk",
    }
}

/// An error of the operating system, met while doing `what`.
pub(crate) fn system(
    descriptor: &Descriptor,
    operation: &'static str,
    what: &str,
    error: impl Into<io::Error>,
) -> StorageError {
    let error = error.into();
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    descriptor
        .error(kind_of(errno), operation, format!("{what}: {error}; {}", cure(errno)))
        .with_source(error)
}

/// An error of the operating system about a pack that is in no storage.
pub(crate) fn system_of(what: &str, error: io::Error) -> StorageError {
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let kind =
        if error.kind() == io::ErrorKind::NotFound { ErrorKind::InvalidConfig } else { kind_of(errno) };
    StorageError::new(kind, format!("{what}: {error}; {}", cure(errno))).with_source(error)
}

/// Damage to a pack that is in no storage.
pub(crate) fn damage_of(wrong: Wrong) -> StorageError {
    StorageError::new(ErrorKind::Corruption, format!("the pack is damaged: {}", wrong.0))
}

/// True if the error says that there is no room, so that nothing is known to be wrong with the disk.
pub(crate) fn is_full(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| kind_of(errno) == ErrorKind::Capacity)
}
