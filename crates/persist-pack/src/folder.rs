//! The folder of the packs: which files are in it, who may write, and what must be there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The ending of a pack.
const ENDING: &str = ".pack";

/// The ending of a file that is not complete yet.
const UNFINISHED: &str = ".tmp";

/// The file that the writer locks.
const LOCK: &str = "lock";

/// The file that says what must be there.
const MARK: &str = "mark";

/// What a pack is called while others are compacted into it.
const COMPACTION: &str = "compaction";

/// Which packs of the folder a file holds: a pack that was compacted with its neighbours holds all of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    pub(crate) fn one(number: u64) -> Self {
        Self { first: number, last: number }
    }

    /// The name of the file: `00000007.pack`, or `00000003-00000007.pack`.
    pub(crate) fn name(self) -> String {
        if self.first == self.last {
            format!("{:08}{ENDING}", self.first)
        } else {
            format!("{:08}-{:08}{ENDING}", self.first, self.last)
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(ENDING)?;
        let (first, last) = stem.split_once('-').unwrap_or((stem, stem));
        let span = Self { first: first.parse().ok()?, last: last.parse().ok()? };
        (span.name() == name && 0 < span.first && span.first <= span.last).then_some(span)
    }

    fn holds(self, other: Self) -> bool {
        self != other && self.first <= other.first && other.last <= self.last
    }
}

/// The packs of a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In order, without gaps or overlaps.
    pub(crate) packs: Vec<Span>,
    /// Files whose numbers are in another one: a compaction did not come to remove them.
    pub(crate) replaced: Vec<Span>,
    /// Files that were not complete when a process died.
    pub(crate) unfinished: Vec<PathBuf>,
    /// Numbers that no file has.
    pub(crate) missing: Option<Span>,
    /// Names that persist never makes.
    pub(crate) strangers: Vec<String>,
}

/// When a change of a folder cannot have been missed any more by looking at its time: file systems keep times in steps.
const SETTLED: Duration = Duration::from_millis(100);

/// True for the names under which persist makes files.
fn is_unfinished(name: &str) -> bool {
    let stem = name.strip_suffix(UNFINISHED);
    stem.is_some_and(|stem| stem == MARK || stem == COMPACTION || Span::parse(stem).is_some())
}

/// What was seen of a folder, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) packs: Vec<Span>,
    /// The time of the folder's last change, unless it was so short ago that another one may have the same.
    changed: Option<SystemTime>,
}

impl Look {
    /// Looks at the folder.
    pub(crate) fn take(folder: &Folder) -> io::Result<Self> {
        let changed = fs::metadata(&folder.path)?.modified()?;
        let is_settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED);
        Ok(Self { packs: folder.list()?.packs, changed: is_settled.then_some(changed) })
    }

    /// True if the folder has not changed since.
    pub(crate) fn is_still_right(&self, folder: &Folder) -> io::Result<bool> {
        match self.changed {
            None => Ok(false),
            Some(changed) => Ok(fs::metadata(&folder.path)?.modified()? == changed),
        }
    }
}

/// What must be there: a pack, and how long its log is at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) pack: u64,
    pub(crate) log_len: u64,
}

impl Mark {
    fn text(self) -> String {
        let front = format!("persist-mark1 {:016x} {:016x} ", self.pack, self.log_len);
        let crc = crc32fast::hash(front.as_bytes());
        format!("{front}{crc:08x}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').skip(1);
        let mut number = || words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        let mark = Self { pack: number()?, log_len: number()? };
        (mark.text() == text).then_some(mark)
    }
}

/// Why a file was not made.
#[derive(Debug)]
pub(crate) struct Unmade {
    pub(crate) error: io::Error,
    /// It could not be synced: what is written from here on could not be trusted either.
    pub(crate) is_unsynced: bool,
}

impl Unmade {
    fn unsynced(error: io::Error) -> Self {
        Self { error, is_unsynced: true }
    }
}

impl From<io::Error> for Unmade {
    fn from(error: io::Error) -> Self {
        Self { error, is_unsynced: false }
    }
}

/// The right to write, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// A folder of packs.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A folder that is there.
    pub(crate) fn existing(path: PathBuf) -> io::Result<Self> {
        if fs::metadata(&path)?.is_dir() { Ok(Self { path }) } else { Err(Errno::NOTDIR.into()) }
    }

    /// A folder that is made, with those above it, if it is missing. New names are on the disk when this returns.
    pub(crate) fn make(path: PathBuf) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
        let mut missing = Vec::new();
        let mut above = path.as_path();
        while !above.as_os_str().is_empty()
            && fs::metadata(above).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            missing.push(above.to_owned());
            above = above.parent().unwrap_or(Path::new(""));
        }
        for folder in missing.iter().rev() {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Self::existing(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a pack.
    pub(crate) fn pack(&self, span: Span) -> PathBuf {
        self.path.join(span.name())
    }

    /// Takes the right to write; `None`: another process has had it for longer than `timeout`.
    pub(crate) fn lock(&self, timeout: Duration) -> io::Result<Option<Lock>> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(self.path.join(LOCK))?;
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(50);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(None),
                Err(Errno::WOULDBLOCK) => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(10));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Where packs are compacted into, before it is complete.
    pub(crate) fn compaction(&self) -> PathBuf {
        self.path.join(format!("{COMPACTION}{UNFINISHED}"))
    }

    /// What is in the folder.
    pub(crate) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut spans = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            match Span::parse(&name) {
                Some(span) => spans.push(span),
                None if name == LOCK || name == MARK => {}
                None if is_unfinished(&name) => listing.unfinished.push(self.path.join(&*name)),
                None => listing.strangers.push(name.into_owned()),
            }
        }
        spans.sort_unstable();
        for span in &spans {
            let replaced = spans.iter().any(|other| other.holds(*span));
            if replaced { &mut listing.replaced } else { &mut listing.packs }.push(*span);
        }
        let mut next = 1;
        for span in &listing.packs {
            if span.first != next && listing.missing.is_none() {
                listing.missing = Some(Span { first: next, last: span.first.saturating_sub(1) });
            }
            next = span.last + 1;
        }
        listing.strangers.sort_unstable();
        Ok(listing)
    }

    /// What must be there; `Ok(None)`: nobody said so yet. Within: the mark is damaged.
    pub(crate) fn mark(&self) -> io::Result<Option<Result<Mark, ()>>> {
        match fs::read_to_string(self.path.join(MARK)) {
            Ok(text) => Ok(Some(Mark::parse(&text).ok_or(()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Err(()))),
            Err(error) => Err(error),
        }
    }

    /// Says what must be there from now on.
    pub(crate) fn set_mark(&self, mark: Mark) -> Result<(), Unmade> {
        self.put(MARK, |file| file.write_all(mark.text().as_bytes())).map(drop)
    }

    /// Makes a file, whole or not at all, in the place of one of the same name; it is on the disk when this returns.
    pub(crate) fn put(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<File, Unmade> {
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let mut options = OpenOptions::new();
        let made = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let result = made.map_err(Unmade::from).and_then(|mut file| {
            write(&mut file)?;
            file.sync_all().map_err(Unmade::unsynced)?;
            fs::rename(&unfinished, self.path.join(name))?;
            self.sync().map_err(Unmade::unsynced)?;
            Ok(file)
        });
        if result.is_err() {
            // If it cannot be removed either, the next opening does so.
            let _ = fs::remove_file(&unfinished);
        }
        result
    }

    /// Forces the names in the folder to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Removes a pack that another one has replaced.
    pub(crate) fn remove(&self, span: Span) -> io::Result<()> {
        fs::remove_file(self.pack(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for span in [Span::one(1), Span { first: 3, last: 12 }, Span::one(123_456_789_012)] {
            assert_eq!(Span::parse(&span.name()), Some(span));
        }
        for name in
            ["1.pack", "00000000.pack", "00000002-00000001.pack", "00000001-00000001.pack", "x.pack", "lock"]
        {
            assert_eq!(Span::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_was_replaced_and_what_is_missing_is_told() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::make(place.path().join("a/b")).unwrap();
        for name in [
            "00000001.pack",
            "00000002.pack",
            "00000001-00000002.pack",
            "00000005.pack",
            "compaction.tmp",
            "notes.txt",
            "my.tmp",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let listing = folder.list().unwrap();
        assert_eq!(listing.packs, [Span { first: 1, last: 2 }, Span::one(5)]);
        assert_eq!(listing.replaced, [Span::one(1), Span::one(2)]);
        assert_eq!(listing.missing, Some(Span { first: 3, last: 4 }));
        assert_eq!(listing.unfinished, [folder.path().join("compaction.tmp")]);
        assert_eq!(listing.strangers, ["my.tmp", "notes.txt"]);
    }

    #[test]
    fn the_mark_reads_back_and_a_damaged_one_is_told() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::make(place.path().to_owned()).unwrap();
        assert_eq!(folder.mark().unwrap(), None);
        let mark = Mark { pack: 3, log_len: 12345 };
        folder.set_mark(mark).unwrap();
        assert_eq!(folder.mark().unwrap(), Some(Ok(mark)));
        let path = folder.path().join(MARK);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert_eq!(folder.mark().unwrap(), Some(Err(())), "byte {at}");
        }
    }

    #[test]
    fn one_writer_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::make(place.path().to_owned()).unwrap();
        let first = folder.lock(Duration::ZERO).unwrap().unwrap();
        assert!(folder.lock(Duration::from_millis(5)).unwrap().is_none());
        drop(first);
        assert!(folder.lock(Duration::ZERO).unwrap().is_some());
    }
}
