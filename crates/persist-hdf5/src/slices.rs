//! Parts of arrays, and arrays that grow.

use std::ops::Range;
use std::sync::Arc;

use persist_core::{
    Array, BaseStorage, Condition, DType, Entry, ErrorKind, Expiry, Key, Metadata, Result, StorageError,
    StoreItem, StoreOptions, Value,
};

use crate::change::{Change, Done, Draft, Step};
use crate::chunk::{Grid, pack_part, rows};
use crate::error::{damage, system};
use crate::fetch::Fetched;
use crate::medium::View;
use crate::record::{Form, Record, State};
use crate::state::{Attempt, Plan, Shared, zeroed};
use crate::storage::Hdf5Storage;

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

    /// Adds rows at the end of an array along its first axis; stores them as a new array if the key is absent. Gives the metadata
    /// of the whole. An array in chunks has only the chunks written that change, one in one piece is written anew. Either way all of it is
    /// read and hashed once, because the checksum covers all of it. Lifetime and tags stay.
    ///
    /// # Errors
    /// `InvalidValue` if the other axes or the dtype differ; as `store`.
    pub async fn append(&self, key: &Key, more: &Array) -> Result<Metadata> {
        loop {
            self.describe().admit_change("append")?;
            let record = self.shared().find(key);
            let Some(entry) = self.retrieve(key).await? else {
                let first =
                    self.store(key, Value::Array(more.clone()), StoreOptions::new().if_absent()).await;
                match first {
                    Err(error) if error.kind() == ErrorKind::Conflict => continue,
                    result => return result,
                }
            };
            let grown = self.grown(key, &entry, more)?;
            let Some(record) = record.filter(|record| {
                record.metadata().is_none_or(|metadata| metadata.version == entry.metadata.version)
            }) else {
                continue;
            };
            match self.replace(key, &record, entry, grown).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                result => return result,
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
    async fn read_rows(&self, key: &Key, record: &Arc<Record>, slice: Slice) -> Result<Option<Vec<u8>>> {
        let (key, record) = (key.clone(), Arc::clone(record));
        let read = self.patient("retrieve_slice", move |shared| {
            let whole = slice.span();
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
    ) -> Result<Option<Vec<u8>>> {
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
            bytes.ok_or_else(|| {
                damage(&shared.descriptor, "retrieve_slice", &key, "a chunk is not as it was written")
            })
        };
        self.patient("retrieve_slice", decode).await?.map(Some)
    }

    fn grown(&self, key: &Key, entry: &Entry, more: &Array) -> Result<Array> {
        let refuse = |message: String| {
            Err(self.describe().error(ErrorKind::InvalidValue, "append", message).with_key(key))
        };
        let Value::Array(array) = &entry.value else {
            return refuse(format!("the value is {}, and rows are appended to arrays", entry.value.kind()));
        };
        let (Some((rows, axes)), Some((added, others))) =
            (array.shape().split_first(), more.shape().split_first())
        else {
            return refuse("an array without axes has no rows; store one with at least one axis".to_owned());
        };
        if axes != others || array.dtype() != more.dtype() {
            return refuse(format!(
                "rows of {} {:?} are appended to rows of {} {:?}; they must be the same",
                more.dtype(),
                others,
                array.dtype(),
                axes
            ));
        }
        let shape = [&[rows + added], axes].concat();
        Array::new(array.dtype(), shape, [&array.data()[..], more.data()].concat().into())
    }

    async fn replace(&self, key: &Key, record: &Arc<Record>, entry: Entry, grown: Array) -> Result<Metadata> {
        let metadata = entry.metadata;
        let options = StoreOptions {
            expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
            condition: Condition::IfVersion(metadata.version),
            tags: metadata.tags,
            encodings: metadata.encodings,
        };
        let from = match &entry.value {
            Value::Array(array) => array.shape().first().copied().unwrap_or(0),
            Value::Json(_) | Value::Bytes(_) => 0,
        };
        let nothing: Vec<Range<usize>> = grown.shape().iter().map(|_| 0..0).collect();
        let kept = match record.offset.is_none() && record.metadata().is_some() {
            true => self.fetch("append", key, record, Some(nothing)).await?,
            false => None,
        };
        let Some(Fetched::Packed(kept)) = kept else {
            return self.store(key, Value::Array(grown), options).await;
        };
        let value = Value::Array(grown.clone());
        self.describe().admit_store(key, &value, &options)?;
        let item = StoreItem { key: key.clone(), value, options };
        let prepare = move |shared: &Shared| {
            let grid = Grid { shape: grown.shape().to_vec(), ..kept.grid };
            let part: Vec<Range<usize>> = grid
                .shape
                .iter()
                .enumerate()
                .map(|(axis, len)| if axis == 0 { from..*len } else { 0..*len })
                .collect();
            let packed = pack_part(grid, kept.pipeline, grown.data(), &part);
            Step::Grow(Box::new(Draft::packed(&shared.descriptor, item, packed)))
        };
        let step = self.patient("append", prepare).await?;
        match self.worker("append")?.one(Change::one("append", step)).await {
            Ok(Done::Stored(metadata)) => Ok(metadata),
            Ok(other) => Err(crate::storage::unexpected(&other)),
            Err(error) => Err(error.with_key(key)),
        }
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

    fn read(&self, shared: &Shared, record: &Record, view: &View) -> Result<Vec<u8>> {
        let room = || {
            shared.descriptor.error(ErrorKind::Capacity, "retrieve_slice", "there is no memory for the part")
        };
        let mut bytes = zeroed(self.bytes()).ok_or_else(room)?;
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

    /// The part of the bytes of the whole array; `None`: there are too few.
    fn cut(&self, whole: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = zeroed(self.bytes())?;
        let mut fits = true;
        rows(&self.shape, self.dtype.size(), &self.part, |in_array, in_part, len| {
            match whole.get(in_array..in_array + len) {
                Some(found) => bytes[in_part..in_part + len].copy_from_slice(found),
                None => fits = false,
            }
        });
        fits.then_some(bytes)
    }

    fn array(&self, bytes: Vec<u8>) -> Result<Array> {
        Array::new(self.dtype, self.part.iter().map(Range::len).collect(), bytes.into())
    }

    fn of(&self, array: &Array) -> Result<Array> {
        self.array(self.cut(array.data()).unwrap_or_default())
    }
}
