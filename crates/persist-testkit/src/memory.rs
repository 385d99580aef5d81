//! A small storage in memory that keeps the whole contract: the reference that layers and composites are tested over.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use persist_core::{
    Array, BaseStorage, Capabilities, Clock, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Json, Key,
    ListOptions, Maintenance, ManualClock, Metadata, Operation, Outcome, Page, Result, Stats, StoreOptions,
    Value, Version, Watch, Watchers,
};

use crate::{Harness, Variant};

/// Where the values of one or more [`MemoryStorage`] lie. It outlives them, as a disk outlives a program: several
/// storages on one place see the same values, and one opened later finds what an earlier one left.
#[derive(Clone, Default)]
pub struct MemoryPlace(Arc<Place>);

#[derive(Default)]
struct Place {
    shelf: Mutex<Shelf>,
    down: AtomicBool,
    /// Those who watch, over every storage on it.
    watchers: Mutex<Vec<Watchers>>,
}

#[derive(Default)]
struct Shelf {
    entries: BTreeMap<Key, Entry>,
    /// The last version handed out, so that storages on one place never use one twice.
    last_version: Option<Version>,
}

impl MemoryPlace {
    /// An empty place.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every storage on it fail with `Unavailable`, or work again.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::Release);
    }

    /// Damages the stored value of a key; false if there is none.
    pub fn corrupt(&self, key: &Key) -> bool {
        let mut shelf = self.0.shelf.lock();
        let Some(entry) = shelf.entries.get_mut(key) else { return false };
        entry.value = damaged(&entry.value);
        true
    }

    /// What is stored under a key, expired or not.
    pub fn peek(&self, key: &Key) -> Option<Entry> {
        self.0.shelf.lock().entries.get(key).cloned()
    }

    /// All keys, expired ones included.
    pub fn keys(&self) -> Vec<Key> {
        self.0.shelf.lock().entries.keys().cloned().collect()
    }

    /// Puts an entry under a key as it is, past all rules; for storages that are broken on purpose.
    pub(crate) fn poke(&self, key: &Key, entry: Entry) {
        self.0.shelf.lock().entries.insert(key.clone(), entry);
    }

    /// Takes an entry away, past all rules.
    pub(crate) fn take(&self, key: &Key) -> Option<Entry> {
        self.0.shelf.lock().entries.remove(key)
    }

    /// Tells everybody who watches; called while the shelf is locked, so that all are told in the order of the changes.
    fn tell(&self, tell: impl Fn(&Watchers)) {
        let mut watchers = self.0.watchers.lock();
        watchers.retain(Watchers::is_watched);
        watchers.iter().for_each(tell);
    }

    /// True while it is unavailable.
    pub(crate) fn is_down(&self) -> bool {
        self.0.down.load(Ordering::Acquire)
    }
}

/// How many keys there are; never what they hold.
impl fmt::Debug for MemoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.shelf.lock().entries.len();
        f.debug_struct("MemoryPlace").field("keys", &keys).finish_non_exhaustive()
    }
}

/// The same kind of value with another content.
fn damaged(value: &Value) -> Value {
    let mut content = value.buffer().to_vec();
    match content.first_mut() {
        Some(byte) => *byte ^= 1,
        None => content.push(1),
    }
    let content = Bytes::from(content);
    match value {
        Value::Json(_) => Value::Json(Json::from_stored(content)),
        Value::Bytes(_) => Value::Bytes(content),
        Value::Array(array) => Array::new(array.dtype(), array.shape().to_vec(), content.clone())
            .map_or(Value::Bytes(content), Value::Array),
    }
}

/// How a [`MemoryStorage`] is opened.
#[derive(Debug)]
pub struct MemoryBuilder(Descriptor);

impl MemoryBuilder {
    /// Takes its time from `clock`.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self(self.0.with_clock(clock))
    }

    /// Gives values stored without an expiry this lifetime.
    #[must_use]
    pub fn default_ttl(self, lifetime: Duration) -> Self {
        Self(self.0.with_default_ttl(Some(lifetime)))
    }

    /// Refuses values over this many bytes.
    #[must_use]
    pub fn max_value_bytes(self, bytes: u64) -> Self {
        Self(self.0.with_max_value_bytes(bytes))
    }

    /// Refuses every change.
    #[must_use]
    pub fn read_only(self) -> Self {
        let capabilities = Capabilities { read_only: true, ..self.0.capabilities() };
        Self(self.0.with_capabilities(capabilities))
    }

    /// Opened in another way; `None` for what memory has no setting for.
    pub fn variant(self, variant: Variant) -> Option<Self> {
        Some(match variant {
            Variant::DefaultTtl(lifetime) => self.default_ttl(lifetime),
            Variant::MaxValueBytes(bytes) => self.max_value_bytes(bytes),
            Variant::ReadOnly => self.read_only(),
            Variant::Small => return None,
        })
    }

    /// Claims what the place makes true although it is memory: that values outlive the storage and that several
    /// storages share them. For tests that need a durable, shared storage without a disk.
    #[must_use]
    pub fn as_disk(self) -> Self {
        let capabilities = Capabilities { durable: true, shared: true, ..self.0.capabilities() };
        Self(self.0.with_capabilities(capabilities))
    }

    /// Opens it on a place.
    pub fn open(self, place: &MemoryPlace) -> MemoryStorage {
        MemoryStorage::with_descriptor(self.0, place)
    }
}

/// A storage in memory: one ordered map under one lock.
#[derive(Debug)]
pub struct MemoryStorage {
    descriptor: Descriptor,
    place: MemoryPlace,
    watchers: Watchers,
}

impl MemoryStorage {
    /// An empty storage on a place of its own.
    pub fn new(name: impl Into<String>) -> Self {
        Self::builder(name).open(&MemoryPlace::new())
    }

    /// How to open one otherwise.
    pub fn builder(name: impl Into<String>) -> MemoryBuilder {
        let capabilities = Capabilities {
            atomic_transact: true,
            native_ranges: true,
            native_watch: true,
            ..Capabilities::NONE
        };
        MemoryBuilder(Descriptor::new(name, "memory").with_capabilities(capabilities))
    }

    pub(crate) fn with_descriptor(descriptor: Descriptor, place: &MemoryPlace) -> Self {
        Self { descriptor, place: place.clone(), watchers: Watchers::new() }
    }

    fn shelf(&self, operation: &'static str) -> Result<MutexGuard<'_, Shelf>> {
        if self.place.is_down() {
            let message = "the memory was made unavailable by a test; make it available again";
            return Err(self.descriptor.error(ErrorKind::Unavailable, operation, message));
        }
        Ok(self.place.0.shelf.lock())
    }

    fn insert(&self, shelf: &mut Shelf, key: &Key, value: Value, mut draft: Metadata) -> Metadata {
        self.descriptor.settle_metadata(&mut draft, shelf.metadata(key));
        if shelf.last_version >= Some(draft.version) {
            draft.version = self.descriptor.next_version(shelf.last_version);
        }
        shelf.last_version = Some(draft.version);
        shelf.entries.insert(key.clone(), Entry::new(value, draft.clone()));
        self.place.tell(|watchers| watchers.stored(key, &draft));
        draft
    }

    fn remove(&self, shelf: &mut Shelf, key: &Key) -> bool {
        let removed = shelf.entries.remove(key);
        let was_there = self.descriptor.live(removed.as_ref().map(|entry| &entry.metadata)).is_some();
        if was_there {
            self.place.tell(|watchers| watchers.deleted(key));
        }
        was_there
    }

    fn apply(&self, shelf: &mut Shelf, operation: Operation) -> Outcome {
        match operation {
            Operation::Put(item) => {
                let draft = self.descriptor.draft_metadata(&item.value, &item.options);
                Outcome::Stored(self.insert(shelf, &item.key, item.value, draft))
            }
            Operation::Delete(key, _) => Outcome::Deleted(self.remove(shelf, &key)),
            Operation::Check(..) => Outcome::Checked,
        }
    }
}

impl Shelf {
    fn metadata(&self, key: &Key) -> Option<&Metadata> {
        self.entries.get(key).map(|entry| &entry.metadata)
    }
}

#[async_trait]
impl BaseStorage for MemoryStorage {
    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.descriptor.admit_store(key, &value, &options)?;
        let draft = self.descriptor.draft_metadata(&value, &options);
        let mut shelf = self.shelf("store")?;
        self.descriptor.check_condition("store", options.condition, key, shelf.metadata(key))?;
        Ok(self.insert(&mut shelf, key, value, draft))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.descriptor.admit("retrieve")?;
        let found = self.shelf("retrieve")?.entries.get(key).cloned();
        let Some(entry) = found.filter(|entry| self.descriptor.live(Some(&entry.metadata)).is_some()) else {
            return Ok(None);
        };
        self.descriptor.check_integrity("retrieve", key, &entry.value, &entry.metadata)?;
        Ok(Some(entry))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.descriptor.admit_change("delete")?;
        let mut shelf = self.shelf("delete")?;
        self.descriptor.check_condition("delete", options.condition, key, shelf.metadata(key))?;
        Ok(self.remove(&mut shelf, key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.descriptor.admit_list(prefix, &options)?;
        let shelf = self.shelf("list_keys")?;
        let start = match &options.after {
            Some(after) if after.as_ref() >= prefix => Bound::Excluded(after.as_ref()),
            _ => Bound::Included(prefix),
        };
        let keys = shelf
            .entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, entry)| self.descriptor.live(Some(&entry.metadata)).is_some())
            .map(|(key, _)| key.clone());
        Ok(Page::collect(keys, limit))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.descriptor.admit("metadata")?;
        let shelf = self.shelf("metadata")?;
        Ok(self.descriptor.live(shelf.metadata(key)).cloned())
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.descriptor.admit_change("touch")?;
        let mut shelf = self.shelf("touch")?;
        let Some(live) = self.descriptor.live(shelf.metadata(key)) else { return Ok(None) };
        let touched = self.descriptor.touched_metadata(live, expiry);
        shelf.last_version = shelf.last_version.max(Some(touched.version));
        if let Some(entry) = shelf.entries.get_mut(key) {
            entry.metadata = touched.clone();
        }
        self.place.tell(|watchers| watchers.stored(key, &touched));
        Ok(Some(touched))
    }

    /// Reads the range alone, so damage elsewhere in the value is not noticed.
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.descriptor.admit("retrieve_range")?;
        let shelf = self.shelf("retrieve_range")?;
        let live = self.descriptor.live(shelf.metadata(key)).and_then(|_| shelf.entries.get(key));
        Ok(live.map(|entry| entry.value.range(range)))
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.descriptor.admit_transact(&operations)?;
        let mut shelf = self.shelf("transact")?;
        for operation in &operations {
            let (key, condition) = (operation.key(), operation.condition());
            self.descriptor.check_condition("transact", condition, key, shelf.metadata(key))?;
        }
        Ok(operations.into_iter().map(|operation| self.apply(&mut shelf, operation)).collect())
    }

    async fn flush(&self) -> Result<()> {
        self.descriptor.admit("flush")?;
        self.shelf("flush").map(drop)
    }

    async fn stats(&self) -> Result<Stats> {
        self.descriptor.admit("stats")?;
        let shelf = self.shelf("stats")?;
        let live = shelf.entries.values().filter_map(|entry| self.descriptor.live(Some(&entry.metadata)));
        let (keys, bytes) = live.fold((0, 0), |(keys, bytes), metadata| (keys + 1, bytes + metadata.size));
        Ok(Stats { keys: Some(keys), bytes: Some(bytes), ..Stats::default() })
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.descriptor.admit_change("maintain")?;
        let mut shelf = self.shelf("maintain")?;
        let (before, now) = (shelf.entries.len(), self.descriptor.now());
        shelf.entries.retain(|_, entry| !entry.metadata.is_expired(now));
        let expired = (before - shelf.entries.len()) as u64;
        Ok(Maintenance { expired, ..Maintenance::default() })
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.descriptor.admit_watch(prefix)?;
        let watch = self.watchers.watch(prefix);
        let mut watchers = self.place.0.watchers.lock();
        watchers.retain(|others| !others.is_same(&self.watchers));
        watchers.push(self.watchers.clone());
        drop(watchers);
        Ok(watch)
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.watchers.close();
        Ok(())
    }
}

/// Opens memory storages on a place that outlives them as a disk would: durable, shared, with a clock that can be moved.
/// What layers and composites run the suite over.
#[derive(Debug, Default)]
pub struct MemoryHarness {
    place: MemoryPlace,
    clock: Arc<ManualClock>,
}

impl MemoryHarness {
    /// An empty place and a clock that shows the present.
    pub fn new() -> Self {
        Self::default()
    }

    fn builder(&self) -> MemoryBuilder {
        MemoryStorage::builder("memory").as_disk().clock(self.clock.clone())
    }
}

#[async_trait]
impl Harness for MemoryHarness {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(self.builder().open(&self.place)))
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.open().await.map(Some)
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let opened = |builder: MemoryBuilder| Arc::new(builder.open(&self.place)) as Arc<dyn BaseStorage>;
        Ok(self.builder().variant(variant).map(opened))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    async fn break_down(&self) -> bool {
        self.place.set_down(true);
        true
    }

    async fn mend(&self) -> bool {
        self.place.set_down(false);
        true
    }

    async fn corrupt(&self, key: &Key) -> bool {
        self.place.corrupt(key)
    }
}
