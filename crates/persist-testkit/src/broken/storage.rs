use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Condition, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, HealthStatus, Key,
    ListOptions, Maintenance, Metadata, Operation, Outcome, Page, Result, SnapshotSink, SnapshotSummary,
    Stats, StorageError, StoreItem, StoreOptions, Tags, Timestamp, Value, Verification, Watch, Watchers,
    snapshot_entries,
};

use super::harness::Past;
use super::{Bug, keys, let_others_in, options};
use crate::memory::{MemoryPlace, MemoryStorage};

/// A storage in memory with one bug.
pub struct BrokenStorage {
    pub(super) bug: Option<Bug>,
    pub(super) inner: Arc<MemoryStorage>,
    pub(super) place: MemoryPlace,
    pub(super) past: Arc<Past>,
    pub(super) slot: Mutex<Option<Value>>,
    pub(super) busy: AtomicBool,
    pub(super) offsets: Mutex<HashMap<Key, usize>>,
    pub(super) leftovers: Mutex<Vec<Key>>,
    stale: Mutex<HashMap<Key, Option<Entry>>>,
    pub(super) stores: AtomicU64,
    flushed_at: AtomicU64,
    renamed: Descriptor,
    /// Watchers of this handle alone, beside those of the place.
    pub(super) extra: Watchers,
    pub(super) watches: AtomicU64,
}

impl BrokenStorage {
    pub(super) fn new(
        bug: Option<Bug>,
        descriptor: Descriptor,
        place: &MemoryPlace,
        past: Arc<Past>,
    ) -> Self {
        Self {
            bug,
            inner: Arc::new(MemoryStorage::with_descriptor(descriptor, place)),
            place: place.clone(),
            past,
            slot: Mutex::default(),
            busy: AtomicBool::new(false),
            offsets: Mutex::default(),
            leftovers: Mutex::default(),
            stale: Mutex::default(),
            stores: AtomicU64::new(0),
            flushed_at: AtomicU64::new(u64::MAX),
            renamed: Descriptor::new("renamed", "memory"),
            extra: Watchers::new(),
            watches: AtomicU64::new(0),
        }
    }

    pub(super) fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(super) fn key(&self, key: &Key) -> Key {
        keys::mangled(self.bug, key)
    }

    /// An entry that is stored and has not expired, past all checks.
    pub(super) fn live(&self, key: &Key) -> Option<Entry> {
        self.place.peek(key).filter(|entry| self.is_live(&entry.metadata))
    }

    pub(super) fn is_live(&self, metadata: &Metadata) -> bool {
        self.inner.describe().live(Some(metadata)).is_some()
    }

    /// What a bug makes of an error on its way out.
    pub(super) fn told<T>(&self, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        let plain = || StorageError::new(error.kind(), error.message().to_owned());
        let placed = |error: StorageError| error.with_storage(self.inner.describe().name());
        Err(match self.bug {
            Some(Bug::ErrorsWithoutStorage) => plain(),
            Some(Bug::RawKeys) => {
                let key = error.key().map(Key::as_str).unwrap_or_default();
                placed(StorageError::new(error.kind(), format!("cannot do that to {key}")))
            }
            Some(Bug::ConflictFindsNothing) if error.kind() == ErrorKind::Conflict => placed(plain()),
            Some(Bug::ClosedIsUnavailable) if error.kind() == ErrorKind::Closed => {
                placed(StorageError::new(ErrorKind::Unavailable, "the storage does not answer"))
            }
            _ => error,
        })
    }

    fn read_past_checks(&self, key: &Key, read: Result<Option<Entry>>) -> Result<Option<Entry>> {
        let kind = read.as_ref().map_or_else(|error| Some(error.kind()), |_| None);
        match (self.bug, kind) {
            (Some(Bug::NoVerification), Some(ErrorKind::Corruption)) => Ok(self.live(key)),
            (Some(Bug::CorruptionAsAbsent), Some(ErrorKind::Corruption)) => Ok(None),
            (Some(Bug::UnavailableAsAbsent), Some(ErrorKind::Unavailable)) => Ok(None),
            (Some(Bug::WorksAfterClose), Some(ErrorKind::Closed)) => Ok(self.live(key)),
            (Some(Bug::ShowsExpired), None) => Ok(self.place.peek(key)),
            (Some(Bug::StaleReads), None) => {
                Ok(self.stale.lock().entry(key.clone()).or_insert(read?).clone())
            }
            (Some(Bug::AbsentIsAnError), None) => match read? {
                Some(entry) => Ok(Some(entry)),
                None => Err(self.inner.describe().error(ErrorKind::NotFound, "retrieve", "no such key")),
            },
            _ => read,
        }
    }

    fn touch_by_reading(&self, key: &Key, found: &mut Entry) {
        found.metadata.modified_at = self.inner.describe().now();
        self.place.poke(key, found.clone());
    }

    fn counts_as_absent(&self, value: &Value) -> bool {
        match self.bug {
            Some(Bug::NullAsAbsent) => &value.buffer()[..] == b"null",
            Some(Bug::EmptyAsAbsent) => value.size() == 0,
            _ => false,
        }
    }

    async fn torn_delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let found = self.live(key);
        if let Some(mut half) = found.filter(|_| options.condition == Condition::None) {
            half.value = Value::Bytes(half.value.range(0..half.metadata.size / 2));
            self.place.poke(key, half);
            let_others_in().await;
        }
        self.inner.delete(key, options).await
    }

    async fn delete_in_two_steps(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let found = self.inner.metadata(key).await?;
        options.condition.check(key, found.as_ref())?;
        let_others_in().await;
        self.inner.delete(key, DeleteOptions::new()).await?;
        Ok(found.is_some())
    }

    /// The range of the value with everything a bug counts to it.
    fn wrong_range(&self, value: &Value, range: Range<u64>) -> Bytes {
        let whole = || value.range(0..u64::MAX);
        match (self.bug, value) {
            (Some(Bug::RangeInclusive), _) => value.range(range.start..range.end.saturating_add(1)),
            (Some(Bug::RangePanics), _) => {
                assert!(range.end <= value.size(), "range end index {} out of range", range.end);
                value.range(range)
            }
            (Some(Bug::RangeReversedAll), _) if range.end < range.start => whole(),
            (Some(Bug::RangeInBlocks), _) => value.range(range.start / 4096 * 4096..range.end),
            (Some(Bug::RangeCountsHeader), Value::Array(array)) => Value::Bytes(array.to_npy()).range(range),
            _ => value.range(range),
        }
    }

    async fn torn_touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let Some(entry) = self.live(key) else { return Ok(None) };
        self.place.take(key);
        let_others_in().await;
        self.place.poke(key, entry);
        self.inner.touch(key, expiry).await
    }

    fn rewrite_all(&self) {
        for key in self.place.keys() {
            self.rewrite(&key, |metadata| {
                metadata.version = self.inner.describe().next_version(Some(metadata.version));
            });
        }
    }

    fn sweep_mortals(&self) {
        for key in self.place.keys() {
            if self.place.peek(&key).is_some_and(|entry| entry.metadata.expires_at.is_some()) {
                self.place.take(&key);
            }
        }
    }

    pub(super) async fn store_item(&self, item: StoreItem) -> Result<Metadata> {
        let options = match self.bug {
            Some(Bug::BatchWithoutOptions) => StoreOptions::new(),
            Some(Bug::DefaultTtlInStoreAlone) if item.options.expiry == Expiry::Default => {
                StoreOptions { expiry: Expiry::Never, ..item.options }
            }
            _ => item.options,
        };
        self.store(&item.key, item.value, options).await
    }

    /// What a bug makes of the answers of a batch.
    fn answered<T>(&self, mut answers: Vec<Result<T>>) -> Vec<Result<T>> {
        if self.is(Bug::BatchReversed) {
            answers.reverse();
        }
        answers
    }

    fn skips(&self, handled: usize, seen: &[&Key], key: &Key) -> bool {
        (self.is(Bug::BatchOf500) && handled >= 500) || (self.is(Bug::BatchOnce) && seen.contains(&key))
    }
}

/// Debug shows no values, but for the bug that does.
impl fmt::Debug for BrokenStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("BrokenStorage");
        shown.field("bug", &self.bug);
        if self.is(Bug::DebugShowsValues) {
            let entries: Vec<_> = self.place.keys().iter().filter_map(|key| self.place.peek(key)).collect();
            shown.field("entries", &entries);
        }
        shown.finish_non_exhaustive()
    }
}

#[async_trait]
impl BaseStorage for BrokenStorage {
    fn describe(&self) -> &Descriptor {
        let usual = self.inner.describe();
        if self.is(Bug::RenamedByClose) && usual.is_closed() { &self.renamed } else { usual }
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let key = self.key(key);
        self.stores.fetch_add(1, Ordering::AcqRel);
        let result = self.store_mangled(&key, value, options).await;
        if result.is_ok() && self.is(Bug::WatchesItselfAlone) || self.is(Bug::WatchTellsConflicts) {
            self.tell_extra(&key).await;
        }
        self.told(result)
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let key = self.key(key);
        let read = self.inner.retrieve(&key).await;
        let mut found = self.told(self.read_past_checks(&key, read))?;
        if let (true, Some(entry)) = (self.is(Bug::ReadsTouch), &mut found) {
            self.touch_by_reading(&key, entry);
        }
        Ok(found.filter(|entry| !self.counts_as_absent(&entry.value)))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let key = &self.key(key);
        let stored = self.place.peek(key);
        if let Some(entry) = &stored {
            self.past.deleted.lock().push((key.clone(), entry.clone()));
        }
        let deleted = match self.bug {
            Some(Bug::DeletesNothing) => Ok(stored.is_some()),
            Some(Bug::IgnoresDeleteCondition) => self.inner.delete(key, DeleteOptions::new()).await,
            Some(Bug::DeleteNotAtomic) => self.delete_in_two_steps(key, options).await,
            Some(Bug::TornDelete) => self.torn_delete(key, options).await,
            _ => self.inner.delete(key, options).await,
        };
        self.told(deleted.map(|there| match self.bug {
            Some(Bug::DeleteAlwaysTrue) => true,
            Some(Bug::DeleteNeverTrue) => false,
            Some(Bug::DeleteCountsExpired) => stored.is_some(),
            _ => there,
        }))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let page = self.list_mangled(prefix, options).await;
        self.told(page)
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let mut found = self.retrieve(key).await?.map(|entry| entry.metadata);
        if let (true, Some(metadata)) = (self.is(Bug::MetadataOfItsOwn), &mut found) {
            metadata.modified_at = Timestamp::from_millis(metadata.modified_at.as_millis() / 1000 * 1000 + 1);
        }
        Ok(found)
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let key = &self.key(key);
        let now = self.inner.describe().now();
        let expiry = options::expiry(self.bug, expiry, now);
        let past = expiry.resolve(now, None).is_some_and(|moment| moment <= now);
        let result = match self.bug {
            Some(Bug::TouchIgnored) => self.inner.metadata(key).await,
            Some(Bug::TouchIgnoresPast) if past => self.inner.metadata(key).await,
            Some(Bug::TouchCreates) if self.live(key).is_none() => {
                let options = StoreOptions { expiry, ..StoreOptions::new() };
                self.inner.store(key, Value::bytes(Bytes::new()), options).await.map(Some)
            }
            Some(Bug::TornTouch) => self.torn_touch(key, expiry).await,
            Some(Bug::TouchDropsTags) => self.inner.touch(key, expiry).await.map(|touched| {
                touched.and_then(|_| self.rewrite(key, |metadata| metadata.tags = Tags::new()))
            }),
            _ => self.inner.touch(key, expiry).await,
        };
        self.told(result)
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let key = &self.key(key);
        if self.is(Bug::RangeReadsAll) {
            return Ok(self.retrieve(key).await?.map(|entry| entry.value.range(range)));
        }
        let found = self.told(self.inner.retrieve_range(key, range.clone()).await)?;
        if found.is_none() {
            return Ok(self.is(Bug::RangeOfAbsent).then(Bytes::new));
        }
        Ok(self.live(key).map(|entry| self.wrong_range(&entry.value, range)))
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let mut answers = Vec::with_capacity(items.len());
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        for (i, item) in items.into_iter().enumerate() {
            if self.skips(i, &keys[..i].iter().collect::<Vec<_>>(), &item.key) {
                answers.push(self.inner.describe().next_metadata(
                    &item.key,
                    None,
                    &item.value,
                    &item.options,
                ));
                continue;
            }
            answers.push(self.store_item(item).await);
            if self.is(Bug::BatchStops) && answers.last().is_some_and(Result::is_err) {
                break;
            }
        }
        self.answered(answers)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut answers = Vec::with_capacity(keys.len());
        for (i, key) in keys.iter().enumerate() {
            let skipped = self.skips(i, &keys[..i].iter().collect::<Vec<_>>(), key);
            answers.push(if skipped { Ok(None) } else { self.retrieve(key).await });
        }
        self.answered(answers)
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let mut answers = Vec::with_capacity(keys.len());
        for (i, key) in keys.iter().enumerate() {
            let skipped = self.skips(i, &keys[..i].iter().collect::<Vec<_>>(), key);
            answers.push(if skipped { Ok(true) } else { self.delete(key, DeleteOptions::new()).await });
        }
        self.answered(answers)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let result = self.transact_mangled(operations).await;
        self.told(result)
    }

    async fn flush(&self) -> Result<()> {
        let stores = self.stores.load(Ordering::Acquire);
        if self.is(Bug::FlushFails) && self.flushed_at.swap(stores, Ordering::AcqRel) == stores {
            return Err(self.inner.describe().error(
                ErrorKind::Internal,
                "flush",
                "there is nothing to flush",
            ));
        }
        self.told(self.inner.flush().await)
    }

    async fn health(&self) -> Health {
        let usual = match self.list_keys("", ListOptions::new().limit(1)).await {
            Ok(_) => Health::healthy(),
            Err(error) => Health::unhealthy(&error),
        };
        match self.bug {
            Some(Bug::NeverHealthy) => Health { status: HealthStatus::Degraded, detail: String::new() },
            Some(Bug::HealthyWhenClosed) if self.inner.describe().is_closed() => Health::healthy(),
            Some(Bug::HealthyWhenDown) if self.place.is_down() => Health::healthy(),
            _ => usual,
        }
    }

    async fn stats(&self) -> Result<Stats> {
        let mut stats = self.told(self.inner.stats().await)?;
        if self.is(Bug::CountsStores) {
            stats.keys = Some(self.stores.load(Ordering::Acquire));
        }
        Ok(stats)
    }

    async fn maintain(&self) -> Result<Maintenance> {
        let done = self.told(self.inner.maintain().await)?;
        match self.bug {
            Some(Bug::SweepsMortals) => self.sweep_mortals(),
            Some(Bug::MaintainRewrites) => self.rewrite_all(),
            _ => {}
        }
        Ok(done)
    }

    async fn verify(&self) -> Result<Verification> {
        let mut report = Verification::default();
        for key in self.list_keys("", ListOptions::new()).await?.keys {
            report.checked += 1;
            match self.retrieve(&key).await {
                _ if self.is(Bug::VerifySkips) => {}
                Ok(found) => report.bytes += found.map_or(0, |entry| entry.metadata.size),
                Err(error) if self.is(Bug::VerifyStops) => return Err(error),
                Err(error) if error.kind() == ErrorKind::Corruption => {
                    report.problems.push(error.with_key(&key).into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        match self.snapshot_mangled() {
            Some(keys) => self.snapshot_of(keys, sink).await,
            None => snapshot_entries(self, sink).await,
        }
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.watch_mangled(prefix).await
    }

    async fn close(&self) -> Result<()> {
        self.extra.close();
        self.past.unclosed.store(false, Ordering::Release);
        if self.is(Bug::SecondCloseFails) {
            self.inner.describe().admit("close")?;
        }
        self.inner.close().await
    }
}
