//! The write-ahead log beside the file: what was acknowledged and is not in the file yet.
//!
//! A record holds all that one commit changed below the end of the file. It counts only if it is whole: its sum covers
//! the log's salt, its number and its content. Emptying the log gives it a new salt, so that what is left of older
//! records never fits. The layout is in `docs/formats/hdf5.md`.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use persist_core::Checksum;

/// The first bytes of a log.
const MAGIC: &[u8; 8] = b"PH5LOG01";

/// Magic, salt, generation, and a sum of them: the length of a header.
const HEADER: usize = 56;

/// The two headers lie this far apart; the one of the greater generation counts, and a new one replaces the other.
const SLOT: u64 = 512;

/// Where the records begin.
const RECORDS: u64 = 1024;

/// Length, number and sum of a record.
const RECORD_HEADER: usize = 48;

/// Where a frame lies in the file, and how long it is.
const FRAME_HEADER: usize = 12;

/// The log is made longer ahead of its records, by as much as it has and at most so many bytes: to force to the disk what lies in a file
/// whose length stays costs no commit of the file system's own journal, which waits for what others write.
const AHEAD: Range<u64> = 64 << 10..1 << 20;

/// The longest content of a record that is believed when a log is read.
const LONGEST: u64 = 1 << 40;

/// The bytes that a commit changed.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// Where they lie in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
}

/// What a record says.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// How long the file is after the commit.
    pub(crate) end: u64,
    /// Offset and bytes.
    pub(crate) frames: Vec<(u64, Vec<u8>)>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The disk says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no log, or damaged elsewhere than at its end.
    #[error("{0}")]
    Damaged(String),
}

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    header: Header,
    /// The number of the next record.
    next: u64,
    /// Where the next record goes.
    end: u64,
    /// How long the file is, as far as that is known.
    room: u64,
}

impl Log {
    /// Reads a log; an empty file is an empty one. Gives its records in order, without a torn one at the end.
    ///
    /// # Errors
    /// What the disk says, and if it is damaged elsewhere than at its end.
    pub(crate) fn open(file: File) -> Result<(Self, Vec<Record>), LogError> {
        let len = file.metadata()?.len();
        let headers = [read_header(&file, 0, len)?, read_header(&file, SLOT, len)?];
        let newest = headers.iter().filter_map(|header| header.ok()).max_by_key(|header| header.generation);
        let header = newest.unwrap_or_default();
        let mut log = Self { file, header, next: 0, end: RECORDS, room: len };
        let mut records = Vec::new();
        while let Some((record, size)) = log.record(log.end, log.next, len)? {
            records.push(record);
            log.next += 1;
            log.end += size;
        }
        // A header that is torn never had records, and those of the other one are still there.
        if records.is_empty() && headers.contains(&Err(Unreadable)) && log.has_records(len)? {
            return Err(LogError::Damaged("the header of the log is damaged".to_owned()));
        }
        log.check_tail(len)?;
        Ok((log, records))
    }

    /// How many bytes of it count.
    pub(crate) fn len(&self) -> u64 {
        self.end
    }

    /// True if it holds no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// True if it was never begun, so that it has no header yet.
    pub(crate) fn is_unbegun(&self) -> bool {
        self.header.generation == 0
    }

    /// Empties it, or begins it. Nothing that is left of older records counts from now on; this is on the disk when it
    /// returns. A file longer than `keep` bytes is cut.
    ///
    /// # Errors
    /// What the disk says; it is as before then, or empty.
    pub(crate) fn reset(&mut self, keep: u64) -> io::Result<()> {
        let generation = self.header.generation + 1;
        let header = Header { salt: RandomState::new().hash_one(self.header.salt), generation };
        self.file.write_all_at(&header.encode(), generation % 2 * SLOT)?;
        self.file.sync_data()?;
        (self.header, self.next, self.end) = (header, 0, RECORDS);
        // Only now: with the old header, a log that was cut would count as one that is torn.
        self.room = self.file.metadata()?.len();
        if self.room > keep.max(RECORDS) {
            self.cut(keep.max(RECORDS));
        }
        Ok(())
    }

    /// Adds the record of a commit; `sync`: forces it to the disk.
    ///
    /// # Errors
    /// What the disk says; the record does not count then, unless it is the sync that failed.
    pub(crate) fn append(&mut self, end: u64, frames: &[Frame<'_>], sync: bool) -> Result<(), AppendError> {
        let record = encode(self.header.salt, self.next, end, frames);
        let room = self.make_room(record.len() as u64);
        if let Err(error) = room.and_then(|()| self.file.write_all_at(&record, self.end)) {
            // What was written of it is no whole record; take back what it took of a full disk.
            self.cut(self.end);
            return Err(AppendError::Write(error));
        }
        if sync {
            self.file.sync_data().map_err(AppendError::Sync)?;
        }
        self.next += 1;
        self.end += record.len() as u64;
        self.room = self.room.max(self.end);
        Ok(())
    }

    /// Makes the file longer if the next record, of so many bytes, needs that. Zeros are no record.
    fn make_room(&mut self, record: u64) -> io::Result<()> {
        let needed = self.end + record;
        let ahead = self.end.clamp(AHEAD.start, AHEAD.end);
        if needed <= self.room || record > ahead {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(ahead).unwrap_or(0)];
        match self.file.write_all_at(&zeros, needed) {
            Ok(()) => self.room = needed + ahead,
            // The record alone may still have room.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                self.cut(self.end);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes the file shorter. If it stays long, no harm is done.
    fn cut(&mut self, len: u64) {
        if self.file.set_len(len).is_ok() {
            self.room = len;
        }
    }

    /// Forces it to the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The file.
    #[cfg(test)]
    fn file(&self) -> &File {
        &self.file
    }

    fn record(&self, at: u64, number: u64, len: u64) -> io::Result<Option<(Record, u64)>> {
        let Some((content, size)) = self.content(at, number, len)? else { return Ok(None) };
        Ok(decode(&content).map(|record| (record, size)))
    }

    /// The content of the record at a place, if it is whole.
    fn content(&self, at: u64, number: u64, len: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
        let Some(header) = self.header(at, len)? else { return Ok(None) };
        let size = u64::from_le_bytes(array(&header[..8]));
        if u64::from_le_bytes(array(&header[8..16])) != number || !self.fits(at, size, len) {
            return Ok(None);
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file.read_exact_at(&mut content, at + RECORD_HEADER as u64)?;
        let sum = Checksum::of(&[&self.header.salt.to_le_bytes(), &header[..16], &content]);
        Ok((sum.as_bytes() == &header[16..]).then_some((content, RECORD_HEADER as u64 + size)))
    }

    fn header(&self, at: u64, len: u64) -> io::Result<Option<[u8; RECORD_HEADER]>> {
        if at + RECORD_HEADER as u64 > len {
            return Ok(None);
        }
        let mut header = [0; RECORD_HEADER];
        self.file.read_exact_at(&mut header, at)?;
        Ok(Some(header))
    }

    fn fits(&self, at: u64, size: u64, len: u64) -> bool {
        size <= LONGEST && at + RECORD_HEADER as u64 + size <= len
    }

    /// True if something stands where the first record would.
    fn has_records(&self, len: u64) -> io::Result<bool> {
        Ok(self.header(RECORDS, len)?.is_some_and(|first| first != [0; RECORD_HEADER]))
    }

    /// A record that is not whole must be the last one: if a whole one follows, something acknowledged was damaged.
    fn check_tail(&self, len: u64) -> Result<(), LogError> {
        let Some(header) = self.header(self.end, len)? else { return Ok(()) };
        let size = u64::from_le_bytes(array(&header[..8]));
        if u64::from_le_bytes(array(&header[8..16])) != self.next || !self.fits(self.end, size, len) {
            return Ok(());
        }
        let after = self.end + RECORD_HEADER as u64 + size;
        match self.content(after, self.next + 1, len)? {
            Some(_) => Err(LogError::Damaged(format!(
                "record {} of the log is damaged, and whole ones follow it",
                self.next
            ))),
            None => Ok(()),
        }
    }
}

/// Why a record was not added.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// It is not there.
    Write(io::Error),
    /// Nobody knows whether it is on the disk.
    Sync(io::Error),
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

/// Which records are valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    salt: u64,
    generation: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&self.salt.to_le_bytes());
        header[16..24].copy_from_slice(&self.generation.to_le_bytes());
        let sum = Checksum::of(&[&header[..24]]);
        header[24..].copy_from_slice(sum.as_bytes());
        header
    }
}

/// A header that is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreadable;

/// Reads one of the two headers; what was never written is no header of generation 0.
fn read_header(file: &File, at: u64, len: u64) -> io::Result<Result<Header, Unreadable>> {
    let mut bytes = [0; HEADER];
    let there = usize::try_from(len.saturating_sub(at)).unwrap_or(HEADER).min(HEADER);
    file.read_exact_at(&mut bytes[..there], at)?;
    if bytes == [0; HEADER] {
        return Ok(Ok(Header::default()));
    }
    let header = Header {
        salt: u64::from_le_bytes(array(&bytes[8..16])),
        generation: u64::from_le_bytes(array(&bytes[16..24])),
    };
    Ok(if header.encode() == bytes { Ok(header) } else { Err(Unreadable) })
}

fn encode(salt: u64, number: u64, end: u64, frames: &[Frame<'_>]) -> Vec<u8> {
    let size = 8 + frames.iter().map(|frame| FRAME_HEADER + frame.bytes.len()).sum::<usize>();
    let mut record = Vec::with_capacity(RECORD_HEADER + size);
    record.extend((size as u64).to_le_bytes());
    record.extend(number.to_le_bytes());
    record.extend([0; 32]);
    record.extend(end.to_le_bytes());
    for frame in frames {
        record.extend(frame.offset.to_le_bytes());
        record.extend(u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend(frame.bytes);
    }
    let sum = Checksum::of(&[&salt.to_le_bytes(), &record[..16], &record[RECORD_HEADER..]]);
    record[16..RECORD_HEADER].copy_from_slice(sum.as_bytes());
    record
}

fn decode(content: &[u8]) -> Option<Record> {
    let (end, mut rest) = content.split_first_chunk::<8>()?;
    let mut record = Record { end: u64::from_le_bytes(*end), frames: Vec::new() };
    while !rest.is_empty() {
        let (offset, after) = rest.split_first_chunk::<8>()?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        record.frames.push((u64::from_le_bytes(*offset), bytes.to_vec()));
        rest = after;
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use super::*;

    fn begun() -> Log {
        let mut log = Log::open(tempfile::tempfile().unwrap()).unwrap().0;
        log.reset(0).unwrap();
        log
    }

    fn add(log: &mut Log, byte: u8) {
        log.append(u64::from(byte), &[Frame { offset: 7, bytes: &[byte; 100] }], true).unwrap();
    }

    fn ends(log: &Log) -> Result<Vec<u64>, LogError> {
        let (_, records) = Log::open(log.file().try_clone().unwrap())?;
        assert!(records.iter().all(|record| record.frames[0].0 == 7 && record.frames[0].1.len() == 100));
        Ok(records.iter().map(|record| record.end).collect())
    }

    #[test]
    fn records_come_back_in_order_until_the_log_is_emptied() {
        let mut log = begun();
        for byte in 1..=3 {
            add(&mut log, byte);
        }
        assert_eq!(ends(&log).unwrap(), [1, 2, 3]);
        log.reset(u64::MAX).unwrap();
        assert_eq!(ends(&log).unwrap(), [0_u64; 0], "what is left of old records does not count");
        add(&mut log, 9);
        assert_eq!(ends(&log).unwrap(), [9]);
    }

    #[test]
    fn the_file_grows_ahead_of_small_records_and_the_zeros_are_none() {
        let mut log = begun();
        let len = |log: &Log| log.file().metadata().unwrap().len();
        add(&mut log, 1);
        let room = len(&log);
        assert_eq!(room, log.len() + AHEAD.start, "as much as there may be at first");
        while log.len() + 200 < room {
            add(&mut log, 2);
        }
        assert_eq!(len(&log), room, "it stays as long until it is full");
        add(&mut log, 3);
        add(&mut log, 3);
        assert!(len(&log) > room);
        let count = ends(&log).unwrap().len();
        let large = vec![9; 2 << 20];
        log.append(4, &[Frame { offset: 0, bytes: &large }], true).unwrap();
        assert_eq!(len(&log), log.len(), "nothing stands after a large record");
        assert_eq!(Log::open(log.file().try_clone().unwrap()).unwrap().1.len(), count + 1);
    }

    #[test]
    fn a_torn_record_at_the_end_does_not_count() {
        let mut log = begun();
        add(&mut log, 1);
        let whole = log.len();
        add(&mut log, 2);
        for cut in whole..log.len() {
            log.file().set_len(cut).unwrap();
            assert_eq!(ends(&log).unwrap(), [1], "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_end_is_told() {
        let mut log = begun();
        add(&mut log, 1);
        let second = log.len();
        add(&mut log, 2);
        add(&mut log, 3);
        for at in [second + 20, second + RECORD_HEADER as u64 + 3, log.len() - 200] {
            let mut byte = [0];
            log.file().read_exact_at(&mut byte, at).unwrap();
            log.file().write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert!(matches!(ends(&log), Err(LogError::Damaged(_))), "damage at {at}");
            log.file().write_all_at(&byte, at).unwrap();
        }
        log.file().write_all_at(&[0], SLOT + 3).unwrap();
        assert!(matches!(ends(&log), Err(LogError::Damaged(_))), "damage in the header");
    }

    #[test]
    fn a_header_that_is_torn_leaves_the_records_of_the_other() {
        let mut log = begun();
        add(&mut log, 1);
        add(&mut log, 2);
        let old = log.file().try_clone().unwrap();
        // What a power cut may leave of the header that empties the log, while no record was written after it.
        for len in 1..HEADER {
            old.write_all_at(&[7; HEADER][..len], 0).unwrap();
            assert_eq!(ends(&log).unwrap(), [1, 2], "torn after {len} bytes");
        }
    }
}
