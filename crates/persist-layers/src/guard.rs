use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, HealthStatus, Key, ListOptions,
    Maintenance, Metadata, Operation, Outcome, Page, Result, SnapshotSink, SnapshotSummary, Stats,
    StorageError, StoreItem, StoreOptions, Value, Verification,
};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads values, metadata or keys.
    Read,
    /// It stores, deletes or touches.
    Change,
    /// It looks after the storage, and may take as long as that has work: `flush`, `health`, `stats`, `maintain`, `verify`,
    /// `snapshot`.
    Care,
}

/// One call on its way through a [`Guard`].
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The storage below.
    pub storage: &'a Descriptor,
    /// The method, for instance `store_many`.
    pub operation: &'static str,
    /// What it does.
    pub effect: Effect,
    /// The key concerned, where there is one.
    pub key: Option<&'a Key>,
    /// How many values it concerns: 1 but for batches.
    pub items: usize,
}

impl Call<'_> {
    /// An error of this call.
    pub fn error(&self, kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> StorageError {
        let error = self.storage.error(kind, self.operation, message);
        match self.key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }
}

/// The answer to a call: one result, or one for each item of a batch.
pub trait Answer: Send {
    /// The answer to a call that is not made, or whose answer does not come: this error, for each item of a batch.
    fn refused(call: &Call<'_>, error: impl Fn() -> StorageError) -> Self;

    /// An error in it; of a batch the first that concerns the storage rather than an item, or the first.
    fn failure(&self) -> Option<Failure>;
}

/// What a failed call said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which kind.
    pub kind: ErrorKind,
}

impl Failure {
    /// True if it says that the storage does not work now, and not that the call was wrong.
    pub fn is_outage(self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl<T: Send> Answer for Result<T> {
    fn refused(_: &Call<'_>, error: impl Fn() -> StorageError) -> Self {
        Err(error())
    }

    fn failure(&self) -> Option<Failure> {
        self.as_ref().err().map(|error| Failure { kind: error.kind() })
    }
}

impl<T: Send> Answer for Vec<Result<T>> {
    fn refused(call: &Call<'_>, error: impl Fn() -> StorageError) -> Self {
        (0..call.items).map(|_| Err(error())).collect()
    }

    fn failure(&self) -> Option<Failure> {
        let mut failures = self.iter().filter_map(Answer::failure);
        let first = failures.next()?;
        Some(std::iter::once(first).chain(failures).find(|failure| failure.is_outage()).unwrap_or(first))
    }
}

impl Answer for Health {
    fn refused(_: &Call<'_>, error: impl Fn() -> StorageError) -> Self {
        Self::unhealthy(&error())
    }

    fn failure(&self) -> Option<Failure> {
        (self.status == HealthStatus::Unhealthy).then_some(Failure { kind: ErrorKind::Unavailable })
    }
}

/// What stands around every call of a storage: it may refuse it, delay it, end it, or look at its answer.
pub trait Guard: Send + Sync + std::fmt::Debug + 'static {
    /// Makes a call, or does not. `next` is the call of the storage below; dropping it cancels the call.
    fn around<A: Answer>(
        &self,
        call: Call<'_>,
        next: impl Future<Output = A> + Send,
    ) -> impl Future<Output = A> + Send;

    /// Adds what the guard itself counts.
    fn count(&self, stats: &mut Stats) {
        let _ = stats;
    }
}

/// A storage with a [`Guard`] around every call but `describe`, `watch` and `close`.
#[derive(Debug)]
pub struct Guarded<G> {
    inner: Arc<dyn BaseStorage>,
    guard: G,
}

impl<G: Guard> Guarded<G> {
    /// Puts a guard around a storage.
    pub fn new(inner: Arc<dyn BaseStorage>, guard: G) -> Self {
        Self { inner, guard }
    }

    /// The guard.
    pub fn guard(&self) -> &G {
        &self.guard
    }

    fn call<'a>(
        &'a self,
        operation: &'static str,
        effect: Effect,
        key: Option<&'a Key>,
        items: usize,
    ) -> Call<'a> {
        Call { storage: self.inner.describe(), operation, effect, key, items }
    }

    fn read<'a>(&'a self, operation: &'static str, key: &'a Key) -> Call<'a> {
        self.call(operation, Effect::Read, Some(key), 1)
    }

    fn change<'a>(&'a self, operation: &'static str, key: &'a Key) -> Call<'a> {
        self.call(operation, Effect::Change, Some(key), 1)
    }

    fn care(&self, operation: &'static str) -> Call<'_> {
        self.call(operation, Effect::Care, None, 1)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<G: Guard> BaseStorage for Guarded<G> {
    forward!(inner: describe, watch, close);

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.guard.around(self.change("store", key), self.inner.store(key, value, options)).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.guard.around(self.read("retrieve", key), self.inner.retrieve(key)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.guard.around(self.change("delete", key), self.inner.delete(key, options)).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let call = self.call("list_keys", Effect::Read, None, 1);
        self.guard.around(call, self.inner.list_keys(prefix, options)).await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.guard.around(self.read("metadata", key), self.inner.metadata(key)).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.guard.around(self.read("contains", key), self.inner.contains(key)).await
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.guard.around(self.change("touch", key), self.inner.touch(key, expiry)).await
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.guard.around(self.read("retrieve_range", key), self.inner.retrieve_range(key, range)).await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let call = self.call("store_many", Effect::Change, None, items.len());
        self.guard.around(call, self.inner.store_many(items)).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let call = self.call("retrieve_many", Effect::Read, None, keys.len());
        self.guard.around(call, self.inner.retrieve_many(keys)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let call = self.call("delete_many", Effect::Change, None, keys.len());
        self.guard.around(call, self.inner.delete_many(keys)).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let call = self.call("transact", Effect::Change, None, operations.len());
        self.guard.around(call, self.inner.transact(operations)).await
    }

    async fn flush(&self) -> Result<()> {
        self.guard.around(self.care("flush"), self.inner.flush()).await
    }

    async fn health(&self) -> Health {
        self.guard.around(self.care("health"), self.inner.health()).await
    }

    async fn stats(&self) -> Result<Stats> {
        let mut stats = self.guard.around(self.care("stats"), self.inner.stats()).await?;
        self.guard.count(&mut stats);
        Ok(stats)
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.guard.around(self.care("maintain"), self.inner.maintain()).await
    }

    async fn verify(&self) -> Result<Verification> {
        self.guard.around(self.care("verify"), self.inner.verify()).await
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.guard.around(self.care("snapshot"), self.inner.snapshot(sink)).await
    }
}
