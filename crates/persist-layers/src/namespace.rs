use std::cell::RefCell;
use std::sync::Arc;

use async_trait::async_trait;
use persist_core::{
    BaseStorage, ErrorKind, Key, ListOptions, MAX_KEY_BYTES, Page, Result, SnapshotSink, SnapshotSummary,
    StorageError, snapshot_entries,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::renamed::{Names, Renamed};

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
pub struct Namespace(Renamed<Prefixed>);

impl Namespace {
    /// The part of `inner` under a prefix.
    ///
    /// # Errors
    /// `InvalidConfig` if no key can have the prefix.
    pub fn new(inner: Arc<dyn BaseStorage>, config: NamespaceConfig) -> Result<Self> {
        check_prefix(&config.prefix)
            .map_err(|message| StorageError::new(ErrorKind::InvalidConfig, message))?;
        Ok(Self(Renamed::new(inner, Prefixed(config.prefix))))
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

thread_local! {
    /// Where names are put together, so that each takes no more room than that of its key.
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keys that lie under a prefix.
#[derive(Debug)]
struct Prefixed(String);

impl Prefixed {
    /// Where a listing after a key begins below. A key that could not be stored here may be named too, so what its first bytes
    /// stand for is taken.
    fn place(&self, key: &Key) -> Result<Key> {
        let mut name = format!("{}{key}", self.0);
        let mut end = name.len().min(MAX_KEY_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        Key::new(name)
    }
}

#[async_trait]
impl Names for Prefixed {
    fn below(&self, key: &Key) -> Result<Key> {
        let most = MAX_KEY_BYTES - self.0.len();
        if key.len() > most {
            let message = format!(
                "the key has {} bytes and this namespace takes {most}; shorten it or hash a part of it",
                key.len()
            );
            return Err(StorageError::new(ErrorKind::InvalidKey, message).with_key(key));
        }
        NAME.with_borrow_mut(|name| {
            name.clear();
            name.push_str(&self.0);
            name.push_str(key);
            Key::new(name.as_str())
        })
    }

    fn above(&self, key: &Key) -> Option<Result<Key>> {
        Some(Key::new(key.strip_prefix(self.0.as_str()).unwrap_or_default()).map_err(|_| {
            let message = "a key outside of the namespace was told; the storage below breaks its contract";
            StorageError::new(ErrorKind::Internal, message)
        }))
    }

    async fn list(&self, inner: &dyn BaseStorage, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = inner.describe().admit_list(prefix, &options)?;
        if self.0.len() + prefix.len() > MAX_KEY_BYTES {
            return Ok(Page::default());
        }
        let after = options.after.as_ref().map(|after| self.place(after)).transpose()?;
        let page = inner.list_keys(&self.below_prefix(prefix), ListOptions { after, limit }).await?;
        let place =
            |error: StorageError| error.with_operation("list_keys").with_storage(inner.describe().name());
        let above = |key: &Key| self.above(key).map(|above| above.map_err(place));
        let keys = page.keys.iter().filter_map(above).collect::<Result<_>>()?;
        Ok(Page { keys, next: page.next.as_ref().and_then(above).transpose()? })
    }

    fn below_prefix(&self, prefix: &str) -> String {
        // Nothing can lie under a longer one.
        let fits = self.0.len() + prefix.len() <= MAX_KEY_BYTES;
        format!("{}{}", self.0, if fits { prefix } else { "" })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Namespace {
    forward!(0: describe, store, retrieve, delete, list_keys, metadata, contains, touch, retrieve_range);
    forward!(0: store_many, retrieve_many, delete_many, transact, flush, health, stats, maintain, verify);
    forward!(0: watch, close);

    /// The part's own keys, for the storage below has those of others too.
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
