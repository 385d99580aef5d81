//! Large values on their way into the file and out of it, piece by piece.
//!
//! The thread that uses the library does other work between two pieces, so that small operations wait for one piece at most, and
//! what is read or written in pieces is never in memory as a whole. A value on its way in is a dataset without a name; it gets one with the
//! commit that stores it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use persist_core::writing::Done;
use persist_core::{
    BaseStorage, Checksum, Key, Kind, Metadata, Result, StorageError, StoreItem, StoreOptions, Value,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::assembly::Assembly;
use crate::buffer::Buffer;
use crate::change::{Adoption, Change, Step};
use crate::chunk::{Grid, Packed, of_rows, pack_part};
use crate::codec::Pipeline;
use crate::error::damaged_chunk;
use crate::fetch::Fetched;
use crate::ffi::Dataset;
use crate::filter::Filters;
use crate::hashing::checksum_of;
use crate::record::{Form, Record, State};
use crate::state::Shared;
use crate::storage::Hdf5Storage;

/// How many pieces are written before they are forced to the disk, while the next ones are written: no commit has to wait for more than twice
/// as many.
const FORCED: usize = 8;

/// The datasets of values that are on their way in.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    open: HashMap<u64, (Dataset, u64)>,
    next: u64,
}

impl Transfers {
    /// Takes in the dataset of a value of `size` bytes.
    pub(crate) fn insert(&mut self, dataset: Dataset, size: u64) -> u64 {
        self.next += 1;
        self.open.insert(self.next, (dataset, size));
        self.next
    }

    /// Where those lie that lie in one piece.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<u64>> {
        let place = |(dataset, size): &(Dataset, u64)| dataset.offset().map(|from| from..from + size);
        self.open.values().filter_map(place)
    }

    /// The dataset of a number; `None`: it was given up.
    pub(crate) fn get(&self, number: u64) -> Option<&Dataset> {
        self.open.get(&number).map(|(dataset, _)| dataset)
    }

    /// Lets go of a dataset; if it has no name by now it is gone.
    pub(crate) fn remove(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Gives all of them up.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    /// True if there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// What is written in one go.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes of a value in one piece, from a place on.
    Bytes(u64, Bytes),
    /// Some of its chunks.
    Chunks(Packed),
}

/// How the dataset of a value is made.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) form: Form,
    /// How many bytes the value has.
    pub(crate) size: u64,
    /// Its chunks and their filters, unless it lies in one piece.
    pub(crate) chunks: Option<(Grid, Pipeline)>,
}

impl Layout {
    /// How many bytes go together, if a piece is to have so many: all chunks that begin with the same row.
    pub(crate) fn step(&self, piece: usize) -> usize {
        match &self.chunks {
            None => piece,
            Some((grid, _)) => {
                let row = grid.shape.iter().skip(1).product::<usize>() * grid.element;
                let band = (row * grid.chunk.first().copied().unwrap_or(1)).max(1);
                band * (piece / band).max(1)
            }
        }
    }

    /// Codes what lies at a place.
    fn piece(&self, at: usize, bytes: Bytes) -> Piece {
        let Some((grid, pipeline)) = &self.chunks else { return Piece::Bytes(at as u64, bytes) };
        let row = (grid.shape.iter().skip(1).product::<usize>() * grid.element).max(1);
        let rows = at / row..(at + bytes.len()) / row;
        let part = of_rows(&grid.shape, rows);
        Piece::Chunks(pack_part(grid.clone(), pipeline.clone(), &bytes, &part))
    }
}

/// A value on its way in. If it is dropped before it is finished nothing is stored.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) storage: Hdf5Storage,
    pub(crate) key: Key,
    number: u64,
    pub(crate) layout: Layout,
    /// How many bytes were written, and how many since they were forced to the disk.
    pub(crate) written: usize,
    unforced: usize,
    /// What was written before is being forced to the disk.
    forcing: Option<JoinHandle<()>>,
}

impl Upload {
    /// Makes its dataset.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) async fn begin(storage: &Hdf5Storage, key: &Key, layout: Layout) -> Result<Self> {
        let made = layout.clone();
        let begin = storage.worker("store")?.task("store", move |engine| engine.begin_transfer(&made));
        let number = begin.await.map_err(|error| error.with_key(key))?;
        let (storage, key) = (storage.clone(), key.clone());
        Ok(Self { storage, key, number, layout, written: 0, unforced: 0, forcing: None })
    }

    /// Writes what comes next: as much as goes together, or the rest.
    ///
    /// # Errors
    /// What the library and the disk say; then all of it is undone.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let (at, len, number, layout) = (self.written, bytes.len(), self.number, self.layout.clone());
        let piece = match &layout.chunks {
            None => layout.piece(at, bytes),
            Some(_) => self.storage.patient("store", move |_| layout.piece(at, bytes)).await?,
        };
        let write =
            self.storage.worker("store")?.task("store", move |engine| engine.write_piece(number, &piece));
        write.await.map_err(|error| error.with_key(&self.key))?;
        self.written += len;
        self.unforced += len;
        if self.unforced >= FORCED * self.storage.piece() {
            self.force().await?;
        }
        Ok(())
    }

    /// Begins to force to the disk what was written, once what came before is there.
    async fn force(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unforced) == 0 || !self.storage.is_strict() {
            return Ok(());
        }
        self.forced().await?;
        let shared = Arc::clone(self.storage.shared());
        // What fails here fails again with the commit.
        self.forcing = Some(tokio::task::spawn_blocking(move || drop(shared.force())));
        Ok(())
    }

    /// Waits until what is being forced to the disk is there.
    async fn forced(&mut self) -> Result<()> {
        match self.forcing.take() {
            Some(forcing) => {
                forcing.await.map_err(|error| StorageError::broken_task(error).with_operation("store"))
            }
            None => Ok(()),
        }
    }

    /// Stores what was written.
    ///
    /// # Errors
    /// As for a change.
    pub(crate) async fn finish(mut self, checksum: Checksum, options: &StoreOptions) -> Result<Metadata> {
        self.force().await?;
        self.forced().await?;
        let kind = match &self.layout.form {
            Form::Array(..) => Kind::Array,
            Form::Bytes => Kind::Bytes,
            Form::Json => Kind::Json,
        };
        let metadata = self.storage.describe().hashed_metadata(kind, self.layout.size, checksum, options);
        let adoption = Adoption {
            key: self.key.clone(),
            condition: options.condition,
            form: self.layout.form.clone(),
            metadata,
            transfer: self.number,
        };
        let change = Change::one("store", Step::Adopt(Box::new(adoption)));
        let done = self.storage.worker("store")?.one(change).await;
        done.and_then(Done::stored).map_err(|error| error.with_key(&self.key))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.storage.end_transfer(self.number);
    }
}

impl Hdf5Storage {
    /// Stores a large value that is in memory.
    pub(crate) async fn store_large(&self, item: StoreItem, filters: &Filters) -> Result<Metadata> {
        let StoreItem { key, value, options } = item;
        // Said before all of it is written in vain; what holds when it is stored is checked then.
        let found = self.shared().find(&key);
        if let Some(metadata) = found.as_ref().and_then(|record| record.metadata()) {
            self.describe().check_condition("store", options.condition, &key, Some(metadata))?;
        }
        let (sample, filters) = (value.clone(), filters.clone());
        let layout = self.patient("store", move |_| layout_of(&sample, &filters)).await?;
        let hashed = value.clone();
        let hash = tokio::task::spawn_blocking(move || checksum_of(&Form::of(&hashed), hashed.buffer()));
        let bytes = value_bytes(&value);
        let mut upload = Upload::begin(self, &key, layout).await?;
        let step = upload.layout.step(self.piece());
        for from in (0..bytes.len()).step_by(step) {
            upload.write(bytes.slice(from..(from + step).min(bytes.len()))).await?;
        }
        let checksum =
            hash.await.map_err(|error| StorageError::broken_task(error).with_operation("store"))?;
        upload.finish(checksum, &options).await
    }

    /// Reads all of a value in chunks, some of them at a time. `None`: it was replaced meanwhile, or the library has to read it.
    ///
    /// # Errors
    /// `Corruption`, `Capacity`, and what the library says.
    pub(crate) async fn read_chunks_of(
        &self,
        operation: &'static str,
        key: &Key,
        record: &Arc<Record>,
    ) -> Result<Option<Value>> {
        let State::Sound(_, form) = &record.state else { return Ok(None) };
        let Some(mut bands) = Bands::of(self, operation, key, record).await? else { return Ok(None) };
        let too_large = || self.shared().too_large(operation).with_key(key);
        let mut assembly = Assembly::new(form, record.size()).ok_or_else(too_large)?;
        // One band waits while one is decoded and one is read.
        let (sender, mut receiver) = mpsc::channel::<(Packed, Vec<Range<usize>>)>(1);
        let (name, of) = (key.clone(), Arc::clone(record));
        let decode = self.patient(operation, move |shared| {
            while let Some((packed, part)) = receiver.blocking_recv() {
                let added = assembly.add(packed, &part);
                added.ok_or_else(|| damaged_chunk(&shared.descriptor, operation, &name))?;
            }
            // Nothing is missing unless the value was replaced.
            let (Some((bytes, checksum)), State::Sound(metadata, form)) = (assembly.finish(), &of.state)
            else {
                return Ok(None);
            };
            shared.matching(&name, metadata, form, bytes, checksum).map(Some)
        });
        let read = async move {
            while let Some(rows) = bands.next() {
                let part = of_rows(&bands.shape, rows);
                let fetched = self.fetch(operation, key, record, Some(part.clone())).await?;
                let Some(Fetched::Packed(packed)) = fetched else { break };
                if sender.send((packed, part)).await.is_err() {
                    // Who decodes has stopped, and says why.
                    break;
                }
            }
            Ok(())
        };
        let (read, decoded) = tokio::join!(read, decode);
        let decoded = decoded?;
        read?;
        decoded
    }
}

/// The rows of an array in chunks, as many at a time as go together.
#[derive(Debug)]
pub(crate) struct Bands {
    shape: Vec<usize>,
    rows: usize,
    pub(crate) next: usize,
}

impl Bands {
    /// `None`: the value is not kept in chunks that can be decoded here, or was replaced.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) async fn of(
        storage: &Hdf5Storage,
        operation: &'static str,
        key: &Key,
        record: &Arc<Record>,
    ) -> Result<Option<Self>> {
        let rank = match &record.state {
            State::Sound(_, Form::Array(_, shape)) => shape.len(),
            State::Sound(_, Form::Bytes) => 1,
            _ => return Ok(None),
        };
        let nothing = Some(vec![0..0; rank]);
        let Some(Fetched::Packed(packed)) = storage.fetch(operation, key, record, nothing).await? else {
            return Ok(None);
        };
        let Packed { grid, .. } = packed;
        let layout = Layout { form: Form::Bytes, size: 0, chunks: Some((grid.clone(), Pipeline::new())) };
        let row = (grid.shape.iter().skip(1).product::<usize>() * grid.element).max(1);
        Ok(Some(Self { rows: (layout.step(storage.piece()) / row).max(1), shape: grid.shape, next: 0 }))
    }

    /// The next rows.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        let (from, all) = (self.next, self.shape.first().copied().unwrap_or(0));
        self.next = (from + self.rows).min(all);
        (from < self.next).then_some(from..self.next)
    }

    /// Reads rows; `None`: the value was replaced.
    ///
    /// # Errors
    /// `Corruption`, and what the library says.
    pub(crate) async fn read(
        &self,
        storage: &Hdf5Storage,
        operation: &'static str,
        key: &Key,
        record: &Arc<Record>,
        rows: Range<usize>,
    ) -> Result<Option<Buffer>> {
        let part = of_rows(&self.shape, rows);
        let Some(fetched) = storage.fetch(operation, key, record, Some(part.clone())).await? else {
            return Ok(None);
        };
        let key = key.clone();
        let decode = move |shared: &Shared| {
            fetched.bytes(&part).ok_or_else(|| damaged_chunk(&shared.descriptor, operation, &key))
        };
        storage.patient(operation, decode).await?.map(Some)
    }
}

/// The layout of a value that is in memory.
fn layout_of(value: &Value, filters: &Filters) -> Layout {
    Layout { form: Form::of(value), size: value.size(), chunks: filters.chunks_for(value) }
}

fn value_bytes(value: &Value) -> Bytes {
    match value {
        Value::Bytes(bytes) => bytes.clone(),
        Value::Array(array) => array.data().clone(),
        Value::Json(json) => Bytes::copy_from_slice(json.as_bytes()),
    }
}
