//! A sealed pack: a file that is never changed again, mapped into memory.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use persist_core::{Checksum, Key};

use crate::codec::CHUNK;
use crate::directory::has_end;
use crate::fault::Fault;
use crate::guide::Guide;
use crate::head::PackHead;
use crate::index::{Entry, Index, Sheet};
use crate::log::Log;
use crate::map::map;
use crate::memory::{Memory, Slot};
use crate::note::Role;
use crate::record::{Head, MAX_HEAD, Place, TABLE_ENTRY, parse_head};
use crate::seal::Seal;
use crate::wire::{Reader, Wrong};

/// A sealed pack.
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Bytes,
    pub(crate) pack: PackHead,
    /// Where the second record begins.
    pub(crate) start: u64,
    pub(crate) seal: Seal,
    /// The index as it lies in the file, unless it is damaged.
    index: Option<(Index, Pages)>,
    /// The index made from the log, once it turned out that the one in the file is damaged.
    rebuilt: OnceLock<Result<Memory, Wrong>>,
    /// It is being compacted: its contents must not be referred to any more.
    retiring: AtomicBool,
}

/// The bytes of the index in the file. Each chunk of them is checked when it is looked at for the first time.
#[derive(Debug)]
struct Pages {
    data: Bytes,
    table: Bytes,
    checked: Vec<AtomicU64>,
}

impl Pages {
    /// Lays out the index record of a pack.
    fn open(bytes: &Bytes, at: u64, head: &Head) -> Result<Self, Wrong> {
        let cut = Wrong("its index is cut off");
        let start = usize::try_from(at + head.len).map_err(|_| cut)?;
        let end = usize::try_from(head.note.stored).ok().and_then(|len| start.checked_add(len)).ok_or(cut)?;
        let table_end =
            usize::try_from(head.table_len()).ok().and_then(|len| end.checked_add(len)).ok_or(cut)?;
        if table_end > bytes.len() || head.note.stored != head.note.plain {
            return Err(cut);
        }
        let (data, table) = (bytes.slice(start..end), bytes.slice(end..table_end));
        let covered = if table.is_empty() { &data } else { &table };
        if crc32fast::hash(covered) != head.note.data_crc {
            return Err(Wrong("its index does not match its CRC"));
        }
        let words = if table.is_empty() { 0 } else { table.len() / TABLE_ENTRY / 64 + 1 };
        let checked = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { data, table, checked })
    }

    fn check(&self, chunk: u64) -> Result<(), Wrong> {
        let number = usize::try_from(chunk).unwrap_or(usize::MAX);
        let Some(word) = self.checked.get(number / 64) else { return Ok(()) };
        let bit = 1 << (number % 64);
        // What another thread has checked needs no check; seeing that late costs one more.
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let bad = Wrong("its index does not match its CRC");
        let mut entry = Reader::new(self.table.get(number * TABLE_ENTRY + 8..).ok_or(bad)?);
        let start = usize::try_from(chunk * CHUNK).map_err(|_| bad)?;
        let end = usize::try_from((chunk + 1) * CHUNK).map_err(|_| bad)?.min(self.data.len());
        if crc32fast::hash(self.data.get(start..end).ok_or(bad)?) != entry.u32()? {
            return Err(bad);
        }
        word.fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }
}

impl Sheet for Pages {
    fn part(&self, start: u64, len: u64) -> Result<&[u8], Wrong> {
        let cut = Wrong("its index is wrong");
        let end = start.checked_add(len).ok_or(cut)?;
        let (from, to) = (usize::try_from(start).map_err(|_| cut)?, usize::try_from(end).map_err(|_| cut)?);
        let part = self.data.get(from..to).ok_or(cut)?;
        if !self.table.is_empty() {
            (start / CHUNK..=end.saturating_sub(1).max(start) / CHUNK)
                .try_for_each(|chunk| self.check(chunk))?;
        }
        Ok(part)
    }
}

/// What is known of a key in a pack without reading its record.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) key: Key,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) size: u64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) is_tombstone: bool,
    pub(crate) is_reference: bool,
}

impl Known {
    /// What a slot of a log in memory says.
    pub(crate) fn of(key: &Key, slot: &Slot) -> Self {
        let (note, metadata) = (&slot.head.note, slot.head.note.metadata());
        Self {
            key: key.clone(),
            at: slot.at,
            len: slot.head.record_len(),
            size: metadata.map_or(0, |metadata| metadata.size),
            expires_at: metadata.and_then(|metadata| metadata.expires_at).map(|end| end.as_millis()),
            is_tombstone: note.role == Role::Tombstone,
            is_reference: note.role == Role::Reference,
        }
    }

    fn read(entry: &Entry<'_>) -> Result<Self, Wrong> {
        let Entry { key, at, len, size, expires_at, is_tombstone, is_reference } = *entry;
        let key = Key::new(key).map_err(|_| Wrong("its index has a key that is none"))?;
        Ok(Self { key, at, len, size, expires_at, is_tombstone, is_reference })
    }
}

/// What a file is.
pub(crate) enum Opened {
    Sealed(Box<Sealed>),
    /// It has no seal: a log, or a pack whose end is damaged.
    Unsealed,
}

/// Without the bytes of the file.
impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("path", &self.path).field("seal", &self.seal).finish_non_exhaustive()
    }
}

impl Sealed {
    /// Opens a pack if it is sealed. Reads its first record, its seal and the head of its index.
    ///
    /// # Errors
    /// Why it cannot be read, or that its first record is damaged.
    pub(crate) fn open(path: &Path, file: &File) -> Result<Opened, Fault> {
        let bytes = map(file)?;
        let Some(seal) = Seal::read(&bytes).filter(|_| has_end(&bytes)) else { return Ok(Opened::Unsealed) };
        let mut track: &[u8] = &bytes;
        let (pack, start) = PackHead::read(&mut track)??;
        let place = Place { salt: pack.salt, at: seal.index_at };
        let index = Self::head_in(&bytes, place).and_then(|head| {
            let pages = Pages::open(&bytes, seal.index_at, &head)?;
            let index = Index::open(&pages, head.note.plain)?;
            if head.note.role == Role::Index {
                Ok((index, pages))
            } else {
                Err(Wrong("its index is elsewhere"))
            }
        });
        let (path, retiring) = (path.to_owned(), AtomicBool::new(false));
        let (index, rebuilt) = (index.ok(), OnceLock::new());
        Ok(Opened::Sealed(Box::new(Self { path, bytes, pack, start, seal, index, rebuilt, retiring })))
    }

    /// A pack whose log is whole and whose seal is damaged.
    pub(crate) fn without_seal(path: &Path, file: &File, log: Log) -> Result<Self, Fault> {
        let items = log.memory.len() as u64;
        let (index_at, floor) = (log.end, log.memory.floor);
        let seal =
            Seal { index_at, manifest_at: index_at, directory_at: index_at, items, floor, root: [0; 32] };
        let (path, bytes, rebuilt) = (path.to_owned(), map(file)?, OnceLock::from(Ok(log.memory)));
        Ok(Self {
            path,
            bytes,
            pack: log.pack,
            start: log.start,
            seal,
            index: None,
            rebuilt,
            retiring: AtomicBool::new(false),
        })
    }

    fn head_in(bytes: &[u8], place: Place) -> Result<Head, Wrong> {
        let start = usize::try_from(place.at).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).unwrap_or_default();
        let head = parse_head(&rest[..rest.len().min(MAX_HEAD)], place)?;
        if head.record_len() <= rest.len() as u64 { Ok(head) } else { Err(Wrong("it is cut off")) }
    }

    /// The log without what follows it.
    pub(crate) fn log(&self) -> &[u8] {
        &self.bytes[..usize::try_from(self.seal.index_at).unwrap_or(0).min(self.bytes.len())]
    }

    /// The head of the record at an offset.
    pub(crate) fn head(&self, at: u64) -> Result<Head, Wrong> {
        Self::head_in(&self.bytes, Place { salt: self.pack.salt, at })
    }

    fn range(&self, at: u64, len: u64) -> Result<Range<usize>, Wrong> {
        let cut = Wrong("the file is shorter than it should be");
        let start = usize::try_from(at).map_err(|_| cut)?;
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len)).ok_or(cut)?;
        if end > self.bytes.len() { Err(cut) } else { Ok(start..end) }
    }

    /// Bytes of the file, which stays mapped while they are used.
    pub(crate) fn slice(&self, at: u64, len: u64) -> Result<Bytes, Wrong> {
        Ok(self.bytes.slice(self.range(at, len)?))
    }

    /// Bytes of the file, for a moment.
    pub(crate) fn view(&self, at: u64, len: u64) -> Result<&[u8], Wrong> {
        Ok(&self.bytes[self.range(at, len)?])
    }

    /// Says whether its contents may go, because it is being compacted.
    pub(crate) fn retire(&self, on: bool) {
        self.retiring.store(on, Ordering::Release);
    }

    pub(crate) fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Acquire)
    }

    /// True if the index in the file is used.
    pub(crate) fn has_index(&self) -> bool {
        self.index.is_some() && self.rebuilt.get().is_none()
    }

    /// Asks the index in the file; if it is damaged, one made from the log.
    fn ask<T>(
        &self,
        mapped: impl Fn(&Index, &Pages) -> Result<T, Wrong>,
        memory: impl Fn(&Memory) -> Result<T, Wrong>,
    ) -> Result<T, Wrong> {
        let mut first = None;
        if let Some((index, pages)) = &self.index {
            match mapped(index, pages) {
                Ok(answer) => return Ok(answer),
                Err(wrong) => first = Some(wrong),
            }
        }
        let rebuilt = self.rebuilt.get_or_init(|| {
            let path = self.path.display();
            tracing::warn!(pack = %path, "the index is damaged and made anew from the pack");
            self.rebuild()
        });
        // A record that is damaged keeps the index from being made anew; then each answer of the one in the file counts.
        rebuilt.as_ref().map_err(|wrong| first.unwrap_or(*wrong)).and_then(memory)
    }

    /// Reads the whole log.
    fn rebuild(&self) -> Result<Memory, Wrong> {
        let mut memory = Memory::default();
        let mut at = self.start;
        while at < self.seal.index_at {
            let head = self.head(at)?;
            let next = at + head.record_len();
            memory.add(Slot { at, head: head.into() });
            at = next;
        }
        Ok(memory)
    }

    /// What the pack knows of a key with this [hash](crate::index::hash_of).
    pub(crate) fn find(&self, key: &Key, hash: u64) -> Result<Option<Known>, Wrong> {
        let read = |entry: Option<Entry<'_>>| {
            entry.map(|entry| {
                let Entry { at, len, size, expires_at, is_tombstone, is_reference, .. } = entry;
                Known { key: key.clone(), at, len, size, expires_at, is_tombstone, is_reference }
            })
        };
        self.ask(
            |index, pages| index.find(pages, key, hash).map(read),
            |memory| Ok(memory.get(key).map(|slot| Known::of(key, slot))),
        )
    }

    /// Where a content lies.
    pub(crate) fn content(&self, checksum: &Checksum) -> Result<Option<Slot>, Wrong> {
        self.ask(
            |index, pages| {
                let heads = index.contents(pages, checksum)?.into_iter().map(|at| (at, self.head(at)));
                // One that is damaged is passed over here, and found where it is read.
                let mut whole = heads.filter_map(|(at, head)| Some((at, head.ok()?)));
                let found = whole.find(|(_, head)| {
                    head.note.checksum() == Some(*checksum) && head.note.role != Role::Reference
                });
                Ok(found.map(|(at, head)| Slot { at, head: head.into() }))
            },
            |memory| Ok(memory.contents.get(checksum).cloned()),
        )
    }

    /// The first key from `key` on (`after`: behind it), and where a walk from there goes on.
    pub(crate) fn seek(&self, key: &str, after: bool) -> Result<Option<(u64, Known)>, Wrong> {
        self.ask(
            |index, pages| {
                let number = index.seek(pages, key, after)?;
                if number >= index.count() {
                    return Ok(None);
                }
                Ok(Some((number, Known::read(&index.entry(pages, number)?)?)))
            },
            |memory| Ok(Self::next_in(memory, key, after).map(|known| (0, known))),
        )
    }

    /// The key behind one that `seek` or `next` gave.
    pub(crate) fn next(&self, (number, known): &(u64, Known)) -> Result<Option<(u64, Known)>, Wrong> {
        self.ask(
            |index, pages| {
                if number + 1 >= index.count() {
                    return Ok(None);
                }
                let next = Known::read(&index.entry(pages, number + 1)?)?;
                if next.key > known.key {
                    Ok(Some((number + 1, next)))
                } else {
                    Err(Wrong("its index is in disorder"))
                }
            },
            |memory| Ok(Self::next_in(memory, &known.key, true).map(|known| (0, known))),
        )
    }

    /// What the index in the file says of the order of the records.
    pub(crate) fn guide(&self) -> Guide {
        let Some((index, pages)) = &self.index else { return Guide::default() };
        Guide::new((0..index.count()).filter_map(|number| index.at(pages, number).ok()))
    }

    fn next_in(memory: &Memory, key: &str, after: bool) -> Option<Known> {
        memory.from(key, after).next().map(|(key, slot)| Known::of(key, slot))
    }

    /// Length of the file.
    pub(crate) fn file_len(&self) -> u64 {
        self.bytes.len() as u64
    }
}
