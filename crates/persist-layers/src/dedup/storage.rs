use std::future::ready;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Capabilities, Checksum, DeleteOptions, Descriptor, Entry, ErrorKind, Event, Expiry, Key,
    ListOptions, Maintenance, Metadata, Operation, Outcome, Page, Result, Stats, StorageError, StoreItem,
    StoreOptions, Timestamp, Value, Verification, Watch, verify_values,
};

use super::chunker::Chunker;
use super::chunks::{Chunks, Kept, Piece};
use super::config::DedupConfig;
use super::manifest::{ChunkRef, MARK, Manifest, take_note};
use super::sweep::{DedupUsage, is_due, sweep, usage};
use crate::Layer;
use crate::batch::{merge, split};
use crate::derived::derived;
use crate::plain::Plain;
use crate::reserved;

/// Values over this many bytes are cut and hashed on a thread that may block.
const INLINE: u64 = 128 << 10;

/// Stores equal contents once.
///
/// A value of at least `min_size` bytes is cut into chunks at places that depend on its content, and each chunk is stored under its BLAKE3 in
/// the storage below, once, whoever else has it; under the key lies the list of them. So equal values take no more room than one, and a
/// value that was changed in the middle shares what is before and after. Smaller values stay as they are.
///
/// No counter says how many values need a chunk, so none can be wrong: [`usage`](Self::usage) counts by reading, and `maintain` removes
/// what no value needs, once it is older than `grace`. A delete of one value never harms another, and whatever a crash leaves is too
/// much, never too little.
///
/// Why it is so is in `docs/decisions/0011-layers-with-state.md`.
#[derive(Debug)]
pub struct Dedup {
    chunks: Chunks,
    descriptor: Descriptor,
    chunker: Chunker,
    min_size: u64,
    swept: Mutex<Option<Timestamp>>,
}

/// A value as it is stored below, and the chunks that it needs.
struct Prepared {
    item: StoreItem,
    kept: Option<Kept>,
}

impl Dedup {
    /// Stores equal contents of `inner` once. Whoever else opens what lies below must do it through this layer too.
    ///
    /// # Errors
    /// `InvalidConfig` for settings that cannot work, and over a storage that lets go of values by itself.
    pub fn new(inner: Arc<dyn BaseStorage>, config: &DedupConfig) -> Result<Self> {
        let invalid = |why: String| StorageError::new(ErrorKind::InvalidConfig, why);
        config.check().map_err(invalid)?;
        let below = inner.describe().capabilities();
        if below.evicts {
            let message =
                "`dedup` cannot stand over a storage that evicts: a chunk that goes would damage many values";
            return Err(invalid(message.to_owned()));
        }
        // A range reads the chunks that it touches.
        let capabilities = Capabilities { native_ranges: true, native_arrays: false, ..below };
        let average =
            usize::try_from(config.chunk.0).map_err(|_| invalid("`chunk` is too large".to_owned()))?;
        Ok(Self {
            descriptor: derived(&inner).with_capabilities(capabilities),
            chunks: Chunks::new(inner, config.grace.0),
            chunker: Chunker::new(average),
            min_size: config.min_size.0,
            swept: Mutex::new(None),
        })
    }

    /// Counts what is stored, by listing everything. While others change things, each count is of a moment of its own.
    ///
    /// # Errors
    /// `Corruption` naming a value that cannot be read; what the storage below meets.
    pub async fn usage(&self) -> Result<DedupUsage> {
        self.descriptor.admit("stats")?;
        usage(&self.chunks).await
    }

    fn inner(&self) -> &Arc<dyn BaseStorage> {
        &self.chunks.inner
    }

    fn below(&self, operation: &'static str, key: &Key) -> Result<Key> {
        let place =
            |error: StorageError| error.with_operation(operation).with_storage(self.descriptor.name());
        reserved::below(key).map_err(place)
    }

    /// An error about what was asked for, not about a chunk.
    fn about(&self, operation: &'static str, key: &Key, error: StorageError) -> StorageError {
        let again = error.again(operation).with_storage(self.descriptor.name()).about_key(key);
        again.with_source(error)
    }

    fn damaged(&self, operation: &'static str, key: &Key) -> StorageError {
        let message = "the list of the value's chunks is damaged; restore it from a backup or delete the key";
        self.descriptor.error(ErrorKind::Corruption, operation, message).with_key(key)
    }

    /// The metadata of the plain value.
    fn plain(&self, operation: &'static str, key: &Key, mut metadata: Metadata) -> Result<Metadata> {
        if let Some(plain) = take_note(&mut metadata).map_err(|_| self.damaged(operation, key))? {
            plain.put_into(&mut metadata);
        }
        Ok(metadata)
    }

    /// Cuts a value, stores its chunks, and gives what is stored under its key.
    async fn prepare(&self, StoreItem { key, value, mut options }: StoreItem) -> Result<Prepared> {
        self.descriptor.admit_store(&key, &value, &options)?;
        let name = self.below("store", &key)?;
        let marked = options.encodings.last().is_some_and(|last| last.starts_with(MARK));
        if value.size() < self.min_size && !marked {
            return Ok(Prepared { item: StoreItem { key: name, value, options }, kept: None });
        }
        let (plain, pieces) = self.cut(value).await?;
        let manifest = Manifest(pieces.iter().map(|(chunk, _)| *chunk).collect());
        let kept = self.chunks.keep(pieces).await.map_err(|error| self.about("store", &key, error))?;
        options.encodings.push(format!("{MARK}{plain}"));
        let value = Value::Bytes(manifest.encode());
        Ok(Prepared { item: StoreItem { key: name, value, options }, kept: Some(kept) })
    }

    async fn cut(&self, value: Value) -> Result<(Plain, Vec<Piece>)> {
        let chunker = self.chunker;
        let work = move |value: Value| {
            let piece = |bytes: Bytes| {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                (ChunkRef { id: Checksum::of(&[&bytes]), length }, bytes)
            };
            (Plain::of(&value), chunker.cut(value.buffer()).into_iter().map(piece).collect())
        };
        if value.size() <= INLINE {
            return Ok(work(value));
        }
        tokio::task::spawn_blocking(move || work(value)).await.map_err(StorageError::broken_task)
    }

    async fn settle(&self, operation: &'static str, key: &Key, kept: Option<Kept>) -> Result<()> {
        match kept {
            Some(kept) => self.chunks.settle(kept).await.map_err(|error| self.about(operation, key, error)),
            None => Ok(()),
        }
    }

    /// A value from what lies under its key. `None`: a chunk is not there because the value has been replaced or deleted since.
    async fn assemble(&self, operation: &'static str, key: &Key, entry: Entry) -> Result<Option<Entry>> {
        let Entry { value, mut metadata } = entry;
        let version = metadata.version;
        let Some(plain) = take_note(&mut metadata).map_err(|_| self.damaged(operation, key))? else {
            return Ok(Some(Entry { value, metadata }));
        };
        let manifest = Manifest::decode(value.buffer()).filter(|manifest| manifest.size() == plain.size());
        let manifest = manifest.ok_or_else(|| self.damaged(operation, key))?;
        let Some(buffer) = self.load(operation, key, version, &manifest.0).await? else { return Ok(None) };
        let value = plain.value(buffer).ok_or_else(|| self.damaged(operation, key))?;
        plain.put_into(&mut metadata);
        Ok(Some(Entry { value, metadata }))
    }

    /// The bytes of some chunks; `None`: one is not there because the value has been replaced or deleted since.
    async fn load(
        &self,
        operation: &'static str,
        key: &Key,
        version: persist_core::Version,
        chunks: &[ChunkRef],
    ) -> Result<Option<Bytes>> {
        let loaded = self.chunks.load(chunks).await.map_err(|error| self.about(operation, key, error))?;
        match loaded {
            Ok(bytes) => Ok(Some(bytes)),
            Err(missing) => {
                let now = self.inner().metadata(&self.below(operation, key)?).await;
                let now = now.map_err(|error| self.about(operation, key, error))?;
                if now.is_none_or(|now| now.version != version) {
                    return Ok(None);
                }
                Err(self.about(operation, key, self.chunks.missing(&missing)))
            }
        }
    }

    async fn read(&self, operation: &'static str, key: &Key) -> Result<Option<Entry>> {
        let name = self.below(operation, key)?;
        loop {
            let found = self.inner().retrieve(&name).await.map_err(reserved::renamed)?;
            let Some(entry) = found else { return Ok(None) };
            if let Some(entry) = self.assemble(operation, key, entry).await? {
                return Ok(Some(entry));
            }
        }
    }

    fn event(&self, event: Result<Event>) -> Option<Result<Event>> {
        Some(match event {
            Ok(Event::Stored { key, metadata }) => {
                let key = reserved::above(&key)?;
                self.plain("watch", &key, metadata).map(|metadata| Event::Stored { key, metadata })
            }
            Ok(Event::Deleted { key }) => Ok(Event::Deleted { key: reserved::above(&key)? }),
            Ok(Event::Lost) => Ok(Event::Lost),
            Err(error) => Err(reserved::renamed(error)),
        })
    }

    fn answers<T>(refused: Vec<Option<StorageError>>, answers: Vec<Result<T>>) -> Vec<Result<T>> {
        merge(refused, answers.into_iter().map(|answer| answer.map_err(reserved::renamed)).collect())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Dedup {
    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let Prepared { item, kept } = self.prepare(StoreItem { key: key.clone(), value, options }).await?;
        let stored =
            self.inner().store(&item.key, item.value, item.options).await.map_err(reserved::renamed)?;
        self.settle("store", key, kept).await?;
        self.plain("store", key, stored)
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.read("retrieve", key).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let name = self.below("delete", key)?;
        self.inner().delete(&name, options).await.map_err(reserved::renamed)
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        reserved::list(self.inner().as_ref(), prefix, options).await
    }

    /// Reads nothing but the metadata below.
    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let found = self.inner().metadata(&self.below("metadata", key)?).await.map_err(reserved::renamed)?;
        found.map(|metadata| self.plain("metadata", key, metadata)).transpose()
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.inner().contains(&self.below("contains", key)?).await.map_err(reserved::renamed)
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let touched =
            self.inner().touch(&self.below("touch", key)?, expiry).await.map_err(reserved::renamed)?;
        touched.map(|metadata| self.plain("touch", key, metadata)).transpose()
    }

    /// Reads the list of chunks and those that the range touches.
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let name = self.below("retrieve_range", key)?;
        let operation = "retrieve_range";
        loop {
            let Some(mut metadata) = self.inner().metadata(&name).await.map_err(reserved::renamed)? else {
                return Ok(None);
            };
            let version = metadata.version;
            if take_note(&mut metadata).map_err(|_| self.damaged(operation, key))?.is_none() {
                return self.inner().retrieve_range(&name, range).await.map_err(reserved::renamed);
            }
            let Some(entry) = self.inner().retrieve(&name).await.map_err(reserved::renamed)? else {
                return Ok(None);
            };
            if entry.metadata.version != version {
                continue;
            }
            let manifest =
                Manifest::decode(entry.value.buffer()).ok_or_else(|| self.damaged(operation, key))?;
            let (chunks, part) = manifest.within(&range);
            if let Some(bytes) = self.load(operation, key, version, chunks).await? {
                return Ok(Some(bytes.slice(part)));
            }
        }
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
        let (mut prepared, mut kept) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for item in items {
            let ready = self.prepare(item).await.map(|Prepared { item, kept }| (item, kept));
            let (item, chunks) = match ready {
                Ok((item, chunks)) => (Ok(item), chunks),
                Err(error) => (Err(error), None),
            };
            prepared.push(item);
            kept.push(chunks);
        }
        let (passed, refused) = split(prepared.into_iter());
        let answers = Self::answers(refused, self.inner().store_many(passed).await);
        let mut stored = Vec::with_capacity(answers.len());
        for ((key, answer), kept) in keys.iter().zip(answers).zip(kept) {
            stored.push(match answer {
                Ok(metadata) => match self.settle("store", key, kept).await {
                    Ok(()) => self.plain("store", key, metadata),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            });
        }
        stored
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let (names, refused) = split(keys.iter().map(|key| self.below("retrieve", key)));
        let found = Self::answers(refused, self.inner().retrieve_many(&names).await);
        let mut answers = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            answers.push(match found {
                Ok(Some(entry)) => match self.assemble("retrieve", key, entry).await {
                    Ok(Some(entry)) => Ok(Some(entry)),
                    Ok(None) => self.read("retrieve", key).await,
                    Err(error) => Err(error),
                },
                other => other,
            });
        }
        answers
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let (names, refused) = split(keys.iter().map(|key| self.below("delete", key)));
        Self::answers(refused, self.inner().delete_many(&names).await)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.descriptor.admit_change("transact")?;
        let keys: Vec<Key> = operations.iter().map(|operation| operation.key().clone()).collect();
        let (mut below, mut kept) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for operation in operations {
            let (operation, chunks) = match operation {
                Operation::Put(item) => {
                    let Prepared { item, kept } = self.prepare(item).await?;
                    (Operation::Put(item), kept)
                }
                Operation::Delete(key, options) => {
                    (Operation::Delete(self.below("transact", &key)?, options), None)
                }
                Operation::Check(key, condition) => {
                    (Operation::Check(self.below("transact", &key)?, condition), None)
                }
            };
            below.push(operation);
            kept.push(chunks);
        }
        let outcomes = self.inner().transact(below).await.map_err(reserved::renamed)?;
        let mut plain = Vec::with_capacity(outcomes.len());
        for ((key, outcome), kept) in keys.iter().zip(outcomes).zip(kept) {
            plain.push(match outcome {
                Outcome::Stored(metadata) => {
                    self.settle("transact", key, kept).await?;
                    Outcome::Stored(self.plain("transact", key, metadata)?)
                }
                other => other,
            });
        }
        Ok(plain)
    }

    async fn flush(&self) -> Result<()> {
        self.inner().flush().await
    }

    async fn health(&self) -> persist_core::Health {
        self.inner().health().await
    }

    /// The counters of the storage below, without its numbers of keys and bytes, which count chunks too; and, since it was opened,
    /// `dedup_new`, `dedup_new_bytes`, `dedup_found`, `dedup_found_bytes`: chunks that were stored, and that were there already.
    async fn stats(&self) -> Result<Stats> {
        let mut stats = Stats { keys: None, bytes: None, ..self.inner().stats().await? };
        let counters = &self.chunks.counters;
        stats.counters.extend([
            ("dedup_new", counters.new.load(Ordering::Relaxed)),
            ("dedup_new_bytes", counters.new_bytes.load(Ordering::Relaxed)),
            ("dedup_found", counters.found.load(Ordering::Relaxed)),
            ("dedup_found_bytes", counters.found_bytes.load(Ordering::Relaxed)),
        ]);
        Ok(stats)
    }

    /// As the storage below, and removes the chunks that no value needs; that at most once in the grace period, because it looks
    /// at everything.
    async fn maintain(&self) -> Result<Maintenance> {
        let mut done = self.inner().maintain().await?;
        let last = *self.swept.lock();
        if is_due(last, &self.chunks) {
            let begun = self.descriptor.now();
            let swept = sweep(&self.chunks).await.map_err(reserved::renamed)?;
            *self.swept.lock() = Some(begun);
            done.freed_bytes += swept.bytes;
            if swept.chunks > 0 {
                done.notes.push(format!("{} chunks removed that no value needs", swept.chunks));
            }
        }
        Ok(done)
    }

    /// Assembles every value. A chunk that cannot be read is a problem of each value that needs it.
    async fn verify(&self) -> Result<Verification> {
        verify_values(self).await
    }

    /// What lies below: chunks and lists of them.
    async fn snapshot(
        &self,
        sink: &mut dyn persist_core::SnapshotSink,
    ) -> Result<persist_core::SnapshotSummary> {
        self.inner().snapshot(sink).await
    }

    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.descriptor.admit_watch(prefix)?;
        // Under a prefix that no key can have below there are only chunks, which nobody is told of.
        let below = reserved::below_prefix(prefix).unwrap_or_else(|| reserved::OWN.to_owned());
        let events = self.inner().watch(&below).await?;
        Ok(Watch::new(events.filter_map(move |event| ready(self.event(event)))))
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner().close().await
    }
}

impl Layer for Dedup {
    const NAME: &'static str = "dedup";
    type Config = DedupConfig;

    fn check(config: &DedupConfig) -> Result<(), String> {
        config.check()
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: DedupConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, &config)?))
    }
}
