//! Arrays that grow along their first axis.
//!
//! The checksum of an array covers all of it, and its header says how many rows there are. BLAKE3 is a tree, so what was hashed of an
//! array once is kept here for the arrays that grew last, and a row costs what the row costs.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use persist_core::writing::Done;
use persist_core::{
    Array, BaseStorage, Condition, DType, Descriptor, Entry, ErrorKind, Expiry, GrowingChecksum, Key, Kind,
    Metadata, NpyHeader, Result, StorageError, StoreItem, StoreOptions, Value, Version,
};

use crate::change::{Change, Draft, Growth, Step};
use crate::chunk::{Grid, Packed, of_rows, pack_part};
use crate::codec::{Filter, Pipeline};
use crate::error::damaged_chunk;
use crate::fetch::Fetched;
use crate::record::{Form, Record, State};
use crate::report::Report;
use crate::state::Shared;
use crate::storage::Hdf5Storage;

/// Of how many arrays what was hashed is kept.
const KEPT: usize = 64;

/// Rows of so many bytes, with those before them in the same chunks, are coded on the caller's thread unless they are compressed.
const INLINE_BYTES: usize = 2 << 20;

/// Rows that are kept so that the chunk in which the next ones begin need not be read have so many bytes at most.
const TAIL: usize = 4 << 20;

/// What was hashed of the arrays that grew last, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct Hashed(Mutex<VecDeque<(Key, Version, Known)>>);

/// What is known of an array that grows.
#[derive(Debug)]
struct Known {
    sum: GrowingChecksum,
    /// The rows of the chunks that are not full, if that is known.
    tail: Option<Tail>,
}

/// The last rows of an array.
#[derive(Clone, Debug)]
struct Tail {
    grid: Grid,
    pipeline: Pipeline,
    /// The first of them.
    from: usize,
    bytes: Vec<u8>,
}

impl Hashed {
    /// Takes what was hashed of a version of an array.
    fn take(&self, key: &Key, version: Version) -> Option<Known> {
        let mut all = self.0.lock();
        let at = all.iter().position(|(of, ..)| of == key)?;
        let (_, of, known) = all.remove(at)?;
        (of == version).then_some(known)
    }

    fn keep(&self, key: &Key, version: Version, known: Known) {
        let mut all = self.0.lock();
        all.retain(|(of, ..)| of != key);
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back((key.clone(), version, known));
    }
}

/// An array that is to grow.
struct Growing {
    key: Key,
    record: Arc<Record>,
    metadata: Metadata,
    dtype: DType,
    shape: Vec<usize>,
}

impl Hdf5Storage {
    /// Adds rows at the end of an array along its first axis; stores them as a new array if the key is absent. Gives the metadata of the
    /// whole. Lifetime and tags stay.
    ///
    /// The first time all of the array is read and hashed, and one that lies in one piece is written anew in chunks; from then on
    /// only the new rows are, and the chunk in which they begin. This is kept for the 64 arrays that grew last, until
    /// the storage is closed: 128 KiB each, 32 bytes for each 64 KiB of the array, and its last rows (4 MiB at most).
    ///
    /// # Errors
    /// `InvalidValue` if the other axes or the dtype differ; as `store`.
    pub async fn append(&self, key: &Key, more: &Array) -> Result<Metadata> {
        loop {
            self.describe().admit_change("append")?;
            let Some(record) = self.shared().find(key) else {
                match self.begin(key, more).await {
                    Err(error) if error.kind() == ErrorKind::Conflict => continue,
                    result => return result,
                }
            };
            let grown = match growing(key, &record) {
                Some(growing) => {
                    self.check_rows(key, more, growing.dtype, &growing.shape)?;
                    match self.hashed().take(key, growing.metadata.version) {
                        Some(known) => self.grow(growing, known, more).await,
                        None => self.grow_unknown(key, &record, more).await,
                    }
                }
                None => self.grow_unknown(key, &record, more).await,
            };
            match grown {
                Ok(Some(metadata)) => return Ok(metadata),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The first rows.
    async fn begin(&self, key: &Key, rows: &Array) -> Result<Metadata> {
        if rows.shape().is_empty() {
            return Err(
                self.refuse(key, "an array without axes has no rows; append one with at least one axis")
            );
        }
        let item = StoreItem {
            key: key.clone(),
            value: Value::Array(rows.clone()),
            options: StoreOptions::new().if_absent(),
        };
        self.store_growing(item).await
    }

    /// Stores an array in chunks that leave room for more rows.
    async fn store_growing(&self, item: StoreItem) -> Result<Metadata> {
        self.describe().admit_store(&item.key, &item.value, &item.options)?;
        let (key, filters) = (item.key.clone(), self.choice().of(&item.key).clone());
        let prepare = move |shared: &Shared| {
            let packed = filters.pack_growing(&item.value);
            Step::Put(Box::new(Draft::packed(&shared.descriptor, item, packed)))
        };
        let step = self.patient("append", prepare).await?;
        self.change_rows(&key, step).await
    }

    async fn change_rows(&self, key: &Key, step: Step) -> Result<Metadata> {
        let done = self.worker("append")?.one(Change::one("append", step)).await;
        done.and_then(Done::stored).map_err(|error| error.with_key(key))
    }

    /// An array of which nothing was hashed here: all of it is read. `None`: it was replaced meanwhile.
    async fn grow_unknown(&self, key: &Key, record: &Arc<Record>, more: &Array) -> Result<Option<Metadata>> {
        let Some(Entry { value, metadata }) = self.retrieve(key).await? else { return Ok(None) };
        let Value::Array(array) = value else {
            let message = format!("the value is {}, and rows are appended to arrays", value.kind());
            return Err(self.refuse(key, message));
        };
        self.check_rows(key, more, array.dtype(), array.shape())?;
        let known = growing(key, record).filter(|growing| growing.metadata.version == metadata.version);
        // Data in chunks have no place in the file.
        let Some(growing) = known.filter(|_| record.offset.is_none() && !array.data().is_empty()) else {
            return self.rewrite(key, &array, metadata, more).await.map(Some);
        };
        let sum = self.hash(&array, more).await?;
        match self.grow(growing, Known { sum, tail: None }, more).await? {
            // Other tools keep arrays in ways that are not written here.
            None if self.shared().is_current(key, record) => {
                self.rewrite(key, &array, metadata, more).await.map(Some)
            }
            grown => Ok(grown),
        }
    }

    /// What is hashed of an array that is about to get more rows.
    async fn hash(&self, array: &Array, more: &Array) -> Result<GrowingChecksum> {
        let header = NpyHeader { dtype: array.dtype(), shape: grown_shape(array.shape(), more) }.encode();
        let mut sum = GrowingChecksum::new(header.len());
        let array = array.clone();
        let hash = move |shared: &Shared| {
            Report::count(&shared.report.arrays_hashed, 1);
            sum.update(array.data());
            sum
        };
        self.patient("append", hash).await
    }

    /// Writes all of it anew, in chunks.
    async fn rewrite(&self, key: &Key, array: &Array, metadata: Metadata, more: &Array) -> Result<Metadata> {
        let options = StoreOptions {
            expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
            condition: Condition::IfVersion(metadata.version),
            tags: metadata.tags,
            encodings: metadata.encodings,
        };
        let data = [&array.data()[..], more.data()].concat();
        let grown = Array::new(array.dtype(), grown_shape(array.shape(), more), data.into())?;
        let item = StoreItem { key: key.clone(), value: Value::Array(grown.clone()), options };
        let stored = self.store_growing(item).await?;
        let sum = self.hash(&grown, more).await?;
        self.hashed().keep(key, stored.version, Known { sum, tail: None });
        Ok(stored)
    }

    /// Adds rows to an array in chunks that was hashed. `None`: something about it is not as it was, or its header has become longer.
    async fn grow(&self, growing: Growing, known: Known, more: &Array) -> Result<Option<Metadata>> {
        let key = growing.key.clone();
        let tail = match known.tail {
            Some(tail) => tail,
            None => match self.last_rows(&growing).await? {
                Some(tail) => tail,
                None => return Ok(None),
            },
        };
        self.describe().check_size(&key, growing.metadata.size + more.data().len() as u64)?;
        let quick = tail.bytes.len() + more.data().len() <= INLINE_BYTES
            && tail.pipeline.iter().all(|filter| matches!(filter, Filter::Shuffle(_) | Filter::Fletcher32));
        let (sum, more) = (known.sum, more.clone());
        let prepare = move |shared: &Shared| grown(&shared.descriptor, growing, sum, tail, &more);
        let prepared = if quick { prepare(self.shared()) } else { self.patient("append", prepare).await? };
        let Some((growth, known)) = prepared else { return Ok(None) };
        let stored = self.change_rows(&key, Step::Grow(Box::new(growth))).await?;
        self.hashed().keep(&key, stored.version, known);
        Ok(Some(stored))
    }

    /// The rows of the chunks that are not full. `None`: the array was replaced meanwhile, or its chunks are not ours to write.
    async fn last_rows(&self, growing: &Growing) -> Result<Option<Tail>> {
        let rows = growing.shape.first().copied().unwrap_or(0);
        let nothing: Vec<Range<usize>> = growing.shape.iter().map(|_| 0..0).collect();
        let (key, record) = (&growing.key, &growing.record);
        let Some(Fetched::Packed(packed)) = self.fetch("append", key, record, Some(nothing)).await? else {
            return Ok(None);
        };
        let Packed { grid, pipeline, .. } = packed;
        let from = rows - rows % grid.chunk.first().copied().unwrap_or(1).max(1);
        if from == rows {
            return Ok(Some(Tail { grid, pipeline, from, bytes: Vec::new() }));
        }
        let part = rows_from(&growing.shape, from);
        let Some(fetched) = self.fetch("append", key, record, Some(part.clone())).await? else {
            return Ok(None);
        };
        let bytes = self.patient("append", move |_| fetched.bytes(&part)).await?;
        let damaged = || damaged_chunk(self.describe(), "append", key);
        Ok(Some(Tail { grid, pipeline, from, bytes: bytes.ok_or_else(damaged)?.into() }))
    }

    fn check_rows(&self, key: &Key, more: &Array, dtype: DType, shape: &[usize]) -> Result<()> {
        let (Some((_, axes)), Some((_, others))) = (shape.split_first(), more.shape().split_first()) else {
            return Err(
                self.refuse(key, "an array without axes has no rows; store one with at least one axis")
            );
        };
        if axes == others && dtype == more.dtype() {
            return Ok(());
        }
        let message = format!(
            "rows of {} {others:?} are appended to rows of {dtype} {axes:?}; they must be the same",
            more.dtype(),
        );
        Err(self.refuse(key, message))
    }

    fn refuse(&self, key: &Key, message: impl Into<String>) -> StorageError {
        self.describe().error(ErrorKind::InvalidValue, "append", message.into()).with_key(key)
    }
}

/// An array that persist wrote.
fn growing(key: &Key, record: &Arc<Record>) -> Option<Growing> {
    let State::Sound(metadata, Form::Array(dtype, shape)) = &record.state else { return None };
    Some(Growing {
        key: key.clone(),
        record: Arc::clone(record),
        metadata: Metadata::clone(metadata),
        dtype: *dtype,
        shape: shape.to_vec(),
    })
}

fn grown_shape(shape: &[usize], more: &Array) -> Vec<usize> {
    let mut grown = shape.to_vec();
    if let (Some(rows), Some(added)) = (grown.first_mut(), more.shape().first()) {
        *rows += added;
    }
    grown
}

/// All rows from one on.
fn rows_from(shape: &[usize], from: usize) -> Vec<Range<usize>> {
    of_rows(shape, from..shape.first().copied().unwrap_or(0))
}

/// What an array becomes with more rows, and what is known of it then; `None`: its header has become longer.
fn grown(
    descriptor: &Descriptor,
    growing: Growing,
    mut sum: GrowingChecksum,
    tail: Tail,
    more: &Array,
) -> Option<(Growth, Known)> {
    sum.update(more.data());
    let shape = grown_shape(&growing.shape, more);
    let checksum = sum.finish(&NpyHeader { dtype: growing.dtype, shape: shape.clone() }.encode())?;
    let old = growing.metadata;
    let options = StoreOptions {
        expiry: old.expires_at.map_or(Expiry::Never, Expiry::At),
        condition: Condition::IfVersion(old.version),
        tags: old.tags,
        encodings: old.encodings,
    };
    let size = old.size + more.data().len() as u64;
    let metadata = descriptor.hashed_metadata(Kind::Array, size, checksum, &options);
    let Tail { grid, pipeline, from, mut bytes } = tail;
    bytes.extend_from_slice(more.data());
    let grid = Grid { shape: shape.clone(), ..grid };
    let packed = pack_part(grid.clone(), pipeline.clone(), &bytes, &rows_from(&shape, from));
    let tail = kept_rows(grid, pipeline, from, bytes);
    let form = Form::Array(growing.dtype, shape.into());
    let growth = Growth { key: growing.key, from: old.version, form, metadata, packed };
    Some((growth, Known { sum, tail }))
}

/// Of the rows from one on those of the chunks that are not full; `None`: they are too many to be kept.
fn kept_rows(grid: Grid, pipeline: Pipeline, from: usize, mut bytes: Vec<u8>) -> Option<Tail> {
    let rows = grid.shape.first().copied().unwrap_or(0);
    let start = rows - rows % grid.chunk.first().copied().unwrap_or(1).max(1);
    let row = grid.shape.iter().skip(1).product::<usize>() * grid.element;
    bytes.drain(..(start - from) * row);
    (bytes.len() <= TAIL).then_some(Tail { grid, pipeline, from: start, bytes })
}
