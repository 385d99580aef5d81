//! Walks along the records of a log, one after the other, and checks them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::codec::CHUNK;
use crate::record::{Head, MAX_HEAD, Place, TABLE_ENTRY, parse_head};
use crate::wire::{Reader, Wrong};

/// The local file header of ZIP without name and extra fields.
const FIXED: u64 = 30;

/// How much of a file is read at a time.
const WINDOW: u64 = 1 << 20;

/// Bytes that a walk goes along.
pub(crate) trait Track {
    /// How many there are.
    fn len(&self) -> u64;

    /// A part of them; `None`: it lies beyond the end.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn part(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>>;
}

impl Track for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn part(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let end = at.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let at = usize::try_from(at).ok();
        Ok(at.zip(end).and_then(|(at, end)| self.get(at..end)))
    }
}

/// A file, read in large pieces.
#[derive(Debug)]
pub(crate) struct Window<'f> {
    file: &'f File,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
}

impl<'f> Window<'f> {
    /// The first `len` bytes of a file.
    pub(crate) fn new(file: &'f File, len: u64) -> Self {
        Self { file, len, at: 0, buffer: Vec::new() }
    }
}

impl Track for Window<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn part(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let held = self.at..self.at + self.buffer.len() as u64;
        if at < held.start || at + len > held.end {
            let size = len.max(WINDOW).min(self.len - at);
            self.buffer.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
            self.at = at;
            if let Err(error) = self.file.read_exact_at(&mut self.buffer, at) {
                self.buffer.clear();
                // Somebody cut it meanwhile.
                return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
            }
        }
        let start = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        let end = start + usize::try_from(len).unwrap_or(usize::MAX);
        Ok(self.buffer.get(start..end))
    }
}

/// The head of the record at a place.
///
/// # Errors
/// Why the file cannot be read; within: what is wrong with the record, or that it is cut off.
pub(crate) fn head_at(track: &mut impl Track, place: Place) -> io::Result<Result<Head, Wrong>> {
    const CUT: Wrong = Wrong("it is cut off");
    let Some(fixed) = track.part(place.at, FIXED)? else { return Ok(Err(CUT)) };
    let mut from = Reader::new(&fixed[26..]);
    let (name, extra) = (from.u16().unwrap_or(0), from.u16().unwrap_or(0));
    let len = FIXED + u64::from(name) + u64::from(extra);
    debug_assert!(len <= MAX_HEAD as u64);
    let Some(bytes) = track.part(place.at, len)? else { return Ok(Err(CUT)) };
    let head = parse_head(bytes, place);
    Ok(head.and_then(|head| {
        let end = place.at.checked_add(head.record_len()).filter(|end| *end <= track.len());
        end.map(|_| head).ok_or(CUT)
    }))
}

/// Checks the data of a record against its CRCs, without unpacking it.
///
/// # Errors
/// Why the file cannot be read.
pub(crate) fn data_is_whole(track: &mut impl Track, at: u64, head: &Head) -> io::Result<bool> {
    let (start, note) = (at + head.len, &head.note);
    let table_len = head.table_len();
    if table_len == 0 {
        return Ok(track
            .part(start, note.stored)?
            .is_some_and(|data| crc32fast::hash(data) == note.data_crc));
    }
    let Some(table) = track.part(start + note.stored, table_len)?.map(<[u8]>::to_vec) else {
        return Ok(false);
    };
    if crc32fast::hash(&table) != note.data_crc {
        return Ok(false);
    }
    let mut from = 0;
    for entry in table.chunks_exact(TABLE_ENTRY) {
        let mut reader = Reader::new(entry);
        let (Ok(end), Ok(crc)) = (reader.u64(), reader.u32()) else { return Ok(false) };
        // A packed chunk is never much longer than a plain one.
        if end < from || end > note.stored || end - from > 2 * CHUNK {
            return Ok(false);
        }
        if track.part(start + from, end - from)?.is_none_or(|chunk| crc32fast::hash(chunk) != crc) {
            return Ok(false);
        }
        from = end;
    }
    Ok(from == note.stored)
}
