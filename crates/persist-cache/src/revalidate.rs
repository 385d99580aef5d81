use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use persist_core::{IntoKey, Key, Result, StorageExt, StoreOptions, Value, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::CacheStorage;
use crate::engine::Engine;
use crate::stats::count;

/// The keys whose next value is being computed in the background.
#[derive(Debug, Default)]
pub(crate) struct Refreshes(Mutex<HashSet<Key>>);

/// The right to refresh a key; nobody else has it until this is dropped.
struct Refresh {
    engine: Weak<Engine>,
    key: Key,
    /// The expired version that it replaces.
    version: Version,
    /// False until it came to an end: a task that panics or is given up counts as failed.
    settled: bool,
}

impl CacheStorage {
    /// Reads a JSON value, or computes and stores it, as `get_or_compute` does; but a value that expired no longer
    /// than `stale_while_revalidate` ago is given back at once, while one task computes the next in the background.
    ///
    /// If that fails the stale value stays until the window ends (`refresh_failures` counts it) and the next caller
    /// starts another attempt. What the task has computed is dropped if the key was stored, deleted, invalidated or
    /// evicted meanwhile; a condition in `options` holds for callers who wait. The task does not keep the cache alive. Outside of a tokio runtime there is no background,
    /// and the caller waits for the next value.
    ///
    /// # Errors
    /// What `compute` says, where the caller had to wait for it; `InvalidValue` if the value is not JSON or does not
    /// fit `T`; as `store`.
    pub async fn get_or_refresh<T, F, U>(
        &self,
        key: impl IntoKey,
        options: StoreOptions,
        compute: F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: FnOnce() -> U + Send + 'static,
        U: Future<Output = Result<T>> + Send + 'static,
    {
        let key = key.into_key()?;
        let engine = self.engine();
        engine.descriptor.admit("get_or_refresh")?;
        let (Some(record), Ok(runtime)) = (engine.stale(&key), Handle::try_current()) else {
            return self.get_or_compute(&key, options, compute).await;
        };
        if let Some(refresh) = Refresh::begin(engine, &key, record.entry.metadata.version) {
            runtime.spawn(refresh.run(options, compute));
        }
        engine.counters.stale_hits.count();
        let stale = record.entry.to();
        stale.map_err(|error| error.with_key(&key).with_storage(engine.descriptor.name()))
    }
}

impl Refresh {
    fn begin(engine: &Arc<Engine>, key: &Key, version: Version) -> Option<Self> {
        if !engine.refreshes.0.lock().insert(key.clone()) {
            return None;
        }
        count(&engine.counters.refreshes);
        Some(Self { engine: Arc::downgrade(engine), key: key.clone(), version, settled: false })
    }

    /// Computes the value and stores it over the expired one. It takes the turn of `get_or_compute`, so that callers
    /// who come after the window wait for it instead of computing too.
    async fn run<T, F, U>(mut self, options: StoreOptions, compute: F)
    where
        T: Serialize,
        F: FnOnce() -> U,
        U: Future<Output = Result<T>>,
    {
        let Some(flights) = self.engine.upgrade().map(|engine| engine.descriptor.flights().clone()) else {
            return;
        };
        let _turn = flights.enter(&self.key).await;
        let computed = compute().await.and_then(|value| Value::json(&value));
        let Some(engine) = self.engine.upgrade() else { return };
        match computed.and_then(|value| engine.renew(&self.key, self.version, value, options)) {
            Ok(Some(_)) => self.settled = true,
            Ok(None) => {
                count(&engine.counters.refreshes_outrun);
                self.settled = true;
            }
            Err(_) => {}
        }
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        if !self.settled {
            count(&engine.counters.refresh_failures);
        }
        engine.refreshes.0.lock().remove(&self.key);
    }
}
