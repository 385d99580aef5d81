use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use persist_core::Checksum;

use crate::exit::{Failure, Result};

/// What an `.npy` header may add to the elements of an array.
const HEADER_ROOM: u64 = 8192;

/// A local file, given by its path or found below a folder.
#[derive(Clone, Debug)]
pub(crate) struct LocalFile {
    path: PathBuf,
    /// The folder that it must not leave, and its path below it.
    below: Option<(PathBuf, PathBuf)>,
}

/// How a file looked when it was read, to see later whether somebody changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Look {
    /// Its length.
    pub(crate) fn bytes(self) -> u64 {
        self.bytes
    }
}

impl LocalFile {
    /// The file that a user named.
    pub(crate) fn named(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), below: None }
    }

    /// A file below a folder: its folders are made as needed, and no link on the way is followed.
    pub(crate) fn below(root: &Path, relative: PathBuf) -> Self {
        Self { path: root.join(&relative), below: Some((root.to_owned(), relative)) }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length and time; `None` if it is no regular file that may be reached.
    pub(crate) fn look(&self) -> Result<Option<Look>> {
        if self.check_folders(false).is_err() {
            return Ok(None);
        }
        let metadata =
            if self.below.is_some() { fs::symlink_metadata(&self.path) } else { fs::metadata(&self.path) };
        match metadata {
            Ok(metadata) if metadata.is_file() => {
                Ok(Some(Look { bytes: metadata.len(), modified: metadata.modified().ok() }))
            }
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Failure::io("look at", &self.path, &error)),
        }
    }

    /// Its whole content.
    ///
    /// # Errors
    /// If it cannot be read, or holds more than `limit` bytes (and the header of an array), which is seen before it
    /// is in memory.
    pub(crate) fn read(&self, limit: u64) -> Result<Bytes> {
        let fail = |error: io::Error| Failure::io("read", &self.path, &error);
        let file = File::open(&self.path).map_err(fail)?;
        if file.metadata().map_err(fail)?.is_dir() {
            return Err(Failure::usage(format!("{} is a folder; copy it with cp -r", self.path.display())));
        }
        read_all(file, limit, &self.path)
    }

    /// Replaces its content whole: readers see the old file or the new one. Devices and pipes are written to as they
    /// are. With `durable` the new content survives a power cut from here on.
    ///
    /// # Errors
    /// If it cannot be written, or a link or a folder stands where it should be.
    pub(crate) fn write(&self, parts: &[&[u8]], durable: bool) -> Result<()> {
        self.check_folders(true)?;
        let path = self.target()?;
        let fail = |error: io::Error| Failure::io("write", &path, &error);
        if self.below.is_none() && fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir())
        {
            let mut device = File::options().write(true).open(&path).map_err(fail)?;
            return parts.iter().try_for_each(|part| device.write_all(part)).map_err(fail);
        }
        replace(&path, parts, durable).map_err(fail)
    }

    /// Deletes it, if it still looks as it did.
    ///
    /// # Errors
    /// If it was changed meanwhile, or cannot be deleted.
    pub(crate) fn remove(&self, expected: Option<Look>) -> Result<()> {
        if expected.is_some() && self.look()? != expected {
            return Err(Failure::refused(format!(
                "{} was changed meanwhile; it is kept",
                self.path.display()
            )));
        }
        fs::remove_file(&self.path).map_err(|error| Failure::io("delete", &self.path, &error))
    }

    /// The checksum of its content, which is the checksum of the value that [`write`](Self::write) was given.
    pub(crate) fn checksum(&self) -> Result<Checksum> {
        Ok(Checksum::of(&[&self.read(u64::MAX)?]))
    }

    /// The path to write to: links that the user named are followed, others are refused.
    fn target(&self) -> Result<PathBuf> {
        let Ok(found) = fs::symlink_metadata(&self.path) else { return Ok(self.path.clone()) };
        match (&self.below, found.is_symlink(), found.is_dir()) {
            (_, _, true) => {
                Err(Failure::refused(format!("{} is a folder; name a file", self.path.display())))
            }
            (Some(_), true, _) => Err(self.link(&self.path)),
            (None, true, _) => Ok(fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())),
            _ => Ok(self.path.clone()),
        }
    }

    /// Checks that every folder between the root and the file is a folder and no link; makes what is missing.
    fn check_folders(&self, make: bool) -> Result<()> {
        let Some((root, relative)) = &self.below else { return Ok(()) };
        let mut folder = root.clone();
        for level in relative.parent().unwrap_or(Path::new("")).components() {
            folder.push(level);
            match fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                Ok(found) if found.is_symlink() => return Err(self.link(&folder)),
                Ok(_) => return Err(self.in_the_way(&folder)),
                Err(error) if is_absent(&error) && make => make_folder(&folder)?,
                Err(error) => return Err(Failure::io("look at", &folder, &error)),
            }
        }
        Ok(())
    }

    fn link(&self, link: &Path) -> Failure {
        Failure::refused(format!(
            "{} is a symbolic link, and {} might lie outside the target folder; remove the link",
            link.display(),
            self.path.display()
        ))
    }

    fn in_the_way(&self, file: &Path) -> Failure {
        Failure::refused(format!(
            "{} is a file, and {} needs a folder there; move the file or copy into another folder",
            file.display(),
            self.path.display()
        ))
    }
}

/// Reads to the end, unless there is more than `limit` bytes and the header of an array.
pub(crate) fn read_all(source: impl Read, limit: u64, path: &Path) -> Result<Bytes> {
    let limit = limit.saturating_add(HEADER_ROOM);
    let mut content = Vec::new();
    let mut source = source.take(limit.saturating_add(1));
    source.read_to_end(&mut content).map_err(|error| Failure::io("read", path, &error))?;
    if content.len() as u64 > limit {
        return Err(persist_core::StorageError::new(
            persist_core::ErrorKind::TooLarge,
            format!(
                "{} is larger than the storage accepts; raise its limit or split the value",
                path.display()
            ),
        )
        .into());
    }
    Ok(content.into())
}

fn make_folder(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        // Another value of the same run was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|error| Failure::io("make the folder", folder, &error)),
    }
}

fn replace(path: &Path, parts: &[&[u8]], durable: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".persist-").suffix(".tmp");
    #[cfg(unix)]
    {
        // What a program that creates a file asks for; the umask takes away from it.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    if durable {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable && cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_whole_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = LocalFile::below(folder.path(), "a/b".into());
        assert_eq!(file.look().unwrap(), None);
        file.write(&[b"old"], false).unwrap();
        file.write(&[b"n", b"ew"], true).unwrap();
        assert_eq!(&file.read(3).unwrap()[..], b"new");
        let names: Vec<_> =
            fs::read_dir(folder.path().join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["b"]);
    }

    #[test]
    fn a_file_that_changed_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = LocalFile::named(folder.path().join("f"));
        file.write(&[b"one"], false).unwrap();
        let seen = file.look().unwrap();
        file.write(&[b"other"], false).unwrap();
        assert!(file.remove(seen).unwrap_err().to_string().contains("changed meanwhile"));
        file.remove(file.look().unwrap()).unwrap();
        assert_eq!(file.look().unwrap(), None);
    }

    #[test]
    fn limits_are_seen_before_memory_is_full() {
        let endless = io::repeat(7);
        let failure = read_all(endless, 100, Path::new("endless")).unwrap_err();
        assert!(failure.to_string().contains("larger than the storage accepts"), "{failure}");
    }

    #[cfg(unix)]
    #[test]
    fn links_never_lead_out_of_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("f"), folder.path().join("link")).unwrap();
        fs::write(outside.path().join("f"), "kept").unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for (relative, what) in
            [("out/x", "symbolic link"), ("link", "symbolic link"), ("file/x", "is a file")]
        {
            let failure =
                LocalFile::below(folder.path(), relative.into()).write(&[b"bad"], false).unwrap_err();
            assert!(failure.to_string().contains(what), "{failure}");
            assert_eq!(LocalFile::below(folder.path(), relative.into()).look().unwrap(), None);
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"kept");
        // A link that the user named is followed, as cp does.
        LocalFile::named(folder.path().join("link")).write(&[b"new"], false).unwrap();
        assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"new");
        LocalFile::named("/dev/null").write(&[b"gone"], false).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
