//! The index of a log that has none on the disk yet: the newest record of each key, and where contents are.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use persist_core::{Checksum, Key};

use crate::guide::Guide;
use crate::note::Role;
use crate::record::Head;

/// Something for each content. A checksum is as good as random, so that its first bytes are its hash.
pub(crate) type Contents<T> = HashMap<Checksum, T, FirstBytesBuilder>;

/// Makes hashes of checksums.
pub(crate) type FirstBytesBuilder = BuildHasherDefault<FirstBytes>;

/// The first eight bytes of what is hashed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(front) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*front);
        }
    }

    /// The length of an array, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

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
    slots: HashMap<Key, Slot>,
    /// The keys in their order.
    order: BTreeSet<Key>,
    /// The first record with each content.
    pub(crate) contents: Contents<Slot>,
    /// The greatest version seen.
    pub(crate) floor: u64,
}

impl Memory {
    /// Nothing yet, behind a version.
    pub(crate) fn behind(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

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
            let key = key.clone();
            if self.slots.insert(key.clone(), slot).is_none() {
                self.order.insert(key);
            }
        }
    }

    /// The newest record of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// How many keys there are, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The newest records of all keys, in no order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// What is known of the order of the records.
    pub(crate) fn guide(&self) -> Guide {
        Guide::new(self.order.iter().filter_map(|key| Some(self.slots.get(key)?.at)))
    }

    /// The keys from `start` on (`after`: behind it) in byte order, each with its newest record.
    pub(crate) fn from(&self, start: &str, after: bool) -> impl Iterator<Item = (&Key, &Slot)> {
        let start = if after { Bound::Excluded(start) } else { Bound::Included(start) };
        let keys = self.order.range::<str, _>((start, Bound::Unbounded));
        keys.filter_map(|key| Some((key, self.slots.get(key)?)))
    }
}
