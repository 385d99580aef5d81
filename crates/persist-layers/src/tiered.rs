use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Flight, Health,
    HealthStatus, HumanDuration, Key, ListOptions, Maintenance, Metadata, Operation, Outcome, Page, Result,
    SingleFlight, SnapshotSink, SnapshotSummary, Stats, StorageError, StoreItem, StoreOptions, Value,
    Verification, Watch, snapshot_entries,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Composite;
use crate::composite::close_all;
use crate::copy::Copied;

/// The settings of [`Tiered`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TieredConfig {
    /// The names of the storages, the quickest first. The last one holds everything; the others hold copies, and nobody else
    /// may use them.
    pub tiers: Vec<String>,
    /// What a store does to the upper tiers.
    #[serde(default)]
    pub write: TieredWrite,
    /// How long it is remembered that a key is absent; left out: not at all.
    #[serde(default)]
    pub negative_ttl: Option<HumanDuration>,
    /// What becomes of a change when an upper tier fails.
    #[serde(default)]
    pub on_failure: TieredFailure,
}

impl TieredConfig {
    /// These tiers, with the defaults.
    pub fn new(tiers: impl IntoIterator<Item = String>) -> Self {
        let (write, on_failure) = (TieredWrite::default(), TieredFailure::default());
        Self { tiers: tiers.into_iter().collect(), write, negative_ttl: None, on_failure }
    }
}

/// What a store does to the upper tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TieredWrite {
    /// It puts the value into them too.
    #[default]
    Through,
    /// It removes the old value from them; the next read puts the new one there.
    Around,
}

/// What becomes of a change when the old value cannot be removed from an upper tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TieredFailure {
    /// It fails too, before it has done anything.
    #[default]
    Fail,
    /// It takes place, and the upper tiers are not asked for that key until another change of it succeeds, as long as this
    /// program runs. Only for upper tiers that are empty when the program starts again.
    Bypass,
}

/// Several storages as one: the last holds everything, those above it hold copies that are quicker to get.
///
/// A read looks from the top down, and puts what it finds into the tiers above; callers who miss the same key wait for one
/// of them. A change removes the copies first, then changes the last tier, whose versions, conditions and answers count, and
/// then puts the new value into the upper tiers. Listings, transactions and watches are those of the last tier.
///
/// Within one program every change is seen by everybody at once. What another program changes in the last tier is seen when
/// the copies have expired: give the upper tiers a short lifetime, or let only one program change things.
///
/// What was begun below the first tier goes on to its end although its caller has gone. If the outcome of a change is unknown, its key is read from the last tier
/// alone until another change of it succeeds.
#[derive(Debug, Clone)]
pub struct Tiered(Arc<Tiers>);

#[derive(Debug)]
struct Tiers {
    descriptor: Descriptor,
    /// The quickest first.
    upper: Vec<Arc<dyn BaseStorage>>,
    last: Arc<dyn BaseStorage>,
    config: Policy,
    /// Whoever changes a key, or puts copies of it into tiers, does it alone.
    lanes: SingleFlight,
    suspects: Suspects,
    hits: Vec<AtomicU64>,
    misses: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Policy {
    write: TieredWrite,
    negative_ttl: Option<std::time::Duration>,
    on_failure: TieredFailure,
}

/// The first tier has no copy.
struct Missed;

/// Keys whose copies may not be believed.
#[derive(Debug, Default)]
struct Suspects {
    any: AtomicBool,
    keys: Mutex<HashSet<Key>>,
}

impl Suspects {
    fn has(&self, key: &Key) -> bool {
        self.any.load(Ordering::Acquire) && self.keys.lock().contains(key)
    }

    fn add(&self, key: &Key) {
        self.keys.lock().insert(key.clone());
        self.any.store(true, Ordering::Release);
    }

    fn clear(&self, key: &Key) {
        if self.any.load(Ordering::Acquire) {
            let mut keys = self.keys.lock();
            keys.remove(key);
            self.any.store(!keys.is_empty(), Ordering::Release);
        }
    }
}

impl Tiered {
    /// Some storages as tiers, the quickest first.
    ///
    /// # Errors
    /// `InvalidConfig` with fewer than two of them, and if an upper one takes no changes while the last one does.
    pub fn new(name: &str, tiers: Vec<Arc<dyn BaseStorage>>, config: &TieredConfig) -> Result<Self> {
        let invalid =
            |message: String| StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name);
        let mut upper = tiers;
        let last = upper.pop().filter(|_| !upper.is_empty());
        let last = last.ok_or_else(|| invalid("tiers need at least two storages".to_owned()))?;
        let fixed = |tier: &&Arc<dyn BaseStorage>| tier.describe().capabilities().read_only;
        // Where nothing changes, copies do not grow old, and need not be made.
        if let Some(fixed) = upper.iter().find(fixed).filter(|_| !fixed(&&last)) {
            let tier = fixed.describe().name();
            return Err(invalid(format!(
                "the upper tier `{tier}` takes no changes, so it cannot hold copies"
            )));
        }
        let below = last.describe();
        let capabilities = Capabilities {
            // Copies in this program do not follow what another one changes.
            shared: false,
            native_ranges: false,
            native_arrays: false,
            ..below.capabilities()
        };
        let descriptor = Descriptor::new(name, Self::TYPE)
            .with_capabilities(capabilities)
            .with_max_value_bytes(below.max_value_bytes())
            .with_default_ttl(below.default_ttl())
            .with_clock(Arc::clone(below.clock()));
        let policy = Policy {
            write: config.write,
            negative_ttl: config.negative_ttl.map(|HumanDuration(ttl)| ttl),
            on_failure: config.on_failure,
        };
        Ok(Self(Arc::new(Tiers {
            descriptor,
            hits: upper.iter().map(|_| AtomicU64::new(0)).collect(),
            upper,
            last,
            config: policy,
            lanes: SingleFlight::default(),
            suspects: Suspects::default(),
            misses: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })))
    }

    /// Does a change to its end, whatever becomes of the caller. The lanes of its keys were taken before, so that changes come
    /// in the order in which they were begun: one whose caller has gone never comes after a later one.
    async fn detached<T, F>(&self, lanes: Vec<Flight>, change: impl FnOnce(Arc<Tiers>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let change = change(Arc::clone(&self.0));
        let done = tokio::spawn(async move {
            let answer = change.await;
            drop(lanes);
            answer
        });
        let done = done.await;
        done.unwrap_or_else(|_| {
            let message = "the change ended without an answer";
            Err(self.0.descriptor.error(ErrorKind::Internal, "store", message).with_outcome_unknown())
        })
    }
}

impl Tiers {
    /// Looks for a copy in one tier; what cannot be had counts as not there.
    async fn look(&self, tier: usize, key: &Key) -> Option<Copied> {
        match self.upper[tier].retrieve(key).await {
            Ok(entry) => Copied::read(entry?, &self.descriptor),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// What the first tier has.
    async fn hit(&self, key: &Key) -> Result<Option<Entry>, Missed> {
        if self.suspects.has(key) {
            return Err(Missed);
        }
        if let Some(found) = self.look(0, key).await {
            self.hits[0].fetch_add(1, Ordering::Relaxed);
            return Ok(found.into_entry());
        }
        Err(Missed)
    }

    /// Looks further down than the first tier, alone, and puts what is found into the tiers above.
    async fn fetch(&self, key: &Key) -> Result<Option<Entry>> {
        // Somebody may have put it there, or begun to doubt it, while this one waited.
        let suspect = self.suspects.has(key);
        for tier in (0..self.upper.len()).take_while(|_| !suspect) {
            if let Some(found) = self.look(tier, key).await {
                self.hits[tier].fetch_add(1, Ordering::Relaxed);
                self.put_copies(tier, key, &found).await;
                return Ok(found.into_entry());
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let found = self.last.retrieve(key).await?;
        if !suspect {
            match (&found, self.config.negative_ttl) {
                (Some(entry), _) => self.put_copies(self.upper.len(), key, &Copied::of(entry)).await,
                (None, Some(ttl)) => self.put_copies(self.upper.len(), key, &Copied::absent(ttl)).await,
                (None, None) => {}
            }
        }
        Ok(found)
    }

    /// Puts a copy into the tiers above this one. A tier that does not take it is without it.
    async fn put_copies(&self, above: usize, key: &Key, copied: &Copied) {
        for tier in self.upper[..above].iter().filter(|tier| !tier.describe().capabilities().read_only) {
            let Some((value, options)) = copied.item(tier.describe()) else { continue };
            if let Err(error) = tier.store(key, value, options).await {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if error.outcome_unknown() {
                    // It may get there after the next change has removed it.
                    self.suspects.add(key);
                }
            }
        }
    }

    /// Takes the lanes of some keys, in an order in which nobody waits for somebody who waits for him.
    async fn enter(&self, keys: impl Iterator<Item = &Key>) -> Vec<Flight> {
        let mut keys: Vec<&Key> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        let mut lanes = Vec::with_capacity(keys.len());
        for key in keys {
            lanes.push(self.lanes.enter(key).await);
        }
        lanes
    }

    /// Removes the copies of some keys.
    async fn forget(&self, keys: &[Key]) -> Result<()> {
        for tier in &self.upper {
            for (key, answer) in keys.iter().zip(tier.delete_many(keys).await) {
                let Err(error) = answer else { continue };
                self.failures.fetch_add(1, Ordering::Relaxed);
                match self.config.on_failure {
                    TieredFailure::Bypass => self.suspects.add(key),
                    TieredFailure::Fail => {
                        let message = format!(
                            "the old value cannot be removed from the tier `{}`, so nothing was changed: {}",
                            tier.describe().name(),
                            error.message()
                        );
                        let error = StorageError::new(error.kind(), message).with_source(error);
                        return Err(error.with_storage(self.descriptor.name()).with_key(key));
                    }
                }
            }
        }
        Ok(())
    }

    /// What a change of a key leaves: its copies may be made again, or not be believed.
    fn settle<T>(&self, key: &Key, answer: &Result<T>, forgotten: bool) {
        match answer {
            Ok(_) if forgotten => self.suspects.clear(key),
            Err(error) if error.outcome_unknown() => self.suspects.add(key),
            Ok(_) | Err(_) => {}
        }
    }

    /// Makes a change of one key: without copies, alone, and so that no copy outlives it.
    async fn change<T, F: Future<Output = Result<T>>>(&self, key: &Key, change: F) -> Result<T> {
        let before = self.failures.load(Ordering::Relaxed);
        self.forget(std::slice::from_ref(key)).await?;
        let forgotten = self.failures.load(Ordering::Relaxed) == before;
        let answer = change.await;
        self.settle(key, &answer, forgotten);
        answer
    }

    async fn store(&self, key: Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let stored = self.change(&key, self.last.store(&key, value.clone(), options)).await?;
        self.fill(&key, value, &stored).await;
        Ok(stored)
    }

    /// Puts a value that was stored into the upper tiers, if that is wanted.
    async fn fill(&self, key: &Key, value: Value, stored: &Metadata) {
        if self.config.write == TieredWrite::Through && !self.suspects.has(key) {
            let entry = Entry::new(value, stored.clone());
            self.put_copies(self.upper.len(), key, &Copied::of(&entry)).await;
        }
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Result<Vec<Result<Metadata>>> {
        let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
        self.forget(&keys).await?;
        let answers = self.last.store_many(items).await;
        // The next read puts them into the upper tiers.
        keys.iter().zip(&answers).for_each(|(key, answer)| self.settle(key, answer, false));
        Ok(answers)
    }

    async fn delete_many(&self, keys: Vec<Key>) -> Result<Vec<Result<bool>>> {
        self.forget(&keys).await?;
        let answers = self.last.delete_many(&keys).await;
        keys.iter().zip(&answers).for_each(|(key, answer)| self.settle(key, answer, false));
        Ok(answers)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let changed = operations.iter().filter(|operation| !matches!(operation, Operation::Check(..)));
        let keys: Vec<Key> = changed.map(|operation| operation.key().clone()).collect();
        self.forget(&keys).await?;
        let answer = self.last.transact(operations).await;
        keys.iter().for_each(|key| self.settle(key, &answer, false));
        answer
    }

    /// The same failure for every item of a batch.
    fn refused<T>(&self, error: &StorageError, keys: &[Key]) -> Vec<Result<T>> {
        let refuse = |key: &Key| {
            let again = StorageError::new(error.kind(), error.message().to_owned());
            let again = again.with_storage(self.descriptor.name()).with_key(key);
            Err(if error.outcome_unknown() { again.with_outcome_unknown() } else { again })
        };
        keys.iter().map(refuse).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Tiered {
    fn describe(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.0.descriptor.admit_store(key, &value, &options)?;
        let (lanes, key) = (self.0.enter(std::iter::once(key)).await, key.clone());
        self.detached(lanes, |tiers| async move { tiers.store(key, value, options).await }).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.descriptor.admit("retrieve")?;
        if let Ok(found) = self.0.hit(key).await {
            return Ok(found);
        }
        let (lanes, key) = (self.0.enter(std::iter::once(key)).await, key.clone());
        self.detached(lanes, |tiers| async move { tiers.fetch(&key).await }).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.0.descriptor.admit_change("delete")?;
        let (lanes, key) = (self.0.enter(std::iter::once(key)).await, key.clone());
        self.detached(
            lanes,
            |tiers| async move { tiers.change(&key, tiers.last.delete(&key, options)).await },
        )
        .await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.0.descriptor.admit_list(prefix, &options)?;
        self.0.last.list_keys(prefix, options).await
    }

    /// That of a copy in the first tier, or of the last tier.
    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let tiers = &self.0;
        tiers.descriptor.admit("metadata")?;
        if !tiers.suspects.has(key)
            && let Ok(Some(metadata)) = tiers.upper[0].metadata(key).await
            && let Some(found) = Copied::read_metadata(metadata, &tiers.descriptor)
        {
            return Ok(found);
        }
        tiers.last.metadata(key).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        Ok(self.metadata(key).await?.is_some())
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.0.descriptor.admit_change("touch")?;
        let (lanes, key) = (self.0.enter(std::iter::once(key)).await, key.clone());
        self.detached(lanes, |tiers| async move { tiers.change(&key, tiers.last.touch(&key, expiry)).await })
            .await
    }

    /// A part of a copy in the first tier, or what the last tier reads; the value is not put into the upper tiers.
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let tiers = &self.0;
        tiers.descriptor.admit("retrieve_range")?;
        if !tiers.suspects.has(key)
            && let Some(found) = tiers.look(0, key).await
        {
            tiers.hits[0].fetch_add(1, Ordering::Relaxed);
            return Ok(found.into_entry().map(|entry| entry.value.range(range)));
        }
        tiers.last.retrieve_range(key, range).await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
        let answers = match self.0.descriptor.admit_change("store") {
            Ok(()) => {
                let lanes = self.0.enter(keys.iter()).await;
                self.detached(lanes, |tiers| async move { tiers.store_many(items).await }).await
            }
            Err(error) => Err(error.with_operation("store")),
        };
        answers.unwrap_or_else(|error| self.0.refused(&error, &keys))
    }

    /// Copies in the first tier, and all others from the last tier in one call. They are not put into the upper tiers.
    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let tiers = &self.0;
        if let Err(error) = tiers.descriptor.admit("retrieve") {
            return tiers.refused(&error, keys);
        }
        let copies = tiers.upper[0].retrieve_many(keys).await;
        let copy = |(key, answer): (&Key, Result<Option<Entry>>)| {
            let entry = answer.ok().flatten().filter(|_| !tiers.suspects.has(key))?;
            Copied::read(entry, &tiers.descriptor)
        };
        let copies: Vec<Option<Copied>> = keys.iter().zip(copies).map(copy).collect();
        let missed: Vec<Key> =
            keys.iter().zip(&copies).filter(|(_, copy)| copy.is_none()).map(|(key, _)| key.clone()).collect();
        let mut found = tiers.last.retrieve_many(&missed).await.into_iter();
        let lost = || Err(tiers.descriptor.error(ErrorKind::Internal, "retrieve", "an answer is missing"));
        let answer = |copy: Option<Copied>| match copy {
            Some(copied) => Ok(copied.into_entry()),
            None => found.next().unwrap_or_else(lost),
        };
        copies.into_iter().map(answer).collect()
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let named = keys.to_vec();
        let answers = match self.0.descriptor.admit_change("delete") {
            Ok(()) => {
                let lanes = self.0.enter(keys.iter()).await;
                self.detached(lanes, |tiers| async move { tiers.delete_many(named).await }).await
            }
            Err(error) => Err(error),
        };
        answers.unwrap_or_else(|error| self.0.refused(&error, keys))
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.0.descriptor.admit_change("transact")?;
        let lanes = self.0.enter(operations.iter().map(Operation::key)).await;
        self.detached(lanes, |tiers| async move { tiers.transact(operations).await }).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.descriptor.admit("flush")?;
        self.0.last.flush().await
    }

    /// That of the last tier; degraded if an upper one does not work.
    async fn health(&self) -> Health {
        let mut health = self.0.last.health().await;
        for tier in &self.0.upper {
            let upper = tier.health().await;
            if upper.status != HealthStatus::Healthy && health.status == HealthStatus::Healthy {
                let detail = format!("the tier `{}`: {}", tier.describe().name(), upper.detail);
                health = Health { status: HealthStatus::Degraded, detail };
            }
        }
        match self.0.descriptor.admit("health") {
            Ok(()) => health,
            Err(error) => Health::unhealthy(&error),
        }
    }

    /// The figures of the last tier, and `tier_hits` (reads that an upper tier answered), `tier_misses` and `tier_failures`.
    async fn stats(&self) -> Result<Stats> {
        self.0.descriptor.admit("stats")?;
        let mut stats = self.0.last.stats().await?;
        let hits = self.0.hits.iter().map(|hits| hits.load(Ordering::Relaxed)).sum();
        stats.counters.insert("tier_hits", hits);
        stats.counters.insert("tier_misses", self.0.misses.load(Ordering::Relaxed));
        stats.counters.insert("tier_failures", self.0.failures.load(Ordering::Relaxed));
        Ok(stats)
    }

    /// Maintains every tier; what it says is of the last one.
    async fn maintain(&self) -> Result<Maintenance> {
        self.0.descriptor.admit_change("maintain")?;
        for tier in &self.0.upper {
            if tier.maintain().await.is_err() {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.0.last.maintain().await
    }

    async fn verify(&self) -> Result<Verification> {
        self.0.descriptor.admit("verify")?;
        self.0.last.verify().await
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.0.descriptor.admit("snapshot")?;
        // As entries, because the form of the last tier is not that of this type.
        snapshot_entries(self.0.last.as_ref(), sink).await
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.0.descriptor.admit_watch(prefix)?;
        self.0.last.watch(prefix).await
    }

    async fn close(&self) -> Result<()> {
        self.0.descriptor.close();
        close_all(self.0.upper.iter().chain([&self.0.last])).await
    }
}

impl Composite for Tiered {
    const TYPE: &'static str = "tiered";
    type Config = TieredConfig;

    fn check(config: &TieredConfig) -> Result<(), String> {
        if config.tiers.len() < 2 {
            return Err("`tiers` needs at least two storages, the quickest first".to_owned());
        }
        Ok(())
    }

    fn members(config: &TieredConfig) -> Vec<String> {
        config.tiers.clone()
    }

    fn open(
        name: &str,
        config: TieredConfig,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(name, members, &config)?))
    }
}
