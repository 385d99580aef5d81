use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, Capabilities, Descriptor, Entry, ErrorKind, Health, HealthStatus, Key, ListOptions,
    Maintenance, Metadata, Page, Result, SnapshotSink, SnapshotSummary, Stats, StorageError, Verification,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Composite;
use crate::composite::close_all;

/// The settings of [`Fallback`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FallbackConfig {
    /// The names of the storages: the first is the one that counts, the others are asked in order when it fails.
    pub members: Vec<String>,
    /// Which failures lead to the next one.
    #[serde(default = "outages")]
    pub on: Vec<FallbackOn>,
}

fn outages() -> Vec<FallbackOn> {
    vec![FallbackOn::Unavailable, FallbackOn::Timeout]
}

impl FallbackConfig {
    /// These members, on outages.
    pub fn new(members: impl IntoIterator<Item = String>) -> Self {
        Self { members: members.into_iter().collect(), on: outages() }
    }
}

/// A failure of reading that another storage may make up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackOn {
    /// It cannot be reached.
    Unavailable,
    /// It took too long.
    Timeout,
    /// What it holds is damaged.
    Corruption,
    /// Another process holds it.
    Locked,
    /// Rights are missing.
    AccessDenied,
}

impl FallbackOn {
    fn kind(self) -> ErrorKind {
        match self {
            Self::Unavailable => ErrorKind::Unavailable,
            Self::Timeout => ErrorKind::Timeout,
            Self::Corruption => ErrorKind::Corruption,
            Self::Locked => ErrorKind::Locked,
            Self::AccessDenied => ErrorKind::AccessDenied,
        }
    }
}

/// Reads from one storage, and from others in its place when it fails.
///
/// What is absent in the first is absent: only failures of the kinds in the settings lead on. The others are copies that
/// somebody keeps (`persist sync`, a restored backup, a replica), so what they give may be older. Changes, conditions and
/// watches concern the first alone, and fail when it fails: a change in a copy would be lost as soon as the first is back.
#[derive(Debug)]
pub struct Fallback {
    descriptor: Descriptor,
    first: Arc<dyn BaseStorage>,
    others: Vec<Arc<dyn BaseStorage>>,
    on: Vec<ErrorKind>,
    /// How many calls each of the others answered.
    answered: Vec<AtomicU64>,
}

/// One call after the other until one does not fail in a way that leads on. An expression for the storage's name in it.
macro_rules! first_of {
    ($self:ident, $storage:ident => $call:expr) => {{
        let $storage = &$self.first;
        let mut answer = $call.await;
        for (number, $storage) in $self.others.iter().enumerate() {
            let Err(error) = &answer else { break };
            if !$self.leads_on(error) {
                break;
            }
            match $call.await {
                // What the first one said is what must be mended.
                Err(_) => {}
                found => {
                    $self.answered[number].fetch_add(1, Ordering::Relaxed);
                    answer = found;
                }
            }
        }
        answer
    }};
}

impl Fallback {
    /// Reads from the first of some storages, and from the others where it fails.
    ///
    /// # Errors
    /// `InvalidConfig` without members.
    pub fn new(name: &str, members: Vec<Arc<dyn BaseStorage>>, on: &[FallbackOn]) -> Result<Self> {
        let mut others = members;
        if others.is_empty() {
            let message = "a fallback needs at least one member";
            return Err(StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name));
        }
        let first = others.remove(0);
        let below = first.describe();
        // A range, an array or an event may come from another member.
        let all = |fact: fn(&Capabilities) -> bool| {
            others.iter().all(|other| fact(&other.describe().capabilities())) && fact(&below.capabilities())
        };
        let capabilities = Capabilities {
            native_ranges: all(|c| c.native_ranges),
            native_arrays: false,
            ..below.capabilities()
        };
        let descriptor = Descriptor::new(name, Self::TYPE)
            .with_capabilities(capabilities)
            .with_max_value_bytes(below.max_value_bytes())
            .with_default_ttl(below.default_ttl())
            .with_clock(Arc::clone(below.clock()));
        let answered = others.iter().map(|_| AtomicU64::new(0)).collect();
        let on = on.iter().map(|on| on.kind()).collect();
        Ok(Self { descriptor, first, others, on, answered })
    }

    fn leads_on(&self, error: &StorageError) -> bool {
        self.on.contains(&error.kind())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Fallback {
    forward!(first: store, delete, touch, store_many, delete_many, transact, watch);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.descriptor.admit("retrieve")?;
        first_of!(self, storage => storage.retrieve(key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.descriptor.admit_list(prefix, &options)?;
        first_of!(self, storage => storage.list_keys(prefix, options.clone()))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.descriptor.admit("metadata")?;
        first_of!(self, storage => storage.metadata(key))
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.descriptor.admit("contains")?;
        first_of!(self, storage => storage.contains(key))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.descriptor.admit("retrieve_range")?;
        first_of!(self, storage => storage.retrieve_range(key, range.clone()))
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut answers = self.first.retrieve_many(keys).await;
        for (number, other) in self.others.iter().enumerate() {
            let failed = |answer: &Result<_>| answer.as_ref().is_err_and(|error| self.leads_on(error));
            let places: Vec<usize> = (0..answers.len()).filter(|place| failed(&answers[*place])).collect();
            if places.is_empty() || self.descriptor.is_closed() {
                break;
            }
            let asked: Vec<Key> = places.iter().map(|place| keys[*place].clone()).collect();
            for (place, found) in places.into_iter().zip(other.retrieve_many(&asked).await) {
                if found.is_ok() {
                    self.answered[number].fetch_add(1, Ordering::Relaxed);
                    answers[place] = found;
                }
            }
        }
        answers
    }

    async fn flush(&self) -> Result<()> {
        self.descriptor.admit("flush")?;
        self.first.flush().await
    }

    /// Degraded if the first member does not work and another does.
    async fn health(&self) -> Health {
        let first = self.first.health().await;
        if first.status != HealthStatus::Unhealthy || self.descriptor.is_closed() {
            return first;
        }
        for other in &self.others {
            if other.health().await.status != HealthStatus::Unhealthy {
                let name = other.describe().name();
                let detail = format!("`{name}` answers reads, and changes fail: {}", first.detail);
                return Health { status: HealthStatus::Degraded, detail };
            }
        }
        first
    }

    /// The figures of the first member, and in `fallback_answers` how many calls the others answered.
    async fn stats(&self) -> Result<Stats> {
        let mut stats = first_of!(self, storage => storage.stats())?;
        let answered = self.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        stats.counters.append(&mut BTreeMap::from([("fallback_answers", answered)]));
        Ok(stats)
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.descriptor.admit_change("maintain")?;
        self.first.maintain().await
    }

    async fn verify(&self) -> Result<Verification> {
        self.descriptor.admit("verify")?;
        self.first.verify().await
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        // As entries, because the form of the first member is not that of this type.
        persist_core::snapshot_entries(self.first.as_ref(), sink).await
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        close_all(std::iter::once(&self.first).chain(&self.others)).await
    }
}

impl Composite for Fallback {
    const TYPE: &'static str = "fallback";
    type Config = FallbackConfig;

    fn check(config: &FallbackConfig) -> Result<(), String> {
        if config.members.len() < 2 {
            return Err(
                "`members` needs at least two storages: the one that counts, and one in its place".to_owned()
            );
        }
        if config.on.is_empty() {
            return Err(
                "`on` is empty, so nothing would ever fall back; leave it out for the default".to_owned()
            );
        }
        Ok(())
    }

    fn members(config: &FallbackConfig) -> Vec<String> {
        config.members.clone()
    }

    fn open(
        name: &str,
        config: FallbackConfig,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(name, members, &config.on)?))
    }
}
