//! Arrays that are read and written piece by piece, so that they are never in memory as a whole.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use persist_core::{
    Array, BaseStorage, ChecksumBuilder, DType, ErrorKind, Key, MAX_RANK, Metadata, Result, StorageError,
    StoreOptions, Value,
};

use crate::buffer::Buffer;
use crate::error::damage;
use crate::hashing::header_of;
use crate::record::{Form, Record, State};
use crate::state::{Attempt, Plan};
use crate::storage::Hdf5Storage;
use crate::transfer::{Bands, Layout, Upload};

impl Hdf5Storage {
    /// Stores an array whose elements come piece by piece; no more than some megabytes of it are in memory. Nothing is stored before
    /// [`ArrayWriter::finish`]. What others store meanwhile under the key is replaced by then, unless the options forbid that.
    ///
    /// # Errors
    /// As `store`.
    pub async fn write_array(
        &self,
        key: &Key,
        dtype: DType,
        shape: &[usize],
        options: StoreOptions,
    ) -> Result<ArrayWriter> {
        // An array without elements has all that is checked here, in no room.
        let mut none = shape.to_vec();
        none.first_mut().into_iter().for_each(|rows| *rows = 0);
        let elements = shape.iter().try_fold(dtype.size(), |product, len| product.checked_mul(*len));
        let Some(size) = elements.filter(|_| !shape.is_empty() && shape.len() <= MAX_RANK) else {
            let message =
                format!("the shape {shape:?} has no axes, too many, or too many elements; use `store`");
            return Err(self.describe().error(ErrorKind::InvalidValue, "store", message).with_key(key));
        };
        let empty = Value::Array(Array::new(dtype, none, Bytes::new())?);
        self.describe().admit_store(key, &empty, &options)?;
        self.describe().check_size(key, size as u64)?;
        let form = Form::Array(dtype, shape.into());
        let chunks = self.choice().of(key).chunks_of(shape, dtype, size);
        let layout = Layout { form, size: size as u64, chunks };
        let mut sum = ChecksumBuilder::new();
        sum.update(&header_of(&layout.form));
        let upload = Upload::begin(self, key, layout).await?;
        Ok(ArrayWriter { upload, options, sum, waiting: BytesMut::new() })
    }

    /// Reads an array piece by piece; no more than some megabytes of it are in memory. `None`: the key is absent.
    ///
    /// # Errors
    /// `InvalidValue` if it is no array; `Unsupported` for one that persist did not write: read it with `retrieve`.
    pub async fn read_array(&self, key: &Key) -> Result<Option<ArrayReader>> {
        self.describe().admit("retrieve")?;
        let Some(record) = self.shared().find(key) else { return Ok(None) };
        let wrong = |kind, message| Err(self.describe().error(kind, "retrieve", message).with_key(key));
        let form = match &record.state {
            State::Sound(_, form @ Form::Array(..)) => form.clone(),
            State::Sound(..) => {
                return wrong(ErrorKind::InvalidValue, "the value is no array; use `retrieve`");
            }
            State::Foreign => {
                return wrong(ErrorKind::Unsupported, "persist did not write it; use `retrieve`");
            }
            State::Damaged(what) => return Err(damage(self.describe(), "retrieve", key, what)),
        };
        let mut sum = ChecksumBuilder::new();
        sum.update(&header_of(&form));
        let storage = self.clone();
        Ok(Some(ArrayReader { storage, key: key.clone(), record, form, step: None, read: 0, sum }))
    }
}

/// An array that is stored piece by piece.
#[derive(Debug)]
pub struct ArrayWriter {
    upload: Upload,
    options: StoreOptions,
    sum: ChecksumBuilder,
    /// What is not enough to be written.
    waiting: BytesMut,
}

impl ArrayWriter {
    /// Takes the elements that come next, row-major and little-endian, in pieces of any length.
    ///
    /// # Errors
    /// `InvalidValue` if there are more than the shape has, or a `bool` is neither 0 nor 1; as `store`.
    pub async fn write(&mut self, elements: &[u8]) -> Result<()> {
        let taken = self.upload.written + self.waiting.len();
        if taken as u64 + elements.len() as u64 > self.upload.layout.size {
            return Err(self.wrong("there are more elements than the shape has"));
        }
        if matches!(&self.upload.layout.form, Form::Array(DType::Bool, _))
            && elements.iter().any(|byte| *byte > 1)
        {
            return Err(self.wrong("a bool is neither 0 nor 1"));
        }
        self.sum.update(elements);
        let step = self.upload.layout.step(self.upload.storage.piece());
        let mut rest = elements;
        while !rest.is_empty() {
            let (some, after) = rest.split_at((step - self.waiting.len()).min(rest.len()));
            self.waiting.extend_from_slice(some);
            rest = after;
            if self.waiting.len() == step {
                let piece = self.waiting.split().freeze();
                self.upload.write(piece).await?;
            }
        }
        Ok(())
    }

    /// Stores the array, all of it or nothing.
    ///
    /// # Errors
    /// `InvalidValue` if there were fewer elements than the shape has; `Conflict` if the condition of the options does not hold; as `store`.
    pub async fn finish(mut self) -> Result<Metadata> {
        if (self.upload.written + self.waiting.len()) as u64 != self.upload.layout.size {
            return Err(self.wrong("there are fewer elements than the shape has"));
        }
        if !self.waiting.is_empty() {
            let piece = self.waiting.split().freeze();
            self.upload.write(piece).await?;
        }
        self.upload.finish(self.sum.finish(), &self.options).await
    }

    fn wrong(&self, message: &'static str) -> StorageError {
        let describe = self.upload.storage.describe();
        describe.error(ErrorKind::InvalidValue, "store", message).with_key(&self.upload.key)
    }
}

/// An array that is read piece by piece.
#[derive(Debug)]
pub struct ArrayReader {
    storage: Hdf5Storage,
    key: Key,
    record: Arc<Record>,
    form: Form,
    /// How much goes together of an array in chunks, once that is known.
    step: Option<Bands>,
    read: u64,
    sum: ChecksumBuilder,
}

impl ArrayReader {
    /// What the elements are.
    pub fn dtype(&self) -> DType {
        match &self.form {
            Form::Array(dtype, _) => *dtype,
            Form::Json | Form::Bytes => DType::U8,
        }
    }

    /// The length of each axis.
    pub fn shape(&self) -> &[usize] {
        match &self.form {
            Form::Array(_, shape) => shape,
            Form::Json | Form::Bytes => &[],
        }
    }

    /// The next elements, row-major and little-endian; `None`: that was all of them, and they match their checksum. Before that
    /// nothing says that they do.
    ///
    /// # Errors
    /// `Conflict` if the key was stored anew, touched or deleted meanwhile; `Corruption` in place of the end if what was read is not what was
    /// stored; as `retrieve`.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let size = self.record.size();
        if self.read == size {
            return self.end();
        }
        loop {
            self.storage.describe().admit("retrieve")?;
            let piece = match self.record.offset {
                Some(_) => {
                    self.next_bytes(self.read..size.min(self.read + self.storage.piece() as u64)).await?
                }
                None => self.next_rows().await?,
            };
            if let Some(piece) = piece {
                self.read += piece.len() as u64;
                self.sum.update(&piece);
                return Ok(Some(piece.into()));
            }
            // It lies elsewhere if the file was compacted meanwhile.
            let found = self.storage.shared().find(&self.key).filter(|found| found.is_like(&self.record));
            let Some(found) = found else {
                let message = "the array was changed while it was read; read it again from its beginning";
                return Err(self
                    .storage
                    .describe()
                    .error(ErrorKind::Conflict, "retrieve", message)
                    .with_key(&self.key));
            };
            self.record = found;
        }
    }

    fn end(&self) -> Result<Option<Bytes>> {
        let expected = self.record.metadata().map(|metadata| metadata.checksum);
        match expected == Some(self.sum.finish()) {
            true => Ok(None),
            false => Err(self.storage.describe().wrong_checksum("retrieve", &self.key)),
        }
    }

    async fn next_bytes(&self, part: Range<u64>) -> Result<Option<Buffer>> {
        let (key, record) = (self.key.clone(), Arc::clone(&self.record));
        let read = self.storage.patient("retrieve", move |shared| match shared.plan(&key, Some(&part)) {
            Plan::Direct(now, view) if Arc::ptr_eq(&now, &record) => {
                shared.part(&key, &record, &view, &part, true)
            }
            _ => Ok(Attempt::Again),
        });
        Ok(match read.await?.map_err(|error| error.with_key(&self.key))? {
            Attempt::Done(bytes) => Some(bytes),
            Attempt::Slow | Attempt::Again => None,
        })
    }

    async fn next_rows(&mut self) -> Result<Option<Buffer>> {
        if self.step.is_none() {
            self.step = Bands::of(&self.storage, "retrieve", &self.key, &self.record).await?;
        }
        let Some(bands) = &mut self.step else {
            // In chunks of another tool: as a whole, which is what the library gives.
            let whole = self.storage.fetch("retrieve", &self.key, &self.record, None).await?;
            return Ok(whole.and_then(|whole| whole.bytes(&[])));
        };
        let before = bands.next;
        let Some(rows) = bands.next() else { return Ok(None) };
        let read = bands.read(&self.storage, "retrieve", &self.key, &self.record, rows).await?;
        if read.is_none() {
            bands.next = before;
        }
        Ok(read)
    }
}
