use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::{Failure, Result};

/// The regular files below a folder, folder by folder in the order of their names. Links are not followed.
///
/// Holds the names of the folders that are open at the moment, so it needs memory for the largest folder, not for the
/// tree.
#[derive(Debug)]
pub(crate) struct Walk {
    root: PathBuf,
    open: Vec<VecDeque<Found>>,
    avoid: Vec<PathBuf>,
}

/// What lies in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A regular file: its path below the root, and its length.
    File { relative: PathBuf, bytes: u64 },
    /// Something that is not copied, and why.
    Skipped { relative: PathBuf, why: &'static str },
    /// A folder that is walked next.
    Folder(PathBuf),
}

impl Walk {
    /// Walks `root`, which is followed if it is a link, but not into the folders and files of `avoid` (canonical paths),
    /// nor into what a database keeps beside its file.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub(crate) fn new(root: &Path, avoid: Vec<PathBuf>) -> Result<Self> {
        let mut walk = Self { root: root.to_owned(), open: Vec::new(), avoid };
        walk.enter(Path::new(""))?;
        Ok(walk)
    }

    fn enter(&mut self, folder: &Path) -> Result<()> {
        let path = self.root.join(folder);
        let fail = |error: io::Error| Failure::io("read the folder", &path, &error);
        let mut entries = fs::read_dir(&path).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        let mut found = VecDeque::with_capacity(entries.len());
        for entry in entries {
            found.push_back(look(folder.join(entry.file_name()), &entry)?);
        }
        self.open.push(found);
        Ok(())
    }

    fn is_avoided(&self, relative: &Path) -> bool {
        let canonical = || fs::canonicalize(self.root.join(relative)).ok();
        !self.avoid.is_empty() && canonical().is_some_and(|path| self.avoid.contains(&main_file(path)))
    }
}

/// The database that a log or index of SQLite belongs to; any other path as it is. Opening one of these files while the
/// storage is open would drop its locks.
fn main_file(path: PathBuf) -> PathBuf {
    let text = path.to_str();
    let stem = text.and_then(|text| text.strip_suffix("-wal").or_else(|| text.strip_suffix("-shm")));
    stem.map(PathBuf::from).unwrap_or(path)
}

fn look(relative: PathBuf, entry: &fs::DirEntry) -> Result<Found> {
    let fail = |error: io::Error| Failure::io("look at", &entry.path(), &error);
    let kind = entry.file_type().map_err(fail)?;
    Ok(if kind.is_dir() {
        Found::Folder(relative)
    } else if kind.is_symlink() {
        Found::Skipped { relative, why: "a symbolic link" }
    } else if kind.is_file() {
        match entry.metadata() {
            Ok(metadata) => Found::File { relative, bytes: metadata.len() },
            // Temporary files of other programs come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Found::Skipped { relative, why: "gone meanwhile" }
            }
            Err(error) => return Err(fail(error)),
        }
    } else {
        Found::Skipped { relative, why: "neither a file nor a folder" }
    })
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.open.last_mut()?.pop_front() {
                None => {
                    self.open.pop();
                }
                Some(Found::Folder(relative)) if self.is_avoided(&relative) => {
                    return Some(Ok(Found::Skipped { relative, why: "a storage's own folder" }));
                }
                Some(Found::File { relative, .. }) if self.is_avoided(&relative) => {
                    return Some(Ok(Found::Skipped { relative, why: "a storage's own file" }));
                }
                Some(Found::Folder(relative)) => {
                    if let Err(failure) = self.enter(&relative) {
                        return Some(Err(failure));
                    }
                }
                Some(found) => return Some(Ok(found)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn files_come_in_order_and_links_are_left_alone() {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join(name);
        fs::create_dir_all(at("b/deep")).unwrap();
        fs::create_dir_all(at("own")).unwrap();
        for name in ["c", "b/deep/x", "b/a", "a", "own/secret", "d.db", "d.db-wal"] {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/", at("root")).unwrap();
        let avoid = ["own", "d.db"].map(|name| fs::canonicalize(at(name)).unwrap()).to_vec();
        let found: Vec<Found> = Walk::new(tree.path(), avoid).unwrap().collect::<Result<_>>().unwrap();
        let file = |name: &str| Found::File { relative: name.into(), bytes: name.len() as u64 };
        let skipped = |name: &str, why| Found::Skipped { relative: name.into(), why };
        let expected = [
            file("a"),
            file("b/a"),
            file("b/deep/x"),
            file("c"),
            skipped("d.db", "a storage's own file"),
            skipped("d.db-wal", "a storage's own file"),
            skipped("own", "a storage's own folder"),
            skipped("root", "a symbolic link"),
        ];
        assert_eq!(found, expected);
        assert!(Walk::new(&at("none"), Vec::new()).is_err());
    }
}
