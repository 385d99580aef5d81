//! Parts of arrays.

use std::ops::Range;
use std::sync::Arc;

use persist_core::{Array, BaseStorage, DType, Entry, ErrorKind, Key, Result, StorageError, Value};

use crate::buffer::Buffer;
use crate::chunk::rows;
use crate::error::{damaged_chunk, system};
use crate::fetch::Fetched;
use crate::medium::View;
use crate::record::{Form, Record, State};
use crate::state::{Attempt, Plan, Shared};
use crate::storage::Hdf5Storage;

/// Parts that span so many bytes at most are read on the caller's thread if they are in memory.
const INLINE_BYTES: u64 = 256 << 10;

/// The axes of an array, and the part of them that is wanted.
#[derive(Clone, Debug)]
struct Slice {
    dtype: DType,
    shape: Vec<usize>,
    part: Vec<Range<usize>>,
}

impl Hdf5Storage {
    /// A part of an array: along each axis the elements of a range, which is cut at the end of the axis. `None`: the key is
    /// absent. Only what is wanted is read, or the chunks that hold it, so the checksum of the whole is not verified.
    ///
    /// # Errors
    /// `InvalidValue` if it is no array or has another number of axes; as `retrieve`.
    pub async fn retrieve_slice(&self, key: &Key, part: &[Range<usize>]) -> Result<Option<Array>> {
        loop {
            self.describe().admit("retrieve_slice")?;
            let Some(record) = self.shared().find(key) else { return Ok(None) };
            let slice = match &record.state {
                State::Sound(_, Form::Array(dtype, shape)) => self.slice(key, *dtype, shape, part)?,
                State::Sound(..) => return Err(self.no_array(key)),
                State::Foreign | State::Damaged(_) => {
                    let Some(Entry { value, .. }) = self.retrieve(key).await? else { return Ok(None) };
                    let Value::Array(array) = value else { return Err(self.no_array(key)) };
                    return self.slice(key, array.dtype(), array.shape(), part)?.of(&array).map(Some);
                }
            };
            let bytes = match record.offset {
                Some(_) => self.read_rows(key, &record, slice.clone()).await?,
                None => self.read_chunks(key, &record, slice.part.clone()).await?,
            };
            if let Some(bytes) = bytes {
                return slice.array(bytes).map(Some);
            }
        }
    }

    fn slice(&self, key: &Key, dtype: DType, shape: &[usize], part: &[Range<usize>]) -> Result<Slice> {
        if part.len() != shape.len() {
            let message =
                format!("the array has {} axes, and ranges for {} were given", shape.len(), part.len());
            return Err(self
                .describe()
                .error(ErrorKind::InvalidValue, "retrieve_slice", message)
                .with_key(key));
        }
        let cut = |(range, len): (&Range<usize>, &usize)| {
            let start = range.start.min(*len);
            start..range.end.clamp(start, *len)
        };
        Ok(Slice { dtype, shape: shape.to_vec(), part: part.iter().zip(shape).map(cut).collect() })
    }

    fn no_array(&self, key: &Key) -> StorageError {
        let message = "the value is no array; read it with retrieve";
        self.describe().error(ErrorKind::InvalidValue, "retrieve_slice", message).with_key(key)
    }

    /// Reads what lies in one piece, row by row. `None`: it was replaced meanwhile.
    async fn read_rows(&self, key: &Key, record: &Arc<Record>, slice: Slice) -> Result<Option<Buffer>> {
        let whole = slice.span();
        if whole.end - whole.start <= INLINE_BYTES
            && let Plan::Direct(now, view) = self.shared().plan(key, Some(&whole))
            && Arc::ptr_eq(&now, record)
            && let Some(bytes) = slice.read_now(record, &view)
            && self.shared().is_current(key, record)
        {
            return Ok(Some(bytes));
        }
        let (key, record) = (key.clone(), Arc::clone(record));
        let read = self.patient("retrieve_slice", move |shared| {
            match shared.plan(&key, Some(&whole)) {
                Plan::Direct(now, view) if Arc::ptr_eq(&now, &record) => {
                    let bytes = slice.read(shared, &record, &view).map_err(|error| error.with_key(&key))?;
                    // If the value was replaced, its room may hold something else by now.
                    Ok(if shared.is_current(&key, &record) { Attempt::Done(bytes) } else { Attempt::Again })
                }
                _ => Ok(Attempt::Again),
            }
        });
        Ok(match read.await?? {
            Attempt::Done(bytes) => Some(bytes),
            Attempt::Slow | Attempt::Again => None,
        })
    }

    /// Reads the chunks that hold a part. `None`: it was replaced meanwhile.
    async fn read_chunks(
        &self,
        key: &Key,
        record: &Arc<Record>,
        part: Vec<Range<usize>>,
    ) -> Result<Option<Buffer>> {
        let fetched = self.fetch("retrieve_slice", key, record, Some(part.clone())).await?;
        let Some(fetched) = fetched else { return Ok(None) };
        let (key, record) = (key.clone(), Arc::clone(record));
        let decode = move |shared: &Shared| {
            let bytes = match (&record.state, fetched) {
                (_, packed @ Fetched::Packed(_)) => packed.bytes(&part),
                (State::Sound(_, Form::Array(dtype, shape)), whole) => {
                    let slice = Slice { dtype: *dtype, shape: shape.to_vec(), part };
                    whole.bytes(&[]).and_then(|whole| slice.cut(&whole))
                }
                _ => None,
            };
            bytes.ok_or_else(|| damaged_chunk(&shared.descriptor, "retrieve_slice", &key))
        };
        self.patient("retrieve_slice", decode).await?.map(Some)
    }
}

impl Slice {
    /// How many bytes the part has.
    fn bytes(&self) -> u64 {
        self.part.iter().map(|range| range.len() as u64).product::<u64>() * self.dtype.size() as u64
    }

    /// Where the part begins and ends among the bytes of the whole array.
    fn span(&self) -> Range<u64> {
        let (mut first, mut end) = (u64::MAX, 0);
        rows(&self.shape, self.dtype.size(), &self.part, |in_array, _, len| {
            first = first.min(in_array as u64);
            end = end.max((in_array + len) as u64);
        });
        first.min(end)..end
    }

    fn read(&self, shared: &Shared, record: &Record, view: &View) -> Result<Buffer> {
        let room = || {
            shared.descriptor.error(ErrorKind::Capacity, "retrieve_slice", "there is no memory for the part")
        };
        let mut bytes = Buffer::zeroed(self.bytes()).ok_or_else(room)?;
        let (offset, mut failure) = (record.offset.unwrap_or(0), None);
        rows(&self.shape, self.dtype.size(), &self.part, |in_array, in_part, len| {
            if failure.is_none() {
                let read = view.read(offset + in_array as u64, &mut bytes[in_part..in_part + len]);
                failure = read.err();
            }
        });
        match failure {
            None => Ok(bytes),
            Some(error) => Err(system(&shared.descriptor, "retrieve_slice", "cannot read the file", error)),
        }
    }

    /// Reads it if that needs no disk.
    fn read_now(&self, record: &Record, view: &View) -> Option<Buffer> {
        let (mut bytes, offset, mut found) = (Buffer::zeroed(self.bytes())?, record.offset?, true);
        rows(&self.shape, self.dtype.size(), &self.part, |in_array, in_part, len| {
            found = found && view.try_read(offset + in_array as u64, &mut bytes[in_part..in_part + len]);
        });
        found.then_some(bytes)
    }

    /// The part of the bytes of the whole array; `None`: there are too few.
    fn cut(&self, whole: &[u8]) -> Option<Buffer> {
        let mut bytes = Buffer::zeroed(self.bytes())?;
        let mut fits = true;
        rows(&self.shape, self.dtype.size(), &self.part, |in_array, in_part, len| {
            match whole.get(in_array..in_array + len) {
                Some(found) => bytes[in_part..in_part + len].copy_from_slice(found),
                None => fits = false,
            }
        });
        fits.then_some(bytes)
    }

    fn array(&self, bytes: Buffer) -> Result<Array> {
        Array::new(self.dtype, self.part.iter().map(Range::len).collect(), bytes.into())
    }

    fn of(&self, array: &Array) -> Result<Array> {
        self.array(self.cut(array.data()).unwrap_or_else(|| Vec::new().into()))
    }
}
