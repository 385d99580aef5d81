use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, HealthStatus, Key, ListOptions,
    Maintenance, Metadata, Operation, Outcome, Page, Problem, Result, SnapshotSink, SnapshotSummary, Stats,
    StorageError, StoreItem, StoreOptions, Value, Verification, Version, Watch, Watchers, snapshot_entries,
    verify_values,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

use crate::composite::Composite;
use crate::lanes::{Lanes, detached, detached_early};
use crate::members::Members;
use crate::repair::{Repaired, past_own};
use crate::replicas::{AT_ONCE, Replicas, plain};

/// The settings of [`Replicated`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicatedConfig {
    /// The names of the storages that each hold everything, the nearest first. Nobody else may change them.
    pub replicas: Vec<String>,
    /// How many of them must have a change before it is acknowledged; left out: more than half.
    #[serde(default)]
    pub write_quorum: Option<usize>,
    /// How many of them must answer a read; left out: as few as meet every acknowledged change.
    #[serde(default)]
    pub read_quorum: Option<usize>,
    /// What `maintain` compares.
    #[serde(default)]
    pub repair: ReplicaRepair,
}

/// What `maintain` compares between replicas, and makes the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRepair {
    /// Which versions of which keys are there: two small reads for each key and replica.
    #[default]
    Keys,
    /// The values too, all of which are read and verified.
    Values,
    /// Nothing.
    Never,
}

impl ReplicatedConfig {
    /// These replicas, with the defaults.
    pub fn new(replicas: impl IntoIterator<Item = String>) -> Self {
        let replicas = replicas.into_iter().collect();
        Self { replicas, write_quorum: None, read_quorum: None, repair: ReplicaRepair::default() }
    }

    /// How many replicas must have a change, and how many must answer a read.
    ///
    /// # Errors
    /// Quorums of which two might not meet, in words.
    fn quorums(&self) -> Result<(usize, usize), String> {
        let count = self.replicas.len();
        let write = self.write_quorum.unwrap_or(count / 2 + 1);
        let read = self.read_quorum.unwrap_or((count + 1).saturating_sub(write));
        if !(1..=count).contains(&write) || !(1..=count).contains(&read) {
            return Err(format!(
                "`write_quorum` and `read_quorum` must be 1 to {count}, the number of replicas"
            ));
        }
        if write + read <= count {
            return Err(format!(
                "a read of {read} replicas can miss what was written to {write} of {count}; `write_quorum` and \
                 `read_quorum` together must be more than {count}"
            ));
        }
        Ok((write, read))
    }
}

/// Several storages that each hold everything, so that some of them may fail.
///
/// A change is acknowledged when `write_quorum` replicas have it, and goes on to the others. A read asks `read_quorum` of them
/// (one for the value, the others for its version), so that it meets every acknowledged change. If they differ, all are asked, the greatest version
/// counts, and the others are brought to it before it is answered. A value that is damaged in one replica is read from another and written anew.
///
/// Versions, times and conditions are those of the composite: each value has a note of them with it. A deleted key leaves a
/// tombstone under `.persist/deleted/`, until [`repair`](Self::repair) has seen that no replica holds an older value.
///
/// Until [`repair`](Self::repair) has compared all of them once since it was opened, every read asks all replicas: a change that was broken
/// off by a crash may be in one of them only, and must not show up later.
///
/// One program at a time may use it: whoever changes a key has a lock for it that other programs do not see.
///
/// A transaction is all or nothing in each replica that keeps that promise; but if the program dies while the replicas are
/// being written, a reader may see some of its keys changed before the others.
#[derive(Clone, Debug)]
pub struct Replicated {
    replicas: Arc<Replicas>,
    repair: ReplicaRepair,
}

impl Replicated {
    /// Some storages as replicas, in the order of the settings.
    ///
    /// # Errors
    /// `InvalidConfig` with fewer than two of them, for quorums that might not meet, where default lifetimes differ, and
    /// where some take no changes.
    pub fn new(name: &str, config: &ReplicatedConfig, members: Vec<Arc<dyn BaseStorage>>) -> Result<Self> {
        let invalid =
            |message: String| StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name);
        Self::check(config).map_err(invalid)?;
        let (write_quorum, read_quorum) = config.quorums().map_err(invalid)?;
        let members = Members::new(members);
        if members.len() != config.replicas.len() {
            return Err(invalid("there must be a storage for each replica".to_owned()));
        }
        if let Some((one, other)) = members.unequal_lifetimes() {
            return Err(invalid(format!(
                "`{one}` and `{other}` have different default lifetimes; give them the same"
            )));
        }
        let described = members.describe(name, Self::TYPE);
        let fixed = |member: &&Arc<dyn BaseStorage>| member.describe().capabilities().read_only;
        if let Some(fixed) = members.iter().find(fixed).filter(|_| !described.capabilities().read_only) {
            let name = fixed.describe().name();
            return Err(invalid(format!(
                "the replica `{name}` takes no changes; put it into a `fallback` instead"
            )));
        }
        let mut capabilities = described.capabilities();
        capabilities.shared = false;
        capabilities.atomic_transact = false;
        capabilities.native_watch = true;
        capabilities.native_arrays = false;
        let replicas = Replicas {
            descriptor: described.with_capabilities(capabilities),
            members,
            read_quorum,
            write_quorum,
            lanes: Lanes::default(),
            watchers: Watchers::new(),
            unfinished: Arc::new(RwLock::new(())),
            compared: AtomicBool::new(false),
            repaired: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        Ok(Self { replicas: Arc::new(replicas), repair: config.repair })
    }

    /// Compares all keys of all replicas, and with `values` their values too, and makes them the same. Every replica must answer. It
    /// may be stopped at any time and begun again, while others of the same program read and write.
    ///
    /// # Errors
    /// What the replicas meet.
    pub async fn repair(&self, values: bool) -> Result<Repaired> {
        self.replicas.descriptor.admit_change("repair")?;
        self.replicas.repair(values).await
    }

    /// Finds out what a key is after replicas differed.
    async fn resolved(&self, key: &Key, failed: Vec<(usize, StorageError)>) -> Result<Option<Entry>> {
        let lanes = self.replicas.lanes.enter(key).await;
        let (replicas, key) = (Arc::clone(&self.replicas), key.clone());
        detached(lanes, async move { Ok(replicas.resolve(&key, failed, "retrieve").await?.0) }).await
    }

    /// What the replicas have of a key, if enough of them agree: the metadata, and who gave them.
    async fn look(&self, key: &Key, operation: &'static str) -> Result<Found> {
        let replicas = &self.replicas;
        let question = |at: usize, _| async move { Ok(replicas.members[at].metadata(key).await?.map(plain)) };
        let mut answers = replicas.quorum(operation, key, question).await?;
        if !answers.agree(|found| found.as_ref().map(|metadata| metadata.version)) {
            let entry = self.resolved(key, answers.failed).await?;
            return Ok(Found {
                metadata: entry.as_ref().map(|entry| entry.metadata.clone()),
                at: Vec::new(),
                entry,
            });
        }
        let at = answers.given.iter().map(|(at, _)| *at).collect();
        let metadata = answers.given.swap_remove(0).1;
        Ok(Found {
            metadata: metadata.filter(|found| replicas.descriptor.live(Some(found)).is_some()),
            at,
            entry: None,
        })
    }
}

/// What a look at a key found: who has it, or the entry itself.
struct Found {
    metadata: Option<Metadata>,
    at: Vec<usize>,
    entry: Option<Entry>,
}

/// What the first of some replicas is asked for, and the others.
enum Seen {
    Entry(Option<Entry>),
    Metadata(Option<Metadata>),
}

impl Seen {
    fn version(&self) -> Option<Version> {
        match self {
            Self::Entry(entry) => entry.as_ref().map(|entry| entry.metadata.version),
            Self::Metadata(metadata) => metadata.as_ref().map(|metadata| metadata.version),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Replicated {
    fn describe(&self) -> &Descriptor {
        &self.replicas.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let replicas = &self.replicas;
        replicas.descriptor.admit_store(key, &value, &options)?;
        replicas.admit_key(key)?;
        let lanes = replicas.lanes.enter(key).await;
        detached_early(lanes, Arc::clone(replicas).store(key.clone(), value, options)).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let replicas = &self.replicas;
        replicas.descriptor.admit("retrieve")?;
        replicas.admit_key(key)?;
        let question = |at: usize, place| async move {
            let replica = &replicas.members[at];
            Ok(if place == 0 {
                let entry = replica.retrieve(key).await?;
                Seen::Entry(entry.map(|Entry { value, metadata }| Entry { value, metadata: plain(metadata) }))
            } else {
                Seen::Metadata(replica.metadata(key).await?.map(plain))
            })
        };
        let answers = replicas.quorum("retrieve", key, question).await?;
        let agree = answers.agree(Seen::version);
        let seen = answers.given.into_iter().find_map(|(_, seen)| match seen {
            Seen::Entry(entry) => Some(entry),
            Seen::Metadata(_) => None,
        });
        match seen {
            Some(entry) if agree => {
                Ok(entry.filter(|entry| replicas.descriptor.live(Some(&entry.metadata)).is_some()))
            }
            _ => self.resolved(key, answers.failed).await,
        }
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let replicas = &self.replicas;
        replicas.descriptor.admit_change("delete")?;
        replicas.admit_key(key)?;
        let lanes = replicas.lanes.enter(key).await;
        detached_early(lanes, Arc::clone(replicas).delete(key.clone(), options)).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.replicas.descriptor.admit_list(prefix, &options)?;
        let (mut found, mut after) = (Vec::new(), options.after);
        while found.len() <= limit {
            let page = ListOptions { after: past_own(after), limit };
            let (keys, bound) = self.replicas.list(prefix, &page).await?;
            found.extend(keys);
            after = bound;
            if after.is_none() {
                break;
            }
        }
        Ok(Page::collect(found, limit))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.replicas.descriptor.admit("metadata")?;
        self.replicas.admit_key(key)?;
        Ok(self.look(key, "metadata").await?.metadata)
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.replicas.descriptor.admit("contains")?;
        self.replicas.admit_key(key)?;
        Ok(self.look(key, "contains").await?.metadata.is_some())
    }

    /// Writes the value anew, because the note that goes with it changes.
    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let replicas = &self.replicas;
        replicas.descriptor.admit_change("touch")?;
        replicas.admit_key(key)?;
        let lanes = replicas.lanes.enter(key).await;
        detached_early(lanes, Arc::clone(replicas).touch(key.clone(), expiry)).await
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.replicas.descriptor.admit("retrieve_range")?;
        self.replicas.admit_key(key)?;
        let found = self.look(key, "retrieve_range").await?;
        if let Some(entry) = found.entry {
            return Ok(Some(entry.value.range(range)));
        }
        if found.metadata.is_none() {
            return Ok(None);
        }
        for at in found.at {
            if let Ok(part) = self.replicas.members[at].retrieve_range(key, range.clone()).await {
                return Ok(part);
            }
        }
        Ok(self.retrieve(key).await?.map(|entry| entry.value.range(range)))
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let replicas = &self.replicas;
        let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
        let admitted = keys.iter().try_for_each(|key| replicas.admit_key(key));
        if let Err(error) = replicas.descriptor.admit_change("store").and(admitted) {
            return error.for_each("store", &keys);
        }
        let lanes = replicas.lanes.enter_all(keys.iter()).await;
        let replicas = Arc::clone(replicas);
        let stored = detached(lanes, async move { Ok(replicas.store_many(items).await) }).await;
        stored.unwrap_or_else(|error| error.for_each("store", &keys))
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut answers = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            answers.extend(join_all(some.iter().map(|key| self.retrieve(key))).await);
        }
        answers
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let mut answers = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            answers.extend(join_all(some.iter().map(|key| self.delete(key, DeleteOptions::new()))).await);
        }
        answers
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let replicas = &self.replicas;
        replicas.descriptor.admit_transact(&operations)?;
        for operation in &operations {
            replicas.admit_key(operation.key())?;
        }
        let lanes = replicas.lanes.enter_all(operations.iter().map(Operation::key)).await;
        detached_early(lanes, Arc::clone(replicas).transact(operations)).await
    }

    /// Waits for writes that go on after their answer, and until `write_quorum` replicas are durable.
    async fn flush(&self) -> Result<()> {
        let replicas = &self.replicas;
        replicas.descriptor.admit("flush")?;
        drop(replicas.unfinished.write().await);
        let (mut done, mut failed) = (0, Vec::new());
        for (at, flushed) in replicas.members.ask(|replica| replica.flush()).await.into_iter().enumerate() {
            match flushed {
                Ok(()) => done += 1,
                Err(error) => failed.push((at, error)),
            }
        }
        if done >= replicas.write_quorum {
            return Ok(());
        }
        Err(replicas.too_few("flush", done, replicas.write_quorum, failed))
    }

    /// Degraded if some replicas do not work, unhealthy if too few do.
    async fn health(&self) -> Health {
        let replicas = &self.replicas;
        if let Err(error) = replicas.descriptor.admit("health") {
            return Health::unhealthy(&error);
        }
        let answers = replicas.members.ask(|replica| replica.health()).await;
        let mut health = replicas.members.worst(&answers);
        let working = answers.iter().filter(|health| health.status != HealthStatus::Unhealthy).count();
        if health.status == HealthStatus::Unhealthy
            && working >= replicas.write_quorum.max(replicas.read_quorum)
        {
            health.status = HealthStatus::Degraded;
        }
        health
    }

    /// No number of keys and bytes, because replicas hold tombstones too; `replica_failures` and `replica_repairs` count since it was opened.
    async fn stats(&self) -> Result<Stats> {
        let replicas = &self.replicas;
        replicas.descriptor.admit("stats")?;
        let counters = BTreeMap::from([
            ("replica_failures", replicas.failures.load(Ordering::Relaxed)),
            ("replica_repairs", replicas.repaired.load(Ordering::Relaxed)),
        ]);
        Ok(Stats { counters, ..Stats::default() })
    }

    /// Maintains every replica, and makes them the same as the settings say. A replica that cannot be reached is noted.
    async fn maintain(&self) -> Result<Maintenance> {
        let replicas = &self.replicas;
        replicas.descriptor.admit_change("maintain")?;
        let (mut sum, mut failed) = (Maintenance::default(), Vec::new());
        for (at, done) in replicas.members.ask(|replica| replica.maintain()).await.into_iter().enumerate() {
            let name = replicas.members[at].describe().name();
            match done {
                Ok(done) => {
                    sum.expired = sum.expired.max(done.expired);
                    sum.freed_bytes += done.freed_bytes;
                    sum.notes.extend(done.notes.into_iter().map(|note| format!("{name}: {note}")));
                }
                Err(error) => {
                    sum.notes
                        .push(format!("{name}: not maintained, and nothing compared: {}", error.message()));
                    failed.push((at, error));
                }
            }
        }
        let done = replicas.members.len() - failed.len();
        if done < replicas.write_quorum {
            return Err(replicas.too_few("maintain", done, replicas.write_quorum, failed));
        }
        if failed.is_empty() && self.repair != ReplicaRepair::Never {
            match replicas.repair(self.repair == ReplicaRepair::Values).await {
                Ok(Repaired { checked, repaired, forgotten }) if repaired + forgotten > 0 => sum.notes.push(format!(
                    "{repaired} of {checked} keys made the same in all replicas, {forgotten} tombstones removed"
                )),
                Ok(_) => {}
                Err(error) => sum.notes.push(format!("not all replicas were compared: {error}")),
            }
        }
        Ok(sum)
    }

    /// What is wrong in any replica, each key once. What another replica has whole is mended.
    async fn verify(&self) -> Result<Verification> {
        self.replicas.descriptor.admit("verify")?;
        let mut problems: BTreeMap<Option<Key>, Problem> = BTreeMap::new();
        for (at, answer) in
            self.replicas.members.ask(|replica| replica.verify()).await.into_iter().enumerate()
        {
            let name = self.replicas.members[at].describe().name();
            for mut problem in answer?.problems {
                problem.message = format!("in `{name}`: {}", problem.message);
                problems.entry(problem.key.clone()).or_insert(problem);
            }
        }
        // Reading mends what is damaged in some of them; what nobody can read is wrong in all.
        let found = verify_values(self).await?;
        problems.extend(found.problems.into_iter().map(|problem| (problem.key.clone(), problem)));
        Ok(Verification { problems: problems.into_values().collect(), ..found })
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.replicas.descriptor.admit("snapshot")?;
        snapshot_entries(self, sink).await
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.replicas.descriptor.admit_watch(prefix)?;
        Ok(self.replicas.watchers.watch(prefix))
    }

    async fn close(&self) -> Result<()> {
        self.replicas.descriptor.close();
        drop(self.replicas.unfinished.write().await);
        self.replicas.watchers.close();
        self.replicas.members.close().await
    }
}

impl Composite for Replicated {
    const TYPE: &'static str = "replicated";
    type Config = ReplicatedConfig;

    fn check(config: &ReplicatedConfig) -> Result<(), String> {
        if config.replicas.len() < 2 {
            return Err("`replicas` needs at least two storages, the nearest first".to_owned());
        }
        config.quorums().map(drop)
    }

    fn members(config: &ReplicatedConfig) -> Vec<String> {
        config.replicas.clone()
    }

    fn open(
        name: &str,
        config: ReplicatedConfig,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(name, &config, members)?))
    }
}
