//! Why changes did not take place.

use persist_core::StorageError;

/// Why changes did not take place, or perhaps did.
pub(super) enum Failure {
    /// Nothing of them did.
    Undone(StorageError),
    /// Nobody knows.
    Unknown(StorageError),
}

impl Failure {
    /// The error to answer with.
    pub(super) fn error(self, operation: &'static str) -> StorageError {
        match self {
            Self::Undone(error) | Self::Unknown(error) => error.with_operation(operation),
        }
    }
}
