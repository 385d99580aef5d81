//! The first half of a store: the value is written to a temp file and forced to the disk before anything else sees it.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use persist_core::{Condition, Entry, Key, Metadata, StorageError, StoreItem, Value, Version};
use rustix::fs::fsync;
use rustix::io::{Errno, retry_on_intr};

use crate::error::system;
use crate::form::{self, Form};
use crate::name::KeyPath;
use crate::place::Place;
use crate::probe::{Probe, Stored};
use crate::record;
use crate::session::Temp;
use crate::writer::Writer;

/// A value in a temp file, ready to be renamed.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) key: Key,
    pub(crate) path: KeyPath,
    pub(crate) value: Value,
    pub(crate) condition: Condition,
    pub(crate) metadata: Metadata,
    pub(crate) form: Form,
    pub(crate) temp: Temp,
    /// What was stored when the metadata was settled.
    pub(crate) seen: Probe,
    pub(crate) stored: Option<Metadata>,
    /// If a newer version was stored in the meantime, this one counts as replaced by it.
    pub(crate) may_yield: bool,
}

impl Staged {
    /// Checks the condition against what is stored now (it is checked again when the value takes its place) and
    /// writes the temp file.
    pub(crate) fn new(place: &Place, writer: &Writer, item: StoreItem) -> Result<Self, StorageError> {
        let StoreItem { key, value, options } = item;
        writer.check_failed(place, "store")?;
        let path = KeyPath::of(&key);
        let (seen, stored) = look(place, &path, "store").map_err(|error| error.with_key(&key))?;
        let stored = metadata_for(place, "store", &key, options.condition, stored)?;
        place.descriptor.check_condition("store", options.condition, &key, stored.as_ref())?;
        let mut metadata = place.descriptor.draft_metadata(&value, &options);
        place.descriptor.settle_metadata(&mut metadata, stored.as_ref());
        let (temp, form) =
            write_temp(place, writer, &value, &metadata).map_err(|error| error.with_key(&key))?;
        Ok(Self {
            key,
            path,
            value,
            condition: options.condition,
            metadata,
            form,
            temp,
            seen,
            stored,
            may_yield: false,
        })
    }

    /// Writes the temp file of a value that keeps the metadata which it has.
    pub(crate) fn exact(
        place: &Place,
        writer: &Writer,
        key: Key,
        entry: Entry,
    ) -> Result<Self, StorageError> {
        let Entry { value, metadata } = entry;
        let path = KeyPath::of(&key);
        let (seen, _) = look(place, &path, "restore").map_err(|error| error.with_key(&key))?;
        let written = write_temp(place, writer, &value, &metadata);
        let (temp, form) = written.map_err(|error| error.with_key(&key))?;
        let condition = Condition::None;
        Ok(Self { key, path, value, condition, metadata, form, temp, seen, stored: None, may_yield: false })
    }

    /// Lets a newer version that was stored in the meantime stand: right for an unconditional store on its own, which
    /// then took place just before that one.
    pub(crate) fn yielding(mut self) -> Self {
        self.may_yield = self.condition == Condition::None;
        self
    }

    /// Settles the metadata anew, because something else is stored by now, and writes the temp file again if that
    /// changes it.
    pub(crate) fn settle(
        &mut self,
        place: &Place,
        writer: &Writer,
        seen: Probe,
        stored: Option<Metadata>,
        floor: Version,
    ) -> Result<(), StorageError> {
        let before = self.metadata.clone();
        self.metadata.created_at = self.metadata.modified_at;
        place.descriptor.settle_metadata(&mut self.metadata, stored.as_ref());
        if self.metadata.version <= floor {
            self.metadata.version = place.descriptor.next_version(Some(floor));
        }
        (self.seen, self.stored) = (seen, stored);
        if before != self.metadata || self.form == Form::Envelope {
            (self.temp, self.form) = write_temp(place, writer, &self.value, &self.metadata)?;
        }
        Ok(())
    }
}

/// What is stored for a key, consistently: looked at again if it changed in between.
pub(crate) fn look(
    place: &Place,
    path: &KeyPath,
    operation: &'static str,
) -> Result<(Probe, Option<Stored>), StorageError> {
    let fail =
        |errno: Errno| system(&place.descriptor, operation, "the stored value cannot be looked up", errno);
    loop {
        let folder = place.folder(&path.folder).map_err(fail)?;
        let seen = Probe::look(folder.as_ref(), &path.stem).map_err(fail)?;
        let stored = Stored::open(&place.root, path, &seen).map_err(fail)?;
        if stored.is_some() || seen == Probe::default() {
            return Ok((seen, stored));
        }
    }
}

/// The metadata of what is stored. A damaged value can be replaced or deleted, but no condition can be checked on it.
pub(crate) fn metadata_for(
    place: &Place,
    operation: &'static str,
    key: &Key,
    condition: Condition,
    stored: Option<Stored>,
) -> Result<Option<Metadata>, StorageError> {
    match stored.map(|stored| stored.metadata) {
        None => Ok(None),
        Some(Ok(metadata)) => Ok(Some(metadata)),
        Some(Err(_)) if condition == Condition::None => Ok(None),
        Some(Err(what)) => Err(place.corruption(operation, key, &what)),
    }
}

fn write_temp(
    place: &Place,
    writer: &Writer,
    value: &Value,
    metadata: &Metadata,
) -> Result<(Temp, Form), StorageError> {
    let fail = |what: &str, errno: Errno| system(&place.descriptor, "store", what, errno);
    let temp = writer.session.temp(&place.root).map_err(|e| fail("no temp file can be made", e))?;
    let record = record::encode(metadata);
    let attribute = !writer.envelope
        && form::set_attribute(temp.file(), &record)
            .map_err(|e| fail("the metadata cannot be written", e))?;
    let form = if attribute { Form::plain(metadata.kind) } else { Form::Envelope };
    let head = form::head(form, value, &record);
    write_all(temp.file(), &head, value.buffer()).map_err(|e| fail("the value cannot be written", e))?;
    if writer.strict {
        retry_on_intr(|| fsync(temp.file())).map_err(|errno| writer.fail(place, "store", errno))?;
    }
    Ok((temp, form))
}

fn write_all(file: &OwnedFd, mut head: &[u8], mut body: &[u8]) -> Result<(), Errno> {
    while !head.is_empty() || !body.is_empty() {
        match rustix::io::writev(file, &[IoSlice::new(head), IoSlice::new(body)]) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                let of_head = written.min(head.len());
                head = &head[of_head..];
                body = &body[written - of_head..];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
