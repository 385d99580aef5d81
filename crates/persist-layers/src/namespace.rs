use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use persist_core::{
    BaseStorage, DeleteOptions, Entry, ErrorKind, Event, Expiry, Key, ListOptions, MAX_KEY_BYTES, Metadata,
    Operation, Outcome, Page, Result, SnapshotSink, SnapshotSummary, Stats, StorageError, StoreItem,
    StoreOptions, Value, Verification, Watch, snapshot_entries, verify_values,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::batch::{merge, split};

/// The settings of [`Namespace`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceConfig {
    /// What every key is stored under, for instance `tenant-7/`. Keys may have this much less than 1024 bytes.
    pub prefix: String,
}

impl NamespaceConfig {
    /// Everything under this prefix.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }
}

/// A part of a storage as a storage of its own: every key gets a prefix on its way in and loses it on its way out, and no
/// other key is seen.
///
/// A key may have 1024 bytes less the prefix; a longer one is `InvalidKey`. Statistics count neither keys nor bytes, because
/// the storage below counts those of its neighbours too. `maintain` and `flush` are of the whole storage below.
#[derive(Debug)]
pub struct Namespace {
    inner: Arc<dyn BaseStorage>,
    prefix: String,
}

impl Namespace {
    /// The part of `inner` under a prefix.
    ///
    /// # Errors
    /// `InvalidConfig` if no key can have the prefix.
    pub fn new(inner: Arc<dyn BaseStorage>, config: NamespaceConfig) -> Result<Self> {
        check_prefix(&config.prefix)
            .map_err(|message| StorageError::new(ErrorKind::InvalidConfig, message))?;
        Ok(Self { inner, prefix: config.prefix })
    }

    /// The name of a key below.
    fn below(&self, operation: &'static str, key: &Key) -> Result<Key> {
        self.checked(operation, key)
            .map_err(|error| error.with_storage(self.inner.describe().name()).about_key(key))
    }

    fn checked(&self, operation: &'static str, key: &Key) -> Result<Key> {
        if self.prefix.len() + key.len() > MAX_KEY_BYTES {
            let message = format!(
                "the key has {} bytes and this namespace takes {}; shorten it or hash a part of it",
                key.len(),
                MAX_KEY_BYTES - self.prefix.len()
            );
            return Err(StorageError::new(ErrorKind::InvalidKey, message).with_operation(operation));
        }
        Key::new(format!("{}{key}", self.prefix))
    }

    /// The name of a key above.
    fn above(&self, key: &Key) -> Result<Key> {
        let name = key.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        Key::new(name).map_err(|_| {
            let message = "a key outside of the namespace was listed; the storage below breaks its contract";
            self.inner.describe().error(ErrorKind::Internal, "list_keys", message)
        })
    }

    /// An error of the storage below, about the key that was asked for.
    fn renamed(&self, error: StorageError) -> StorageError {
        let above = error.key().and_then(|key| key.strip_prefix(self.prefix.as_str())).map(Key::new);
        match above {
            Some(Ok(key)) => error.about_key(&key),
            _ => error,
        }
    }

    /// Where a listing begins below, and at which prefix; `None` if no key can be there.
    fn listing(&self, prefix: &str, after: Option<&Key>) -> Option<(String, Option<Key>)> {
        let prefix = format!("{}{prefix}", self.prefix);
        let Some(after) = after else { return (prefix.len() <= MAX_KEY_BYTES).then_some((prefix, None)) };
        let mut name = format!("{}{after}", self.prefix);
        // A key that could not be stored here may still be named; what its first bytes stand for is before it.
        let mut end = name.len().min(MAX_KEY_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        (prefix.len() <= MAX_KEY_BYTES).then(|| (prefix, Key::new(name).ok()))
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

    /// What an event below is above.
    fn event(&self, event: Result<Event>, nothing: bool) -> Option<Result<Event>> {
        match event {
            Ok(Event::Stored { .. } | Event::Deleted { .. }) if nothing => None,
            Ok(Event::Stored { key, metadata }) => {
                Some(self.above(&key).map(|key| Event::Stored { key, metadata }))
            }
            Ok(Event::Deleted { key }) => Some(self.above(&key).map(|key| Event::Deleted { key })),
            Ok(Event::Lost) => Some(Ok(Event::Lost)),
            Err(error) => Some(Err(self.renamed(error))),
        }
    }

    fn answers<T>(&self, refused: Vec<Option<StorageError>>, answers: Vec<Result<T>>) -> Vec<Result<T>> {
        merge(
            refused,
            answers.into_iter().map(|answer| answer.map_err(|error| self.renamed(error))).collect(),
        )
    }
}

/// What is wrong with a prefix.
fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.is_empty() {
        return Err("a namespace needs a prefix, for instance `tenant-7/`".to_owned());
    }
    if prefix.len() > MAX_KEY_BYTES / 2 {
        return Err(format!("the prefix has {} bytes and may have {}", prefix.len(), MAX_KEY_BYTES / 2));
    }
    Key::check_prefix(prefix).map_err(|error| error.message().to_owned())
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Namespace {
    forward!(inner: describe, flush, health, maintain, close);

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let name = self.below("store", key)?;
        self.inner.store(&name, value, options).await.map_err(|error| self.renamed(error))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let name = self.below("retrieve", key)?;
        self.inner.retrieve(&name).await.map_err(|error| self.renamed(error))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let name = self.below("delete", key)?;
        self.inner.delete(&name, options).await.map_err(|error| self.renamed(error))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.inner.describe().admit_list(prefix, &options)?;
        let Some((below, after)) = self.listing(prefix, options.after.as_ref()) else {
            return Ok(Page::default());
        };
        let page = self.inner.list_keys(&below, ListOptions { after, limit }).await?;
        let keys = page.keys.iter().map(|key| self.above(key)).collect::<Result<Vec<_>>>()?;
        Ok(Page { keys, next: page.next.map(|key| self.above(&key)).transpose()? })
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let name = self.below("metadata", key)?;
        self.inner.metadata(&name).await.map_err(|error| self.renamed(error))
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        let name = self.below("contains", key)?;
        self.inner.contains(&name).await.map_err(|error| self.renamed(error))
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let name = self.below("touch", key)?;
        self.inner.touch(&name, expiry).await.map_err(|error| self.renamed(error))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let name = self.below("retrieve_range", key)?;
        self.inner.retrieve_range(&name, range).await.map_err(|error| self.renamed(error))
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
        self.inner.transact(operations).await.map_err(|error| self.renamed(error))
    }

    /// The counters of the storage below, without its numbers of keys and bytes.
    async fn stats(&self) -> Result<Stats> {
        Ok(Stats { keys: None, bytes: None, ..self.inner.stats().await? })
    }

    async fn verify(&self) -> Result<Verification> {
        verify_values(self).await
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.inner.describe().admit_watch(prefix)?;
        let below = self.listing(prefix, None);
        let nothing = below.is_none();
        let prefix = below.map_or_else(|| self.prefix.clone(), |(prefix, _)| prefix);
        let events = self.inner.watch(&prefix).await?;
        Ok(Watch::new(events.filter_map(move |event| ready(self.event(event, nothing)))))
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        snapshot_entries(self, sink).await
    }
}

impl Layer for Namespace {
    const NAME: &'static str = "namespace";
    const RENAMES_KEYS: bool = true;
    type Config = NamespaceConfig;

    fn check(config: &NamespaceConfig) -> Result<(), String> {
        check_prefix(&config.prefix)
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: NamespaceConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, config)?))
    }
}
