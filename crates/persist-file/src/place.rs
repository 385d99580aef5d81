//! What reading and writing share: the folder, the description, the index.

use std::os::fd::OwnedFd;

use persist_core::{Descriptor, ErrorKind, Key, StorageError};
use rustix::io::Errno;

use crate::error::system;
use crate::index::Index;
use crate::reader::{ReadError, Reader};
use crate::root::Root;

/// One storage's folder and what is known of it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) descriptor: Descriptor,
    pub(crate) root: Root,
    pub(crate) reader: Reader,
    pub(crate) index: Index,
}

impl Place {
    /// Opens a folder below the root; `None` if it is not there.
    pub(crate) fn folder(&self, path: &str) -> Result<Option<OwnedFd>, Errno> {
        match self.root.open_folder(path) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A damaged value.
    pub(crate) fn corruption(&self, operation: &'static str, key: &Key, what: &str) -> StorageError {
        self.descriptor.error(ErrorKind::Corruption, operation, what.to_owned()).with_key(key)
    }

    /// Why a value was not read.
    pub(crate) fn read_error(&self, operation: &'static str, key: &Key, error: ReadError) -> StorageError {
        match error {
            ReadError::System(errno) => {
                system(&self.descriptor, operation, "the value cannot be read", errno).with_key(key)
            }
            ReadError::Damage(what) => self.corruption(operation, key, &what),
            ReadError::Memory(len) => self
                .descriptor
                .error(
                    ErrorKind::Capacity,
                    operation,
                    format!("there is no memory for its {len} bytes; read it in ranges"),
                )
                .with_key(key),
            ReadError::WouldBlock => self
                .descriptor
                .error(ErrorKind::Internal, operation, "a patient read gave up waiting")
                .with_key(key),
        }
    }
}
