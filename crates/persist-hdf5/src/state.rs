//! What the thread that writes shares with those who read, and reading without that thread.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;
use persist_core::{Checksum, Descriptor, ErrorKind, Key, Metadata, Result, StorageError, Value, Watchers};

use crate::buffer::Buffer;
use crate::error::{damage, system};
use crate::hashing;
use crate::index::Index;
use crate::medium::{Medium, View};
use crate::record::{Form, Record, State};
use crate::report::Report;

/// The committed state.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) index: RwLock<Index>,
    pub(crate) report: Report,
    pub(crate) watchers: Watchers,
}

/// What is to be read, and how.
pub(crate) enum Plan {
    /// The key is absent.
    Absent,
    /// The bytes lie in the file in one piece.
    Direct(Arc<Record>, View),
    /// Only the library can read it.
    Library(Arc<Record>),
}

/// What came of reading without the library.
pub(crate) enum Attempt<T> {
    Done(T),
    /// It would have to wait for the disk.
    Slow,
    /// The value was replaced meanwhile: ask again.
    Again,
}

impl Shared {
    /// Nothing yet.
    pub(crate) fn new(descriptor: Arc<Descriptor>, medium: Arc<Medium>) -> Self {
        let index = RwLock::new(Index::new(medium));
        Self { descriptor, index, report: Report::default(), watchers: Watchers::new() }
    }

    /// What a key holds, unless it has expired.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Record>> {
        let index = self.index.read();
        let record = index.get(key)?;
        (!self.has_expired(record)).then(|| Arc::clone(record))
    }

    fn has_expired(&self, record: &Record) -> bool {
        record.expires_at().is_some_and(|end| end <= self.descriptor.now())
    }

    /// Finds a key, and takes hold of a part of its bytes at the same moment.
    pub(crate) fn plan(&self, key: &Key, part: Option<&Range<u64>>) -> Plan {
        let index = self.index.read();
        let Some(record) = index.get(key) else { return Plan::Absent };
        if self.has_expired(record) {
            return Plan::Absent;
        }
        let record = Arc::clone(record);
        match (&record.state, record.offset) {
            (State::Sound(metadata, _), Some(offset)) => {
                let (start, len) = clamp(part, metadata.size);
                let view = index.medium().view(offset + start, len);
                Plan::Direct(record, view)
            }
            _ => Plan::Library(record),
        }
    }

    /// Reads a value whose bytes lie in one piece; its checksum is verified.
    ///
    /// # Errors
    /// `Corruption`, and what the disk says.
    pub(crate) fn value(
        &self,
        key: &Key,
        record: &Arc<Record>,
        view: &View,
        patient: bool,
    ) -> Result<Attempt<(Value, Metadata)>> {
        let (Some(offset), State::Sound(metadata, form)) = (record.offset, &record.state) else {
            return Err(self.descriptor.error(ErrorKind::Internal, "retrieve", "a value without a place"));
        };
        if view.end().checked_sub(offset).is_none_or(|room| room < metadata.size) {
            return match self.is_current(key, record) {
                true => {
                    Err(damage(&self.descriptor, "retrieve", key, "it reaches beyond the end of the file"))
                }
                false => Ok(Attempt::Again),
            };
        }
        let mut bytes = Buffer::zeroed(metadata.size).ok_or_else(|| self.too_large("retrieve"))?;
        let checksum = match patient {
            true => hashing::read(view, offset, form, &mut bytes)
                .map_err(|error| system(&self.descriptor, "retrieve", "cannot read the file", error))?,
            false if bytes.is_empty() || view.try_read(offset, &mut bytes) => {
                Checksum::of(&[&hashing::header_of(form), &bytes])
            }
            false => return Ok(Attempt::Slow),
        };
        let value = match checksum == metadata.checksum {
            true => self.valued(key, form, bytes),
            false => Err(self.descriptor.wrong_checksum("retrieve", key)),
        };
        match value {
            Ok(value) => Ok(Attempt::Done((value, Metadata::clone(metadata)))),
            Err(_) if !self.is_current(key, record) => Ok(Attempt::Again),
            Err(error) => Err(error),
        }
    }

    fn valued(&self, key: &Key, form: &Form, bytes: Buffer) -> Result<Value> {
        let damaged = || damage(&self.descriptor, "retrieve", key, "its elements are not valid");
        form.value(bytes).ok_or_else(damaged)
    }

    /// A value made of what was read, which has this checksum, if that is what was stored.
    ///
    /// # Errors
    /// `Corruption`.
    pub(crate) fn matching(
        &self,
        key: &Key,
        metadata: &Metadata,
        form: &Form,
        bytes: Buffer,
        checksum: Checksum,
    ) -> Result<Value> {
        let value = self.valued(key, form, bytes)?;
        match value.size() == metadata.size && checksum == metadata.checksum {
            true => Ok(value),
            false => Err(self.descriptor.wrong_checksum("retrieve", key)),
        }
    }

    /// Reads a part of the bytes of a value that lie in one piece.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn part(
        &self,
        key: &Key,
        record: &Arc<Record>,
        view: &View,
        part: &Range<u64>,
        patient: bool,
    ) -> Result<Attempt<Buffer>> {
        let (Some(offset), Some(metadata)) = (record.offset, record.metadata()) else {
            return Err(self.descriptor.error(ErrorKind::Internal, "retrieve", "a value without a place"));
        };
        let (start, len) = clamp(Some(part), metadata.size);
        let Some(bytes) = self.bytes(view, offset + start, len, patient, "retrieve")? else {
            return Ok(Attempt::Slow);
        };
        // If the value was replaced, its room may hold something else by now.
        Ok(if self.is_current(key, record) { Attempt::Done(bytes) } else { Attempt::Again })
    }

    fn bytes(
        &self,
        view: &View,
        offset: u64,
        len: u64,
        patient: bool,
        operation: &'static str,
    ) -> Result<Option<Buffer>> {
        let mut bytes = Buffer::zeroed(len).ok_or_else(|| self.too_large(operation))?;
        if len == 0 {
            return Ok(Some(bytes));
        }
        if !patient {
            return Ok(view.try_read(offset, &mut bytes).then_some(bytes));
        }
        match view.read(offset, &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) => Err(system(&self.descriptor, operation, "cannot read the file", error)),
        }
    }

    pub(crate) fn too_large(&self, operation: &'static str) -> StorageError {
        self.descriptor.error(
            ErrorKind::Capacity,
            operation,
            "the value is too large for the memory of this machine",
        )
    }

    /// Forces to the disk what was written directly into the file.
    ///
    /// # Errors
    /// What the disk says; no commit takes place after that.
    pub(crate) fn force(&self) -> std::io::Result<()> {
        let medium = Arc::clone(self.index.read().medium());
        medium.parts().sync()
    }

    /// True if a key still holds what it did.
    pub(crate) fn is_current(&self, key: &Key, record: &Arc<Record>) -> bool {
        let index = self.index.read();
        index.get(key).is_some_and(|now| Arc::ptr_eq(now, record))
    }
}

/// Where a part begins and how long it is, within a value of `size` bytes.
fn clamp(part: Option<&Range<u64>>, size: u64) -> (u64, u64) {
    let Some(part) = part else { return (0, size) };
    let start = part.start.min(size);
    (start, part.end.clamp(start, size) - start)
}
