use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Capabilities, Condition, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health,
    HealthStatus, HumanDuration, Key, ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome,
    Page, Result, SnapshotSink, SnapshotSummary, Stats, StorageError, StoreItem, StoreOptions, Value,
    Verification, Watch, Watchers,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::WriteBehindConfig;
use super::drain::drain;
use super::frame::Read;
use super::journal::{Journal, Position, Replayed};
use super::note;
use super::queue::{Base, Change, Known, Queue, Staged};
use crate::Layer;
use crate::derived::derived;
use crate::lanes::Lanes;

/// How many keys are asked for at once when a batch or a journal needs to know what is below.
const AT_ONCE: usize = 32;

/// Acknowledges changes before the storage below has them, and writes them there in batches.
///
/// **What is read is what was acknowledged last**, written below or not: by key, in listings, by conditions. Changes of one key
/// are written in their order, of several in a row the last alone. The queue is bounded; whoever finds it full waits.
///
/// **What waits is lost with the process, unless there is a journal.** So the layer is not durable without one, and as durable as its
/// journal with one: what is found there when it is opened waits again. A transaction stands in the journal whole.
///
/// **Nothing is dropped silently.** What cannot be written is tried again, for ever, with growing pauses; meanwhile `health` is degraded
/// and says why, `stats` counts, `flush` and `close` fail with the cause, and reads go on showing the change. A value that the storage
/// below refuses can be replaced or deleted like any other.
///
/// Nobody else may change the storage below. Each store of a key that was not used lately asks for its metadata below first, because
/// conditions, creation times and versions depend on it.
#[derive(Debug)]
pub struct WriteBehind(Arc<Shared>);

/// What waits to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many keys have a change that waits.
    pub entries: usize,
    /// What these changes take in memory.
    pub bytes: u64,
    /// How long the oldest of them has waited.
    pub age: Duration,
}

pub(super) struct Shared {
    pub(super) inner: Arc<dyn BaseStorage>,
    pub(super) descriptor: Descriptor,
    pub(super) config: WriteBehindConfig,
    pub(super) queue: Mutex<Queue>,
    pub(super) journal: Option<Arc<Journal>>,
    /// Something left the queue, or could not.
    pub(super) changed: Notify,
    /// There is something to do for the task that writes.
    pub(super) work: Notify,
    lanes: Lanes,
    watchers: Watchers,
    /// The storage went away without being closed, and its journal is for the next one.
    abandoned: AtomicBool,
    written: AtomicU64,
    failures: AtomicU64,
    conflicts: AtomicU64,
    /// Why the last attempt failed; `None`: it did not.
    failure: Mutex<Option<StorageError>>,
}

impl WriteBehind {
    /// Keeps what waits in memory alone.
    ///
    /// # Errors
    /// `InvalidConfig` for settings that cannot work, or that name a journal, for which there is [`open`](Self::open).
    pub fn new(inner: Arc<dyn BaseStorage>, config: WriteBehindConfig) -> Result<Self> {
        if config.journal.is_some() {
            return Err(invalid("a journal must be opened; use `WriteBehind::open`".to_owned()));
        }
        config.check().map_err(invalid)?;
        Ok(Self(Arc::new(Shared::new(inner, config, None))))
    }

    /// Opens the journal that the settings name, if they do; its path begins at `base`. What is found in it waits again.
    ///
    /// # Errors
    /// `InvalidConfig` as [`new`](Self::new); `Locked` if another storage uses the journal; `Corruption` if acknowledged changes in
    /// it are damaged; what the storage below meets.
    pub async fn open(inner: Arc<dyn BaseStorage>, config: WriteBehindConfig, base: &Path) -> Result<Self> {
        config.check().map_err(invalid)?;
        // Whoever may only read sees what is below.
        let journal = config.journal.clone().filter(|_| !inner.describe().capabilities().read_only);
        let Some(journal) = journal else { return Ok(Self(Arc::new(Shared::new(inner, config, None)))) };
        let folder = base.join(&journal.path);
        let HumanDuration(patience) = journal.lock_timeout;
        let opened = tokio::task::spawn_blocking(move || {
            Journal::open(&folder, journal.durability, journal.segment.0, patience)
        });
        let (journal, replayed) = opened.await.map_err(StorageError::broken_task)??;
        let shared = Arc::new(Shared::new(inner, config, Some(Arc::new(journal))));
        shared.replay(replayed).await?;
        Ok(Self(shared))
    }

    /// What waits to be written.
    pub fn pending(&self) -> Pending {
        self.0.pending()
    }

    /// Whether a change of a key waits to be written.
    pub fn is_pending(&self, key: &Key) -> bool {
        self.0.queue.lock().get(key).is_some()
    }

    /// Returns when everything that was acknowledged before is written below, and as durable there as it promises.
    ///
    /// # Errors
    /// Why it cannot be written; it goes on being tried. `Timeout` if that takes longer than `timeout`.
    pub async fn flush_within(&self, timeout: Duration) -> Result<()> {
        self.0.descriptor.admit("flush")?;
        self.0.flush(timeout).await
    }
}

fn invalid(why: String) -> StorageError {
    StorageError::new(ErrorKind::InvalidConfig, why)
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        // Without a journal the task that writes has what waits, and goes on.
        if self.0.journal.is_some() {
            self.0.abandoned.store(true, Ordering::Release);
            self.0.work.notify_one();
        }
    }
}

impl Shared {
    fn new(inner: Arc<dyn BaseStorage>, config: WriteBehindConfig, journal: Option<Arc<Journal>>) -> Self {
        let below = inner.describe().capabilities();
        let capabilities = Capabilities {
            durable: below.durable && journal.is_some(),
            // Nobody else sees what waits.
            shared: false,
            // What is below may be a part of a transaction, unless the journal has the rest.
            atomic_transact: journal.is_some(),
            native_watch: true,
            ..below
        };
        let remembers = !below.evicts;
        let descriptor = derived(&inner).with_capabilities(capabilities);
        Self {
            inner,
            descriptor,
            config,
            queue: Mutex::new(Queue::new(remembers)),
            journal,
            changed: Notify::new(),
            work: Notify::new(),
            lanes: Lanes::default(),
            watchers: Watchers::new(),
            abandoned: AtomicBool::new(false),
            written: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Lets what a journal had wait again, but for what is below already.
    async fn replay(self: &Arc<Self>, Replayed { changes, last_version }: Replayed) -> Result<()> {
        // Versions go on where they were.
        self.descriptor.next_version(last_version);
        let mut last: std::collections::BTreeMap<Key, (Read, u64)> = std::collections::BTreeMap::new();
        let mut order = Vec::new();
        for (key, read, segment) in changes {
            if last.insert(key.clone(), (read, segment)).is_none() {
                order.push(key);
            }
        }
        let looked = stream::iter(order).map(|key| async move {
            match self.inner.metadata(&key).await {
                // What is damaged is replaced.
                Err(error) if error.kind() == ErrorKind::Corruption => Ok((key, Err(()))),
                below => below.map(|below| (key, Ok(below))),
            }
        });
        let mut looked = looked.buffered(AT_ONCE);
        while let Some(found) = looked.next().await {
            let (key, below) = found?;
            let Some((read, segment)) = last.remove(&key) else { continue };
            let change = Change::from(read);
            let is_below = match (&below, change.metadata()) {
                // What has no note was there before any change in the journal.
                (Ok(Some(below)), _) => note::version(below) >= Some(change.version()),
                (Ok(None), Some(metadata)) => metadata.is_expired(self.descriptor.now()),
                (Ok(None), None) => true,
                (Err(()), _) => false,
            };
            if !is_below {
                self.queue.lock().push(Staged { key, change }, Position { number: 0, segment });
            }
        }
        self.wake();
        Ok(())
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// When there is something to write.
    pub(super) fn due(&self, queue: &Queue) -> Option<Instant> {
        let HumanDuration(delay) = self.config.delay;
        queue.due(delay, (self.config.max_entries.div_ceil(2), self.config.max_bytes.0 / 2))
    }

    /// Notes how an attempt to write went.
    pub(super) fn attempted(&self, failure: Option<StorageError>) {
        self.written.fetch_add(u64::from(failure.is_none()), Ordering::Relaxed);
        self.failures.fetch_add(u64::from(failure.is_some()), Ordering::Relaxed);
        *self.failure.lock() = failure;
    }

    /// Notes that somebody else changed the storage below.
    pub(super) fn moved(&self, error: StorageError) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
        *self.failure.lock() = Some(error);
    }

    /// Why the last attempt failed.
    fn failure(&self) -> Option<StorageError> {
        self.failure.lock().as_ref().map(|error| {
            let same = error.again("flush");
            match error.key() {
                Some(key) => same.with_key(key),
                None => same,
            }
        })
    }

    fn pending(&self) -> Pending {
        let queue = self.queue.lock();
        Pending { entries: queue.len(), bytes: queue.bytes(), age: queue.age().unwrap_or_default() }
    }

    /// Sees to it that somebody writes what waits.
    fn wake(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        if !queue.is_empty() && !queue.running && !self.is_abandoned() {
            queue.running = true;
            tokio::spawn(drain(Arc::clone(self)));
        } else if self.due(&queue).is_some_and(|due| due <= Instant::now()) {
            self.work.notify_one();
        }
    }

    /// The metadata as they were answered.
    fn plain(&self, operation: &'static str, key: &Key, below: Option<Metadata>) -> Result<Option<Metadata>> {
        let read = below.map(note::read).transpose();
        read.map_err(|_| {
            let message =
                "the note of this layer is damaged; restore the value from a backup or delete the key";
            self.descriptor.error(ErrorKind::Corruption, operation, message).with_key(key)
        })
    }

    /// What waits for a key: the change, or `None` if the storage below has the last word.
    fn waiting(&self, key: &Key) -> Option<Option<Entry>> {
        let queue = self.queue.lock();
        let live = |entry: &&Entry| self.descriptor.live(Some(&entry.metadata)).is_some();
        queue.get(key).map(|change| match change {
            Change::Put(entry) => Some(entry).filter(live).cloned(),
            Change::Delete(_) => None,
        })
    }

    /// The metadata of a key, for whoever holds its lane; they may have expired.
    async fn current(&self, operation: &'static str, key: &Key) -> Result<Option<Metadata>> {
        {
            let queue = self.queue.lock();
            if let Some(change) = queue.get(key) {
                return Ok(change.metadata().cloned());
            }
            if let Some(known) = queue.known(key) {
                return Ok(known.metadata.clone());
            }
        }
        let below = self.inner.metadata(key).await.map_err(|error| error.with_operation(operation))?;
        let base = below.as_ref().map_or(Base::Absent, |below| Base::Version(below.version));
        let metadata = self.plain(operation, key, below)?;
        let mut queue = self.queue.lock();
        // Nobody else changes the key meanwhile.
        queue.remember(key, Known { metadata: metadata.clone(), base });
        Ok(metadata)
    }

    /// Asks for the metadata of many keys at once, so that [`current`](Self::current) need not.
    async fn prepare(&self, keys: &[Key]) {
        let unknown: Vec<Key> = {
            let queue = self.queue.lock();
            keys.iter()
                .filter(|key| queue.get(key).is_none() && queue.known(key).is_none())
                .cloned()
                .collect()
        };
        if unknown.len() > 1 {
            // Whoever needs what could not be had asks again, and finds out why.
            let asked = stream::iter(unknown).map(|key| async move { self.current("store", &key).await });
            asked.buffered(AT_ONCE).for_each(|_| std::future::ready(())).await;
        }
    }

    /// Puts changes that belong together into the queue, as soon as there is room, and into the journal. From then on they
    /// are seen.
    async fn admit(self: &Arc<Self>, operation: &'static str, staged: Vec<Staged>) -> Result<()> {
        let deadline = Instant::now() + self.config.wait.0;
        let place =
            |error: StorageError| error.with_operation(operation).with_storage(self.descriptor.name());
        let mut staged = Some(staged);
        let position = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(position) = self.try_admit(operation, &mut staged).map_err(place)? {
                break position;
            }
            self.wake();
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(self.is_full(operation));
            }
        };
        self.wake();
        match (&self.journal, position) {
            (Some(journal), Some(position)) => journal.settle(position).await.map_err(place),
            _ => Ok(()),
        }
    }

    /// Does it at once, if there is room.
    #[allow(clippy::type_complexity, reason = "taken, and where it stands in the journal if there is one")]
    fn try_admit(
        &self,
        operation: &'static str,
        staged: &mut Option<Vec<Staged>>,
    ) -> Result<Option<Option<Position>>> {
        let mut queue = self.queue.lock();
        if queue.sealed {
            return Err(self.descriptor.error(
                ErrorKind::Closed,
                operation,
                "the storage was closed; open it again to use it",
            ));
        }
        let (entries, bytes) = (self.config.max_entries, self.config.max_bytes.0);
        let Some(changes) = staged.take_if(|staged| queue.has_room(staged, entries, bytes)) else {
            return Ok(None);
        };
        let position = self.journal.as_ref().map(|journal| journal.append(&changes)).transpose()?;
        for change in changes {
            self.tell(&change);
            queue.push(change, position.unwrap_or_default());
        }
        Ok(Some(position))
    }

    /// Tells whoever watches; under the lock of the queue, so that all are told in the order of the changes.
    fn tell(&self, Staged { key, change }: &Staged) {
        match change {
            Change::Put(entry) => self.watchers.stored(key, &entry.metadata),
            Change::Delete(_) => self.watchers.deleted(key),
        }
    }

    fn is_full(&self, operation: &'static str) -> StorageError {
        let pending = self.pending();
        let cause = self.failure().map(|error| format!("; the last attempt failed: {error}"));
        let message = format!(
            "{} changes ({} bytes) wait for the storage below, which is as many as may, and there was no room for {:?}; \
             nothing was changed{}",
            pending.entries,
            pending.bytes,
            self.config.wait.0,
            cause.unwrap_or_default()
        );
        self.descriptor.error(ErrorKind::Timeout, operation, message)
    }

    fn staged_put(
        &self,
        key: &Key,
        current: Option<&Metadata>,
        value: Value,
        options: &StoreOptions,
    ) -> Result<(Staged, Metadata)> {
        let metadata = self.descriptor.next_metadata(key, current, &value, options)?;
        let change = Change::Put(Entry { value, metadata: metadata.clone() });
        Ok((Staged { key: key.clone(), change }, metadata))
    }

    /// A delete; `None`: there is nothing to delete.
    fn staged_delete(&self, key: &Key, current: Option<&Metadata>) -> Option<Staged> {
        let live = self.descriptor.live(current)?;
        let version = self.descriptor.next_version(Some(live.version));
        Some(Staged { key: key.clone(), change: Change::Delete(version) })
    }

    /// Stores, for whoever holds the lane of the key.
    async fn put(self: &Arc<Self>, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.descriptor.admit_store(key, &value, &options)?;
        let current = match self.current("store", key).await {
            // What is damaged may be replaced by whoever asks for nothing.
            Err(error) if error.kind() == ErrorKind::Corruption && options.condition == Condition::None => {
                None
            }
            current => current?,
        };
        let (staged, metadata) = self.staged_put(key, current.as_ref(), value, &options)?;
        self.admit("store", vec![staged]).await.map_err(|error| error.with_key(key))?;
        Ok(metadata)
    }

    async fn remove(self: &Arc<Self>, key: &Key, condition: Condition) -> Result<bool> {
        self.descriptor.admit_change("delete")?;
        let current = match self.current("delete", key).await {
            Err(error) if error.kind() == ErrorKind::Corruption && condition == Condition::None => {
                let change = Change::Delete(self.descriptor.next_version(None));
                self.admit("delete", vec![Staged { key: key.clone(), change }]).await?;
                return Ok(true);
            }
            current => current?,
        };
        self.descriptor.check_condition("delete", condition, key, current.as_ref())?;
        let Some(staged) = self.staged_delete(key, current.as_ref()) else { return Ok(false) };
        self.admit("delete", vec![staged]).await.map_err(|error| error.with_key(key))?;
        Ok(true)
    }

    /// Gets everything written that waits now.
    async fn flush(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let (mark, failures) = {
            let mut queue = self.queue.lock();
            queue.hurry();
            (queue.mark(), self.failures.load(Ordering::Relaxed))
        };
        let _urgent = Urgent(self);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.queue.lock().passed(mark) {
                return self.inner.flush().await;
            }
            if self.failures.load(Ordering::Relaxed) > failures
                && let Some(error) = self.failure()
            {
                return Err(self.not_written(&error));
            }
            self.wake();
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let message = format!(
                    "{} changes were not written within {timeout:?}; they go on waiting",
                    self.pending().entries
                );
                return Err(self.descriptor.error(ErrorKind::Timeout, "flush", message));
            }
        }
    }

    fn not_written(&self, cause: &StorageError) -> StorageError {
        let message = format!(
            "{} changes cannot be written, and go on waiting: {}",
            self.pending().entries,
            cause.message()
        );
        let error = self.descriptor.error(cause.kind(), "flush", message);
        match cause.key() {
            Some(key) => error.with_key(key),
            None => error,
        }
    }

    /// Pages of the storage below and what waits, as one listing.
    async fn list(&self, prefix: &str, after: Option<Key>, limit: usize) -> Result<Page> {
        // First what waits: what is written meanwhile is found below, at the latest.
        let live = |metadata: &Metadata| self.descriptor.live(Some(metadata)).is_some();
        let mut overlay = self.queue.lock().overlay(prefix, after.as_ref(), limit, live);
        let (mut keys, mut from) = (Vec::new(), Some(ListOptions { after, limit }));
        let mut below: VecDeque<Key> = VecDeque::new();
        while keys.len() <= limit {
            if below.is_empty()
                && let Some(options) = from.take()
            {
                let page = self.inner.list_keys(prefix, options).await?;
                below = page.keys.into();
                from = page.next.map(|next| ListOptions { after: Some(next), limit });
                continue;
            }
            let first = match (below.front(), overlay.front()) {
                (None, None) => break,
                (Some(below), Some((waiting, _))) => below.cmp(waiting),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            if first.is_lt() {
                keys.extend(below.pop_front());
                continue;
            }
            if first.is_eq() {
                below.pop_front();
            }
            keys.extend(overlay.pop_front().and_then(|(key, there)| there.then_some(key)));
        }
        Ok(Page::collect(keys, limit))
    }
}

/// Somebody waits for everything to be written.
struct Urgent<'a>(&'a Shared);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().urgent -= 1;
    }
}

/// How much waits; never what.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteBehind")
            .field("inner", &self.inner)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for WriteBehind {
    fn describe(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.0.descriptor.admit_store(key, &value, &options)?;
        let _lane = self.0.lanes.enter(key).await;
        self.0.put(key, value, options).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.descriptor.admit("retrieve")?;
        if let Some(waiting) = self.0.waiting(key) {
            return Ok(waiting);
        }
        let Some(Entry { value, metadata }) = self.0.inner.retrieve(key).await? else { return Ok(None) };
        let metadata = self.0.plain("retrieve", key, Some(metadata))?;
        Ok(metadata.map(|metadata| Entry { value, metadata }))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.0.descriptor.admit_change("delete")?;
        let _lane = self.0.lanes.enter(key).await;
        self.0.remove(key, options.condition).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.0.descriptor.admit_list(prefix, &options)?;
        self.0.list(prefix, options.after, limit).await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.0.descriptor.admit("metadata")?;
        match self.0.waiting(key) {
            Some(waiting) => Ok(waiting.map(|entry| entry.metadata)),
            None => self.0.plain("metadata", key, self.0.inner.metadata(key).await?),
        }
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.0.descriptor.admit("contains")?;
        match self.0.waiting(key) {
            Some(waiting) => Ok(waiting.is_some()),
            None => self.0.inner.contains(key).await,
        }
    }

    /// Reads the value, which is stored anew.
    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.0.descriptor.admit_change("touch")?;
        let _lane = self.0.lanes.enter(key).await;
        let found = self.retrieve(key).await.map_err(|error| error.with_operation("touch"))?;
        let Some(Entry { value, metadata }) = found else { return Ok(None) };
        let metadata = self.0.descriptor.touched_metadata(&metadata, expiry);
        let change = Change::Put(Entry { value, metadata: metadata.clone() });
        self.0
            .admit("touch", vec![Staged { key: key.clone(), change }])
            .await
            .map_err(|error| error.with_key(key))?;
        Ok(Some(metadata))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.0.descriptor.admit("retrieve_range")?;
        match self.0.waiting(key) {
            Some(waiting) => Ok(waiting.map(|entry| entry.value.range(range))),
            None => self.0.inner.retrieve_range(key, range).await,
        }
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
        if let Err(error) = self.0.descriptor.admit_change("store") {
            return error.for_each("store", &keys);
        }
        let _lanes = self.0.lanes.enter_all(&keys).await;
        self.0.prepare(&keys).await;
        let stored = items
            .into_iter()
            .map(|StoreItem { key, value, options }| async move { self.0.put(&key, value, options).await });
        in_order(stored).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        if let Err(error) = self.0.descriptor.admit("retrieve") {
            return error.for_each("retrieve", keys);
        }
        let waiting: Vec<Option<Option<Entry>>> = keys.iter().map(|key| self.0.waiting(key)).collect();
        let asked = keys.iter().zip(&waiting).filter(|(_, waiting)| waiting.is_none());
        let asked: Vec<Key> = asked.map(|(key, _)| key.clone()).collect();
        let mut below = self.0.inner.retrieve_many(&asked).await.into_iter();
        let lost = || Err(self.0.descriptor.error(ErrorKind::Internal, "retrieve", "an answer is missing"));
        let answer = |(key, waiting): (&Key, Option<Option<Entry>>)| match waiting {
            Some(entry) => Ok(entry),
            None => {
                let Some(Entry { value, metadata }) = below.next().unwrap_or_else(lost)? else {
                    return Ok(None);
                };
                let metadata = self.0.plain("retrieve", key, Some(metadata))?;
                Ok(metadata.map(|metadata| Entry { value, metadata }))
            }
        };
        keys.iter().zip(waiting).map(answer).collect()
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        if let Err(error) = self.0.descriptor.admit_change("delete") {
            return error.for_each("delete", keys);
        }
        let _lanes = self.0.lanes.enter_all(keys).await;
        self.0.prepare(keys).await;
        in_order(keys.iter().map(|key| self.0.remove(key, Condition::None))).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.0.descriptor.admit_transact(&operations)?;
        let keys: Vec<Key> = operations.iter().map(|operation| operation.key().clone()).collect();
        let _lanes = self.0.lanes.enter_all(&keys).await;
        self.0.prepare(&keys).await;
        let mut currents = Vec::with_capacity(operations.len());
        for operation in &operations {
            let (key, condition) = (operation.key(), operation.condition());
            let current = self.0.current("transact", key).await.map_err(|error| error.with_key(key))?;
            self.0.descriptor.check_condition("transact", condition, key, current.as_ref())?;
            currents.push(current);
        }
        let (mut staged, mut outcomes) = (Vec::new(), Vec::with_capacity(operations.len()));
        for (operation, current) in operations.into_iter().zip(currents) {
            outcomes.push(match operation {
                Operation::Put(StoreItem { key, value, options }) => {
                    let options = StoreOptions { condition: Condition::None, ..options };
                    let (put, metadata) = self.0.staged_put(&key, current.as_ref(), value, &options)?;
                    staged.push(put);
                    Outcome::Stored(metadata)
                }
                Operation::Delete(key, _) => {
                    let delete = self.0.staged_delete(&key, current.as_ref());
                    let was_there = delete.is_some();
                    staged.extend(delete);
                    Outcome::Deleted(was_there)
                }
                Operation::Check(..) => Outcome::Checked,
            });
        }
        if !staged.is_empty() {
            self.0.admit("transact", staged).await?;
        }
        Ok(outcomes)
    }

    /// Returns when everything that was acknowledged before is written below.
    async fn flush(&self) -> Result<()> {
        self.flush_within(self.0.config.flush_timeout.0).await
    }

    /// That of the storage below; degraded if something that waits could not be written, with the cause.
    async fn health(&self) -> Health {
        if let Err(error) = self.0.descriptor.admit("health") {
            return Health::unhealthy(&error);
        }
        if let Some(why) = self.0.journal.as_ref().and_then(|journal| journal.failure()) {
            return Health { status: HealthStatus::Unhealthy, detail: why };
        }
        let health = self.0.inner.health().await;
        match self.0.failure() {
            Some(error) if health.status == HealthStatus::Healthy => {
                Health { status: HealthStatus::Degraded, detail: self.0.not_written(&error).to_string() }
            }
            _ => health,
        }
    }

    /// The figures of the storage below, without its numbers of keys and bytes while something waits; and `pending_entries`,
    /// `pending_bytes`, `pending_ms` (how long the oldest has waited), `behind_batches`, `behind_failures`, `behind_conflicts`.
    async fn stats(&self) -> Result<Stats> {
        self.0.descriptor.admit("stats")?;
        let before = self.0.pending();
        let mut stats = self.0.inner.stats().await?;
        let pending = self.0.pending();
        if before.entries + pending.entries > 0 {
            (stats.keys, stats.bytes) = (None, None);
        }
        stats.counters.extend([
            ("pending_entries", pending.entries as u64),
            ("pending_bytes", pending.bytes),
            ("pending_ms", u64::try_from(pending.age.as_millis()).unwrap_or(u64::MAX)),
            ("behind_batches", self.0.written.load(Ordering::Relaxed)),
            ("behind_failures", self.0.failures.load(Ordering::Relaxed)),
            ("behind_conflicts", self.0.conflicts.load(Ordering::Relaxed)),
        ]);
        Ok(stats)
    }

    /// Writes what waits, and lets the storage below maintain itself: otherwise that would take for expired what was stored anew.
    async fn maintain(&self) -> Result<Maintenance> {
        self.0.descriptor.admit_change("maintain")?;
        self.0.flush(self.0.config.flush_timeout.0).await?;
        self.0.inner.maintain().await
    }

    /// Writes what waits, and lets the storage below verify itself.
    async fn verify(&self) -> Result<Verification> {
        self.0.descriptor.admit("verify")?;
        self.0.flush(self.0.config.flush_timeout.0).await?;
        self.0.inner.verify().await
    }

    /// Writes what waits, and lets the storage below make the snapshot.
    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.0.descriptor.admit("snapshot")?;
        self.0.flush(self.0.config.flush_timeout.0).await?;
        self.0.inner.snapshot(sink).await
    }

    /// Tells of changes as they are acknowledged.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.0.descriptor.admit_watch(prefix)?;
        Ok(self.0.watchers.watch(prefix))
    }

    /// Writes what waits, then closes the storage below. If something cannot be written, it goes on waiting, the storage below stays
    /// open, and closing again tries again.
    async fn close(&self) -> Result<()> {
        self.0.descriptor.close();
        self.0.watchers.close();
        loop {
            let flushed = self.0.flush(self.0.config.flush_timeout.0).await;
            // One that was closed before has nothing to say.
            flushed.or_else(|error| if error.kind() == ErrorKind::Closed { Ok(()) } else { Err(error) })?;
            let mut queue = self.0.queue.lock();
            // What was admitted before the end may have come in meanwhile.
            if queue.is_empty() {
                queue.sealed = true;
                break;
            }
        }
        if let Some(journal) = &self.0.journal {
            journal
                .finish()
                .await
                .map_err(|error| error.with_operation("close").with_storage(self.0.descriptor.name()))?;
        }
        self.0.inner.close().await
    }
}

/// Makes calls one after the other.
async fn in_order<T, F: Future<Output = T>>(calls: impl Iterator<Item = F>) -> Vec<T> {
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await);
    }
    answers
}

#[async_trait]
impl Layer for WriteBehind {
    const NAME: &'static str = "write_behind";
    type Config = WriteBehindConfig;

    fn check(config: &WriteBehindConfig) -> Result<(), String> {
        config.check()
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: WriteBehindConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, config)?))
    }

    async fn open(
        inner: Arc<dyn BaseStorage>,
        config: WriteBehindConfig,
        context: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::open(inner, config, &context.base).await?))
    }
}
