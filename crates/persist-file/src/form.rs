//! The form a value has on disk: which ending, what bytes, and where its metadata record is.

use bytes::Bytes;
use persist_core::{Array, Checksum, Json, Kind, Metadata, Tags, Timestamp, Value, Version};
use rustix::fs::{Stat, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

use crate::record;

/// The extended attribute that holds the record.
const ATTRIBUTE: &str = "user.persist";

/// What an envelope begins with; the length of the record (four bytes, little-endian) and the record follow.
const ENVELOPE: &[u8; 8] = b"persist1";

/// Room for the largest record: 2 KiB of tags in the worst spelling, and the encodings of layers.
const MAX_RECORD: usize = 16 << 10;

/// The form of a value on disk; the order is the order in which readers look, the same for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Form {
    /// JSON text.
    Json,
    /// Opaque bytes.
    Bytes,
    /// An `.npy` file.
    Npy,
    /// Any kind, behind a head with the record.
    Envelope,
}

impl Form {
    /// All of them, in the order in which readers look.
    pub(crate) const ALL: [Self; 4] = [Self::Json, Self::Bytes, Self::Npy, Self::Envelope];

    /// The form of a kind with its record in an attribute.
    pub(crate) fn plain(kind: Kind) -> Self {
        match kind {
            Kind::Json => Self::Json,
            Kind::Bytes => Self::Bytes,
            Kind::Array => Self::Npy,
        }
    }

    /// The ending of the file's name.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Bytes => "bin",
            Self::Npy => "npy",
            Self::Envelope => "pval",
        }
    }

    /// The form that an ending stands for.
    pub(crate) fn of_ending(ending: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.ending() == ending)
    }
}

/// What comes before the payload in a file of this form.
pub(crate) fn head(form: Form, value: &Value, record: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    if form == Form::Envelope {
        head.extend(ENVELOPE);
        head.extend((record.len() as u32).to_le_bytes());
        head.extend(record);
    }
    if let Value::Array(array) = value {
        head.extend(array.npy_header().encode());
    }
    head
}

/// Where the record and the payload of an open file are.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The metadata; `None` for a file that some other program put there.
    pub(crate) metadata: Option<Metadata>,
    /// Where the payload (for arrays: the `.npy` header) begins.
    pub(crate) start: u64,
    /// The length of the whole file.
    pub(crate) end: u64,
}

/// What is wrong with a file, in words.
pub(crate) enum Trouble {
    /// The operating system says so.
    System(Errno),
    /// It is damaged.
    Damage(String),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

fn damage<T>(what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Damage(what.into()))
}

/// Reads the record of an open file.
pub(crate) fn layout(file: &OwnedFd, form: Form) -> Result<Layout, Trouble> {
    let stat = rustix::fs::fstat(file)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return damage("it is no regular file; something that persist did not make lies in the way");
    }
    let end = u64::try_from(stat.st_size).unwrap_or(0);
    let (bytes, start) = match form {
        Form::Envelope => envelope_record(file, end)?,
        _ => match attribute(file)? {
            Some(bytes) => (bytes, 0),
            None => return Ok(Layout { metadata: None, start: 0, end }),
        },
    };
    let metadata = match record::decode(&bytes, end - start) {
        Ok(metadata) => metadata,
        Err(what) => return damage(format!("its metadata is damaged: {what}")),
    };
    if form != Form::Envelope && Form::plain(metadata.kind) != form {
        return damage("its name and its metadata tell of different kinds");
    }
    sized(file, Layout { metadata: Some(metadata), start, end })
}

/// Corrects the size of an array: the `.npy` header is not part of it.
fn sized(file: &OwnedFd, mut layout: Layout) -> Result<Layout, Trouble> {
    if let Some(metadata) = &mut layout.metadata
        && metadata.kind == Kind::Array
    {
        let mut header = vec![0; 4096];
        let len = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut header[..], layout.start))?;
        match persist_core::NpyHeader::decode(&header[..len]) {
            Ok((_, at)) => metadata.size = metadata.size.saturating_sub(at as u64),
            Err(error) => return damage(format!("it is no .npy file: {error}")),
        }
    }
    Ok(layout)
}

fn envelope_record(file: &OwnedFd, end: u64) -> Result<(Vec<u8>, u64), Trouble> {
    let mut head = [0; 12];
    let len = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut head, 0))?;
    let Some((magic, size)) = head[..len].split_first_chunk::<8>() else { return damage("it is cut off") };
    let Ok(size) = <[u8; 4]>::try_from(size) else { return damage("it is cut off") };
    let size = u32::from_le_bytes(size) as usize;
    if magic != ENVELOPE || size > MAX_RECORD || 12 + size as u64 > end {
        return damage("it does not begin like an envelope");
    }
    let mut bytes = vec![0; size];
    let len = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes[..], 12))?;
    if len < size { damage("it is cut off") } else { Ok((bytes, 12 + size as u64)) }
}

fn attribute(file: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    let mut small = [0; 256];
    match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut small) {
        Ok(len) => Ok(Some(small[..len].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(Errno::RANGE) => {
            let mut large = vec![0; MAX_RECORD];
            let len = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut large[..])?;
            large.truncate(len);
            Ok(Some(large))
        }
        Err(error) => Err(error),
    }
}

/// Sets the record of a file; false if the file system has no room for it, or no attributes.
pub(crate) fn set_attribute(file: impl AsFd, record: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::fsetxattr(file, ATTRIBUTE, record, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        // ext4 says "no space" when the attribute is larger than its block; a full disk is found by what follows.
        Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The value in a payload.
pub(crate) fn value(kind: Kind, payload: Bytes, checked: bool) -> Result<Value, Trouble> {
    match kind {
        Kind::Bytes => Ok(Value::Bytes(payload)),
        Kind::Json if checked => Ok(Value::Json(Json::from_stored(payload))),
        Kind::Json => Json::parse(payload).map(Value::Json).or_else(|error| damage(error.to_string())),
        Kind::Array => Array::from_npy(&payload).map(Value::Array).or_else(|error| damage(error.to_string())),
    }
}

/// The metadata of a file that some other program put there: no expiry, no tags, a version from its change time.
pub(crate) fn foreign(value: &Value, stat: &Stat) -> Metadata {
    let at = foreign_time(stat);
    Metadata {
        kind: value.kind(),
        size: value.size(),
        version: foreign_version(stat),
        created_at: at,
        modified_at: at,
        expires_at: None,
        checksum: value.checksum(),
        tags: Tags::new(),
        encodings: Vec::new(),
    }
}

/// As [`foreign`], but without the value: enough to check a condition, with an empty checksum.
pub(crate) fn foreign_draft(form: Form, stat: &Stat) -> Metadata {
    let kind = match form {
        Form::Json => Kind::Json,
        Form::Npy => Kind::Array,
        Form::Bytes | Form::Envelope => Kind::Bytes,
    };
    let at = foreign_time(stat);
    Metadata {
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        version: foreign_version(stat),
        created_at: at,
        modified_at: at,
        expires_at: None,
        checksum: Checksum::from_bytes([0; 32]),
        tags: Tags::new(),
        encodings: Vec::new(),
    }
}

fn foreign_time(stat: &Stat) -> Timestamp {
    Timestamp::from_millis(
        stat.st_mtime.saturating_mul(1000).saturating_add(stat.st_mtime_nsec.cast_signed() / 1_000_000),
    )
}

fn foreign_version(stat: &Stat) -> Version {
    let micros =
        stat.st_mtime.saturating_mul(1_000_000).saturating_add(stat.st_mtime_nsec.cast_signed() / 1000);
    Version::from_u64(u64::try_from(micros).unwrap_or(0).max(1))
}
