//! Reading a value: found without following links, checked against its checksum, and, where the kernel has it in
//! memory, without leaving the caller's thread.

use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use persist_core::{ChecksumBuilder, Entry, Kind, Metadata, Timestamp};
use rustix::fs::fstat;
use rustix::io::{Errno, ReadWriteFlags, preadv2, retry_on_intr};

use crate::form::{self, Form, Layout, Trouble};
use crate::name::KeyPath;
use crate::pool::Pool;
use crate::root::Root;

/// Values up to this size are read and hashed on the caller's thread if they are in memory: some ten microseconds.
const INLINE: u64 = 64 << 10;

/// Large values are read and hashed in pieces of this size, while they are in the processor's cache.
const PIECE: usize = 64 << 10;

/// A range of a value up to this size is read with the whole value, and so verified.
const VERIFIED_RANGE: u64 = 8 << 20;

/// Reads the values below a root.
#[derive(Debug)]
pub(crate) struct Reader {
    pool: Arc<Pool>,
}

/// Whether reading may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It may.
    Yes,
    /// It gives up with [`ReadError::WouldBlock`].
    No,
}

/// Why a value was not read.
pub(crate) enum ReadError {
    /// It would have to wait for the disk.
    WouldBlock,
    /// The operating system says so.
    System(Errno),
    /// It is damaged.
    Damage(String),
    /// There is no memory for it.
    Memory(u64),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<Trouble> for ReadError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::System(errno) => Self::System(errno),
            Trouble::Damage(what) => Self::Damage(what),
        }
    }
}

impl Reader {
    /// A reader with an empty pool of buffers.
    pub(crate) fn new() -> Self {
        Self { pool: Arc::new(Pool::default()) }
    }

    /// The value and metadata of a key; `None` if it is absent or has expired.
    pub(crate) fn entry(
        &self,
        root: &Root,
        path: &KeyPath,
        now: Timestamp,
        wait: Wait,
    ) -> Result<Option<Entry>, ReadError> {
        let Some((form, file)) = find(root, path, wait)? else { return Ok(None) };
        let layout = form::layout(&file, form)?;
        if layout.metadata.as_ref().is_some_and(|metadata| metadata.is_expired(now)) {
            return Ok(None);
        }
        self.load(&file, form, layout, wait).map(Some)
    }

    /// The metadata of a key; `None` if it is absent or has expired.
    pub(crate) fn metadata(
        &self,
        root: &Root,
        path: &KeyPath,
        now: Timestamp,
        wait: Wait,
    ) -> Result<Option<Metadata>, ReadError> {
        let Some((form, file)) = find(root, path, wait)? else { return Ok(None) };
        let mut layout = form::layout(&file, form)?;
        match layout.metadata.take() {
            Some(metadata) => Ok(Some(metadata).filter(|metadata| !metadata.is_expired(now))),
            // A file of some other program: its checksum has to be computed.
            None => self.load(&file, form, layout, wait).map(|entry| Some(entry.metadata)),
        }
    }

    /// The metadata of a key, expired or not, if it has any.
    pub(crate) fn stored_metadata(&self, root: &Root, path: &KeyPath) -> Result<Option<Metadata>, ReadError> {
        match find(root, path, Wait::Yes)? {
            Some((form, file)) => Ok(form::layout(&file, form)?.metadata),
            None => Ok(None),
        }
    }

    /// A part of the buffer of a value; `None` if it is absent or has expired.
    pub(crate) fn range(
        &self,
        root: &Root,
        path: &KeyPath,
        now: Timestamp,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, ReadError> {
        let Some((form, file)) = find(root, path, Wait::Yes)? else { return Ok(None) };
        let layout = form::layout(&file, form)?;
        match &layout.metadata {
            Some(metadata) if metadata.is_expired(now) => Ok(None),
            Some(metadata) if metadata.size > VERIFIED_RANGE => {
                let first = layout.end.saturating_sub(metadata.size);
                let (start, end) = (range.start.min(metadata.size), range.end.min(metadata.size));
                self.bytes(&file, first + start, end.saturating_sub(start), None).map(Some)
            }
            _ => Ok(Some(self.load(&file, form, layout, Wait::Yes)?.value.range(range))),
        }
    }

    fn load(&self, file: &OwnedFd, form: Form, layout: Layout, wait: Wait) -> Result<Entry, ReadError> {
        let len = layout.end.saturating_sub(layout.start);
        let mut checksum = ChecksumBuilder::new();
        let payload = match wait {
            Wait::Yes => self.bytes(file, layout.start, len, Some(&mut checksum))?,
            Wait::No if len > INLINE => return Err(ReadError::WouldBlock),
            Wait::No => {
                let payload = in_memory(file, layout.start, len)?;
                checksum.update(&payload);
                payload
            }
        };
        let Some(metadata) = layout.metadata else { return foreign(file, form, payload) };
        if checksum.finish() != metadata.checksum {
            return Err(ReadError::Damage(
                "the value does not match its checksum: restore it from a backup or delete the key; if another \
                 program changed the file on purpose, remove its attribute (setfattr -x user.persist FILE)"
                    .to_owned(),
            ));
        }
        Ok(Entry { value: form::value(metadata.kind, payload, true)?, metadata })
    }

    /// Reads a part of a file; what is missing at its end is damage.
    fn bytes(
        &self,
        file: &OwnedFd,
        start: u64,
        len: u64,
        mut checksum: Option<&mut ChecksumBuilder>,
    ) -> Result<Bytes, ReadError> {
        let wanted = usize::try_from(len).map_err(|_| ReadError::Memory(len))?;
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = self.pool.take(wanted).map_err(|_| ReadError::Memory(len))?;
        let mut at = 0;
        while at < wanted {
            let piece = &mut buffer[at..wanted.min(at + PIECE)];
            let read = retry_on_intr(|| rustix::io::pread(file, &mut *piece, start + at as u64))?;
            if read == 0 {
                return Err(ReadError::Damage("the file was cut while it was read".to_owned()));
            }
            if let Some(checksum) = &mut checksum {
                checksum.update(&piece[..read]);
            }
            at += read;
        }
        Ok(self.pool.lend(buffer, wanted))
    }
}

/// The first form in which a key is stored.
///
/// A value that changes its kind is renamed into its new form before the old one is removed. A reader who looks for
/// the new form first, then waits, then looks for the old one, would find neither; so it looks twice before it says
/// absent.
fn find(root: &Root, path: &KeyPath, wait: Wait) -> Result<Option<(Form, OwnedFd)>, ReadError> {
    for form in Form::ALL.into_iter().chain(Form::ALL) {
        let file = path.file(form.ending());
        let opened = match wait {
            Wait::Yes => root.open_file(&file),
            Wait::No => root.open_cached(&file),
        };
        match opened {
            Ok(file) => return Ok(Some((form, file))),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::AGAIN) if wait == Wait::No => return Err(ReadError::WouldBlock),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Reads without waiting for the disk.
fn in_memory(file: &OwnedFd, start: u64, len: u64) -> Result<Bytes, ReadError> {
    let mut buffer = vec![0; usize::try_from(len).map_err(|_| ReadError::Memory(len))?];
    let mut at = 0;
    while at < buffer.len() {
        let piece = &mut [IoSliceMut::new(&mut buffer[at..])];
        match preadv2(file, piece, start + at as u64, ReadWriteFlags::NOWAIT) {
            Ok(read) if read > 0 => at += read,
            // Not in memory, cut meanwhile, or not supported here: the patient way finds out.
            _ => return Err(ReadError::WouldBlock),
        }
    }
    Ok(buffer.into())
}

/// The entry of a file that some other program put there.
fn foreign(file: &OwnedFd, form: Form, payload: Bytes) -> Result<Entry, ReadError> {
    let kind = match form {
        Form::Json => Kind::Json,
        Form::Npy => Kind::Array,
        Form::Bytes | Form::Envelope => Kind::Bytes,
    };
    let value = form::value(kind, payload, false)?;
    let metadata = form::foreign(&value, &fstat(file)?);
    Ok(Entry { value, metadata })
}
