//! Memory under layers, with what a test may do to it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use persist_core::{BaseStorage, Key, ManualClock, Result, async_trait};
use persist_testkit::memory::{MemoryBuilder, MemoryPlace, MemoryStorage};
use persist_testkit::{Harness, Variant};

pub(crate) type Storage = Arc<dyn BaseStorage>;
type Wrap = Arc<dyn Fn(Storage, Option<Variant>) -> Storage + Send + Sync>;

/// A stack of layers over memory that outlives it.
pub(crate) struct Layered {
    place: MemoryPlace,
    clock: Arc<ManualClock>,
    wrap: Wrap,
    prefix: &'static str,
    own: fn(Variant) -> bool,
    skips: &'static [(&'static str, &'static str)],
}

impl Layered {
    pub(crate) fn new(wrap: impl Fn(Storage) -> Storage + Send + Sync + 'static) -> Self {
        Self {
            place: MemoryPlace::new(),
            clock: Arc::default(),
            wrap: Arc::new(move |storage, _| wrap(storage)),
            prefix: "",
            own: |_| false,
            skips: &[],
        }
    }

    /// The layer itself makes some of the variants, over the usual memory.
    pub(crate) fn variants(
        own: fn(Variant) -> bool,
        wrap: impl Fn(Storage, Option<Variant>) -> Storage + Send + Sync + 'static,
    ) -> Self {
        Self { wrap: Arc::new(wrap), own, ..Self::new(|storage| storage) }
    }

    /// Keys are stored under this prefix.
    pub(crate) fn prefixed(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// Clauses that do not apply, with the reason.
    pub(crate) fn skipping(self, skips: &'static [(&'static str, &'static str)]) -> Self {
        Self { skips, ..self }
    }

    pub(crate) fn place(&self) -> &MemoryPlace {
        &self.place
    }

    fn memory(&self, adjust: impl FnOnce(MemoryBuilder) -> MemoryBuilder) -> Storage {
        let builder = MemoryStorage::builder("memory").as_disk().clock(self.clock.clone());
        Arc::new(adjust(builder).open(&self.place))
    }
}

#[async_trait]
impl Harness for Layered {
    async fn open(&self) -> Result<Storage> {
        Ok((self.wrap)(self.memory(|builder| builder), None))
    }

    async fn open_another(&self) -> Result<Option<Storage>> {
        self.open().await.map(Some)
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Storage>> {
        let below = match variant {
            Variant::Small => return Ok(None),
            _ if (self.own)(variant) => self.memory(|builder| builder),
            Variant::DefaultTtl(lifetime) => self.memory(|builder| builder.default_ttl(lifetime)),
            Variant::MaxValueBytes(bytes) => self.memory(|builder| builder.max_value_bytes(bytes)),
            Variant::ReadOnly => self.memory(MemoryBuilder::read_only),
        };
        Ok(Some((self.wrap)(below, Some(variant))))
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
        let below = Key::new(format!("{}{key}", self.prefix));
        below.is_ok_and(|key| self.place.corrupt(&key))
    }

    fn skips(&self, clause: &str) -> Option<&'static str> {
        self.skips.iter().find(|(skipped, _)| *skipped == clause).map(|(_, reason)| *reason)
    }
}

pub(crate) fn memory(name: &str) -> Storage {
    Arc::new(MemoryStorage::new(name))
}

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}
