use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use persist_core::{
    Array, BaseStorage, Capabilities, Descriptor, Entry, Key, ListOptions, ManualClock, Result, StoreOptions,
    Value,
};

use super::{BrokenStorage, Bug};
use crate::memory::MemoryPlace;
use crate::{Harness, Variant};

/// Opens storages with one bug, or with none, on a place in memory that outlives them as a disk would.
#[derive(Debug)]
pub struct BrokenHarness {
    bug: Option<Bug>,
    place: MemoryPlace,
    clock: Arc<ManualClock>,
    past: Arc<Past>,
}

/// What the storages on one place leave to those that are opened later.
#[derive(Default)]
pub(super) struct Past {
    pub(super) deleted: Mutex<Vec<(Key, Entry)>>,
    pub(super) unclosed: AtomicBool,
    opened: AtomicBool,
}

impl std::fmt::Debug for Past {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Past").finish_non_exhaustive()
    }
}

impl BrokenHarness {
    /// Storages with this bug.
    pub fn new(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::sound() }
    }

    /// Storages without a bug: what the bugs are put into keeps the whole contract.
    pub fn sound() -> Self {
        Self { bug: None, place: MemoryPlace::new(), clock: Arc::default(), past: Arc::default() }
    }

    fn descriptor(&self) -> Descriptor {
        let is = |bug| self.bug == Some(bug);
        let capabilities = Capabilities {
            durable: !is(Bug::HidesDurability),
            shared: !is(Bug::HidesSharing),
            atomic_transact: true,
            native_ranges: true,
            native_arrays: true,
            native_watch: true,
            native_expiry: is(Bug::ClaimsNativeExpiry),
            evicts: is(Bug::ClaimsToEvict),
            ..Capabilities::NONE
        };
        Descriptor::new("broken", "memory").with_capabilities(capabilities).with_clock(self.clock.clone())
    }

    fn storage(&self, descriptor: Descriptor) -> Arc<dyn BaseStorage> {
        Arc::new(BrokenStorage::new(self.bug, descriptor, &self.place, Arc::clone(&self.past)))
    }

    fn forget(&self) {
        for key in self.place.keys() {
            self.place.take(&key);
        }
    }

    fn bring_back(&self) {
        for (key, entry) in self.past.deleted.lock().drain(..) {
            self.place.poke(&key, entry);
        }
    }

    fn end_lifetimes(&self) {
        for key in self.place.keys() {
            if let Some(mut entry) = self.place.peek(&key) {
                entry.metadata.expires_at = None;
                self.place.poke(&key, entry);
            }
        }
    }

    async fn leave_something(&self, storage: &Arc<dyn BaseStorage>) -> Result<()> {
        if storage.list_keys("", ListOptions::new()).await?.keys.is_empty() {
            storage.store(&Key::new("config")?, Value::bytes(vec![1]), StoreOptions::new()).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Harness for BrokenHarness {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        let again = self.past.opened.swap(true, Ordering::AcqRel);
        let unclosed = self.past.unclosed.swap(true, Ordering::AcqRel);
        match self.bug {
            Some(Bug::ForgetsOnReopen) if again => self.forget(),
            Some(Bug::NeedsClose) if unclosed => self.forget(),
            Some(Bug::DeletesComeBack) => self.bring_back(),
            Some(Bug::LifetimesStop) if again => self.end_lifetimes(),
            _ => {}
        }
        let storage = self.storage(self.descriptor());
        if self.bug == Some(Bug::StartsWithSomething) {
            self.leave_something(&storage).await?;
        }
        Ok(storage)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        Ok(Some(self.storage(self.descriptor())))
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let usual = self.descriptor();
        let descriptor = match variant {
            Variant::DefaultTtl(lifetime) => usual.with_default_ttl(Some(lifetime)),
            Variant::MaxValueBytes(bytes) => usual.with_max_value_bytes(bytes),
            Variant::ReadOnly => {
                let capabilities = Capabilities { read_only: true, ..usual.capabilities() };
                usual.with_capabilities(capabilities)
            }
            Variant::Small => usual,
        };
        Ok(Some(self.storage(descriptor)))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    fn tick(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn break_down(&self) -> bool {
        if self.bug == Some(Bug::ForgetsWhenDown) {
            self.forget();
        }
        self.place.set_down(true);
        true
    }

    async fn mend(&self) -> bool {
        self.place.set_down(false);
        true
    }

    async fn corrupt(&self, key: &Key) -> bool {
        self.place.corrupt(key)
    }

    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        self.place.peek(key).map(|entry| entry.value.as_array().cloned()).transpose()
    }
}
