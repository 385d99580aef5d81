use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use persist_core::{DeleteOptions, Entry, Key, Metadata, StoreItem, Version};
use tokio::time::Instant;

use super::journal::Position;

/// How many keys are remembered whose metadata below need not be asked for.
const REMEMBERED: usize = 8192;

/// What a queued change takes in memory beside keys, values and tags.
const OVERHEAD: u64 = 256;

/// What is to become of a key.
#[derive(Clone)]
pub(super) enum Change {
    Put(Entry),
    Delete(Version),
}

impl Change {
    /// The version that the change gave the key; later changes have greater ones.
    pub(super) fn version(&self) -> Version {
        match self {
            Self::Put(entry) => entry.metadata.version,
            Self::Delete(version) => *version,
        }
    }

    /// The metadata that the key has then; `None`: it is absent.
    pub(super) fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Put(entry) => Some(&entry.metadata),
            Self::Delete(_) => None,
        }
    }

    fn bytes(&self, key: &Key) -> u64 {
        let value = match self {
            Self::Put(Entry { value, metadata }) => value.size() + metadata.tags.byte_size() as u64,
            Self::Delete(_) => 0,
        };
        key.len() as u64 + value + OVERHEAD
    }
}

/// A change on its way into the queue.
pub(super) struct Staged {
    pub(super) key: Key,
    pub(super) change: Change,
}

/// What the storage below has under a key: its own version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// It must be asked.
    Unknown,
    Absent,
    Version(Version),
}

/// A change that the drain has in hand.
pub(super) struct Taken {
    pub(super) key: Key,
    pub(super) change: Change,
    pub(super) base: Base,
}

/// What is known of a key that has no change waiting.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) metadata: Option<Metadata>,
    pub(super) base: Base,
}

/// The last change of a key.
struct Slot {
    /// The place in the order in which keys are written: that of its first change that waits.
    ticket: u64,
    since: Instant,
    change: Change,
    base: Base,
    bytes: u64,
    /// The version of the change that is being written.
    taken: Option<Version>,
    /// Not to be tried again before this.
    not_before: Option<Instant>,
    failures: u32,
    /// Where the journal has it.
    position: Position,
}

/// The changes that wait: one for each key, in the order in which the keys were first changed.
pub(super) struct Queue {
    slots: BTreeMap<Key, Slot>,
    order: BTreeMap<u64, Key>,
    bytes: u64,
    next: u64,
    known: HashMap<Key, Known>,
    /// False above storages that let go of values by themselves.
    remembers: bool,
    /// Nothing more comes in.
    pub(super) sealed: bool,
    /// A task writes what waits.
    pub(super) running: bool,
    /// How many callers wait for everything to be written, so that no more changes are waited for.
    pub(super) urgent: usize,
}

impl Queue {
    pub(super) fn new(remembers: bool) -> Self {
        Self {
            slots: BTreeMap::new(),
            order: BTreeMap::new(),
            bytes: 0,
            next: 0,
            known: HashMap::new(),
            remembers,
            sealed: false,
            running: false,
            urgent: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long the oldest change has waited.
    pub(super) fn age(&self) -> Option<Duration> {
        let (_, key) = self.order.first_key_value()?;
        self.slots.get(key).map(|slot| slot.since.elapsed())
    }

    /// The change that waits for a key.
    pub(super) fn get(&self, key: &Key) -> Option<&Change> {
        self.slots.get(key).map(|slot| &slot.change)
    }

    pub(super) fn known(&self, key: &Key) -> Option<&Known> {
        self.known.get(key)
    }

    pub(super) fn remember(&mut self, key: &Key, known: Known) {
        if !self.remembers {
            return;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key.clone(), known);
    }

    /// Whether some more changes fit. What is larger than the whole queue fits into an empty one.
    pub(super) fn has_room(&self, staged: &[Staged], entries: usize, bytes: u64) -> bool {
        let new = staged.iter().filter(|staged| !self.slots.contains_key(&staged.key)).count();
        let size: u64 = staged.iter().map(|staged| staged.change.bytes(&staged.key)).sum();
        self.slots.is_empty() || (self.slots.len() + new <= entries && self.bytes + size <= bytes)
    }

    /// Queues a change in place of an earlier one of the same key.
    pub(super) fn push(&mut self, Staged { key, change }: Staged, position: Position) {
        let bytes = change.bytes(&key);
        self.bytes += bytes;
        if let Some(slot) = self.slots.get_mut(&key) {
            self.bytes -= slot.bytes;
            (slot.change, slot.bytes, slot.position) = (change, bytes, position);
            // What it fails with need not be what the earlier one failed with.
            (slot.not_before, slot.failures) = (None, 0);
            return;
        }
        let base = self.known.remove(&key).map_or(Base::Unknown, |known| known.base);
        let ticket = self.next;
        self.next += 1;
        self.order.insert(ticket, key.clone());
        let (since, taken, not_before, failures) = (Instant::now(), None, None, 0);
        let slot = Slot { ticket, since, change, base, bytes, taken, not_before, failures, position };
        self.slots.insert(key, slot);
    }

    /// When there is something to write: now, at a moment, or not at all.
    pub(super) fn due(&self, delay: Duration, half: (usize, u64)) -> Option<Instant> {
        let now = Instant::now();
        let hurry = self.urgent > 0 || self.slots.len() >= half.0 || self.bytes >= half.1;
        let mut earliest: Option<Instant> = None;
        for key in self.order.values() {
            let Some(slot) = self.slots.get(key) else { continue };
            let ready = if hurry { now } else { slot.since + delay };
            let due = slot.not_before.map_or(ready, |moment| moment.max(ready));
            earliest = Some(earliest.map_or(due, |known| known.min(due)));
            // The others are no older; only those that failed are later than they seem.
            if due <= now || slot.not_before.is_none() {
                break;
            }
        }
        earliest
    }

    /// Takes the oldest changes that may be written now: none that the journal does not have yet, because a part of a transaction
    /// would be below for good if the rest were lost.
    pub(super) fn take(&mut self, count: usize, bytes: u64, settled: Option<u64>) -> Vec<Taken> {
        let (now, mut taken, mut size) = (Instant::now(), Vec::new(), 0);
        for key in self.order.values() {
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if taken.len() >= count || (size > 0 && size + slot.bytes > bytes) {
                break;
            }
            let journaled = settled.is_none_or(|settled| slot.position.number <= settled);
            if !journaled || slot.taken.is_some() || slot.not_before.is_some_and(|moment| moment > now) {
                continue;
            }
            size += slot.bytes;
            slot.taken = Some(slot.change.version());
            taken.push(Taken { key: key.clone(), change: slot.change.clone(), base: slot.base });
        }
        taken
    }

    /// Notes that a change that was taken is below now, where `base` is the version it has.
    pub(super) fn written(&mut self, key: &Key, base: Base) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.base = base;
        (slot.not_before, slot.failures) = (None, 0);
        if slot.taken.take() != Some(slot.change.version()) {
            // It was changed anew meanwhile, and waits for its next turn.
            return;
        }
        let (ticket, bytes) = (slot.ticket, slot.bytes);
        let metadata = slot.change.metadata().cloned();
        self.order.remove(&ticket);
        self.slots.remove(key);
        self.bytes -= bytes;
        self.remember(key, Known { metadata, base });
    }

    /// Notes that a change that was taken is not, or not surely, below.
    pub(super) fn failed(&mut self, key: &Key, pause: impl Fn(u32) -> Duration) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        (slot.taken, slot.base) = (None, Base::Unknown);
        slot.not_before = Some(Instant::now() + pause(slot.failures));
        slot.failures += 1;
    }

    /// Lets everything be tried at once.
    pub(super) fn hurry(&mut self) {
        self.urgent += 1;
        self.slots.values_mut().for_each(|slot| slot.not_before = None);
    }

    /// Lets what was taken be taken again, because whoever had it in hand is gone.
    pub(super) fn release(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| slot.taken.is_some()) {
            (slot.taken, slot.base) = (None, Base::Unknown);
        }
    }

    /// A mark for what waits now: see [`passed`](Self::passed).
    pub(super) fn mark(&self) -> u64 {
        self.next
    }

    /// True if nothing waits any more that waited when the mark was taken.
    pub(super) fn passed(&self, mark: u64) -> bool {
        self.order.first_key_value().is_none_or(|(ticket, _)| *ticket >= mark)
    }

    /// The oldest file of the journal that is still needed.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.slots.values().map(|slot| slot.position.segment).min()
    }

    /// The keys with a change under a prefix and after a key, in order, and whether they are there; no more than are needed
    /// for a page of `limit`.
    pub(super) fn overlay(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
        live: impl Fn(&Metadata) -> bool,
    ) -> VecDeque<(Key, bool)> {
        let start = match after {
            Some(after) if after.as_ref() >= prefix => Bound::Excluded(after.as_ref()),
            _ => Bound::Included(prefix),
        };
        let (mut overlay, mut there) = (VecDeque::new(), 0);
        for (key, slot) in self.slots.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) || there > limit {
                break;
            }
            let is_there = slot.change.metadata().is_some_and(&live);
            there += usize::from(is_there);
            overlay.push_back((key.clone(), is_there));
        }
        overlay
    }
}

/// What a put becomes below: over the version that is there, so that what comes late undoes nothing.
pub(super) fn item(key: Key, Entry { value, metadata }: Entry, base: Base) -> StoreItem {
    let options = persist_core::StoreOptions {
        expiry: metadata.expires_at.map_or(persist_core::Expiry::Never, persist_core::Expiry::At),
        condition: condition(base),
        encodings: super::note::noted(&metadata),
        tags: metadata.tags,
    };
    StoreItem { key, value, options }
}

/// What a delete becomes below.
pub(super) fn removal(base: Base) -> DeleteOptions {
    DeleteOptions { condition: condition(base) }
}

fn condition(base: Base) -> persist_core::Condition {
    match base {
        Base::Unknown => persist_core::Condition::None,
        Base::Absent => persist_core::Condition::IfAbsent,
        Base::Version(version) => persist_core::Condition::IfVersion(version),
    }
}
