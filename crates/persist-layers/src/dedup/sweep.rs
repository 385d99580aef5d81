use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, stream};
use persist_core::{
    Checksum, DeleteOptions, Entry, ErrorKind, Key, ListOptions, Metadata, Result, StorageError, Timestamp,
};
use serde::Serialize;

use super::chunks::Chunks;
use super::manifest::{Manifest, chunk_id, chunk_key, chunks, take_note};
use crate::reserved;

/// How many keys are asked for at once.
const AT_ONCE: usize = 32;

/// What lies in the storage below, counted by reading what every value needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DedupUsage {
    /// Values that lie in chunks, and how many bytes they have.
    pub values: u64,
    /// See `values`.
    pub value_bytes: u64,
    /// How often they need a chunk.
    pub references: u64,
    /// Chunks that are stored, and how many bytes they take.
    pub chunks: u64,
    /// See `chunks`.
    pub chunk_bytes: u64,
    /// Stored chunks that no value needs. `maintain` removes them when they are older than the grace period.
    pub unneeded: u64,
    /// Chunks that a value needs and that are not stored. There are none, unless somebody removed them.
    pub missing: u64,
}

/// What a sweep removed.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

struct Candidate {
    metadata: Metadata,
}

/// Removes the chunks that no value needs and that nobody has renewed for the grace period.
///
/// Which chunks there are is listed first, and what values need is read after that: a chunk that is old in the list and that no value
/// needs afterwards can only be needed by a value whose store has renewed it meanwhile, and then its version is another one and it
/// is not deleted.
pub(super) async fn sweep(store: &Chunks) -> Result<Swept> {
    let now = store.inner.describe().now();
    let old = |metadata: &Metadata| metadata.modified_at.saturating_add(store.grace) <= now;
    let mut candidates: HashMap<Checksum, Candidate> = HashMap::new();
    each_chunk(store, |id, metadata| {
        if old(&metadata) {
            candidates.insert(id, Candidate { metadata });
        }
    })
    .await?;
    if candidates.is_empty() {
        return Ok(Swept::default());
    }
    each_manifest(store, |manifest, _| {
        for chunk in &manifest.0 {
            candidates.remove(&chunk.id);
        }
    })
    .await?;
    let deleted = stream::iter(candidates).map(|(id, Candidate { metadata })| async move {
        let options = DeleteOptions::new().if_version(metadata.version);
        match store.inner.delete(&chunk_key(&id)?, options).await {
            Ok(_) => Ok(Some(metadata.size)),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    });
    let mut deleted = deleted.buffer_unordered(AT_ONCE);
    let mut swept = Swept::default();
    while let Some(bytes) = deleted.next().await {
        if let Some(bytes) = bytes? {
            swept.chunks += 1;
            swept.bytes += bytes;
        }
    }
    Ok(swept)
}

/// Counts what there is.
pub(super) async fn usage(store: &Chunks) -> Result<DedupUsage> {
    let (mut usage, mut stored, mut needed) = (DedupUsage::default(), HashSet::new(), HashSet::new());
    // Values first: a chunk is there before a value needs it.
    each_manifest(store, |manifest, size| {
        usage.values += 1;
        usage.value_bytes += size;
        usage.references += manifest.0.len() as u64;
        needed.extend(manifest.0.iter().map(|chunk| chunk.id));
    })
    .await?;
    each_chunk(store, |id, metadata| {
        usage.chunks += 1;
        usage.chunk_bytes += metadata.size;
        stored.insert(id);
    })
    .await?;
    usage.unneeded = stored.difference(&needed).count() as u64;
    usage.missing = needed.difference(&stored).count() as u64;
    Ok(usage)
}

/// The metadata of all chunks. One whose metadata are damaged is left alone.
async fn each_chunk(store: &Chunks, mut note: impl FnMut(Checksum, Metadata)) -> Result<()> {
    let prefix = chunks();
    let mut after = None;
    loop {
        let page = store.inner.list_keys(&prefix, ListOptions::new().after(after)).await?;
        let ids = page.keys.into_iter().filter_map(|key| chunk_id(&key).map(|id| (id, key)));
        let asked = stream::iter(ids).map(|(id, key)| async move { (id, store.inner.metadata(&key).await) });
        let mut asked = asked.buffered(AT_ONCE);
        while let Some((id, found)) = asked.next().await {
            match found {
                Ok(Some(metadata)) => note(id, metadata),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Corruption => {}
                Err(error) => return Err(error),
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The manifests of all values that have one, and how many bytes the values have.
///
/// # Errors
/// `Corruption` if one cannot be read, because then nobody knows what it needs.
async fn each_manifest(store: &Chunks, mut note: impl FnMut(Manifest, u64)) -> Result<()> {
    let mut after = None;
    loop {
        let page = reserved::list(store.inner.as_ref(), "", ListOptions::new().after(after)).await?;
        let names = page.keys.iter().map(reserved::below).collect::<Result<Vec<_>>>()?;
        let asked = stream::iter(names).map(|key| manifest(store, key)).buffered(AT_ONCE);
        let mut asked = std::pin::pin!(asked);
        while let Some(found) = asked.next().await {
            if let Some((manifest, size)) = found? {
                note(manifest, size);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn manifest(store: &Chunks, key: Key) -> Result<Option<(Manifest, u64)>> {
    let unread = |error: StorageError| {
        let error = if error.kind() == ErrorKind::Corruption { unreadable() } else { error };
        error.with_key(&key)
    };
    let Some(mut metadata) = store.inner.metadata(&key).await.map_err(unread)? else { return Ok(None) };
    let Some(plain) = take_note(&mut metadata).map_err(|_| unread(unreadable()))? else { return Ok(None) };
    let Some(Entry { value, .. }) = store.inner.retrieve(&key).await.map_err(unread)? else {
        return Ok(None);
    };
    match Manifest::decode(value.buffer()) {
        Some(manifest) => Ok(Some((manifest, plain.size()))),
        // It was replaced in between by a value without one.
        None if store
            .inner
            .metadata(&key)
            .await
            .map_err(unread)?
            .is_none_or(|now| now.version != metadata.version) =>
        {
            Ok(None)
        }
        None => Err(unread(unreadable())),
    }
}

fn unreadable() -> StorageError {
    let message = "a value cannot be read, so nobody knows which chunks it needs, and none is removed; restore it from a \
                   backup or delete the key";
    StorageError::new(ErrorKind::Corruption, message)
}

/// When the last sweep was, so that `maintain` need not look at everything each time.
pub(super) fn is_due(last: Option<Timestamp>, store: &Chunks) -> bool {
    let now = store.inner.describe().now();
    last.is_none_or(|last| last > now || last.saturating_add(store.grace) <= now)
}
