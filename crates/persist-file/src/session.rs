//! Temp files: each open storage has folders of its own for them below `.persist/tmp`, locked while it lives, so that
//! what a dead process left is told apart from what a living one needs.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{
    AtFlags, Dir, FlockOperation, IFlags, OFlags, flock, fstat, fsync, ioctl_getflags, ioctl_setflags,
    unlinkat,
};
use rustix::io::Errno;

use crate::root::{Root, unlink};

/// The folder of persist's own files.
pub(crate) const CONTROL: &str = ".persist";

const TEMPS: &str = ".persist/tmp";

/// How many temp folders an open storage has at most: one for each thread that writes.
///
/// Making, renaming and removing a file locks its folder in the kernel, so with one folder concurrent stores wait for
/// each other. And ext4 without a journal, which does not use an inode again for a minute after it was freed, looks
/// through all those of the folder's group for each new file (`docs/decisions/0001-file-writes.md`).
const FOLDERS: usize = 64;

/// The temp folders of one open storage.
#[derive(Debug)]
pub(crate) struct Session {
    temps: OwnedFd,
    name: String,
    /// Each is made when a thread needs it. `None`: it could not be made, and the first is used instead.
    folders: [OnceLock<Option<OwnedFd>>; FOLDERS],
    first: usize,
    /// A folder was made whose name is not on the disk yet.
    unsynced: AtomicBool,
    next: AtomicU64,
}

/// The slot of this thread; threads beyond [`FOLDERS`] share.
fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SLOT: usize = NEXT.fetch_add(1, Ordering::Relaxed) % FOLDERS);
    SLOT.with(|slot| *slot)
}

impl Session {
    /// Makes and locks a new folder. The commit lock must be held, so that nobody sweeps it before it is locked. With
    /// `strict` the folder is on the disk when this returns, because a journal may tell of files in it.
    pub(crate) fn open(root: &Root, strict: bool) -> Result<Self, Errno> {
        let (temps, made) = root.make_folder(TEMPS)?;
        spread(&temps);
        let random = RandomState::new().hash_one((std::process::id(), std::time::Instant::now()));
        let session = Self {
            temps,
            name: format!("{}-{random:016x}", std::process::id()),
            folders: [const { OnceLock::new() }; FOLDERS],
            unsynced: AtomicBool::new(false),
            first: slot(),
            next: AtomicU64::new(0),
        };
        let _ = session.folders[session.first].set(Some(session.make_folder(root, session.first)?));
        if strict {
            session.sync_names()?;
        }
        if strict && !made.is_empty() {
            fsync(root.open_folder(CONTROL)?)?;
        }
        Ok(session)
    }

    /// A new empty file.
    pub(crate) fn temp(self: &Arc<Self>, root: &Root) -> Result<Temp, Errno> {
        let made = self.folders[slot()].get_or_init(|| self.make_folder(root, slot()).ok());
        let slot = if made.is_some() { slot() } else { self.first };
        let name = format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = root.open_at(&format!("{}/{name}", self.path(slot)), flags)?;
        Ok(Temp { session: Arc::clone(self), slot, name, file, kept: false })
    }

    /// Forces the names of the folders to the disk. The commit lock must be held, so that one call does not return
    /// while another one is still at it.
    pub(crate) fn sync_names(&self) -> Result<(), Errno> {
        if self.unsynced.swap(false, Ordering::AcqRel) { fsync(&self.temps) } else { Ok(()) }
    }

    fn make_folder(&self, root: &Root, slot: usize) -> Result<OwnedFd, Errno> {
        let (folder, _) = root.make_folder(&self.path(slot))?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        // Another process may have swept it before it was locked.
        if fstat(&folder)?.st_nlink == 0 {
            return Err(Errno::NOENT);
        }
        self.unsynced.store(true, Ordering::Release);
        Ok(folder)
    }

    /// Where a folder lies.
    fn path(&self, slot: usize) -> String {
        format!("{TEMPS}/{}", self.folder_name(slot))
    }

    fn folder_name(&self, slot: usize) -> String {
        format!("{}-{slot}", self.name)
    }

    /// An open folder, as the source of renames.
    fn folder(&self, slot: usize) -> &OwnedFd {
        // Temp files are only made in folders that are there.
        self.folders[slot].get().and_then(Option::as_ref).unwrap_or(&self.temps)
    }
}

/// Asks ext4 to put each folder below into a group of its own, as it does with those of users (`chattr +T`). Other file
/// systems refuse, and nothing is lost.
fn spread(temps: &OwnedFd) {
    if let Ok(flags) = ioctl_getflags(temps)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(temps, flags | IFlags::TOPDIR);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Every temp file is gone by now, but for those that a pending journal tells of: they must stay until it is
        // finished. What cannot be removed now is swept when the storage is next opened.
        for (slot, folder) in self.folders.iter().enumerate() {
            if let Some(Some(_)) = folder.get() {
                let _ = unlinkat(&self.temps, self.folder_name(slot), AtFlags::REMOVEDIR);
            }
        }
    }
}

/// Removes the temp files of dead processes; gives how many. The commit lock must be held.
pub(crate) fn sweep(root: &Root) -> Result<u64, Errno> {
    let temps = match root.open_folder(TEMPS) {
        Err(Errno::NOENT) => return Ok(0),
        found => found?,
    };
    let mut removed = 0;
    for name in names(&temps)? {
        let Ok(folder) = root.open_folder(&format!("{TEMPS}/{name}")) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            removed += empty(&folder)?;
            unlinkat(&temps, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(removed)
}

/// The process that has the storage open for writing, if there is one. The commit lock must be held.
pub(crate) fn in_use(root: &Root) -> Result<Option<String>, Errno> {
    let temps = match root.open_folder(TEMPS) {
        Err(Errno::NOENT) => return Ok(None),
        found => found?,
    };
    for name in names(&temps)? {
        let Ok(folder) = root.open_folder(&format!("{TEMPS}/{name}")) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Ok(Some(name.split('-').next().unwrap_or_default().to_owned()));
        }
    }
    Ok(None)
}

fn empty(folder: &OwnedFd) -> Result<u64, Errno> {
    let mut removed = 0;
    for name in names(folder)? {
        removed += u64::from(unlink(folder, &name)?);
    }
    Ok(removed)
}

/// The names in a folder that are text, without `.` and `..`.
pub(crate) fn names(folder: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A temp file; removed when dropped, unless it was renamed.
#[derive(Debug)]
pub(crate) struct Temp {
    session: Arc<Session>,
    slot: usize,
    name: String,
    file: OwnedFd,
    kept: bool,
}

impl Temp {
    /// The open file.
    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Its name in the folder it is in.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its path below the root.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.session.path(self.slot), self.name)
    }

    /// The folder it is in.
    pub(crate) fn folder(&self) -> &OwnedFd {
        self.session.folder(self.slot)
    }

    /// It has another name now: nothing is to be removed.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is swept when the storage is next opened.
            let _ = unlink(self.folder(), &self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_swept() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(place.path(), true, false).unwrap();
        let alive = Arc::new(Session::open(&root, true).unwrap());
        let temp = alive.temp(&root).unwrap();
        let dead = place.path().join(".persist/tmp/1-dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("0"), "x").unwrap();
        assert_eq!(sweep(&root), Ok(1));
        assert!(!dead.exists());
        assert!(place.path().join(temp.path()).exists());
        drop(temp);
        assert_eq!(sweep(&root), Ok(0));
        drop(alive);
        assert_eq!(folders(&place), 0);
    }

    fn folders(place: &tempfile::TempDir) -> usize {
        std::fs::read_dir(place.path().join(".persist/tmp")).unwrap().count()
    }

    #[test]
    fn each_thread_has_a_folder_and_none_is_left() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(place.path(), true, false).unwrap();
        let session = Arc::new(Session::open(&root, true).unwrap());
        let temps: Vec<Temp> = (0..10).map(|_| session.temp(&root).unwrap()).collect();
        assert_eq!(folders(&place), 1);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| drop(session.temp(&root).unwrap()));
            }
        });
        assert_eq!(folders(&place), 4);
        assert!(temps.iter().all(|temp| place.path().join(temp.path()).exists()));
        assert_eq!(sweep(&root), Ok(0));
        assert_eq!(folders(&place), 4);
        drop((session, temps));
        assert_eq!(folders(&place), 0);
    }
}
