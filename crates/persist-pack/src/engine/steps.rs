//! What a step does, and the record that says so.

use std::sync::Arc;

use persist_core::writing::{Done, Step as _};
use persist_core::{Checksum, Expiry, Key, Metadata, Result, StorageError, Version};

use super::{Batch, Engine};
use crate::change::{Draft, Step};
use crate::codec::Payload;
use crate::core::Report;
use crate::fault::damage;
use crate::memory::Slot;
use crate::note::{About, Role};
use crate::wire::Wrong;

/// A value of at least so many bytes that is in a pack already is referred to; for a shorter one that saves nothing.
const SHARED_BYTES: u64 = 64;

/// What is stored under a key.
pub(super) enum Stored {
    Nothing,
    Slot(Slot),
    /// A record that cannot be read; it may be replaced and deleted.
    Damaged(Wrong),
}

impl Stored {
    fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Slot(slot) => slot.head.note.metadata(),
            Self::Nothing | Self::Damaged(_) => None,
        }
    }
}

/// A record about to be written.
pub(super) struct Plan {
    pub(super) about: About,
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) payload: Payload,
}

impl Engine {
    /// What is stored under the key of a step, if the step may take place.
    pub(super) fn admit(&self, operation: &'static str, step: &Step, batch: &Batch) -> Result<Stored> {
        let descriptor = &self.core.descriptor;
        let stored = self.stored(step.key(), batch);
        let needs_metadata = step.condition() != Default::default() || matches!(step, Step::Touch { .. });
        if let (Stored::Damaged(wrong), true) = (&stored, needs_metadata) {
            return Err(damage(descriptor, operation, *wrong).with_key(step.key()));
        }
        descriptor.check_condition(operation, step.condition(), step.key(), stored.metadata())?;
        Ok(stored)
    }

    fn stored(&self, key: &Key, batch: &Batch) -> Stored {
        if let Some(slot) = batch.keys.get(key) {
            let is_there = slot.head.note.role != Role::Tombstone;
            return if is_there { Stored::Slot(slot.clone()) } else { Stored::Nothing };
        }
        match self.core.state.read().find(key) {
            Ok(Some(found)) => Stored::Slot(found.slot),
            Ok(None) => Stored::Nothing,
            Err(wrong) => Stored::Damaged(wrong),
        }
    }

    /// What a step does, and the record that says so.
    pub(super) fn plan(
        &mut self,
        operation: &'static str,
        step: &Step,
        stored: &Stored,
        batch: &Batch,
    ) -> Result<(Done, Option<Plan>)> {
        match step {
            Step::Put(draft) => self.put(draft, stored, batch),
            Step::Delete { key, .. } => Ok(self.delete(key, stored)),
            Step::Touch { key, expiry } => Ok(self.touch(key, *expiry, stored)),
            Step::Check { .. } => Ok((Done::Checked, None)),
            Step::Sweep { key } => Ok(self.sweep(key, stored)),
        }
        .map_err(|error: StorageError| error.with_operation(operation))
    }

    fn put(&mut self, draft: &Draft, stored: &Stored, batch: &Batch) -> Result<(Done, Option<Plan>)> {
        let descriptor = &self.core.descriptor;
        let mut metadata = draft.metadata.clone();
        descriptor.settle_metadata(&mut metadata, stored.metadata());
        if metadata.version.as_u64() <= self.floor {
            metadata.version = descriptor.next_version(Some(Version::from_u64(self.floor)));
        }
        self.floor = metadata.version.as_u64();
        let about = About::Entry(draft.key.clone(), metadata.clone());
        let kind = metadata.kind;
        let done = Done::Stored(metadata);
        if self.is_there(draft, batch) {
            Report::count(&self.core.report.shared_values, 1);
            let name = String::new();
            return Ok((done, Some(Plan { about, role: Role::Reference, name, payload: Payload::empty() })));
        }
        let name = self.log.as_mut().map(|log| log.names.take(&draft.key, kind)).unwrap_or_default();
        Ok((done, Some(Plan { about, role: Role::Value, name, payload: draft.payload.clone() })))
    }

    /// True if the value is in a pack already, and whole.
    fn is_there(&self, draft: &Draft, batch: &Batch) -> bool {
        let checksum = draft.metadata.checksum;
        if !self.core.config.deduplicate || draft.payload.plain < SHARED_BYTES {
            return false;
        }
        if batch.contents.contains_key(&checksum) {
            return true;
        }
        // A pack that is being compacted may lose it.
        let state = self.core.state.read();
        let Ok(Some(found)) = state.content(&checksum, |pack| !pack.is_retiring()) else { return false };
        drop(state);
        found.data(draft.payload.plain).is_ok_and(|data| Checksum::of(&[&data]) == checksum)
    }

    fn next_version(&mut self, stored: Option<&Metadata>) -> Version {
        let before = stored.map_or(self.floor, |metadata| metadata.version.as_u64().max(self.floor));
        let version = self.core.descriptor.next_version(Some(Version::from_u64(before)));
        self.floor = version.as_u64();
        version
    }

    fn tombstone(&mut self, key: &Key, stored: &Stored) -> Plan {
        let version = self.next_version(stored.metadata());
        let about = About::Absence(key.clone(), version);
        Plan { about, role: Role::Tombstone, name: String::new(), payload: Payload::empty() }
    }

    /// What has expired is removed too, and was not there.
    fn delete(&mut self, key: &Key, stored: &Stored) -> (Done, Option<Plan>) {
        let was_there = match stored {
            Stored::Nothing => return (Done::Deleted(false), None),
            Stored::Damaged(_) => true,
            Stored::Slot(_) => self.core.descriptor.live(stored.metadata()).is_some(),
        };
        (Done::Deleted(was_there), Some(self.tombstone(key, stored)))
    }

    fn sweep(&mut self, key: &Key, stored: &Stored) -> (Done, Option<Plan>) {
        let size = stored.metadata().map(|metadata| metadata.size);
        match (size, self.core.descriptor.live(stored.metadata())) {
            (Some(size), None) => (Done::Swept(Some(size)), Some(self.tombstone(key, stored))),
            _ => (Done::Swept(None), None),
        }
    }

    fn touch(&mut self, key: &Key, expiry: Expiry, stored: &Stored) -> (Done, Option<Plan>) {
        let descriptor = Arc::clone(&self.core.descriptor);
        let Some(live) = descriptor.live(stored.metadata()) else { return (Done::Touched(None), None) };
        let mut metadata = descriptor.touched_metadata(live, expiry);
        if metadata.version.as_u64() <= self.floor {
            metadata.version = self.next_version(Some(&metadata));
        }
        self.floor = metadata.version.as_u64();
        let about = About::Entry(key.clone(), metadata.clone());
        let plan = Plan { about, role: Role::Reference, name: String::new(), payload: Payload::empty() };
        (Done::Touched(Some(metadata)), Some(plan))
    }
}
