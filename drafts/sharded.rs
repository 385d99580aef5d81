use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::select_all;
use persist_core::{
    BaseStorage, Capabilities, Checksum, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, HealthStatus, Key,
    ListOptions, Maintenance, Metadata, Operation, Outcome, Page, Result, SingleFlight, SnapshotSink, SnapshotSummary,
    Stats, StorageError, StoreItem, StoreOptions, Value, Verification, Watch, check_distinct, snapshot_entries,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Composite;
use crate::composite::close_all;

/// The settings of [`Sharded`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardedConfig {
    /// The names of the storages that share the keys. Their order does not matter; a new name moves keys.
    pub shards: Vec<String>,
    /// Storages that no longer take keys, and are read until what they hold has moved.
    #[serde(default)]
    pub draining: Vec<String>,
    /// A storage was added or taken away: look for keys where they were, and let `maintain` move them. Only one program may
    /// have it open meanwhile.
    #[serde(default)]
    pub moving: bool,
}

/// Several storages that share the keys among them, each key in one.
///
/// Where a key belongs is decided by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit
/// rates", 1998): each shard has a score for each key, BLAKE3 of its name and the key, and the highest wins. So if a shard is
/// added, only the keys move that it takes, and if one leaves, only those that it had.
///
/// A transaction must stay within one shard. A listing asks all of them and merges their pages.
#[derive(Debug)]
pub struct Sharded {
    descriptor: Descriptor,
    /// Those that take keys, then those that are draining.
    members: Vec<Member>,
    /// How many of them take keys.
    active: usize,
    moving: bool,
    /// Whoever moves or changes a key does it alone.
    lanes: SingleFlight,
}

#[derive(Debug)]
struct Member {
    name: String,
    storage: Arc<dyn BaseStorage>,
}

impl Sharded {
    /// Some storages, with the names that decide which keys they hold.
    ///
    /// # Errors
    /// `InvalidConfig` without shards, and where their default lifetimes differ.
    pub fn new(
        name: &str,
        shards: Vec<(String, Arc<dyn BaseStorage>)>,
        draining: Vec<(String, Arc<dyn BaseStorage>)>,
        moving: bool,
    ) -> Result<Self> {
        let (active, moving) = (shards.len(), moving || !draining.is_empty());
        let members: Vec<Member> =
            shards.into_iter().chain(draining).map(|(name, storage)| Member { name, storage }).collect();
        let descriptor = describe(name, &members[..active], moving)
            .map_err(|message| StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name))?;
        Ok(Self { descriptor, members, active, moving, lanes: SingleFlight::default() })
    }

    /// The position of the shard that a key belongs to.
    fn owner(&self, key: &Key) -> usize {
        let scores = self.members[..self.active].iter().map(|member| score(&member.name, key));
        scores.enumerate().max_by_key(|(_, score)| *score).map_or(0, |(index, _)| index)
    }

    /// The shard that a key belongs to.
    pub fn shard(&self, key: &Key) -> &Arc<dyn BaseStorage> {
        &self.members[self.owner(key)].storage
    }

    /// Moves every key to the shard that it belongs to; gives how many were moved. It may be stopped at any time and begun
    /// again, while others of the same program read and write.
    ///
    /// # Errors
    /// What the shards meet.
    pub async fn rebalance(&self) -> Result<u64> {
        let mut moved = 0;
        for (index, member) in self.members.iter().enumerate() {
            let mut after = None;
            loop {
                let page = member.storage.list_keys("", ListOptions::new().after(after)).await?;
                for key in page.keys.iter().filter(|key| self.owner(key) != index) {
                    let _lane = self.lanes.enter(key).await;
                    moved += u64::from(self.settle(key).await?);
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(moved)
    }

    /// Brings a key to the shard that it belongs to and removes it everywhere else; true if there was something to do.
    ///
    /// What the owner has is newer than what others have: while keys are moving every change is made there.
    async fn settle(&self, key: &Key) -> Result<bool> {
        let (owner, mut moved) = (self.owner(key), false);
        for (index, member) in self.members.iter().enumerate() {
            if index == owner {
                continue;
            }
            let Some(Entry { value, metadata }) = member.storage.retrieve(key).await? else { continue };
            let options = StoreOptions {
                expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
                tags: metadata.tags,
                encodings: metadata.encodings,
                ..StoreOptions::new().if_absent()
            };
            match self.members[owner].storage.store(key, value, options).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
            let options = DeleteOptions::new().if_version(metadata.version);
            match member.storage.delete(key, options).await {
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    /// Makes a change of a key where it belongs.
    async fn change<T>(&self, key: &Key, change: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.moving {
            return change.await;
        }
        let _lane = self.lanes.enter(key).await;
        self.settle(key).await?;
        change.await
    }

    /// What a shard says of a key; if it has nothing, what it says after the key was looked for elsewhere.
    async fn find<T, F>(&self, key: &Key, question: impl Fn() -> F) -> Result<Option<T>>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let found = question().await?;
        if found.is_some() || !self.moving || self.descriptor.capabilities().read_only {
            return Ok(found);
        }
        let _lane = self.lanes.enter(key).await;
        self.settle(key).await?;
        question().await
    }

    /// Sorts what concerns keys by the shard it belongs to, with the place it had in the order asked.
    fn group<T>(&self, items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> &Key) -> Vec<(Vec<usize>, Vec<T>)> {
        let mut groups: Vec<(Vec<usize>, Vec<T>)> = self.members.iter().map(|_| Default::default()).collect();
        for (place, item) in items.into_iter().enumerate() {
            let (places, group) = &mut groups[self.owner(key(&item))];
            places.push(place);
            group.push(item);
        }
        groups
    }

    fn storages(&self) -> impl DoubleEndedIterator<Item = &Arc<dyn BaseStorage>> {
        self.members.iter().map(|member| &member.storage)
    }

    /// What every member says to one question, in order.
    async fn ask<'a, T, F>(&'a self, question: impl Fn(&'a dyn BaseStorage) -> F) -> Vec<T>
    where
        F: Future<Output = T> + 'a,
    {
        join_all(self.storages().map(|storage| question(storage.as_ref()))).await
    }
}

/// How much a shard wants a key.
fn score(shard: &str, key: &Key) -> u64 {
    // A NUL is in no key and no name, so that no two pairs are the same bytes.
    let hash = Checksum::of(&[shard.as_bytes(), b"\0", key.as_bytes()]);
    hash.as_bytes().iter().take(8).fold(0, |score, byte| score << 8 | u64::from(*byte))
}

/// What all shards promise, and the least of their limits.
fn describe(name: &str, shards: &[Member], moving: bool) -> Result<Descriptor, String> {
    let Some(first) = shards.first().map(|member| member.storage.describe()) else {
        return Err("there must be at least one shard".to_owned());
    };
    let descriptors = || shards.iter().map(|member| member.storage.describe());
    if let Some(other) = descriptors().find(|other| other.default_ttl() != first.default_ttl()) {
        return Err(format!(
            "`{}` and `{}` have different default lifetimes, so how long a value lives would depend on its key",
            first.name(),
            other.name()
        ));
    }
    let all = |fact: fn(&Capabilities) -> bool| descriptors().all(|shard| fact(&shard.capabilities()));
    let capabilities = Capabilities {
        durable: all(|c| c.durable),
        shared: all(|c| c.shared) && !moving,
        atomic_transact: all(|c| c.atomic_transact),
        native_expiry: all(|c| c.native_expiry),
        native_ranges: all(|c| c.native_ranges),
        native_arrays: all(|c| c.native_arrays),
        native_watch: all(|c| c.native_watch),
        evicts: !all(|c| !c.evicts),
        read_only: !all(|c| !c.read_only),
    };
    Ok(Descriptor::new(name, Sharded::TYPE)
        .with_capabilities(capabilities)
        .with_max_value_bytes(descriptors().map(Descriptor::max_value_bytes).min().unwrap_or(u64::MAX))
        .with_default_ttl(first.default_ttl())
        .with_clock(Arc::clone(first.clock())))
}

/// The answers of all groups in the order asked.
fn in_order<T>(groups: Vec<(Vec<usize>, Vec<T>)>) -> Vec<T> {
    let mut answers: Vec<(usize, T)> =
        groups.into_iter().flat_map(|(places, answers)| places.into_iter().zip(answers)).collect();
    answers.sort_unstable_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Sharded {
    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.descriptor.admit_store(key, &value, &options)?;
        self.change(key, self.shard(key).store(key, value, options)).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.descriptor.admit("retrieve")?;
        self.find(key, || self.shard(key).retrieve(key)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.descriptor.admit_change("delete")?;
        self.change(key, self.shard(key).delete(key, options)).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.descriptor.admit_list(prefix, &options)?;
        let mut merged = BTreeSet::new();
        let mut more = false;
        // The first keys of all are among the first keys of each.
        for page in self.ask(|shard| shard.list_keys(prefix, ListOptions { limit, ..options.clone() })).await {
            let page = page?;
            more |= page.next.is_some();
            merged.extend(page.keys);
        }
        more |= merged.len() > limit;
        let keys: Vec<Key> = merged.into_iter().take(limit).collect();
        let next = keys.last().filter(|_| more).cloned();
        Ok(Page { keys, next })
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.descriptor.admit("metadata")?;
        self.find(key, || self.shard(key).metadata(key)).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        Ok(self.metadata(key).await?.is_some())
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.descriptor.admit_change("touch")?;
        self.change(key, self.shard(key).touch(key, expiry)).await
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.descriptor.admit("retrieve_range")?;
        self.find(key, || self.shard(key).retrieve_range(key, range.clone())).await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        if self.moving {
            let mut answers = Vec::with_capacity(items.len());
            for StoreItem { key, value, options } in items {
                answers.push(self.store(&key, value, options).await);
            }
            return answers;
        }
        let groups = self.group(items, |item| &item.key);
        let answers = groups.into_iter().zip(self.storages()).map(async |((places, items), shard)| {
            (places, if items.is_empty() { Vec::new() } else { shard.store_many(items).await })
        });
        in_order(join_all(answers).await)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        if self.moving {
            return join_all(keys.iter().map(|key| self.retrieve(key))).await;
        }
        let groups = self.group(keys.iter().cloned(), |key| key);
        let answers = groups.into_iter().zip(self.storages()).map(async |((places, keys), shard)| {
            (places, if keys.is_empty() { Vec::new() } else { shard.retrieve_many(&keys).await })
        });
        in_order(join_all(answers).await)
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        if self.moving {
            let mut answers = Vec::with_capacity(keys.len());
            for key in keys {
                answers.push(self.delete(key, DeleteOptions::new()).await);
            }
            return answers;
        }
        let groups = self.group(keys.iter().cloned(), |key| key);
        let answers = groups.into_iter().zip(self.storages()).map(async |((places, keys), shard)| {
            (places, if keys.is_empty() { Vec::new() } else { shard.delete_many(&keys).await })
        });
        in_order(join_all(answers).await)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.descriptor.admit_change("transact")?;
        let place = |error: StorageError| error.with_operation("transact").with_storage(self.descriptor.name());
        check_distinct(&operations).map_err(place)?;
        let owners: BTreeSet<usize> = operations.iter().map(|operation| self.owner(operation.key())).collect();
        if owners.len() > 1 {
            let message = "the keys belong to several shards, and one transaction cannot span them; make one for each";
            return Err(self.descriptor.error(ErrorKind::Unsupported, "transact", message));
        }
        let owner = &self.members[owners.first().copied().unwrap_or(0)].storage;
        let mut keys: Vec<Key> = operations.iter().map(|operation| operation.key().clone()).collect();
        keys.sort_unstable();
        let mut lanes = Vec::new();
        for key in keys.iter().filter(|_| self.moving) {
            lanes.push(self.lanes.enter(key).await);
            self.settle(key).await?;
        }
        owner.transact(operations).await
    }

    async fn flush(&self) -> Result<()> {
        self.descriptor.admit("flush")?;
        self.ask(|shard| shard.flush()).await.into_iter().collect()
    }

    /// The worst of the shards.
    async fn health(&self) -> Health {
        if let Err(error) = self.descriptor.admit("health") {
            return Health::unhealthy(&error);
        }
        let mut worst = Health::healthy();
        for (member, health) in self.members.iter().zip(self.ask(|shard| shard.health()).await) {
            if health.status > worst.status || (health.status != HealthStatus::Healthy && worst.detail.is_empty()) {
                worst = Health { detail: format!("the shard `{}`: {}", member.name, health.detail), ..health };
            }
        }
        worst
    }

    /// The sums over all shards.
    async fn stats(&self) -> Result<Stats> {
        self.descriptor.admit("stats")?;
        let add = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        let mut sum = Stats { keys: Some(0), bytes: Some(0), ..Stats::default() };
        for stats in self.ask(|shard| shard.stats()).await {
            let stats = stats?;
            (sum.keys, sum.bytes) = (add(sum.keys, stats.keys), add(sum.bytes, stats.bytes));
            for (name, count) in stats.counters {
                *sum.counters.entry(name).or_default() += count;
            }
        }
        Ok(sum)
    }

    /// Maintains every shard, and then [`rebalance`](Sharded::rebalance)s them if keys are moving.
    async fn maintain(&self) -> Result<Maintenance> {
        self.descriptor.admit_change("maintain")?;
        let mut sum = Maintenance::default();
        for (member, done) in self.members.iter().zip(self.ask(|shard| shard.maintain()).await) {
            let done = done?;
            sum.expired += done.expired;
            sum.freed_bytes += done.freed_bytes;
            sum.notes.extend(done.notes.into_iter().map(|note| format!("{}: {note}", member.name)));
        }
        if self.moving {
            let moved = self.rebalance().await?;
            sum.notes.push(format!("{moved} values moved to their shards"));
        }
        Ok(sum)
    }

    async fn verify(&self) -> Result<Verification> {
        self.descriptor.admit("verify")?;
        let mut sum = Verification::default();
        for found in self.ask(|shard| shard.verify()).await {
            let found = found?;
            sum.checked += found.checked;
            sum.bytes += found.bytes;
            sum.problems.extend(found.problems);
        }
        Ok(sum)
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        snapshot_entries(self, sink).await
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.descriptor.admit_watch(prefix)?;
        let watches = self.ask(|shard| shard.watch(prefix)).await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Watch::new(select_all(watches)))
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        close_all(self.storages()).await
    }
}

impl Composite for Sharded {
    const TYPE: &'static str = "sharded";
    type Config = ShardedConfig;

    fn check(config: &ShardedConfig) -> Result<(), String> {
        if config.shards.is_empty() {
            return Err("`shards` is empty; name at least one storage".to_owned());
        }
        Ok(())
    }

    fn members(config: &ShardedConfig) -> Vec<String> {
        config.shards.iter().chain(&config.draining).cloned().collect()
    }

    fn open(name: &str, config: ShardedConfig, members: Vec<Arc<dyn BaseStorage>>) -> Result<Arc<dyn BaseStorage>> {
        let mut named = Self::members(&config).into_iter().zip(members);
        let shards = named.by_ref().take(config.shards.len()).collect();
        Ok(Arc::new(Self::new(name, shards, named.collect(), config.moving)?))
    }
}
