//! The folder of a storage, and the only way to paths below it: no link is followed and nothing outside is reached.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::name::split;

/// The folder of a storage.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    /// False where the kernel has no `openat2`: then paths are walked folder by folder.
    openat2: bool,
    group_readable: bool,
}

const SAFE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    /// Opens the folder, and makes it (and those above it) if `create`. Links on the way to it are the operator's.
    pub(crate) fn open(path: &Path, create: bool, group_readable: bool) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        if create {
            create_above(path, folder_mode(group_readable))?;
        }
        let folder = openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let probe = openat2(&folder, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), SAFE);
        // Old kernels say ENOSYS, strict sandboxes EPERM.
        let openat2 = !matches!(probe, Err(Errno::NOSYS | Errno::PERM));
        Ok(Self { folder, openat2, group_readable })
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// True if the path still leads to this folder.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match (rustix::fs::stat(path), rustix::fs::fstat(&self.folder)) {
            (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino),
            _ => false,
        }
    }

    /// Opens what lies at a path below; the empty path is the root.
    pub(crate) fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if self.openat2 {
            return openat2(&self.folder, path, flags, self.file_mode(flags), SAFE);
        }
        self.walk(path, flags)
    }

    /// Opens a file for reading if the kernel has all it needs in memory; `AGAIN` if it would have to ask the disk.
    pub(crate) fn open_cached(&self, path: &str) -> Result<OwnedFd, Errno> {
        if !self.openat2 {
            return Err(Errno::AGAIN);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat2(&self.folder, path, flags, Mode::empty(), SAFE | ResolveFlags::CACHED)
    }

    /// Opens a file for reading. A FIFO does not hold it up.
    pub(crate) fn open_file(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// Opens a folder.
    pub(crate) fn open_folder(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens a folder, and makes it and those above it where they are missing. Gives those it made.
    pub(crate) fn make_folder(&self, path: &str) -> Result<(OwnedFd, Vec<String>), Errno> {
        match self.open_folder(path) {
            Err(Errno::NOENT) => {}
            found => return found.map(|folder| (folder, Vec::new())),
        }
        let (above, name) = split(path);
        let (parent, mut made) = self.make_folder(above)?;
        match mkdirat(&parent, name, folder_mode(self.group_readable)) {
            Ok(()) => made.push(path.to_owned()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        Ok((self.open_folder(path)?, made))
    }

    fn walk(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (above, name) = split(path);
        let mut folder = self.folder.try_clone().map_err(|_| Errno::MFILE)?;
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            folder = openat(&folder, part, step, Mode::empty())?;
        }
        openat(&folder, name, flags, self.file_mode(flags))
    }

    fn file_mode(&self, flags: OFlags) -> Mode {
        match (flags.contains(OFlags::CREATE), self.group_readable) {
            (false, _) => Mode::empty(),
            (true, false) => Mode::RUSR | Mode::WUSR,
            (true, true) => Mode::RUSR | Mode::WUSR | Mode::RGRP,
        }
    }
}

fn folder_mode(group_readable: bool) -> Mode {
    if group_readable { Mode::RWXU | Mode::RGRP | Mode::XGRP } else { Mode::RWXU }
}

/// Makes the folder and those above it; a new folder counts only once the folder above it is on the disk.
fn create_above(path: &Path, mode: Mode) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_above(above, mode)?;
    match mkdirat(CWD, path, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    std::fs::File::open(above)?.sync_all()
}

/// Removes a name in a folder; true if it was there.
pub(crate) fn unlink(folder: impl AsFd, name: &str) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_is_reached_either_way() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("secret"), "x").unwrap();
        let inside = place.path().join("root");
        let mut root = Root::open(&inside, true, false).unwrap();
        std::fs::create_dir(inside.join("real")).unwrap();
        std::fs::write(inside.join("real/file"), "y").unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        symlink("real", inside.join("dirlink")).unwrap();
        for openat2 in [true, false] {
            root.openat2 = openat2;
            assert!(root.open_file("real/file").is_ok());
            assert_eq!(root.open_file("link").unwrap_err(), Errno::LOOP);
            assert!(matches!(root.open_file("dirlink/file").unwrap_err(), Errno::LOOP | Errno::NOTDIR));
            assert_eq!(root.open_file("real/none").unwrap_err(), Errno::NOENT);
        }
        root.openat2 = true;
        assert_eq!(root.open_file("../secret").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn folders_are_made_private_and_reported() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(&place.path().join("a/b"), true, false).unwrap();
        let (_, made) = root.make_folder("x/y").unwrap();
        assert_eq!(made, ["x", "x/y"]);
        assert_eq!(root.make_folder("x/y").unwrap().1, Vec::<String>::new());
        let mode =
            |path: &str| std::fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/x/y")), (0o700, 0o700, 0o700));
    }
}
