//! What a folder of packs holds: sealed packs, oldest first, and the log after them. The newest record of a key counts.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use persist_core::{Array, Checksum, Json, Key, Kind, Metadata, Value};

use crate::codec::{Payload, Source, unpack, unpack_range};
use crate::fault::Fault;
use crate::folder::{Folder, Look, Mark, Span};
use crate::index::hash_of;
use crate::log::{Log, check_span};
use crate::memory::Slot;
use crate::note::Role;
use crate::record::Head;
use crate::sealed::{Known, Opened, Sealed};
use crate::wire::Wrong;

/// How often the folder is looked at anew because it changed while it was opened.
const ATTEMPTS: usize = 20;

/// The packs of a folder.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Oldest first.
    pub(crate) packs: Vec<Arc<Sealed>>,
    pub(crate) log: Option<Log>,
    /// The number that the next pack gets.
    pub(crate) next: u64,
    /// What was seen of the folder.
    pub(crate) look: Look,
}

/// Where the bytes of a record are.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    Log(Arc<File>),
    Pack(Arc<Sealed>),
}

/// A record and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) home: Home,
    pub(crate) slot: Slot,
}

impl Found {
    pub(crate) fn head(&self) -> &Head {
        &self.slot.head
    }

    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        self.head().note.metadata()
    }

    fn bytes(&self, at: u64, len: u64) -> Result<Bytes, Fault> {
        match &self.home {
            Home::Pack(pack) => Ok(pack.slice(at, len)?),
            Home::Log(file) => {
                let len = usize::try_from(len).map_err(|_| Wrong("it is too long for this machine"))?;
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, at)?;
                Ok(bytes.into())
            }
        }
    }

    /// The data as it lies in the file.
    fn packed(&self) -> Result<Bytes, Fault> {
        self.stored(0, self.head().note.stored)
    }

    /// The table of chunks as it lies in the file.
    fn chunk_table(&self) -> Result<Bytes, Fault> {
        self.table(self.head().table_len())
    }

    /// All of that with its CRCs, to be copied: damage is copied as damage, and stays visible.
    pub(crate) fn payload(&self) -> Result<Payload, Fault> {
        let head = self.head();
        let (packed, table) = (self.packed()?, self.chunk_table()?);
        Ok(Payload {
            method: head.method,
            plain: head.note.plain,
            pieces: [packed, Bytes::new()],
            crc32: head.crc32,
            table: table.to_vec(),
            data_crc: head.note.data_crc,
        })
    }

    /// The unpacked data, if it is no longer than `limit`.
    pub(crate) fn data(&self, limit: u64) -> Result<Bytes, Fault> {
        let head = self.head();
        if head.note.plain > limit {
            return Err(Wrong("it is longer than the largest value accepted (max_value)").into());
        }
        unpack(self, head.method, head.note.layout())
    }

    /// A part of the buffer of a value that is in this record.
    pub(crate) fn range(&self, metadata: &Metadata, range: Range<u64>) -> Result<Bytes, Fault> {
        let head = self.head();
        let before = head.note.plain.checked_sub(metadata.size).ok_or(Wrong("its size is wrong"))?;
        let (start, end) = (range.start.min(metadata.size), range.end.min(metadata.size));
        if start >= end {
            return Ok(Bytes::new());
        }
        unpack_range(self, head.method, head.note.layout(), before + start, before + end)
    }
}

impl Source for Found {
    type Error = Fault;

    fn stored(&self, start: u64, len: u64) -> Result<Bytes, Fault> {
        self.bytes(self.slot.at + self.head().len + start, len)
    }

    fn table(&self, len: u64) -> Result<Bytes, Fault> {
        self.bytes(self.slot.at + self.head().len + self.head().note.stored, len)
    }
}

/// The value that data of a kind is.
pub(crate) fn value_of(kind: Kind, data: Bytes) -> Result<Value, Wrong> {
    Ok(match kind {
        Kind::Json => Value::Json(Json::from_stored(data)),
        Kind::Bytes => Value::Bytes(data),
        Kind::Array => Value::Array(
            Array::from_npy(&data).map_err(|_| Wrong("its array has no header that can be read"))?,
        ),
    })
}

/// A key, what is known of it, and in which layer: the number of a pack, or the number of packs for the log.
pub(crate) type Seen = (usize, Known);

impl State {
    /// Opens the packs of a folder. `write`: nobody else writes.
    ///
    /// # Errors
    /// Why they cannot be read; what is missing or damaged.
    pub(crate) fn open(folder: &Folder, write: bool) -> Result<Self, Fault> {
        let mut attempts = 0;
        loop {
            match Self::try_open(folder, write) {
                // A pack was replaced between looking at the folder and opening it.
                Err(Fault::System(error))
                    if error.kind() == io::ErrorKind::NotFound && !write && attempts < ATTEMPTS =>
                {
                    attempts += 1;
                }
                result => return result,
            }
        }
    }

    fn try_open(folder: &Folder, write: bool) -> Result<Self, Fault> {
        // The mark first: what it says was there when the folder is looked at.
        let mark = folder.mark()?;
        let look = Look::take(folder)?;
        let listing = folder.list()?;
        if let Some(missing) = listing.missing {
            let path = folder.path().display();
            return Err(Fault::Pack(format!("the pack {} is missing in {path}", missing.name())));
        }
        let next = listing.packs.last().map_or(1, |span| span.last + 1);
        let mut state = Self { packs: Vec::new(), log: None, next, look };
        for (number, span) in listing.packs.iter().enumerate() {
            let is_last = number + 1 == listing.packs.len();
            state.open_pack(folder, *span, write, is_last)?;
        }
        state.check_mark(folder, mark)?;
        Ok(state)
    }

    fn open_pack(&mut self, folder: &Folder, span: Span, write: bool, is_last: bool) -> Result<(), Fault> {
        let path = folder.pack(span);
        let file = File::open(&path)?;
        match Sealed::open(&path, &file).map_err(|fault| named(fault, &path))? {
            Opened::Sealed(sealed) => {
                check_span(&path, span, &sealed.pack)?;
                self.packs.push(sealed.into());
            }
            Opened::Unsealed => {
                let log = Log::open(&path, span, write && is_last)?;
                if is_last {
                    self.log = Some(log);
                } else if log.has_tail {
                    self.packs.push(Arc::new(Sealed::without_seal(&path, &file, log)?));
                } else {
                    let path = path.display();
                    return Err(Fault::Pack(format!("the pack {path} is cut off, or its seal is damaged")));
                }
            }
        }
        Ok(())
    }

    fn check_mark(&self, folder: &Folder, mark: Option<Result<Mark, ()>>) -> Result<(), Fault> {
        let path = folder.path().display();
        let mark = match mark {
            None => return Ok(()),
            Some(Err(())) => {
                tracing::warn!(folder = %path, "the file `mark` is damaged; it is written anew at the next close");
                return Ok(());
            }
            Some(Ok(mark)) => mark,
        };
        if mark.pack >= self.next {
            let name = Span::one(mark.pack).name();
            return Err(Fault::Pack(format!("the pack {name} is missing in {path}")));
        }
        let last = self.log.as_ref().filter(|log| log.span.last == mark.pack).map(|log| log.end);
        match last {
            Some(end) if end < mark.log_len => Err(Fault::Pack(format!(
                "the pack {} in {path} is cut off or damaged: {end} bytes of it are whole, and {} were written",
                Span::one(mark.pack).name(),
                mark.log_len
            ))),
            _ => Ok(()),
        }
    }

    /// The greatest version known.
    pub(crate) fn floor(&self) -> u64 {
        let packs = self.packs.iter().map(|pack| pack.seal.floor).max().unwrap_or(0);
        self.log.as_ref().map_or(packs, |log| packs.max(log.memory.floor))
    }

    /// What the newest record of a key says, without reading it; tombstones are told too.
    pub(crate) fn known(&self, key: &Key) -> Result<Option<Seen>, Wrong> {
        if let Some(log) = &self.log
            && let Some(slot) = log.memory.get(key)
        {
            return Ok(Some((self.packs.len(), Known::of(key, slot))));
        }
        let hash = hash_of(key);
        for (number, pack) in self.packs.iter().enumerate().rev() {
            if let Some(known) = pack.find(key, hash)? {
                return Ok(Some((number, known)));
            }
        }
        Ok(None)
    }

    /// The newest record of a key, expired or not; `None`: there is none, or it is a tombstone.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<Found>, Wrong> {
        match self.known(key)? {
            Some((layer, known)) if !known.is_tombstone => self.record(layer, &known).map(Some),
            _ => Ok(None),
        }
    }

    /// The record of something that is known.
    pub(crate) fn record(&self, layer: usize, known: &Known) -> Result<Found, Wrong> {
        let Some(pack) = self.packs.get(layer) else {
            let log = self.log.as_ref();
            let slot = log.and_then(|log| Some((log, log.memory.get(&known.key)?)));
            let (log, slot) = slot.ok_or(Wrong("it is not where it was"))?;
            return Ok(Found { home: Home::Log(Arc::clone(&log.file)), slot: slot.clone() });
        };
        let head = pack.head(known.at)?;
        if head.note.key() != Some(&known.key) || head.note.metadata().is_none() {
            return Err(Wrong("the index leads to the record of another key"));
        }
        Ok(Found { home: Home::Pack(Arc::clone(pack)), slot: Slot { at: known.at, head: head.into() } })
    }

    /// Where a content is, in the newest pack that has it and that `may` accepts.
    pub(crate) fn content(
        &self,
        checksum: &Checksum,
        may: impl Fn(&Sealed) -> bool,
    ) -> Result<Option<Found>, Wrong> {
        if let Some(log) = &self.log
            && let Some(slot) = log.memory.contents.get(checksum)
        {
            return Ok(Some(Found { home: Home::Log(Arc::clone(&log.file)), slot: slot.clone() }));
        }
        for pack in self.packs.iter().rev().filter(|pack| may(pack)) {
            if let Some(slot) = pack.content(checksum)? {
                return Ok(Some(Found { home: Home::Pack(Arc::clone(pack)), slot }));
            }
        }
        Ok(None)
    }

    /// The record that holds the value of a record: itself, or the one that it refers to.
    pub(crate) fn holder(&self, found: &Found) -> Result<Found, Wrong> {
        let note = &found.head().note;
        match (note.role, note.checksum()) {
            (Role::Reference, Some(checksum)) => {
                self.content(&checksum, |_| true)?.ok_or(Wrong("the value that it refers to is missing"))
            }
            _ => Ok(found.clone()),
        }
    }

    /// Goes along all keys from `start` on (`after`: behind it) in byte order, each with its newest record, until `visit`
    /// says false.
    pub(crate) fn walk(
        &self,
        start: &str,
        after: bool,
        mut visit: impl FnMut(usize, Known) -> Result<bool, Wrong>,
    ) -> Result<(), Wrong> {
        let mut log = self.log.as_ref().map(|log| log.memory.from(start, after).peekable());
        let seek = |pack: &Arc<Sealed>| pack.seek(start, after);
        let mut packs = self.packs.iter().map(seek).collect::<Result<Vec<_>, _>>()?;
        loop {
            let in_packs = packs.iter().flatten().map(|(_, known)| &known.key).min().cloned();
            let in_log = log.as_mut().and_then(|keys| keys.peek()).map(|(key, _)| (*key).clone());
            let Some(key) = in_packs.into_iter().chain(in_log).min() else { return Ok(()) };
            let mut newest = None;
            for (number, place) in packs.iter_mut().enumerate() {
                if let Some(current) = place.as_ref().filter(|(_, known)| known.key == key) {
                    let next = self.packs[number].next(current)?;
                    newest = std::mem::replace(place, next).map(|(_, known)| (number, known));
                }
            }
            if let Some((key, slot)) = log.as_mut().and_then(|keys| keys.next_if(|(found, _)| **found == key))
            {
                newest = Some((self.packs.len(), Known::of(key, slot)));
            }
            let Some((layer, known)) = newest else { return Ok(()) };
            if !visit(layer, known)? {
                return Ok(());
            }
        }
    }
}

fn named(fault: Fault, path: &std::path::Path) -> Fault {
    match fault {
        Fault::Damage(wrong) => {
            Fault::Pack(format!("the pack {} is damaged at its beginning ({})", path.display(), wrong.0))
        }
        other => other,
    }
}
