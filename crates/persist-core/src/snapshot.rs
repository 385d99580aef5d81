//! Copies of whole storages: what a storage writes one into, what it is restored from, and the general way of both.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::walk::Walk;
use crate::{
    BaseStorage, Condition, Entry, ErrorKind, Expiry, Key, ListOptions, Result, StorageError, StoreItem,
    StoreOptions, verify_values,
};

/// How many bytes of values a restore stores at a time.
const BUDGET: u64 = 4 << 20;

/// The most values that it stores at a time.
const MAX_BATCH: u64 = 256;

/// Which moment a snapshot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Every value is whole and belongs to its metadata. Values that changed while the snapshot was made may be of
    /// different moments.
    EachValue,
    /// All values are of one moment.
    PointInTime,
}

/// What a storage wrote into a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// How many keys.
    pub keys: u64,
    /// How many bytes of plain values.
    pub bytes: u64,
    /// Of which moment.
    pub consistency: Consistency,
}

/// What a storage writes its snapshot into: entries one by one, or files in a form of its own, not both.
#[async_trait]
pub trait SnapshotSink: Send {
    /// Adds an entry. They come in the byte order of their keys, each key once.
    ///
    /// # Errors
    /// Why it cannot be kept; the snapshot has failed then.
    async fn entry(&mut self, key: Key, entry: Entry) -> Result<()>;

    /// Where to write a file of this name (lower-case letters, digits, `.`, `-`): the path of a file that does not exist
    /// yet. Only the form of the caller's type reads it again.
    ///
    /// # Errors
    /// Why there can be no such file.
    fn file(&mut self, name: &str) -> Result<PathBuf>;
}

/// What a storage is restored from. Everything in it has been verified.
#[async_trait]
pub trait SnapshotSource: Send + Sync {
    /// The next entry, in the byte order of the keys; `None`: that was the last. A snapshot in files has none.
    ///
    /// # Errors
    /// `Corruption`, and why it cannot be read.
    async fn next(&mut self) -> Result<Option<(Key, Entry)>>;

    /// A file that a storage of the same type wrote into the snapshot; it may only be read.
    fn file(&self, name: &str) -> Option<PathBuf>;
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// How many keys were restored and verified.
    pub keys: u64,
    /// How many bytes of plain values.
    pub bytes: u64,
    /// How many entries of the snapshot were left out because they have expired by now.
    pub expired: u64,
    /// Where what was stored before lies now, whole; `None` where it was replaced key by key, or there was nothing.
    pub kept: Option<PathBuf>,
}

/// What [`BaseStorage::snapshot`] does by default: lists every key and retrieves it.
///
/// # Errors
/// `Corruption` naming the key of a damaged value, which is never left out silently; what the storage and the sink say.
pub async fn snapshot_entries<S: BaseStorage + ?Sized>(
    storage: &S,
    sink: &mut dyn SnapshotSink,
) -> Result<SnapshotSummary> {
    let mut summary = SnapshotSummary { keys: 0, bytes: 0, consistency: Consistency::EachValue };
    let mut walk = Walk::new(storage);
    while let Some((key, found)) = walk.next().await? {
        // `None`: deleted or expired since the page was read.
        let Some(entry) = found.map_err(|error| error.with_key(&key))? else { continue };
        summary.keys += 1;
        summary.bytes += entry.metadata.size;
        sink.entry(key, entry).await?;
    }
    Ok(summary)
}

/// Replaces everything in an open storage by the entries of a snapshot: stores each with its tags, expiry and encodings,
/// deletes every other key, and reads everything back. Each value gets a new version and new times.
///
/// The change is made key by key, so others may see it half done. If it fails or dies on the way, doing it again
/// completes it.
///
/// # Errors
/// What the storage and the source say; `Corruption` if what is read back is not what was restored.
pub async fn restore_entries<S: BaseStorage + ?Sized>(
    storage: &S,
    source: &mut dyn SnapshotSource,
) -> Result<Restored> {
    storage.describe().admit_change("restore")?;
    let mut restore = Restore::new(storage);
    while let Some((key, entry)) = source.next().await? {
        restore.entry(key, entry).await?;
    }
    restore.finish().await
}

/// Walks along the keys of a snapshot and of a storage, both in order.
struct Restore<'a, S: ?Sized> {
    storage: &'a S,
    /// Keys of the storage that the walk has not reached yet.
    live: VecDeque<Key>,
    /// Where the listing goes on, unless it has ended.
    next: Option<ListOptions>,
    to_store: Vec<StoreItem>,
    stored_bytes: u64,
    done: Restored,
}

impl<'a, S: BaseStorage + ?Sized> Restore<'a, S> {
    fn new(storage: &'a S) -> Self {
        Self {
            storage,
            live: VecDeque::new(),
            next: Some(ListOptions::new()),
            to_store: Vec::new(),
            stored_bytes: 0,
            done: Restored::default(),
        }
    }

    async fn entry(&mut self, key: Key, entry: Entry) -> Result<()> {
        if entry.metadata.is_expired(self.storage.describe().now()) {
            self.done.expired += 1;
            return Ok(());
        }
        self.delete_before(Some(&key)).await?;
        self.stored_bytes += entry.metadata.size;
        self.to_store.push(item(key, entry));
        if self.stored_bytes >= BUDGET || self.to_store.len() as u64 >= MAX_BATCH {
            self.store().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Restored> {
        self.store().await?;
        self.delete_before(None).await?;
        self.storage.flush().await?;
        match verify_values(self.storage).await?.problems.into_iter().next() {
            None => Ok(self.done),
            Some(problem) => Err(StorageError::new(ErrorKind::Corruption, problem.message)),
        }
    }

    async fn store(&mut self) -> Result<()> {
        let items = std::mem::take(&mut self.to_store);
        let expected: Vec<(Key, _)> =
            items.iter().map(|item| (item.key.clone(), item.value.checksum())).collect();
        for ((key, checksum), answer) in expected.into_iter().zip(self.storage.store_many(items).await) {
            let metadata = answer.map_err(|error| error.with_key(&key))?;
            if metadata.checksum != checksum {
                let message = "another value was stored than was restored; nothing else may write meanwhile";
                let error = self.storage.describe().error(ErrorKind::Corruption, "restore", message);
                return Err(error.with_key(&key));
            }
            self.done.keys += 1;
            self.done.bytes += metadata.size;
        }
        self.stored_bytes = 0;
        Ok(())
    }

    /// Deletes the keys of the storage before `end` (`None`: all that are left), and passes over `end` itself.
    async fn delete_before(&mut self, end: Option<&Key>) -> Result<()> {
        let mut surplus = Vec::new();
        while let Some(key) = self.peek().await? {
            match end.map_or(Ordering::Less, |end| key.cmp(end)) {
                Ordering::Less => surplus.push(key),
                Ordering::Equal => {}
                Ordering::Greater => break,
            }
            self.live.pop_front();
        }
        for (key, answer) in surplus.iter().zip(self.storage.delete_many(&surplus).await) {
            answer.map_err(|error| error.with_key(key))?;
        }
        Ok(())
    }

    async fn peek(&mut self) -> Result<Option<Key>> {
        while self.live.is_empty() {
            let Some(options) = self.next.take() else { return Ok(None) };
            let page = self.storage.list_keys("", options).await?;
            self.live.extend(page.keys);
            self.next = page.next.map(|after| ListOptions::new().after(Some(after)));
        }
        Ok(self.live.front().cloned())
    }
}

fn item(key: Key, Entry { value, metadata }: Entry) -> StoreItem {
    let options = StoreOptions {
        expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
        condition: Condition::None,
        tags: metadata.tags,
        encodings: metadata.encodings,
    };
    StoreItem { key, value, options }
}

/// An open storage as the source of a restore, for copying one storage over another.
#[derive(Debug)]
pub struct StorageSource {
    storage: Arc<dyn BaseStorage>,
    keys: VecDeque<Key>,
    next: Option<ListOptions>,
}

impl StorageSource {
    /// Every entry of a storage.
    pub fn new(storage: Arc<dyn BaseStorage>) -> Self {
        Self { storage, keys: VecDeque::new(), next: Some(ListOptions::new()) }
    }
}

#[async_trait]
impl SnapshotSource for StorageSource {
    async fn next(&mut self) -> Result<Option<(Key, Entry)>> {
        loop {
            while let Some(key) = self.keys.pop_front() {
                if let Some(entry) = self.storage.retrieve(&key).await? {
                    return Ok(Some((key, entry)));
                }
            }
            let Some(options) = self.next.take() else { return Ok(None) };
            let page = self.storage.list_keys("", options).await?;
            self.keys.extend(page.keys);
            self.next = page.next.map(|after| ListOptions::new().after(Some(after)));
        }
    }

    fn file(&self, _name: &str) -> Option<PathBuf> {
        None
    }
}
