use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    BaseStorage, DeleteOptions, Entry, ErrorKind, Event, Expiry, IntoKey, ListOptions, Maintenance, Metadata,
    Operation, Outcome, Page, Result, Stats, StorageError, StorageExt, StoreItem, StoreOptions, Value,
    Verification, Watch,
};

/// The same storage for synchronous programs: every call waits for its answer.
///
/// All blocking storages of a process share one small runtime. A call from within an async task is refused with
/// `Unsupported`, because it would stop that task's thread: use the async storage there.
#[derive(Clone)]
pub struct BlockingStorage(Arc<dyn BaseStorage>);

impl BlockingStorage {
    /// The blocking face of a storage.
    pub fn new(storage: Arc<dyn BaseStorage>) -> Self {
        Self(storage)
    }

    /// Waits for a future, for instance the one that opens a storage.
    ///
    /// # Errors
    /// What the future says; `Unsupported` within an async task; `Unavailable` if no runtime can be started.
    pub fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
        if Handle::try_current().is_ok() {
            return Err(StorageError::new(
                ErrorKind::Unsupported,
                "a blocking call was made within an async task; await the async storage there",
            ));
        }
        runtime()?.block_on(future)
    }

    /// The async storage underneath.
    pub fn storage(&self) -> &Arc<dyn BaseStorage> {
        &self.0
    }

    /// As [`StorageExt::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get<T: DeserializeOwned + Send>(&self, key: impl IntoKey) -> Result<Option<T>> {
        Self::wait(self.0.get(key))
    }

    /// As [`StorageExt::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put<T: Serialize + Sync + ?Sized>(&self, key: impl IntoKey, value: &T) -> Result<Metadata> {
        Self::wait(self.0.put(key, value))
    }

    /// As [`BaseStorage::store`].
    ///
    /// # Errors
    /// As there.
    pub fn store(&self, key: impl IntoKey, value: Value, options: StoreOptions) -> Result<Metadata> {
        Self::wait(self.0.store(&key.into_key()?, value, options))
    }

    /// As [`BaseStorage::retrieve`].
    ///
    /// # Errors
    /// As there.
    pub fn retrieve(&self, key: impl IntoKey) -> Result<Option<Entry>> {
        Self::wait(self.0.retrieve(&key.into_key()?))
    }

    /// As [`BaseStorage::metadata`].
    ///
    /// # Errors
    /// As there.
    pub fn metadata(&self, key: impl IntoKey) -> Result<Option<Metadata>> {
        Self::wait(self.0.metadata(&key.into_key()?))
    }

    /// As [`BaseStorage::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, key: impl IntoKey, options: DeleteOptions) -> Result<bool> {
        Self::wait(self.0.delete(&key.into_key()?, options))
    }

    /// As [`BaseStorage::list_keys`].
    ///
    /// # Errors
    /// As there.
    pub fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        Self::wait(self.0.list_keys(prefix, options))
    }

    /// As [`BaseStorage::touch`].
    ///
    /// # Errors
    /// As there.
    pub fn touch(&self, key: impl IntoKey, expiry: Expiry) -> Result<Option<Metadata>> {
        Self::wait(self.0.touch(&key.into_key()?, expiry))
    }

    /// As [`BaseStorage::store_many`].
    ///
    /// # Errors
    /// `Unsupported` within an async task; the rest is in the answers.
    pub fn store_many(&self, items: Vec<StoreItem>) -> Result<Vec<Result<Metadata>>> {
        Self::wait(async { Ok(self.0.store_many(items).await) })
    }

    /// As [`BaseStorage::transact`].
    ///
    /// # Errors
    /// As there.
    pub fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        Self::wait(self.0.transact(operations))
    }

    /// As [`StorageExt::update`].
    ///
    /// # Errors
    /// As there.
    pub fn update<T, F>(&self, key: impl IntoKey, change: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        F: FnMut(Option<T>) -> T + Send,
    {
        Self::wait(self.0.update(key, change))
    }

    /// As [`BaseStorage::stats`].
    ///
    /// # Errors
    /// As there.
    pub fn stats(&self) -> Result<Stats> {
        Self::wait(self.0.stats())
    }

    /// As [`BaseStorage::maintain`].
    ///
    /// # Errors
    /// As there.
    pub fn maintain(&self) -> Result<Maintenance> {
        Self::wait(self.0.maintain())
    }

    /// As [`BaseStorage::verify`].
    ///
    /// # Errors
    /// As there.
    pub fn verify(&self) -> Result<Verification> {
        Self::wait(self.0.verify())
    }

    /// As [`BaseStorage::watch`]; each step of the iterator waits for the next event.
    ///
    /// # Errors
    /// As there.
    pub fn watch(&self, prefix: &str) -> Result<BlockingWatch<'_>> {
        Self::wait(self.0.watch(prefix)).map(BlockingWatch)
    }

    /// As [`BaseStorage::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<()> {
        Self::wait(self.0.flush())
    }

    /// As [`BaseStorage::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<()> {
        Self::wait(self.0.close())
    }
}

impl fmt::Debug for BlockingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockingStorage").field(&self.0.describe().name()).finish()
    }
}

/// Changes for synchronous programs; it ends when the storage is closed.
#[derive(Debug)]
pub struct BlockingWatch<'a>(Watch<'a>);

impl Iterator for BlockingWatch<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        BlockingStorage::wait(async { self.0.next().await.transpose() }).transpose()
    }
}

fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread().worker_threads(1).thread_name("persist-blocking").enable_all().build()
        })
        .as_ref()
        .map_err(|error| {
            StorageError::new(ErrorKind::Unavailable, format!("no runtime can be started: {error}"))
        })
}
