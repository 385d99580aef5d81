use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;
use ndarray::{ArrayD, Dimension};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    Array, BaseStorage, Condition, DeleteOptions, Element, Entry, ErrorKind, IntoKey, Key, ListOptions,
    Metadata, Result, StoreItem, StoreOptions, Value, Watch,
};

/// How many values a copy or a stream of entries moves at a time.
const BATCH: usize = 64;

/// After how many conflicts `update` gives up; with its pauses that is some ten seconds of bad luck.
const MAX_UPDATES: u32 = 200;

/// The typed conveniences, for every storage. Never implemented by hand.
///
/// ```
/// # async fn example(storage: std::sync::Arc<dyn persist_core::BaseStorage>) -> persist_core::Result<()> {
/// use persist_core::StorageExt;
///
/// storage.put("users/alice", &serde_json::json!({ "visits": 1 })).await?;
/// let alice: Option<serde_json::Value> = storage.get("users/alice").await?;
/// let visits = storage.update("visits", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
/// # Ok(()) }
/// ```
#[async_trait]
pub trait StorageExt: BaseStorage {
    /// Reads a JSON value. `None`: absent. (A stored `null` is `Some` of what `T` makes of `null`.)
    ///
    /// # Errors
    /// `InvalidValue` if it is not JSON or does not fit `T`; as [`BaseStorage::retrieve`].
    async fn get<T: DeserializeOwned>(&self, key: impl IntoKey) -> Result<Option<T>> {
        let key = key.into_key()?;
        match self.retrieve(&key).await? {
            Some(entry) => {
                entry.to().map(Some).map_err(|e| e.with_key(&key).with_storage(self.describe().name()))
            }
            None => Ok(None),
        }
    }

    /// Stores a value as JSON.
    ///
    /// # Errors
    /// `InvalidValue` if it holds NaN or cannot be serialised; as [`BaseStorage::store`].
    async fn put<T: Serialize + Sync + ?Sized>(&self, key: impl IntoKey, value: &T) -> Result<Metadata> {
        self.put_with(key, value, StoreOptions::new()).await
    }

    /// Stores a value as JSON with options.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    async fn put_with<T: Serialize + Sync + ?Sized>(
        &self,
        key: impl IntoKey,
        value: &T,
        options: StoreOptions,
    ) -> Result<Metadata> {
        let key = key.into_key()?;
        let value = Value::json(value).map_err(|e| e.with_key(&key).with_storage(self.describe().name()))?;
        self.store(&key, value, options).await
    }

    /// Reads opaque bytes.
    ///
    /// # Errors
    /// `InvalidValue` if it is another kind of value; as [`BaseStorage::retrieve`].
    async fn get_bytes(&self, key: impl IntoKey) -> Result<Option<Bytes>> {
        let entry = self.retrieve(&key.into_key()?).await?;
        entry.map(|entry| entry.value.as_bytes().cloned()).transpose()
    }

    /// Stores opaque bytes.
    ///
    /// # Errors
    /// As [`BaseStorage::store`].
    async fn put_bytes(&self, key: impl IntoKey, bytes: Bytes) -> Result<Metadata> {
        self.store(&key.into_key()?, Value::Bytes(bytes), StoreOptions::new()).await
    }

    /// Reads an array of any rank.
    ///
    /// # Errors
    /// `InvalidValue` if it is another kind of value or dtype; as [`BaseStorage::retrieve`].
    async fn get_array<T: Element>(&self, key: impl IntoKey) -> Result<Option<ArrayD<T>>> {
        let entry = self.retrieve(&key.into_key()?).await?;
        entry.map(|entry| entry.value.as_array()?.to_ndarray()).transpose()
    }

    /// Stores an array, without copying it if it is in standard layout.
    ///
    /// # Errors
    /// As [`BaseStorage::store`].
    async fn put_array<T: Element, D: Dimension>(
        &self,
        key: impl IntoKey,
        array: ndarray::Array<T, D>,
    ) -> Result<Metadata> {
        self.store(&key.into_key()?, Array::from_ndarray(array).into(), StoreOptions::new()).await
    }

    /// Reads a JSON value, or computes and stores it. Of N callers in this process who miss the same key one
    /// computes; if it fails, it alone gets the error and the next one tries.
    ///
    /// # Errors
    /// What `compute` says; as [`get`](Self::get) and [`put`](Self::put).
    async fn get_or_compute<T, F, U>(&self, key: impl IntoKey, options: StoreOptions, compute: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        F: FnOnce() -> U + Send,
        U: Future<Output = Result<T>> + Send,
    {
        let key = key.into_key()?;
        if let Some(found) = self.get(&key).await? {
            return Ok(found);
        }
        let _turn = self.describe().flights().enter(&key).await;
        if let Some(found) = self.get(&key).await? {
            return Ok(found);
        }
        let computed = compute().await?;
        self.put_with(&key, &computed, options).await?;
        Ok(computed)
    }

    /// Changes a JSON value by compare-and-swap: `change` gets what is stored and gives what shall be stored; it is
    /// called again whenever somebody else was faster. Tags and expiry of the old value are kept.
    ///
    /// # Errors
    /// `Conflict` if others were faster 200 times in a row; as [`get`](Self::get) and [`put`](Self::put).
    async fn update<T, F>(&self, key: impl IntoKey, mut change: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        F: FnMut(Option<T>) -> T + Send,
    {
        let key = key.into_key()?;
        let mut attempt = 0;
        loop {
            let (old, options) = match self.retrieve(&key).await? {
                Some(entry) => (Some(entry.to()?), keep(&entry.metadata)),
                None => (None, StoreOptions::new().if_absent()),
            };
            let new = change(old);
            match self.put_with(&key, &new, options).await {
                Ok(_) => return Ok(new),
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < MAX_UPDATES => {}
                Err(error) => return Err(error),
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    /// All keys that begin with `prefix`, in byte order, page by page.
    fn keys<'a>(&'a self, prefix: &'a str) -> impl Stream<Item = Result<Key>> + Send + 'a {
        struct Cursor {
            keys: VecDeque<Key>,
            after: Option<Key>,
            done: bool,
        }
        let start = Cursor { keys: VecDeque::new(), after: None, done: false };
        stream::try_unfold(start, move |mut cursor| async move {
            while cursor.keys.is_empty() && !cursor.done {
                let page = self.list_keys(prefix, ListOptions::new().after(cursor.after.take())).await?;
                cursor.done = page.next.is_none();
                cursor.after = page.next;
                cursor.keys = page.keys.into();
            }
            Ok(cursor.keys.pop_front().map(|key| (key, cursor)))
        })
    }

    /// All entries whose keys begin with `prefix`, in byte order. What is deleted on the way is left out.
    fn entries<'a>(&'a self, prefix: &'a str) -> impl Stream<Item = Result<(Key, Entry)>> + Send + 'a {
        struct Cursor {
            entries: VecDeque<(Key, Entry)>,
            after: Option<Key>,
            done: bool,
        }
        let start = Cursor { entries: VecDeque::new(), after: None, done: false };
        stream::try_unfold(start, move |mut cursor| async move {
            while cursor.entries.is_empty() && !cursor.done {
                let options = ListOptions::new().after(cursor.after.take()).limit(BATCH);
                let page = self.list_keys(prefix, options).await?;
                let results = self.retrieve_many(&page.keys).await;
                cursor.done = page.next.is_none();
                cursor.after = page.next;
                for (key, result) in page.keys.into_iter().zip(results) {
                    if let Some(entry) = result? {
                        cursor.entries.push_back((key, entry));
                    }
                }
            }
            Ok(cursor.entries.pop_front().map(|found| (found, cursor)))
        })
    }

    /// As [`BaseStorage::watch`], but what that has lost is found again by listing, so that [`Event::Lost`](crate::Event::Lost) never comes.
    /// Begins with a listing, and keeps the version of every key under `prefix` in memory.
    ///
    /// # Errors
    /// As [`BaseStorage::watch`] and [`BaseStorage::list_keys`].
    async fn follow<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        crate::survey::follow(self, prefix).await
    }

    /// Copies every value under `prefix` to another storage, with tags and expiry; gives how many.
    ///
    /// # Errors
    /// The first failure on either side; what was copied before stays.
    async fn copy_to(&self, target: &dyn BaseStorage, prefix: &str) -> Result<u64> {
        let (mut copied, mut after) = (0, None);
        loop {
            let page = self.list_keys(prefix, ListOptions::new().after(after).limit(BATCH)).await?;
            let mut items = Vec::with_capacity(page.keys.len());
            for (key, result) in page.keys.iter().zip(self.retrieve_many(&page.keys).await) {
                if let Some(Entry { value, metadata }) = result? {
                    let options = StoreOptions { condition: Condition::None, ..keep(&metadata) };
                    items.push(StoreItem { key: key.clone(), value, options });
                }
            }
            for result in target.store_many(items).await {
                result?;
                copied += 1;
            }
            after = page.next;
            if after.is_none() {
                return Ok(copied);
            }
        }
    }

    /// Deletes every key that begins with `prefix`; gives how many were there.
    ///
    /// # Errors
    /// The first failure; what was deleted before stays deleted.
    async fn clear(&self, prefix: &str) -> Result<u64> {
        let (mut deleted, mut after) = (0, None);
        loop {
            let page = self.list_keys(prefix, ListOptions::new().after(after)).await?;
            for result in self.delete_many(&page.keys).await {
                deleted += u64::from(result?);
            }
            after = page.next;
            if after.is_none() {
                return Ok(deleted);
            }
        }
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`BaseStorage::delete`].
    async fn remove(&self, key: impl IntoKey) -> Result<bool> {
        self.delete(&key.into_key()?, DeleteOptions::new()).await
    }
}

impl<S: BaseStorage + ?Sized> StorageExt for S {}

/// The options that store a new value over an entry and keep its tags and expiry.
fn keep(metadata: &Metadata) -> StoreOptions {
    StoreOptions {
        expiry: metadata.expires_at.map_or(crate::Expiry::Never, crate::Expiry::At),
        condition: Condition::IfVersion(metadata.version),
        tags: metadata.tags.clone(),
        encodings: Vec::new(),
    }
}

/// Waits longer from attempt to attempt, and a little differently each time, so that rivals get out of step.
async fn pause(attempt: u32) {
    let jitter =
        std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt) % 1000;
    let micros = (50 << attempt.min(10)) * (500 + jitter) / 1000;
    if attempt < 2 {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}
