//! Folders for crashing in, removed when dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

/// The environment variable that names where scratch folders are made.
pub const SCRATCH_VARIABLE: &str = "PERSIST_CRASH_DIR";

/// A place for many fresh folders.
///
/// It lies in memory (`/dev/shm`) where that takes extended attributes, else in the folder for temporary files:
/// a killed process leaves the same behind on every file system, and lost power is replayed, not played.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    count: AtomicU64,
}

impl Scratch {
    /// A new place.
    ///
    /// # Errors
    /// No folder can be made, in words.
    pub fn new() -> Result<Self, String> {
        let fail = |error| format!("cannot make a scratch folder: {error}");
        let folder = make().map_err(fail)?;
        Ok(Self { folder, count: AtomicU64::new(0) })
    }

    /// A new, empty folder.
    ///
    /// # Errors
    /// It cannot be made, in words.
    pub fn fresh(&self) -> Result<PathBuf, String> {
        let path = self.folder.path().join(self.count.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Where all of them lie; the path has no symbolic links.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn make() -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("persist-crash-");
    if let Some(place) = std::env::var_os(SCRATCH_VARIABLE) {
        return builder.tempdir_in(Path::new(&place).canonicalize()?);
    }
    if let Ok(memory) = builder.tempdir_in("/dev/shm")
        && setxattr(memory.path(), "user.persist.probe", b"1", XattrFlags::empty()).is_ok()
    {
        return Ok(memory);
    }
    builder.tempdir_in(std::env::temp_dir().canonicalize()?)
}

/// Copies a folder with everything below it, extended attributes included; links are copied as links.
///
/// # Errors
/// As of the file system.
pub fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    copy_attributes(from, to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let target = to.join(entry.file_name().unwrap_or_default());
        if kind.is_dir() {
            copy_tree(&entry, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&entry)?, &target)?;
        } else {
            std::fs::copy(&entry, &target)?;
            copy_attributes(&entry, &target)?;
        }
    }
    Ok(())
}

fn copy_attributes(from: &Path, to: &Path) -> std::io::Result<()> {
    for (name, value) in attributes(from)? {
        setxattr(to, std::ffi::OsStr::new(&name), &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// The `user.` attributes of a file or folder; none where the file system has none.
pub(super) fn attributes(path: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0_u8; 65_536];
    let length = match rustix::fs::listxattr(path, &mut names) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        length => length?,
    };
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    let mut found = Vec::new();
    for name in names.split_terminator('\0').filter(|name| name.starts_with("user.")) {
        let mut value = vec![0_u8; 65_536];
        let length = rustix::fs::getxattr(path, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    Ok(found)
}
