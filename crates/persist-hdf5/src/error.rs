//! One place where errors of the library and of the disk become errors of a storage.

use std::io;

use persist_core::{Descriptor, ErrorKind, Key, StorageError};

use crate::ffi::H5Error;

/// What an error of the operating system means for a storage.
fn kind_of(error: &io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::OutOfMemory => ErrorKind::Capacity,
        Io::PermissionDenied => ErrorKind::AccessDenied,
        Io::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        Io::NotADirectory | Io::IsADirectory | Io::NotFound => ErrorKind::InvalidConfig,
        Io::InvalidData => ErrorKind::Corruption,
        _ => ErrorKind::Unavailable,
    }
}

fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Capacity => "free some space on the disk, or memory",
        ErrorKind::AccessDenied => "give this user the right to the file and its folder",
        ErrorKind::ReadOnly => "mount the disk writable, or open the storage with read_only",
        ErrorKind::InvalidConfig => "correct the path",
        ErrorKind::Corruption => "restore it from a backup",
        _ => "check the file, its folder and the disk, then open it again",
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
    let kind = kind_of(&error);
    descriptor.error(kind, operation, format!("{what}: {error}; {}", cure(kind))).with_source(error)
}

/// An error of the library, met while doing `what`. If the disk refused it something, that is the reason; otherwise what
/// the library met in the file is not as it should be.
pub(crate) fn library(
    descriptor: &Descriptor,
    operation: &'static str,
    what: &str,
    error: H5Error,
    disk: Option<io::Error>,
) -> StorageError {
    if let Some(disk) = disk {
        return system(descriptor, operation, what, disk);
    }
    let message = format!(
        "{what}: HDF5 says: {error}; the file is damaged or holds what HDF5 cannot read: restore it from a backup \
         (`verify` says what can still be read)"
    );
    descriptor.error(ErrorKind::Corruption, operation, message).with_source(error)
}

/// A value whose dataset was lost while it was written piece by piece.
pub(crate) fn given_up(descriptor: &Descriptor, operation: &'static str) -> StorageError {
    let message = "a change failed while the value was written, which undid it; store it again";
    descriptor.error(ErrorKind::Unavailable, operation, message)
}

/// A chunk that cannot be decoded.
pub(crate) fn damaged_chunk(descriptor: &Descriptor, operation: &'static str, key: &Key) -> StorageError {
    damage(descriptor, operation, key, "a chunk is not as it was written")
}

/// A dataset that is not as it was written.
pub(crate) fn damage(
    descriptor: &Descriptor,
    operation: &'static str,
    key: &Key,
    what: &str,
) -> StorageError {
    let message = format!("the dataset is damaged ({what}); restore it from a backup or delete the key");
    descriptor.error(ErrorKind::Corruption, operation, message).with_key(key)
}
