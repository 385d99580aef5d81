//! The pack that is being written: records one after the other, and what is known of them in memory.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use persist_core::Watchers;

use crate::fault::Fault;
use crate::folder::{Folder, Span, Unmade};
use crate::head::{NEWER, PackHead};
use crate::memory::{Memory, Slot};
use crate::note::About;
use crate::record::{LOCAL, MAX_HEAD, Place, parse_head};
use crate::walk::{Track, Window, data_is_whole, head_at};
use crate::wire::Wrong;

/// How much is searched at a time for a record behind a damaged one.
const SEARCH: u64 = 1 << 20;

/// A log.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) file: Arc<File>,
    pub(crate) span: Span,
    pub(crate) pack: PackHead,
    /// Where the second record begins.
    pub(crate) start: u64,
    /// Where the last whole batch ends.
    pub(crate) end: u64,
    /// How the file looked when it was last read.
    seen: Seen,
    /// An index follows: the pack was being sealed, or its seal is damaged.
    pub(crate) has_tail: bool,
    pub(crate) memory: Memory,
}

/// The length of a file and the time of its last change: what was cut and written again may have the same length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    len: u64,
    changed: Option<SystemTime>,
}

impl Seen {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { len: metadata.len(), changed: metadata.modified().ok() })
    }
}

/// What a scan found.
struct Scan {
    slots: Vec<Slot>,
    end: u64,
    has_tail: bool,
}

impl Log {
    /// Makes the file of a new pack; it is on the disk when this returns.
    pub(crate) fn create(folder: &Folder, span: Span, floor: u64) -> Result<Self, Unmade> {
        let pack = PackHead::new(salt(), span.first, span.last, floor);
        let bytes = pack.encode().map_err(|wrong| io::Error::other(wrong.0))?;
        let file = folder.put(&span.name(), |file| file.write_all(&bytes))?;
        let start = bytes.len() as u64;
        let memory = Memory::behind(floor);
        Ok(Self {
            file: Arc::new(file),
            span,
            pack,
            start,
            end: start,
            seen: Seen::default(),
            has_tail: false,
            memory,
        })
    }

    /// Opens a pack that has no seal, and finds where its last whole batch ends.
    ///
    /// # Errors
    /// Why it cannot be read; that it is damaged before its end.
    pub(crate) fn open(path: &Path, span: Span, write: bool) -> Result<Self, Fault> {
        let file = OpenOptions::new().read(true).write(write).open(path)?;
        let seen = Seen::of(&file)?;
        let len = seen.len;
        let mut window = Window::new(&file, len);
        let (pack, start) = PackHead::read(&mut window)?.map_err(|wrong| {
            let what = if wrong.0 == NEWER { "cannot be read" } else { "is damaged at its beginning" };
            Fault::Pack(format!("the pack {} {what} ({})", path.display(), wrong.0))
        })?;
        check_span(path, span, &pack)?;
        let Scan { slots, end, has_tail } = scan(&mut window, path, pack.salt, start)?;
        let mut memory = Memory::behind(pack.floor);
        slots.into_iter().for_each(|slot| memory.add(slot));
        Ok(Self { file: Arc::new(file), span, pack, start, end, seen, has_tail, memory })
    }

    /// True if another process has written since it was last read.
    pub(crate) fn has_changed(&self) -> io::Result<bool> {
        Ok(Seen::of(&self.file)? != self.seen)
    }

    /// Takes in what another process has written since, and tells those who watch. True if the pack has been sealed, or
    /// cut, and must be opened anew.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn follow(&mut self, watchers: &Watchers) -> Result<bool, Fault> {
        let seen = Seen::of(&self.file)?;
        let len = seen.len;
        if len < self.end {
            return Ok(true);
        }
        if seen == self.seen {
            return Ok(false);
        }
        self.seen = seen;
        let file = Arc::clone(&self.file);
        let mut window = Window::new(&file, len);
        let mut batch = Vec::new();
        let mut at = self.end;
        // A record that is not whole yet will be.
        while let Ok(head) = head_at(&mut window, Place { salt: self.pack.salt, at })? {
            if !head.note.role.in_log() {
                return Ok(true);
            }
            if !data_is_whole(&mut window, at, &head)? {
                break;
            }
            let (here, more) = (at, head.note.more);
            at += head.record_len();
            batch.push(Slot { at: here, head: head.into() });
            if !more {
                for slot in batch.drain(..) {
                    tell(watchers, &slot);
                    self.memory.add(slot);
                }
                self.end = at;
            }
        }
        Ok(false)
    }
}

/// Tells those who watch what a record says.
fn tell(watchers: &Watchers, slot: &Slot) {
    match &slot.head.note.about {
        About::Entry(key, metadata) => watchers.stored(key, metadata),
        About::Absence(key, _) => watchers.deleted(key),
        About::Pack | About::Content(_) => {}
    }
}

/// A number that no other pack has, as good as surely.
pub(crate) fn salt() -> u64 {
    // Each `RandomState` begins with keys from the system's generator.
    RandomState::new().hash_one(std::process::id())
}

/// A pack must hold what its name says.
pub(crate) fn check_span(path: &Path, span: Span, pack: &PackHead) -> Result<(), Fault> {
    if (pack.first, pack.last) == (span.first, span.last) {
        return Ok(());
    }
    let (path, inside) = (path.display(), Span { first: pack.first, last: pack.last });
    Err(Fault::Pack(format!("the pack {path} says that it is {}; give it its name back", inside.name())))
}

/// Goes along all records. What was written after the last sync may be there in part after a power cut, in any order:
/// the log ends before the first record that is not whole. But a record that a later one knows to have been on the disk
/// must be whole; if it is not, it is damaged.
fn scan(window: &mut Window<'_>, path: &Path, salt: u64, start: u64) -> Result<Scan, Fault> {
    let mut slots: Vec<Slot> = Vec::new();
    let mut suspect: Option<u64> = None;
    let mut at = start;
    let mut has_tail = false;
    while at < window.len() {
        let head = match head_at(window, Place { salt, at })? {
            Ok(head) => head,
            Err(wrong) => {
                if is_followed(window, salt, at)? {
                    let path = path.display();
                    return Err(Fault::Pack(format!(
                        "the pack {path} is damaged at byte {at} ({})",
                        wrong.0
                    )));
                }
                break;
            }
        };
        suspect = suspect.filter(|suspect| head.note.synced <= *suspect);
        if !head.note.role.in_log() {
            has_tail = true;
            break;
        }
        if !data_is_whole(window, at, &head)? {
            suspect.get_or_insert(at);
        }
        let here = at;
        at += head.record_len();
        slots.push(Slot { at: here, head: head.into() });
    }
    let torn = suspect.unwrap_or(u64::MAX);
    while slots.last().is_some_and(|slot| slot.at >= torn || slot.head.note.more) {
        slots.pop();
    }
    let end = slots.last().map_or(start, |slot| slot.at + slot.head.record_len());
    Ok(Scan { slots, end, has_tail: has_tail && suspect.is_none() })
}

/// True if somewhere behind `bad` a record stands that was written when the one at `bad` was on the disk.
fn is_followed(window: &mut Window<'_>, salt: u64, bad: u64) -> Result<bool, Fault> {
    let mut from = bad + 1;
    while from < window.len() {
        let len = (SEARCH + MAX_HEAD as u64).min(window.len() - from);
        let Some(bytes) = window.part(from, len)? else { return Ok(false) };
        for (offset, _) in bytes.iter().enumerate().take(usize::try_from(SEARCH).unwrap_or(usize::MAX)) {
            let rest = &bytes[offset..];
            if !rest.starts_with(&LOCAL.to_le_bytes()) {
                continue;
            }
            let place = Place { salt, at: from + offset as u64 };
            let head: Result<_, Wrong> = parse_head(&rest[..rest.len().min(MAX_HEAD)], place);
            if head.is_ok_and(|head| head.note.synced > bad) {
                return Ok(true);
            }
        }
        from += SEARCH;
    }
    Ok(false)
}
