//! A row of the table `entries`: metadata in columns, sealed by a CRC, and the value last.
//!
//! SQLite notices little of what happens to its file: of 500 flipped bits in values it returned 452 as good data. The
//! value is covered by its BLAKE3 checksum, everything else of a row by the seal.

use bytes::Bytes;
use persist_core::{Array, Checksum, DType, Json, Kind, Metadata, Tags, Timestamp, Value, Version};
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// The columns that [`Head::read`] takes, in their order; the first of what follows them is number [`EXTRA`].
pub(crate) const COLUMNS: &str = "id, kind, size, version, created_at, modified_at, expires_at, checksum, dtype, \
                                  shape, tags, encodings, seal";

/// The number of the column that stands after [`COLUMNS`].
pub(crate) const EXTRA: usize = 13;

/// Why a row was not read.
#[derive(Debug)]
pub(crate) enum RowError {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// It is not as it was written.
    Damage(&'static str),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// What a row says beside its value.
#[derive(Debug)]
pub(crate) struct Head {
    /// The rowid.
    pub(crate) id: i64,
    pub(crate) metadata: Metadata,
    /// Dtype and shape, if it is an array.
    array: Option<(DType, Vec<usize>)>,
}

/// The texts of a row that are absent in most rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    pub(crate) dtype: Option<&'static str>,
    pub(crate) shape: Option<String>,
    pub(crate) tags: Option<String>,
    pub(crate) encodings: Option<String>,
}

impl Head {
    /// Reads a row that should be that of `key`.
    pub(crate) fn read(row: &Row<'_>, key: &[u8]) -> Result<Self, RowError> {
        let raw = Raw::read(row)?;
        if raw.seal != i64::from(raw.sealed(key)) {
            return Err(RowError::Damage("its metadata does not match its seal"));
        }
        raw.head().map_err(RowError::Damage)
    }

    /// The value, from what its column holds.
    pub(crate) fn value(&self, column: ValueRef<'_>) -> Result<Value, RowError> {
        match (self.metadata.kind, column) {
            (Kind::Json, ValueRef::Text(bytes)) | (Kind::Bytes | Kind::Array, ValueRef::Blob(bytes)) => {
                self.checked(copied(bytes)?)
            }
            _ => Err(RowError::Damage("its value is of another kind")),
        }
    }

    /// The value that has these bytes.
    pub(crate) fn checked(&self, bytes: Bytes) -> Result<Value, RowError> {
        let value = match self.metadata.kind {
            Kind::Json => Value::Json(Json::from_stored(bytes)),
            Kind::Bytes => Value::Bytes(bytes),
            Kind::Array => self.elements(bytes)?,
        };
        if value.size() != self.metadata.size || value.checksum() != self.metadata.checksum {
            return Err(RowError::Damage("its value does not match its checksum"));
        }
        Ok(value)
    }

    /// What stands in the other columns of this row.
    pub(crate) fn notes(&self) -> Notes {
        let array = self.array.as_ref();
        Notes::new(array.map(|(dtype, shape)| (*dtype, shape.as_slice())), &self.metadata)
    }

    fn elements(&self, data: Bytes) -> Result<Value, RowError> {
        let Some((dtype, shape)) = &self.array else {
            return Err(RowError::Damage("an array without dtype and shape"));
        };
        let array = Array::new(*dtype, shape.clone(), data);
        array.map(Value::Array).map_err(|_| RowError::Damage("its elements do not fit its shape"))
    }
}

fn copied(bytes: &[u8]) -> Result<Bytes, RowError> {
    let mut buffer = reserved(bytes.len())?;
    buffer.extend_from_slice(bytes);
    Ok(buffer.into())
}

/// An empty buffer with room for so many bytes. A length from a damaged file must not abort the process.
pub(crate) fn reserved(len: usize) -> Result<Vec<u8>, RowError> {
    let mut buffer = Vec::new();
    match buffer.try_reserve_exact(len) {
        Ok(()) => Ok(buffer),
        Err(_) => Err(RowError::Sqlite(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOMEM),
            None,
        ))),
    }
}

impl Notes {
    /// What stands in the columns of a value with this metadata.
    pub(crate) fn of(value: &Value, metadata: &Metadata) -> Self {
        let array = match value {
            Value::Array(array) => Some((array.dtype(), array.shape())),
            Value::Json(_) | Value::Bytes(_) => None,
        };
        Self::new(array, metadata)
    }

    fn new(array: Option<(DType, &[usize])>, metadata: &Metadata) -> Self {
        Self {
            dtype: array.map(|(dtype, _)| dtype.as_str()),
            shape: array.map(|(_, shape)| to_json(shape)),
            tags: (!metadata.tags.is_empty()).then(|| to_json(&metadata.tags)),
            encodings: (!metadata.encodings.is_empty()).then(|| to_json(&metadata.encodings)),
        }
    }
}

/// Texts, numbers and maps of texts always become JSON.
fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The columns as they lie in the database.
pub(crate) struct Raw<'r> {
    id: i64,
    kind: &'r [u8],
    size: i64,
    version: i64,
    created_at: i64,
    modified_at: i64,
    expires_at: Option<i64>,
    checksum: &'r [u8],
    dtype: Option<&'r [u8]>,
    shape: Option<&'r [u8]>,
    tags: Option<&'r [u8]>,
    encodings: Option<&'r [u8]>,
    seal: i64,
}

impl<'r> Raw<'r> {
    fn read(row: &'r Row<'_>) -> Result<Self, RowError> {
        Ok(Self {
            id: integer(row, 0)?,
            kind: text(row, 1)?.unwrap_or_default(),
            size: integer(row, 2)?,
            version: integer(row, 3)?,
            created_at: integer(row, 4)?,
            modified_at: integer(row, 5)?,
            expires_at: match row.get_ref(6)? {
                ValueRef::Null => None,
                _ => Some(integer(row, 6)?),
            },
            checksum: match row.get_ref(7)? {
                ValueRef::Blob(bytes) => bytes,
                _ => return Err(RowError::Damage("a checksum that is none")),
            },
            dtype: text(row, 8)?,
            shape: text(row, 9)?,
            tags: text(row, 10)?,
            encodings: text(row, 11)?,
            seal: integer(row, 12)?,
        })
    }

    fn sealed(&self, key: &[u8]) -> u32 {
        seal(&Sealed {
            key,
            kind: self.kind,
            numbers: [self.size, self.version, self.created_at, self.modified_at],
            expires_at: self.expires_at,
            checksum: self.checksum,
            notes: [self.dtype, self.shape, self.tags, self.encodings],
        })
    }

    fn head(self) -> Result<Head, &'static str> {
        let kind = str_of(self.kind)?.parse::<Kind>().map_err(|_| "its kind is unknown")?;
        let array = match (kind, self.dtype, self.shape) {
            (Kind::Array, Some(dtype), Some(shape)) => Some((
                str_of(dtype)?.parse().map_err(|_| "its dtype is unknown")?,
                serde_json::from_slice(shape).map_err(|_| "its shape cannot be read")?,
            )),
            _ => None,
        };
        let checksum = <[u8; 32]>::try_from(self.checksum).map_err(|_| "its checksum has another length")?;
        let metadata = Metadata {
            kind,
            size: u64::try_from(self.size).map_err(|_| "its size is negative")?,
            version: Version::from_u64(self.version.cast_unsigned()),
            created_at: Timestamp::from_millis(self.created_at),
            modified_at: Timestamp::from_millis(self.modified_at),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            checksum: Checksum::from_bytes(checksum),
            tags: self.tags.map_or(Ok(Tags::new()), from_json)?,
            encodings: self.encodings.map_or(Ok(Vec::new()), from_json)?,
        };
        Ok(Head { id: self.id, metadata, array })
    }
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, RowError> {
    match row.get_ref(column)? {
        ValueRef::Integer(number) => Ok(number),
        _ => Err(RowError::Damage("a number that is none")),
    }
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<Option<&'r [u8]>, RowError> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => Ok(Some(text)),
        _ => Err(RowError::Damage("a text that is none")),
    }
}

fn str_of(text: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8")
}

fn from_json<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, &'static str> {
    serde_json::from_slice(text).map_err(|_| "its tags or encodings cannot be read")
}

/// What the seal covers.
pub(crate) struct Sealed<'s> {
    pub(crate) key: &'s [u8],
    pub(crate) kind: &'s [u8],
    /// Size, version, created_at, modified_at.
    pub(crate) numbers: [i64; 4],
    pub(crate) expires_at: Option<i64>,
    pub(crate) checksum: &'s [u8],
    /// Dtype, shape, tags, encodings.
    pub(crate) notes: [Option<&'s [u8]>; 4],
}

/// CRC-32 over all of it, each part with its length, so that nothing can move from one to the next.
pub(crate) fn seal(parts: &Sealed<'_>) -> u32 {
    // In one piece: a CRC of many short pieces takes four times as long.
    let mut all = Vec::with_capacity(SEALED);
    for number in parts.numbers.iter().chain([&parts.expires_at.unwrap_or(0)]) {
        all.extend_from_slice(&number.to_le_bytes());
    }
    all.push(u8::from(parts.expires_at.is_some()));
    let rest = [Some(parts.key), Some(parts.kind), Some(parts.checksum)];
    for part in rest.into_iter().chain(parts.notes) {
        all.extend_from_slice(&part.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(part.unwrap_or_default());
    }
    crc32fast::hash(&all)
}

/// How many bytes are sealed in most rows, at most.
const SEALED: usize = 256;

/// The seal of a row to be written.
pub(crate) fn seal_of(key: &[u8], metadata: &Metadata, notes: &Notes) -> u32 {
    seal(&Sealed {
        key,
        kind: metadata.kind.as_str().as_bytes(),
        numbers: [
            metadata.size.cast_signed(),
            metadata.version.as_u64().cast_signed(),
            metadata.created_at.as_millis(),
            metadata.modified_at.as_millis(),
        ],
        expires_at: metadata.expires_at.map(Timestamp::as_millis),
        checksum: metadata.checksum.as_bytes(),
        notes: [
            notes.dtype.map(str::as_bytes),
            notes.shape.as_deref().map(str::as_bytes),
            notes.tags.as_deref().map(str::as_bytes),
            notes.encodings.as_deref().map(str::as_bytes),
        ],
    })
}
