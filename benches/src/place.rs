//! Where the files are kept while it runs.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{fstatfs, syncfs};

use persist_bench_work::Outcome;

/// A folder that is removed in the end.
#[derive(Debug)]
pub(crate) struct Place {
    folder: tempfile::TempDir,
    open: File,
}

impl Place {
    /// A new folder in the one given, or in the one for temporary files.
    pub(crate) fn new(parent: Option<&Path>) -> Outcome<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("persist-benches-");
        let folder = match parent {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let open = File::open(folder.path())?;
        Ok(Self { folder, open })
    }

    /// A folder in it.
    pub(crate) fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Removes a folder in it.
    pub(crate) fn remove(&self, name: &str) -> Outcome<()> {
        Ok(std::fs::remove_dir_all(self.folder.path().join(name))?)
    }

    /// Writes everything out, so that what one contender left unwritten does not cost the next one.
    pub(crate) fn settle(&self) -> Outcome<()> {
        Ok(syncfs(&self.open)?)
    }

    /// The file system it is on.
    pub(crate) fn file_system(&self) -> Outcome<String> {
        // The numbers are those of statfs(2).
        let kind = match fstatfs(&self.open)?.f_type {
            0xef53 => "ext4",
            0x0102_1994 => "tmpfs",
            0x5846_5342 => "xfs",
            0x9123_683e => "btrfs",
            0x794c_7630 => "overlayfs",
            other => return Ok(format!("a file system of type {other:#x}")),
        };
        Ok(kind.to_owned())
    }
}
