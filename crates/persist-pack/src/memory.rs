//! The index of a log that has none on the disk yet: the newest record of each key, and where contents are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use persist_core::{Checksum, Key};

use crate::note::Role;
use crate::record::Head;

/// A record and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) at: u64,
    pub(crate) head: Arc<Head>,
}

/// What a log holds.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The newest record of each key, tombstones included.
    pub(crate) keys: BTreeMap<Key, Slot>,
    /// The first record with each content.
    pub(crate) contents: HashMap<Checksum, Slot>,
    /// The greatest version seen.
    pub(crate) floor: u64,
}

impl Memory {
    /// Takes in a record that follows those before.
    pub(crate) fn add(&mut self, slot: Slot) {
        let note = &slot.head.note;
        if let Some(version) = note.version() {
            self.floor = self.floor.max(version.as_u64());
        }
        if let (Some(checksum), Role::Value | Role::Content) = (note.checksum(), note.role) {
            self.contents.entry(checksum).or_insert_with(|| slot.clone());
        }
        if let Some(key) = note.key() {
            self.keys.insert(key.clone(), slot);
        }
    }
}
