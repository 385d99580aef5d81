//! A whole backend in under sixty lines: four verbs over an ordered map, and a descriptor that knows the rules.
//! (`main` below is not part of it, but shows it at work.)
//!
//! `cargo run --example custom_backend` uses it. `tests/custom_backend.rs` counts its lines and runs every clause of
//! the contract against it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound::{Excluded, Included, Unbounded};

use persist::{BaseStorage, DeleteOptions, Descriptor, Entry, Key, ListOptions, Metadata, Page, Result};
use persist::{StorageExt, StoreOptions, Value, async_trait};
use tokio::sync::Mutex;

/// Values in an ordered map. What it says of itself (name, limits, clock) is in its descriptor.
pub(crate) struct MapStorage {
    about: Descriptor,
    map: Mutex<BTreeMap<Key, Entry>>,
}

impl MapStorage {
    /// An empty one.
    pub(crate) fn new(about: Descriptor) -> Self {
        Self { about, map: Mutex::default() }
    }

    fn is_live(&self, entry: &Entry) -> bool {
        self.about.live(Some(&entry.metadata)).is_some()
    }
}

/// Its name, never a value: storages are printed into logs.
impl fmt::Debug for MapStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapStorage({:?})", self.about.name())
    }
}

#[async_trait]
impl BaseStorage for MapStorage {
    fn describe(&self) -> &Descriptor {
        &self.about
    }

    // Nothing is awaited while the map is locked, so no call is ever seen or cut off half done.
    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.about.admit_store(key, &value, &options)?;
        let mut map = self.map.lock().await;
        let old = map.get(key).map(|entry| &entry.metadata);
        let metadata = self.about.next_metadata(key, old, &value, &options)?;
        map.insert(key.clone(), Entry::new(value, metadata.clone()));
        Ok(metadata)
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.about.admit("retrieve")?;
        Ok(self.map.lock().await.get(key).filter(|entry| self.is_live(entry)).cloned())
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.about.admit_change("delete")?;
        let mut map = self.map.lock().await;
        let old = map.get(key).map(|entry| &entry.metadata);
        self.about.check_condition("delete", options.condition, key, old)?;
        Ok(map.remove(key).is_some_and(|entry| self.is_live(&entry)))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.about.admit_list(prefix, &options)?;
        let after = options.after.as_deref().filter(|after| *after >= prefix);
        let map = self.map.lock().await;
        let rest = map.range::<str, _>((after.map_or(Included(prefix), Excluded), Unbounded));
        let under = rest.take_while(|(key, _)| key.starts_with(prefix));
        let live = under.filter(|(_, entry)| self.is_live(entry)).map(|(key, _)| key.clone());
        Ok(Page::collect(live, limit))
    }
}

/// Everything else comes with the four verbs: typed values, compare-and-swap, streams, batches, transactions.
#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
pub(crate) async fn main() -> Result<()> {
    let storage = MapStorage::new(Descriptor::new("mine", "map"));
    storage.put("users/ada", &["admin", "author"]).await?;
    let visits = storage.update("visits", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
    let keys = storage.list_keys("", ListOptions::new()).await?.keys;
    println!("{storage:?} keeps {keys:?}; visits: {visits}; verified: {}", storage.verify().await?.checked);
    storage.close().await
}
