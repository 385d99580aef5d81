//! The file in which entries lie one after the other: what every storage can write and be restored from.
//!
//! It begins with [`MAGIC`]. Each record is the length of its head (4 bytes, little-endian), the length of its body
//! (8 bytes), the head (JSON: key and metadata) and the body (the value: JSON text, bytes, or an array as `.npy`). The
//! value is covered by the checksum in its metadata, everything by the hash in the manifest.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind as IoKind, Read, Write};

use bytes::Bytes;
use persist_core::{Array, Checksum, ChecksumBuilder, Entry, Json, Key, Kind, Metadata, Value};
use serde::{Deserialize, Serialize};

/// What the file begins with.
const MAGIC: &[u8; 8] = b"persist1";

/// The most bytes of a head: a key and 2 KiB of tags in the worst spelling, and encodings.
const MAX_HEAD: u32 = 64 << 10;

/// How much is read or written at a time.
const BUFFER: usize = 256 << 10;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    metadata: Metadata,
}

/// Writes entries and hashes what it writes.
pub(crate) struct EntriesWriter {
    file: BufWriter<File>,
    hash: ChecksumBuilder,
    size: u64,
}

impl EntriesWriter {
    /// Begins the file.
    pub(crate) fn new(file: File) -> std::io::Result<Self> {
        let mut writer =
            Self { file: BufWriter::with_capacity(BUFFER, file), hash: ChecksumBuilder::new(), size: 0 };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, key: &Key, entry: &Entry) -> std::io::Result<()> {
        let head = Head { key: key.as_str().into(), metadata: entry.metadata.clone() };
        let head = serde_json::to_vec(&head)?;
        let array = match &entry.value {
            Value::Array(array) => array.npy_header().encode(),
            _ => Vec::new(),
        };
        let body = entry.value.buffer();
        self.write(&(head.len() as u32).to_le_bytes())?;
        self.write(&((array.len() + body.len()) as u64).to_le_bytes())?;
        self.write(&head)?;
        self.write(&array)?;
        self.write(body)
    }

    /// Forces everything to the disk; gives the size and the hash.
    pub(crate) fn finish(self) -> std::io::Result<(u64, Checksum)> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.size, self.hash.finish()))
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Reads entries. Whatever the file holds, it asks for no more memory than the file is long.
pub(crate) struct EntriesReader {
    file: BufReader<File>,
    /// How many bytes of the file are left.
    left: u64,
}

/// Why no entry was read.
#[derive(Debug)]
pub(crate) enum ReadError {
    System(std::io::Error),
    Damage(String),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            IoKind::UnexpectedEof => Self::Damage("its entries are cut off".to_owned()),
            _ => Self::System(error),
        }
    }
}

fn damage<T>(what: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError::Damage(what.into()))
}

impl EntriesReader {
    /// Begins to read the file.
    pub(crate) fn new(file: File) -> Result<Self, ReadError> {
        let left = file.metadata()?.len();
        let mut reader = Self { file: BufReader::with_capacity(BUFFER, file), left };
        if reader.take(8)? != MAGIC { damage("its entries do not begin as they should") } else { Ok(reader) }
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(Key, Entry)>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let lengths = self.take(12)?;
        let (Some((head, rest)), true) = (lengths.split_first_chunk::<4>(), lengths.len() == 12) else {
            return damage("its entries are cut off");
        };
        let head = u32::from_le_bytes(*head);
        let body = rest.try_into().map_or(u64::MAX, u64::from_le_bytes);
        if head > MAX_HEAD {
            return damage("an entry has an impossible length");
        }
        let head = self.take(u64::from(head))?;
        let body = self.take(body)?;
        parse(&head, body.into()).map(Some)
    }

    fn take(&mut self, len: u64) -> Result<Vec<u8>, ReadError> {
        if len > self.left {
            return damage("its entries are cut off");
        }
        let mut bytes =
            vec![0; usize::try_from(len).or_else(|_| damage("an entry has an impossible length"))?];
        self.file.read_exact(&mut bytes)?;
        self.left -= len;
        Ok(bytes)
    }
}

fn parse(head: &[u8], body: Bytes) -> Result<(Key, Entry), ReadError> {
    let Head { key, metadata } = serde_json::from_slice(head)
        .or_else(|error| damage(format!("an entry has no proper head: {error}")))?;
    let key = Key::new(key.into_owned()).or_else(|error| damage(error.message().to_owned()))?;
    let value = match metadata.kind {
        Kind::Bytes => Value::Bytes(body),
        Kind::Json => Json::parse(body).map(Value::Json).or_else(|error| damage(error.to_string()))?,
        Kind::Array => Array::from_npy(&body).map(Value::Array).or_else(|error| damage(error.to_string()))?,
    };
    if value.checksum() != metadata.checksum || value.size() != metadata.size {
        return damage(format!("the value of {key:?} does not match its checksum"));
    }
    Ok((key, Entry::new(value, metadata)))
}
