//! Memory under layers, with what a test may do to it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{BaseStorage, ErrorKind, Key, ManualClock, Result, async_trait};
use persist_testkit::memory::{MemoryBuilder, MemoryPlace, MemoryStorage};
use persist_testkit::{Harness, Variant};

/// The clauses whose transactions are over several members, and why they are skipped where no transaction spans those.
pub(crate) const SPANNING: [&str; 10] =
    ["C066", "C076", "C077", "C078", "C080", "C081", "C114", "C160", "C170", "C177"];
pub(crate) const SPANS: &str = "its keys belong to several members, and no transaction spans those";

pub(crate) type Storage = Arc<dyn BaseStorage>;
type Wrap = Arc<dyn Fn(Storage, Option<Variant>) -> Storage + Send + Sync>;

/// A stack of layers over memory that outlives it.
pub(crate) struct Layered {
    place: MemoryPlace,
    clock: Arc<ManualClock>,
    wrap: Wrap,
    prefix: &'static str,
    own: fn(Variant) -> bool,
    shared: bool,
    /// The last storage that was opened, if everything must be written before it is touched from below.
    flushed: Option<Arc<Mutex<Option<Storage>>>>,
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
            shared: true,
            flushed: None,
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

    /// Nobody else may have the storage below open.
    pub(crate) fn alone(self) -> Self {
        Self { shared: false, ..self }
    }

    /// Everything is written before something is done to what lies below.
    pub(crate) fn flushed(self) -> Self {
        Self { flushed: Some(Arc::default()), ..self }
    }

    async fn flush(&self) {
        let opened = self.flushed.as_ref().and_then(|opened| opened.lock().clone());
        if let Some(storage) = opened {
            let flushed = storage.flush().await;
            assert!(
                flushed.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Closed),
                "{flushed:?}"
            );
        }
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
        let storage = (self.wrap)(self.memory(|builder| builder), None);
        if let Some(opened) = &self.flushed {
            *opened.lock() = Some(Arc::clone(&storage));
        }
        Ok(storage)
    }

    async fn open_another(&self) -> Result<Option<Storage>> {
        if self.shared { self.open().await.map(Some) } else { Ok(None) }
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Storage>> {
        let below = match variant {
            Variant::Small if !(self.own)(variant) => return Ok(None),
            _ if (self.own)(variant) => self.memory(|builder| builder),
            Variant::DefaultTtl(lifetime) => self.memory(|builder| builder.default_ttl(lifetime)),
            Variant::MaxValueBytes(bytes) => self.memory(|builder| builder.max_value_bytes(bytes)),
            Variant::ReadOnly | Variant::Small => self.memory(MemoryBuilder::read_only),
        };
        Ok(Some((self.wrap)(below, Some(variant))))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    async fn break_down(&self) -> bool {
        self.flush().await;
        self.place.set_down(true);
        true
    }

    async fn mend(&self) -> bool {
        self.place.set_down(false);
        true
    }

    async fn corrupt(&self, key: &Key) -> bool {
        self.flush().await;
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
