use std::fmt::Debug;
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use persist_core::{
    BaseStorage, DeleteOptions, Entry, Event, Expiry, Key, ListOptions, Metadata, Operation, Outcome, Page,
    Result, Stats, StorageError, StoreItem, StoreOptions, Value, Verification, Watch, verify_values,
};

use crate::batch::{merge, split};

/// How keys are called in the storage below.
#[async_trait]
pub(crate) trait Names: Send + Sync + Debug + 'static {
    /// Where a key of the program lies below.
    fn below(&self, key: &Key) -> Result<Key>;

    /// Which key of the program lies there; `None`: something else does.
    fn above(&self, key: &Key) -> Option<Result<Key>>;

    /// One page of the program's keys, as the program calls them.
    async fn list(&self, inner: &dyn BaseStorage, prefix: &str, options: ListOptions) -> Result<Page>;

    /// What everything begins with below that begins with a prefix above; more may begin with it.
    fn below_prefix(&self, prefix: &str) -> String;
}

/// A storage whose keys are called otherwise below. A snapshot is of all that lies below.
#[derive(Debug)]
pub(crate) struct Renamed<N> {
    inner: Arc<dyn BaseStorage>,
    names: N,
}

impl<N: Names> Renamed<N> {
    pub(crate) fn new(inner: Arc<dyn BaseStorage>, names: N) -> Self {
        Self { inner, names }
    }

    fn below(&self, operation: &'static str, key: &Key) -> Result<Key> {
        let place =
            |error: StorageError| error.with_operation(operation).with_storage(self.inner.describe().name());
        self.names.below(key).map_err(place)
    }

    fn item(&self, item: StoreItem) -> Result<StoreItem> {
        Ok(StoreItem { key: self.below("store", &item.key)?, ..item })
    }

    fn operation(&self, operation: Operation) -> Result<Operation> {
        Ok(match operation {
            Operation::Put(item) => Operation::Put(self.item(item)?),
            Operation::Delete(key, options) => Operation::Delete(self.below("transact", &key)?, options),
            Operation::Check(key, condition) => Operation::Check(self.below("transact", &key)?, condition),
        })
    }

    /// An error of the storage below, about the key that was asked for.
    fn about(&self, error: StorageError) -> StorageError {
        match error.key().and_then(|key| self.names.above(key)) {
            Some(Ok(key)) => error.about_key(&key),
            _ => error,
        }
    }

    fn event(&self, event: Result<Event>, prefix: &str) -> Option<Result<Event>> {
        let place =
            |error: StorageError| error.with_operation("watch").with_storage(self.inner.describe().name());
        let above = |key: &Key| self.names.above(key).map(|above| above.map_err(place));
        let event = match event {
            Ok(Event::Stored { key, metadata }) => above(&key)?.map(|key| Event::Stored { key, metadata }),
            Ok(Event::Deleted { key }) => above(&key)?.map(|key| Event::Deleted { key }),
            Ok(Event::Lost) => Ok(Event::Lost),
            Err(error) => Err(self.about(error)),
        };
        let told = |event: &Event| event.key().is_none_or(|key| key.starts_with(prefix));
        Some(event).filter(|event| event.as_ref().map_or(true, told))
    }

    fn answers<T>(&self, refused: Vec<Option<StorageError>>, answers: Vec<Result<T>>) -> Vec<Result<T>> {
        merge(refused, answers.into_iter().map(|answer| answer.map_err(|error| self.about(error))).collect())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<N: Names> BaseStorage for Renamed<N> {
    forward!(inner: describe, flush, health, maintain, snapshot, close);

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.inner.store(&self.below("store", key)?, value, options).await.map_err(|error| self.about(error))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.inner.retrieve(&self.below("retrieve", key)?).await.map_err(|error| self.about(error))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.inner.delete(&self.below("delete", key)?, options).await.map_err(|error| self.about(error))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.names.list(self.inner.as_ref(), prefix, options).await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.inner.metadata(&self.below("metadata", key)?).await.map_err(|error| self.about(error))
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.inner.contains(&self.below("contains", key)?).await.map_err(|error| self.about(error))
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.inner.touch(&self.below("touch", key)?, expiry).await.map_err(|error| self.about(error))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.inner
            .retrieve_range(&self.below("retrieve_range", key)?, range)
            .await
            .map_err(|error| self.about(error))
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let (named, refused) = split(items.into_iter().map(|item| self.item(item)));
        self.answers(refused, self.inner.store_many(named).await)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let (names, refused) = split(keys.iter().map(|key| self.below("retrieve", key)));
        self.answers(refused, self.inner.retrieve_many(&names).await)
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let (names, refused) = split(keys.iter().map(|key| self.below("delete", key)));
        self.answers(refused, self.inner.delete_many(&names).await)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let operations = operations.into_iter().map(|operation| self.operation(operation));
        let operations = operations.collect::<Result<Vec<_>>>()?;
        self.inner.transact(operations).await.map_err(|error| self.about(error))
    }

    /// The counters of the storage below, without its numbers of keys and bytes, which count the records too.
    async fn stats(&self) -> Result<Stats> {
        Ok(Stats { keys: None, bytes: None, ..self.inner.stats().await? })
    }

    async fn verify(&self) -> Result<Verification> {
        verify_values(self).await
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.inner.describe().admit_watch(prefix)?;
        let events = self.inner.watch(&self.names.below_prefix(prefix)).await?;
        let prefix = prefix.to_owned();
        Ok(Watch::new(events.filter_map(move |event| ready(self.event(event, &prefix)))))
    }
}
