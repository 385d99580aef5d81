use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, Key, ListOptions, Maintenance,
    Metadata, Operation, Outcome, Page, Result, SnapshotSink, SnapshotSummary, Stats, StorageError,
    StoreItem, StoreOptions, Value, Verification, Watch, snapshot_entries,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Composite;
use crate::batch::{merge, split};
use crate::lanes::detached;
use crate::members::Members;
use crate::shards::Shards;

/// The settings of [`Sharded`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardedConfig {
    /// The names of the storages that share the keys, in any order. Nobody else may use them.
    pub shards: Vec<String>,
    /// Storages that no longer take keys, and are read until `maintain` has moved what they hold.
    #[serde(default)]
    pub draining: Vec<String>,
    /// Looks for keys where they do not belong, and lets `maintain` move them: to be set when the shards were changed, and to be
    /// taken out when `maintain` says that it is done. Only one program may have the storage open meanwhile.
    #[serde(default)]
    pub rebalance: bool,
}

impl ShardedConfig {
    /// These shards, which were never others.
    pub fn new(shards: impl IntoIterator<Item = String>) -> Self {
        Self { shards: shards.into_iter().collect(), draining: Vec::new(), rebalance: false }
    }
}

/// Several storages that share the keys among them, each key in one.
///
/// Where a key belongs is decided by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit
/// rates", 1998): each shard has a score for each key, the first eight bytes of BLAKE3 over its name, a NUL and the key, and the
/// highest wins. So if a shard is added, only those keys move that it takes, and if one leaves, only those that it had. Of
/// a key with a part in braces, `orders/{7}/lines`, that part alone is hashed, so that what belongs together can be kept together.
///
/// Each shard holds a note, under [`NOTE`](Self::NOTE), which names the shards that it was last used with. If they are others now, every call
/// fails until the settings say `rebalance`, because keys would seem to be absent.
///
/// A transaction must stay within one shard. A listing asks all of them and merges their pages.
#[derive(Clone, Debug)]
pub struct Sharded(Arc<Shards>);

impl Sharded {
    /// The key of the note in each shard. It is not listed, and no value can be stored under it.
    pub const NOTE: &'static str = ".persist/shards";

    /// Some storages, in the order of the settings: shards, then those that are draining. Their names in the settings decide which
    /// keys they hold.
    ///
    /// # Errors
    /// `InvalidConfig` without shards, for a name that comes twice, and where the default lifetimes differ.
    pub fn new(name: &str, config: &ShardedConfig, members: Vec<Arc<dyn BaseStorage>>) -> Result<Self> {
        let invalid =
            |message: String| StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name);
        Self::check(config).map_err(invalid)?;
        let members = Members::new(members);
        if members.len() != config.shards.len() + config.draining.len() {
            return Err(invalid("there must be a storage for each shard".to_owned()));
        }
        if let Some((one, other)) = members.unequal_lifetimes() {
            return Err(invalid(format!(
                "`{one}` and `{other}` have different default lifetimes, so how long a value lives would depend on its key"
            )));
        }
        Ok(Self(Arc::new(Shards::new(name, config, members))))
    }

    /// The name of the shard that a key belongs to.
    pub fn shard(&self, key: &Key) -> &str {
        self.0.name(self.0.owner(key))
    }

    /// Moves every key to the shard that it belongs to, and notes the shards; gives how many keys were moved. It may be stopped at any
    /// time and begun again, while others of the same program read and write.
    ///
    /// # Errors
    /// `InvalidConfig` unless the settings say `rebalance` or name storages that are draining; what the shards meet.
    pub async fn rebalance(&self) -> Result<u64> {
        self.0.descriptor.admit_change("rebalance")?;
        self.0.ready().await?;
        self.0.rebalance().await
    }

    /// Makes a change of a key where it belongs; while keys are moving, after the key was brought there.
    async fn change<T, F>(&self, key: &Key, change: impl FnOnce(Arc<dyn BaseStorage>, Key) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let shards = &self.0;
        shards.admit_key(key)?;
        shards.ready().await?;
        let change = change(Arc::clone(shards.shard(key)), key.clone());
        if !shards.moving {
            return change.await;
        }
        let (lanes, shards, key) = (shards.lanes.enter(key).await, Arc::clone(shards), key.clone());
        let moved = async move {
            shards.settle(&key).await?;
            change.await
        };
        detached(lanes, moved).await
    }

    /// What a shard says of a key; while keys are moving and it has nothing, what it says after the key was looked for
    /// elsewhere.
    async fn find<T, F>(
        &self,
        key: &Key,
        question: impl Fn(Arc<dyn BaseStorage>, Key) -> F,
    ) -> Result<Option<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<Option<T>>> + Send + 'static,
    {
        let shards = &self.0;
        shards.admit_key(key)?;
        shards.ready().await?;
        let found = question(Arc::clone(shards.shard(key)), key.clone()).await?;
        if found.is_some() || !shards.moving {
            return Ok(found);
        }
        if shards.descriptor.capabilities().read_only {
            for member in shards.members.iter() {
                let found = question(Arc::clone(member), key.clone()).await?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            return Ok(None);
        }
        let again = question(Arc::clone(shards.shard(key)), key.clone());
        let (lanes, shards, key) = (shards.lanes.enter(key).await, Arc::clone(shards), key.clone());
        let moved = async move {
            shards.settle(&key).await?;
            again.await
        };
        detached(lanes, moved).await
    }

    /// Lets a batch begin: its items, parted into what goes on and what does not.
    async fn admit_batch<T>(
        &self,
        items: impl Iterator<Item = T>,
        key: impl Fn(&T) -> &Key,
        operation: &'static str,
    ) -> (Vec<T>, Vec<Option<StorageError>>) {
        let ready = self.0.ready().await;
        split(items.map(|item| {
            let ready = ready.as_ref().map_err(|error| error.again(operation));
            ready.and_then(|()| self.0.admit_key(key(&item))).map_err(|error| error.with_key(key(&item)))?;
            Ok(item)
        }))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Sharded {
    fn describe(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.0.descriptor.admit_store(key, &value, &options)?;
        self.change(key, |shard, key| async move { shard.store(&key, value, options).await }).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.descriptor.admit("retrieve")?;
        self.find(key, |shard, key| async move { shard.retrieve(&key).await }).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.0.descriptor.admit_change("delete")?;
        self.change(key, |shard, key| async move { shard.delete(&key, options).await }).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.0.descriptor.admit_list(prefix, &options)?;
        self.0.ready().await?;
        self.0.list(prefix, options.limit(limit)).await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.0.descriptor.admit("metadata")?;
        self.find(key, |shard, key| async move { shard.metadata(&key).await }).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.0.descriptor.admit("contains")?;
        let found = |shard: Arc<dyn BaseStorage>, key: Key| async move {
            Ok(shard.contains(&key).await?.then_some(()))
        };
        Ok(self.find(key, found).await?.is_some())
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.0.descriptor.admit_change("touch")?;
        self.change(key, |shard, key| async move { shard.touch(&key, expiry).await }).await
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.0.descriptor.admit("retrieve_range")?;
        self.find(key, |shard, key| {
            let range = range.clone();
            async move { shard.retrieve_range(&key, range).await }
        })
        .await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let (items, refused) = self.admit_batch(items.into_iter(), |item| &item.key, "store").await;
        if !self.0.moving {
            return merge(refused, self.0.members.store_many(items, |key| self.0.owner(key)).await);
        }
        let mut answers = Vec::with_capacity(items.len());
        for StoreItem { key, value, options } in items {
            answers.push(self.store(&key, value, options).await);
        }
        merge(refused, answers)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let (keys, refused) = self.admit_batch(keys.iter().cloned(), |key| key, "retrieve").await;
        if !self.0.moving {
            return merge(refused, self.0.members.retrieve_many(&keys, |key| self.0.owner(key)).await);
        }
        let mut answers = Vec::with_capacity(keys.len());
        for key in &keys {
            answers.push(self.retrieve(key).await);
        }
        merge(refused, answers)
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let (keys, refused) = self.admit_batch(keys.iter().cloned(), |key| key, "delete").await;
        if !self.0.moving {
            return merge(refused, self.0.members.delete_many(&keys, |key| self.0.owner(key)).await);
        }
        let mut answers = Vec::with_capacity(keys.len());
        for key in &keys {
            answers.push(self.delete(key, DeleteOptions::new()).await);
        }
        merge(refused, answers)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let shards = &self.0;
        shards.descriptor.admit_transact(&operations)?;
        for operation in &operations {
            shards.admit_key(operation.key())?;
        }
        shards.ready().await?;
        let owner = Members::sole_owner(&operations, |key| shards.owner(key)).map_err(|(one, other)| {
            let message = format!(
                "the keys belong to the shards `{}` and `{}`, and one transaction cannot span two; give the keys \
                 the same {{part}} in braces, or make one for each",
                shards.name(one),
                shards.name(other)
            );
            shards.descriptor.error(ErrorKind::Unsupported, "transact", message)
        })?;
        if !shards.moving {
            return shards.members[owner].transact(operations).await;
        }
        let lanes = shards.lanes.enter_all(operations.iter().map(Operation::key)).await;
        let shards = Arc::clone(shards);
        let moved = async move {
            for operation in &operations {
                shards.settle(operation.key()).await?;
            }
            shards.members[owner].transact(operations).await
        };
        detached(lanes, moved).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.descriptor.admit("flush")?;
        self.0.members.flush().await
    }

    /// The worst of the shards; unhealthy if they are others than before.
    async fn health(&self) -> Health {
        if let Err(error) = self.0.descriptor.admit("health") {
            return Health::unhealthy(&error);
        }
        match self.0.ready().await {
            Err(error) if error.kind() == ErrorKind::InvalidConfig => Health::unhealthy(&error),
            _ => self.0.members.health().await,
        }
    }

    /// The sums over all shards; while keys are moving no number of keys and bytes, because some are in two of them.
    async fn stats(&self) -> Result<Stats> {
        self.0.descriptor.admit("stats")?;
        self.0.ready().await?;
        self.0.stats().await
    }

    /// Maintains every shard, and then [`rebalance`](Sharded::rebalance)s them if keys are moving.
    async fn maintain(&self) -> Result<Maintenance> {
        self.0.descriptor.admit_change("maintain")?;
        self.0.ready().await?;
        let mut done = self.0.members.maintain().await?;
        if self.0.moving {
            let moved = self.0.rebalance().await?;
            done.notes.push(format!(
                "{moved} values moved; every key is in its shard now, so take `rebalance` and `draining` out of the settings"
            ));
        }
        Ok(done)
    }

    async fn verify(&self) -> Result<Verification> {
        self.0.descriptor.admit("verify")?;
        self.0.ready().await?;
        self.0.verify().await
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.0.descriptor.admit("snapshot")?;
        snapshot_entries(self, sink).await
    }

    /// What each shard tells of the keys that belong to it; that a key leaves another one is not told.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.0.descriptor.admit_watch(prefix)?;
        self.0.ready().await?;
        self.0.members.watch(prefix, 0..self.0.active(), |key, at| self.0.belongs(key, at)).await
    }

    async fn close(&self) -> Result<()> {
        self.0.descriptor.close();
        self.0.members.close().await
    }
}

impl Composite for Sharded {
    const TYPE: &'static str = "sharded";
    type Config = ShardedConfig;

    fn check(config: &ShardedConfig) -> Result<(), String> {
        if config.shards.is_empty() {
            return Err("`shards` is empty; name at least one storage".to_owned());
        }
        let mut seen = BTreeSet::new();
        match config.shards.iter().chain(&config.draining).find(|name| !seen.insert(*name)) {
            Some(twice) => Err(format!("`{twice}` is named twice among `shards` and `draining`; keep one")),
            None => Ok(()),
        }
    }

    fn members(config: &ShardedConfig) -> Vec<String> {
        config.shards.iter().chain(&config.draining).cloned().collect()
    }

    fn open(
        name: &str,
        config: ShardedConfig,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(name, &config, members)?))
    }
}
