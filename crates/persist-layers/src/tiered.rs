use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Flight, Health,
    HealthStatus, HumanDuration, Key, ListOptions, Maintenance, Metadata, Operation, Outcome, Page, Result,
    SnapshotSink, SnapshotSummary, Stats, StorageError, StoreItem, StoreOptions, Value, Verification, Watch,
    snapshot_entries,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Composite;
use crate::coherence::Coherence;
use crate::composite::close_all;
use crate::copy::Copied;
use crate::lanes::{Lanes, detached};
use crate::suspects::Suspects;

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
    /// How copies follow what other programs change in the last tier.
    #[serde(default)]
    pub coherence: TieredCoherence,
}

impl TieredConfig {
    /// These tiers, with the defaults.
    pub fn new(tiers: impl IntoIterator<Item = String>) -> Self {
        Self {
            tiers: tiers.into_iter().collect(),
            write: TieredWrite::default(),
            negative_ttl: None,
            on_failure: TieredFailure::default(),
            coherence: TieredCoherence::default(),
        }
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

/// How copies follow what other programs change in the last tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TieredCoherence {
    /// Not at all: they are believed until they expire.
    #[default]
    Expiry,
    /// The last tier is watched, and what is told removes older copies. While it cannot be watched, no copy is believed.
    Watch,
}

/// Several storages as one: the last holds everything, those above it hold copies that are quicker to get.
///
/// A read looks from the top down, and puts what it finds into the tiers above; callers who miss the same key wait for one
/// of them. A change removes the copies first, then changes the last tier, whose versions, conditions and answers count, and
/// then puts the new value into the upper tiers. Listings, transactions and watches are those of the last tier.
///
/// Within one program every change is seen by everybody at once. What another program changes in the last tier is seen when
/// the copies have expired, or with `coherence: watch` as soon as the last tier tells of it.
///
/// What was begun below the first tier goes on to its end although its caller has gone. If the outcome of a change is unknown, its key is read from the last tier
/// alone until another change of it succeeds.
#[derive(Debug, Clone)]
pub struct Tiered(Arc<Tiers>);

#[derive(Debug)]
pub(crate) struct Tiers {
    pub(crate) descriptor: Descriptor,
    /// The quickest first.
    pub(crate) upper: Vec<Arc<dyn BaseStorage>>,
    pub(crate) last: Arc<dyn BaseStorage>,
    config: Policy,
    /// Whoever changes a key, or puts copies of it into tiers, does it alone.
    pub(crate) lanes: Lanes,
    pub(crate) suspects: Suspects,
    pub(crate) coherence: Option<Coherence>,
    hits: Vec<AtomicU64>,
    misses: AtomicU64,
    pub(crate) failures: AtomicU64,
}

#[derive(Debug)]
struct Policy {
    write: TieredWrite,
    negative_ttl: Option<std::time::Duration>,
    on_failure: TieredFailure,
}

/// The first tier has no copy.
struct Missed;

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
            lanes: Lanes::default(),
            suspects: Suspects::default(),
            coherence: (config.coherence == TieredCoherence::Watch).then(Coherence::default),
            misses: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })))
    }

    async fn detached<T, F>(&self, lanes: Vec<Flight>, change: impl FnOnce(Arc<Tiers>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        detached(lanes, change(Arc::clone(&self.0))).await
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

    /// Whether a copy of a key is believed.
    fn believes(self: &Arc<Self>, key: &Key) -> bool {
        let told = self.coherence.as_ref().is_none_or(|coherence| coherence.is_told(|| Arc::downgrade(self)));
        told && !self.suspects.has(key)
    }

    /// The metadata of a copy in the first tier, or what the last one says.
    async fn metadata(self: &Arc<Self>, key: &Key) -> Result<Option<Metadata>> {
        if self.believes(key)
            && let Ok(Some(metadata)) = self.upper[0].metadata(key).await
            && let Some(found) = Copied::read_metadata(metadata, &self.descriptor)
        {
            return Ok(found);
        }
        self.last.metadata(key).await
    }

    fn epoch(&self) -> u64 {
        self.coherence.as_ref().map_or(0, Coherence::epoch)
    }

    /// What the first tier has.
    async fn hit(self: &Arc<Self>, key: &Key) -> Result<Option<Entry>, Missed> {
        if !self.believes(key) {
            return Err(Missed);
        }
        if let Some(found) = self.look(0, key).await {
            self.hits[0].fetch_add(1, Ordering::Relaxed);
            return Ok(found.into_entry());
        }
        Err(Missed)
    }

    /// Looks further down than the first tier, alone, and puts what is found into the tiers above.
    async fn fetch(self: &Arc<Self>, key: &Key) -> Result<Option<Entry>> {
        // Somebody may have put it there, or begun to doubt it, while this one waited.
        let epoch = self.epoch();
        let suspect = !self.believes(key);
        for tier in (0..self.upper.len()).take_while(|_| !suspect) {
            if let Some(found) = self.look(tier, key).await {
                self.hits[tier].fetch_add(1, Ordering::Relaxed);
                self.put_copies(tier, key, &found, epoch).await;
                return Ok(found.into_entry());
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let found = self.last.retrieve(key).await?;
        if !suspect {
            match (&found, self.config.negative_ttl) {
                (Some(entry), _) => self.put_copies(self.upper.len(), key, &Copied::of(entry), epoch).await,
                (None, Some(ttl)) => {
                    self.put_copies(self.upper.len(), key, &Copied::absent(ttl), epoch).await;
                }
                (None, None) => {}
            }
        }
        Ok(found)
    }

    /// Puts a copy into the tiers above this one. A tier that does not take it is without it.
    /// What was read before a new watch began may have changed without being told.
    async fn put_copies(&self, above: usize, key: &Key, copied: &Copied, epoch: u64) {
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
        if epoch != self.epoch() && self.forget(std::slice::from_ref(key)).await.is_err() {
            self.suspects.add(key);
        }
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
        let epoch = self.epoch();
        let stored = self.change(&key, self.last.store(&key, value.clone(), options)).await?;
        self.fill(&key, value, &stored, epoch).await;
        Ok(stored)
    }

    /// Puts a value that was stored into the upper tiers, if that is wanted.
    async fn fill(&self, key: &Key, value: Value, stored: &Metadata, epoch: u64) {
        if self.config.write == TieredWrite::Through && !self.suspects.has(key) {
            let entry = Entry::new(value, stored.clone());
            self.put_copies(self.upper.len(), key, &Copied::of(&entry), epoch).await;
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
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Tiered {
    fn describe(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.0.descriptor.admit_store(key, &value, &options)?;
        let (lanes, key) = (self.0.lanes.enter(key).await, key.clone());
        self.detached(lanes, |tiers| async move { tiers.store(key, value, options).await }).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.descriptor.admit("retrieve")?;
        if let Ok(found) = self.0.hit(key).await {
            return Ok(found);
        }
        // Apart, so that a hit does not pay for the room that this takes.
        Box::pin(async {
            let (lanes, key) = (self.0.lanes.enter(key).await, key.clone());
            self.detached(lanes, |tiers| async move { tiers.fetch(&key).await }).await
        })
        .await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.0.descriptor.admit_change("delete")?;
        let (lanes, key) = (self.0.lanes.enter(key).await, key.clone());
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
        self.0.descriptor.admit("metadata")?;
        self.0.metadata(key).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.0.descriptor.admit("contains")?;
        Ok(self.0.metadata(key).await?.is_some())
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.0.descriptor.admit_change("touch")?;
        let (lanes, key) = (self.0.lanes.enter(key).await, key.clone());
        self.detached(lanes, |tiers| async move { tiers.change(&key, tiers.last.touch(&key, expiry)).await })
            .await
    }

    /// A part of a copy in the first tier, or what the last tier reads; the value is not put into the upper tiers.
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let tiers = &self.0;
        tiers.descriptor.admit("retrieve_range")?;
        if tiers.believes(key)
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
                let lanes = self.0.lanes.enter_all(keys.iter()).await;
                self.detached(lanes, |tiers| async move { tiers.store_many(items).await }).await
            }
            Err(error) => Err(error),
        };
        answers.unwrap_or_else(|error| error.with_storage(self.0.descriptor.name()).for_each("store", &keys))
    }

    /// Copies in the first tier, and all others from the last tier in one call. They are not put into the upper tiers.
    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let tiers = &self.0;
        if let Err(error) = tiers.descriptor.admit("retrieve") {
            return error.for_each("retrieve", keys);
        }
        let copies = tiers.upper[0].retrieve_many(keys).await;
        let copy = |(key, answer): (&Key, Result<Option<Entry>>)| {
            let entry = answer.ok().flatten().filter(|_| tiers.believes(key))?;
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
                let lanes = self.0.lanes.enter_all(keys.iter()).await;
                self.detached(lanes, |tiers| async move { tiers.delete_many(named).await }).await
            }
            Err(error) => Err(error),
        };
        answers.unwrap_or_else(|error| error.with_storage(self.0.descriptor.name()).for_each("delete", keys))
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.0.descriptor.admit_change("transact")?;
        let lanes = self.0.lanes.enter_all(operations.iter().map(Operation::key)).await;
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
