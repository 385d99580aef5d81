use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Checksum, Condition, Entry, ErrorKind, Expiry, Key, Metadata, Result, StorageError,
    StoreItem, StoreOptions, Timestamp, Value,
};

use super::manifest::{ChunkRef, chunk_key};

/// How many chunks are asked for at once.
const AT_ONCE: usize = 32;

/// How many bytes of chunks are read or stored in one batch, unless one alone is larger.
const BATCH_BYTES: u64 = 4 << 20;

/// The chunks in the storage below.
///
/// A chunk is never younger than the values that need it: it is stored, or found, before them. Whoever finds one that is older
/// than half of the grace period renews it, and one that is younger is not removed before the other half is over.
#[derive(Debug)]
pub(super) struct Chunks {
    pub(super) inner: Arc<dyn BaseStorage>,
    pub(super) grace: Duration,
    /// Chunks that could not be read; they are stored anew by whoever has their bytes.
    damaged: Mutex<HashSet<Checksum>>,
    pub(super) counters: Counters,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Chunks that were stored, and that were there already, with their bytes.
    pub(super) new: AtomicU64,
    pub(super) new_bytes: AtomicU64,
    pub(super) found: AtomicU64,
    pub(super) found_bytes: AtomicU64,
}

/// A chunk with its bytes.
pub(super) type Piece = (ChunkRef, Bytes);

/// The pieces of a value that is about to be stored, and when they were found to be there.
pub(super) struct Kept {
    pieces: Vec<Piece>,
    at: Timestamp,
}

impl Chunks {
    pub(super) fn new(inner: Arc<dyn BaseStorage>, grace: Duration) -> Self {
        Self { inner, grace, damaged: Mutex::default(), counters: Counters::default() }
    }

    fn now(&self) -> Timestamp {
        self.inner.describe().now()
    }

    /// Sees to it that all pieces are there and stay for half of the grace period.
    pub(super) async fn keep(&self, pieces: Vec<Piece>) -> Result<Kept> {
        let at = self.now();
        let distinct: HashMap<Checksum, Piece> =
            pieces.iter().map(|piece| (piece.0.id, piece.clone())).collect();
        let asked = stream::iter(distinct.into_values()).map(|piece| async move {
            let there = self.is_there(&piece.0, at).await;
            (piece, there)
        });
        let answers: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        let mut missing = Vec::new();
        for (piece, there) in answers {
            let (there, length) = (there?, u64::from(piece.0.length));
            let (count, bytes) = if there {
                (&self.counters.found, &self.counters.found_bytes)
            } else {
                missing.push(piece);
                (&self.counters.new, &self.counters.new_bytes)
            };
            count.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(length, Ordering::Relaxed);
        }
        self.store(&missing).await?;
        Ok(Kept { pieces, at })
    }

    /// Whether a chunk is there and whole, as far as its metadata tell, and young enough to stay.
    async fn is_there(&self, chunk: &ChunkRef, at: Timestamp) -> Result<bool> {
        if self.damaged.lock().contains(&chunk.id) {
            return Ok(false);
        }
        let key = chunk_key(&chunk.id)?;
        let found = match self.inner.metadata(&key).await {
            Err(error) if error.kind() == ErrorKind::Corruption => return Ok(false),
            found => found?,
        };
        let Some(metadata) = found.filter(|metadata| is_chunk(metadata, chunk)) else { return Ok(false) };
        let young = metadata.modified_at.saturating_add(self.grace / 2) > at;
        Ok(young || self.renew(&key).await?)
    }

    /// Makes a chunk young; false if it is gone.
    async fn renew(&self, key: &Key) -> Result<bool> {
        Ok(self.inner.touch(key, Expiry::Never).await?.is_some())
    }

    /// Stores chunks, some at a time.
    async fn store(&self, pieces: &[Piece]) -> Result<()> {
        let mut batch = Vec::new();
        let mut size = 0;
        for (chunk, bytes) in pieces {
            if size > 0 && size + u64::from(chunk.length) > BATCH_BYTES {
                self.store_batch(std::mem::take(&mut batch)).await?;
                size = 0;
            }
            size += u64::from(chunk.length);
            let condition =
                if self.damaged.lock().contains(&chunk.id) { Condition::None } else { Condition::IfAbsent };
            let options = StoreOptions { expiry: Expiry::Never, condition, ..StoreOptions::new() };
            batch.push(StoreItem { key: chunk_key(&chunk.id)?, value: Value::Bytes(bytes.clone()), options });
        }
        if batch.is_empty() { Ok(()) } else { self.store_batch(batch).await }
    }

    async fn store_batch(&self, batch: Vec<StoreItem>) -> Result<()> {
        let again = batch.clone();
        for (item, answer) in again.into_iter().zip(self.inner.store_many(batch).await) {
            match answer {
                Ok(metadata) => {
                    self.damaged.lock().remove(&metadata.checksum);
                }
                // Somebody else was faster; or what lies there is not what its name says.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    let found = self.inner.metadata(&item.key).await;
                    let same = found.is_ok_and(|found| {
                        found.is_some_and(|found| found.checksum == item.value.checksum())
                    });
                    if !same {
                        let options = StoreOptions { expiry: Expiry::Never, ..StoreOptions::new() };
                        self.inner.store(&item.key, item.value, options).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// To be called when the value that needs the pieces is stored. If that took longer than the chunks were sure to stay, they
    /// are made young, and stored again where they are gone.
    pub(super) async fn settle(&self, kept: Kept) -> Result<()> {
        if kept.at.saturating_add(self.grace / 2) > self.now() {
            return Ok(());
        }
        for piece in &kept.pieces {
            if !self.renew(&chunk_key(&piece.0.id)?).await? {
                self.store(std::slice::from_ref(piece)).await?;
            }
        }
        Ok(())
    }

    /// The bytes of some chunks in a row.
    ///
    /// # Errors
    /// [`Missing`] if one is not there; `Corruption` if one is not what its name says.
    pub(super) async fn load(&self, chunks: &[ChunkRef]) -> Result<Result<Bytes, Missing>> {
        let mut whole = BytesMut::new();
        let mut rest = chunks;
        while !rest.is_empty() {
            let (mut count, mut size) = (0, 0);
            while let Some(chunk) = rest.get(count)
                && (count == 0 || size + u64::from(chunk.length) <= BATCH_BYTES)
            {
                size += u64::from(chunk.length);
                count += 1;
            }
            let (batch, others) = rest.split_at(count);
            let keys = batch.iter().map(|chunk| chunk_key(&chunk.id)).collect::<Result<Vec<_>>>()?;
            for (chunk, found) in batch.iter().zip(self.inner.retrieve_many(&keys).await) {
                match self.checked(chunk, found)? {
                    // A value of one chunk is that chunk.
                    Some(bytes) if chunks.len() == 1 => return Ok(Ok(bytes)),
                    Some(bytes) => whole.extend_from_slice(&bytes),
                    None => return Ok(Err(Missing(chunk.id))),
                }
            }
            rest = others;
        }
        Ok(Ok(whole.freeze()))
    }

    fn checked(&self, chunk: &ChunkRef, found: Result<Option<Entry>>) -> Result<Option<Bytes>> {
        let entry = match found {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                self.damaged.lock().insert(chunk.id);
                return Err(error);
            }
            found => found?,
        };
        let Some(Entry { value, metadata }) = entry else { return Ok(None) };
        // The storage below has verified its checksum, which for bytes is the id.
        if !is_chunk(&metadata, chunk) {
            self.damaged.lock().insert(chunk.id);
            let message =
                format!("the chunk {} is another one than its name says; store the value anew", chunk.id);
            return Err(StorageError::new(ErrorKind::Corruption, message));
        }
        Ok(Some(value.buffer().clone()))
    }

    /// Notes that a chunk is not there although a value needs it.
    pub(super) fn missing(&self, Missing(id): &Missing) -> StorageError {
        let message = format!(
            "the chunk {id} of the value is not there; store the value anew or restore it from a backup"
        );
        StorageError::new(ErrorKind::Corruption, message)
    }
}

/// A chunk that is not there.
#[derive(Debug)]
pub(super) struct Missing(pub(super) Checksum);

fn is_chunk(metadata: &Metadata, chunk: &ChunkRef) -> bool {
    metadata.checksum == chunk.id && metadata.size == u64::from(chunk.length)
}
