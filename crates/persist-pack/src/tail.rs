//! What makes a log a sealed pack: index, manifest and the central directory of ZIP. All of it follows from the log, so
//! that it can be made anew and compared.
//!
//! Source: APPNOTE.TXT 6.3.10, sections 4.3.12 (central directory header), 4.3.14 to 4.3.16 (end records) and 4.5.3.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use persist_core::{Checksum, Key};

use crate::codec::Payload;
use crate::config::Compression;
use crate::head::PackHead;
use crate::index::{self, Entry};
use crate::manifest::{self, Item, Manifest, hex, unhex};
use crate::merkle::Hash;
use crate::note::{About, Role};
use crate::record::{
    Head, MAX_HEAD, NO_TIME, Place, SEE_ZIP64, UTF8_NAME, encode_head, parse_head, version_needed,
};
use crate::wire::{Reader, Wrong};

/// The name of the index in the pack.
pub(crate) const INDEX_NAME: &str = ".persist/index";

/// The name of the signature in the pack.
pub(crate) const SIGNATURE_NAME: &str = ".persist/signature.json";

const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

/// The end record of ZIP without its comment.
const END_BYTES: usize = 22;

/// Made by Unix, by version 6.3 of the specification.
const MADE_BY: u16 = (3 << 8) | 63;

/// A regular file that everybody may read, as Unix writes it.
const MODE: u32 = 0o100_644 << 16;

/// So many entries that ZIP64 is needed to say how many.
const MANY: u64 = 0xFFFF;

/// Where things lie in a sealed pack: the comment at its very end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Where the log ends and the index begins.
    pub(crate) index_at: u64,
    pub(crate) manifest_at: u64,
    pub(crate) directory_at: u64,
    /// How many items the manifest has.
    pub(crate) items: u64,
    /// The greatest version in the pack and before it.
    pub(crate) floor: u64,
    pub(crate) root: Hash,
}

/// Length of the comment.
pub(crate) const COMMENT: usize = 14 + 5 * 17 + 65 + 8;

impl Seal {
    fn text(&self) -> String {
        let front = format!(
            "persist-pack1 {:016x} {:016x} {:016x} {:016x} {:016x} {} ",
            self.index_at,
            self.manifest_at,
            self.directory_at,
            self.items,
            self.floor,
            hex(&self.root)
        );
        let crc = crc32fast::hash(front.as_bytes());
        format!("{front}{crc:08x}")
    }

    /// Reads the seal from the end of a pack; `None`: it has none that is whole.
    pub(crate) fn read(pack: &[u8]) -> Option<Self> {
        let comment = pack.get(pack.len().checked_sub(COMMENT)?..)?;
        let text = std::str::from_utf8(comment).ok()?;
        let mut words = text.split(' ');
        let magic = words.next()?;
        let mut number = || words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        let (index_at, manifest_at, directory_at) = (number()?, number()?, number()?);
        let (items, floor) = (number()?, number()?);
        let root = unhex(words.next()?)?;
        let seal = Self { index_at, manifest_at, directory_at, items, floor, root };
        let in_order =
            index_at < manifest_at && manifest_at < directory_at && directory_at < pack.len() as u64;
        (magic == "persist-pack1" && in_order && seal.text() == text).then_some(seal)
    }
}

/// What a walk along the log remembers of a record.
#[derive(Debug)]
struct Row {
    at: u64,
    len: u64,
    role: Role,
    checksum: Option<Checksum>,
}

/// A log, row by row.
struct Log<'b> {
    bytes: &'b [u8],
    salt: u64,
    /// The rows of each key, in the order of the log.
    keys: BTreeMap<Key, Vec<Row>>,
    contents: Vec<(Checksum, u64)>,
    /// Rows of the directory that belong to no key.
    others: Vec<u64>,
    floor: u64,
}

impl<'b> Log<'b> {
    fn read(bytes: &'b [u8], pack: &PackHead, start: u64) -> Result<Self, (u64, Wrong)> {
        let mut log = Self {
            bytes,
            salt: pack.salt,
            keys: BTreeMap::new(),
            contents: Vec::new(),
            others: vec![0],
            floor: pack.floor,
        };
        let mut at = start;
        let mut seen = HashSet::new();
        while at < bytes.len() as u64 {
            let head = log.head(at).map_err(|wrong| (at, wrong))?;
            if !head.note.role.in_log() || head.note.role == Role::Head {
                return Err((at, Wrong("it is in the wrong place")));
            }
            log.add(at, &head, &mut seen);
            at += head.record_len();
        }
        Ok(log)
    }

    fn head(&self, at: u64) -> Result<Head, Wrong> {
        let start = usize::try_from(at).map_err(|_| Wrong("it is cut off"))?;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let head = parse_head(&rest[..rest.len().min(MAX_HEAD)], Place { salt: self.salt, at })?;
        let fits = head.record_len() <= rest.len() as u64;
        if fits { Ok(head) } else { Err(Wrong("it is cut off")) }
    }

    fn add(&mut self, at: u64, head: &Head, seen: &mut HashSet<Checksum>) {
        let note = &head.note;
        if let Some(version) = note.version() {
            self.floor = self.floor.max(version.as_u64());
        }
        let checksum = note.checksum();
        if let Some(checksum) = checksum
            && note.role != Role::Reference
            && seen.insert(checksum)
        {
            self.contents.push((checksum, at));
        }
        match note.key() {
            Some(key) => {
                let row = Row { at, len: head.record_len(), role: note.role, checksum };
                self.keys.entry(key.clone()).or_default().push(row);
            }
            None => self.others.push(at),
        }
    }

    /// The record that other tools see as the entry of a key: the last one that holds the value which the key has now.
    fn shown(rows: &[Row]) -> Option<&Row> {
        let last = rows.last()?;
        rows.iter().rev().find(|row| row.role == Role::Value && row.checksum == last.checksum)
    }
}

/// What a tail has beside what follows from the log.
#[derive(Debug, Default)]
pub(crate) struct Extras<'b> {
    /// The text of the signature.
    pub(crate) signature: Option<&'b [u8]>,
    /// How the manifest is packed.
    pub(crate) compression: Compression,
    /// The manifest as it was packed before, with its text: taken over if the text is the same, so that a tail can be
    /// compared with one that another version of the codec packed.
    pub(crate) manifest: Option<(Bytes, Payload)>,
}

impl Extras<'_> {
    fn packed(&self, text: Vec<u8>) -> Payload {
        match &self.manifest {
            Some((before, payload)) if *before == text => payload.clone(),
            _ => Payload::of_bytes(text.into(), self.compression),
        }
    }
}

/// The part of a sealed pack after its log.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) bytes: Vec<u8>,
    pub(crate) seal: Seal,
}

impl Tail {
    /// Makes the tail of a whole log that begins with `pack`, whose second record is at `start`.
    ///
    /// # Errors
    /// The offset of a record that is damaged, and how.
    pub(crate) fn of(
        log_bytes: &[u8],
        pack: &PackHead,
        start: u64,
        extras: &Extras<'_>,
    ) -> Result<Self, (u64, Wrong)> {
        let mut log = Log::read(log_bytes, pack, start)?;
        let end = log_bytes.len() as u64;
        let failed = |wrong| (end, wrong);
        let mut shown: Vec<u64> = std::mem::take(&mut log.others);
        let mut manifest = Manifest::default();
        let mut entries = Vec::with_capacity(log.keys.len());
        for (key, rows) in &log.keys {
            let Some(last) = rows.last() else { continue };
            let head = log.head(last.at).map_err(|wrong| (last.at, wrong))?;
            entries.push(entry(key, last, &head));
            let About::Entry(_, metadata) = &head.note.about else { continue };
            let row = Log::shown(rows);
            let name = match row {
                Some(row) if row.at == last.at => Some(head.name.clone()),
                Some(row) => Some(log.head(row.at).map_err(|wrong| (row.at, wrong))?.name),
                None => None,
            };
            manifest.add(&Item::of(key, metadata), name.as_deref()).map_err(failed)?;
            shown.extend(row.map(|row| row.at));
        }
        shown.sort_unstable();
        let index = index::build(&entries, &log.contents);
        let mut tail = Self::begin(log.salt, end);
        let index = Payload::of_bytes(index.into(), Compression::None);
        tail.record(INDEX_NAME, Role::Index, &index).map_err(failed)?;
        let manifest_at = tail.at();
        let items = manifest.count();
        let (text, root) = manifest.finish();
        tail.record(manifest::NAME, Role::Manifest, &extras.packed(text)).map_err(failed)?;
        if let Some(signature) = extras.signature {
            let signature = Payload::of_bytes(Bytes::copy_from_slice(signature), Compression::None);
            tail.record(SIGNATURE_NAME, Role::Signature, &signature).map_err(failed)?;
        }
        let directory_at = tail.at();
        let mut directory = Directory::default();
        for at in shown {
            // The first record is outside of the log's salt.
            let head = if at == 0 { first_head(log_bytes) } else { log.head(at) };
            directory.add(&head.map_err(|wrong| (at, wrong))?, at);
        }
        tail.own.iter().for_each(|(head, at)| directory.add(head, *at));
        let seal = Seal { index_at: end, manifest_at, directory_at, items, floor: log.floor, root };
        tail.bytes.extend(directory.finish(directory_at, &seal.text()));
        Ok(Self { bytes: tail.bytes, seal })
    }

    fn begin(salt: u64, end: u64) -> Writing {
        Writing { salt, start: end, bytes: Vec::new(), own: Vec::new() }
    }
}

fn first_head(log: &[u8]) -> Result<Head, Wrong> {
    parse_head(&log[..log.len().min(MAX_HEAD)], Place { salt: 0, at: 0 })
}

fn entry<'k>(key: &'k Key, row: &Row, head: &Head) -> Entry<'k> {
    let metadata = head.note.metadata();
    Entry {
        key,
        at: row.at,
        len: row.len,
        size: metadata.map_or(0, |metadata| metadata.size),
        expires_at: metadata.and_then(|metadata| metadata.expires_at).map(|end| end.as_millis()),
        is_tombstone: row.role == Role::Tombstone,
        is_reference: row.role == Role::Reference,
    }
}

/// A tail in the making.
struct Writing {
    salt: u64,
    start: u64,
    bytes: Vec<u8>,
    /// The records of the tail.
    own: Vec<(Head, u64)>,
}

impl Writing {
    fn at(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn record(&mut self, name: &str, role: Role, payload: &Payload) -> Result<(), Wrong> {
        let place = Place { salt: self.salt, at: self.at() };
        let mut note = payload.note(role, About::Pack);
        note.synced = place.at.min(self.start);
        let from = self.bytes.len();
        encode_head(&mut self.bytes, place, name, &note, payload)?;
        self.own.push((parse_head(&self.bytes[from..], place)?, place.at));
        payload.pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        self.bytes.extend(&payload.table);
        Ok(())
    }
}

/// The central directory in the making.
#[derive(Default)]
struct Directory {
    bytes: Vec<u8>,
    count: u64,
}

impl Directory {
    fn add(&mut self, head: &Head, at: u64) {
        let (note, far) = (&head.note, at >= u64::from(SEE_ZIP64));
        let zip64 = head.is_zip64();
        let mut extra = Vec::new();
        if zip64 || far {
            let len = if zip64 { 16 } else { 0 } + if far { 8 } else { 0 };
            extra.extend(1_u16.to_le_bytes());
            extra.extend(u16::to_le_bytes(len));
            if zip64 {
                extra.extend(note.plain.to_le_bytes());
                extra.extend(note.stored.to_le_bytes());
            }
            if far {
                extra.extend(at.to_le_bytes());
            }
        }
        let short = |length: u64| if zip64 { SEE_ZIP64 } else { u32::try_from(length).unwrap_or(SEE_ZIP64) };
        let to = &mut self.bytes;
        to.extend(CENTRAL.to_le_bytes());
        to.extend(MADE_BY.to_le_bytes());
        to.extend(version_needed(head.method, zip64 || far).to_le_bytes());
        to.extend(UTF8_NAME.to_le_bytes());
        to.extend((head.method as u16).to_le_bytes());
        to.extend(NO_TIME);
        to.extend(head.crc32.to_le_bytes());
        to.extend(short(note.stored).to_le_bytes());
        to.extend(short(note.plain).to_le_bytes());
        to.extend(u16::try_from(head.name.len()).unwrap_or(u16::MAX).to_le_bytes());
        to.extend(u16::try_from(extra.len()).unwrap_or(u16::MAX).to_le_bytes());
        // No comment, the first disk, no internal attributes.
        to.extend([0; 6]);
        to.extend(MODE.to_le_bytes());
        to.extend(u32::try_from(at).unwrap_or(SEE_ZIP64).to_le_bytes());
        to.extend(head.name.as_bytes());
        to.extend(extra);
        self.count += 1;
    }

    fn finish(mut self, at: u64, comment: &str) -> Vec<u8> {
        let len = self.bytes.len() as u64;
        let many = self.count >= MANY;
        let far = at.max(len) >= u64::from(SEE_ZIP64);
        let to = &mut self.bytes;
        if many || far {
            to.extend(END64.to_le_bytes());
            to.extend(44_u64.to_le_bytes());
            to.extend(MADE_BY.to_le_bytes());
            to.extend(45_u16.to_le_bytes());
            to.extend([0; 8]);
            for number in [self.count, self.count, len, at] {
                to.extend(number.to_le_bytes());
            }
            to.extend(LOCATOR64.to_le_bytes());
            to.extend([0; 4]);
            to.extend((at + len).to_le_bytes());
            to.extend(1_u32.to_le_bytes());
        }
        let count = u16::try_from(self.count.min(MANY)).unwrap_or(u16::MAX);
        let short = |number: u64| u32::try_from(number).unwrap_or(SEE_ZIP64);
        to.extend(END.to_le_bytes());
        to.extend([0; 4]);
        to.extend(count.to_le_bytes());
        to.extend(count.to_le_bytes());
        to.extend(short(len).to_le_bytes());
        to.extend(short(at).to_le_bytes());
        to.extend(u16::try_from(comment.len()).unwrap_or(0).to_le_bytes());
        to.extend(comment.as_bytes());
        self.bytes
    }
}

/// True if a seal stands where ZIP tools look for the end of the directory.
pub(crate) fn has_end(pack: &[u8]) -> bool {
    let at = pack.len().checked_sub(COMMENT + END_BYTES);
    let end = at.and_then(|at| pack.get(at..)).unwrap_or_default();
    Reader::new(end).u32() == Ok(END)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;

    #[test]
    fn the_seal_reads_back_and_no_damaged_one_does() {
        let seal = Seal {
            index_at: 100,
            manifest_at: 200,
            directory_at: 300,
            items: 7,
            floor: u64::MAX,
            root: [9; 32],
        };
        let pack = [vec![0; 400], seal.text().into_bytes()].concat();
        assert_eq!(pack.len() - 400, COMMENT);
        assert_eq!(Seal::read(&pack), Some(seal));
        for at in 400..pack.len() {
            let mut bad = pack.clone();
            bad[at] ^= 4;
            assert_eq!(Seal::read(&bad), None, "byte {at}");
            assert_eq!(Seal::read(&pack[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn offsets_and_counts_beyond_the_old_limits_use_zip64() {
        let payload = Payload::empty();
        let note = payload.note(Role::Manifest, About::Pack);
        let mut bytes = Vec::new();
        let place = Place { salt: 0, at: 1 << 33 };
        encode_head(&mut bytes, place, "n", &note, &payload).unwrap();
        let head = parse_head(&bytes, place).unwrap();
        let mut directory = Directory::default();
        directory.add(&head, 1 << 33);
        assert_eq!(directory.bytes[42..46], [0xFF; 4], "the offset is in the extra field");
        assert_eq!(directory.bytes[47..51], [1, 0, 8, 0]);
        assert_eq!(directory.bytes[51..59], (1_u64 << 33).to_le_bytes());
        let end = directory.finish(1 << 33, "c");
        assert_eq!(end[59..63], END64.to_le_bytes());
        for (count, zip64) in [(0xFFFE, false), (0xFFFF, true), (70_000, true)] {
            let directory = Directory { count, bytes: Vec::new() };
            let end = directory.finish(10, "");
            let wanted = if zip64 { END64 } else { END };
            assert_eq!(end[..4], wanted.to_le_bytes(), "{count} entries");
        }
    }
}
