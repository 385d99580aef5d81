//! One place where errors of SQLite become errors of a storage.

use persist_core::{Descriptor, ErrorKind, Key, StorageError};
use rusqlite::ffi::{self, ErrorCode};

/// What SQLite says, without a code of its own, of a schema format that persist never wrote.
const UNKNOWN_FORMAT: &str = "unsupported file format";

/// What an error of SQLite means for a storage.
pub(crate) fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) if message == UNKNOWN_FORMAT => {
            ErrorKind::Corruption
        }
        rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => ErrorKind::Corruption,
        _ => error.sqlite_error().map_or(ErrorKind::Internal, kind_of_failure),
    }
}

fn kind_of_failure(failure: &ffi::Error) -> ErrorKind {
    match failure.extended_code {
        // The second: a page lies beyond the end of the file.
        ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_SHORT_READ => ErrorKind::Corruption,
        // The index of the log cannot be given room.
        ffi::SQLITE_IOERR_SHMSIZE => ErrorKind::Capacity,
        _ => kind_of_code(failure.code),
    }
}

fn kind_of_code(code: ErrorCode) -> ErrorKind {
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            ErrorKind::Locked
        }
        ErrorCode::DiskFull | ErrorCode::OutOfMemory | ErrorCode::NoLargeFileSupport => ErrorKind::Capacity,
        ErrorCode::TooBig => ErrorKind::TooLarge,
        ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => ErrorKind::AccessDenied,
        ErrorCode::ReadOnly => ErrorKind::ReadOnly,
        // Only a damaged index lets a key that was not found violate its uniqueness.
        ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch => ErrorKind::Corruption,
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => ErrorKind::Unavailable,
        ErrorCode::OperationInterrupted => ErrorKind::Timeout,
        _ => ErrorKind::Internal,
    }
}

fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Locked => {
            "another process is writing to the database; try again, raise busy_timeout, or end that process"
        }
        ErrorKind::Capacity => "free some space on the disk, or memory",
        ErrorKind::TooLarge => "split the value, or keep it in a file storage",
        ErrorKind::AccessDenied => "give this user the right to the database and its folder",
        ErrorKind::ReadOnly => "mount the disk writable, or open the storage with read_only",
        ErrorKind::Corruption => {
            "the database is damaged, or the disk cannot be read (SQLite does not tell which; the system's log does): \
             restore it from a backup (`verify` says what can still be read)"
        }
        ErrorKind::Timeout => "a query took more work than an untrusted file may cause; do not use that file",
        ErrorKind::Unavailable => "check the database file, its folder and the disk, then open it again",
        _ => "please report this with the message",
    }
}

/// An error of SQLite, met while doing `what`.
pub(crate) fn sqlite(
    descriptor: &Descriptor,
    operation: &'static str,
    what: &str,
    error: rusqlite::Error,
) -> StorageError {
    let kind = kind_of(&error);
    descriptor.error(kind, operation, format!("{what}: {error}; {}", cure(kind))).with_source(error)
}

/// An error of the operating system, met while doing `what`.
pub(crate) fn system(
    descriptor: &Descriptor,
    operation: &'static str,
    what: &str,
    error: impl Into<std::io::Error>,
) -> StorageError {
    use std::io::ErrorKind as Io;
    let error = error.into();
    let kind = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::OutOfMemory => ErrorKind::Capacity,
        Io::PermissionDenied => ErrorKind::AccessDenied,
        Io::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        Io::NotADirectory | Io::IsADirectory | Io::NotFound => ErrorKind::InvalidConfig,
        _ => ErrorKind::Unavailable,
    };
    let cure = if kind == ErrorKind::InvalidConfig { "correct the path" } else { cure(kind) };
    descriptor.error(kind, operation, format!("{what}: {error}; {cure}")).with_source(error)
}

/// A row that is not as it was written.
pub(crate) fn damage(
    descriptor: &Descriptor,
    operation: &'static str,
    key: Option<&Key>,
    what: &str,
) -> StorageError {
    let message =
        format!("the row in the database is damaged ({what}); restore it from a backup or delete the key");
    let error = descriptor.error(ErrorKind::Corruption, operation, message);
    match key {
        Some(key) => error.with_key(key),
        None => error,
    }
}
