//! Changes that take more than one step on disk (a transaction, a value that changes its kind) are written down
//! first, so that whoever finds them half done finishes them. Byte by byte in `docs/formats/file.md`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fstat, fsync, ftruncate, renameat};
use rustix::io::{Errno, retry_on_intr};

use crate::form::Form;
use crate::name::split;
use crate::probe::Stored;
use crate::root::{Root, unlink};
use crate::session::CONTROL;

const MAGIC: &[u8; 4] = b"pjl1";

/// One step, with paths below the root. Every step can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Give a temp file its name; done already if the temp file is gone.
    Rename { temp: String, target: String },
    /// Remove a file in this version (0: damaged); done already if the name is gone or holds another version by now.
    Unlink { target: String, version: u64 },
}

/// The journal of a storage: empty but while a change is under way. Used with the commit lock held.
#[derive(Debug)]
pub(crate) struct Journal {
    file: OwnedFd,
    strict: bool,
}

impl Journal {
    /// Opens it, and makes it if it is missing.
    pub(crate) fn open(root: &Root, strict: bool) -> Result<Self, Errno> {
        let (control, _) = root.make_folder(CONTROL)?;
        let file = root.open_at(&format!("{CONTROL}/journal"), OFlags::RDWR | OFlags::CREATE)?;
        fsync(&control)?;
        Ok(Self { file, strict })
    }

    /// True if somebody began a change and did not end it.
    pub(crate) fn pending(&self) -> Result<bool, Errno> {
        Ok(fstat(&self.file)?.st_size > 0)
    }

    /// Writes a change down, which counts once [`sync`](Self::sync) has succeeded. After an error nothing was promised;
    /// after a failed sync nobody knows, and the change will take place if the journal is found.
    pub(crate) fn write(&self, actions: &[Action]) -> Result<(), Errno> {
        let bytes = encode(actions);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let at = (bytes.len() - rest.len()) as u64;
            match rustix::io::pwrite(&self.file, rest, at) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => {
                    // Half a journal promises nothing, but must not be left for others to puzzle over.
                    let _ = self.end();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The change has taken place, as durably as is promised.
    pub(crate) fn end(&self) -> Result<(), Errno> {
        retry_on_intr(|| ftruncate(&self.file, 0))?;
        self.sync()
    }

    /// Finishes what somebody else began, and forces it to the disk.
    pub(crate) fn recover(&self, root: &Root) -> Result<(), Errno> {
        let folders = self.redo(root)?;
        self.settle(root, &folders)
    }

    /// Does what the journal says; gives the folders that changed. A journal that was cut off promised nothing.
    pub(crate) fn redo(&self, root: &Root) -> Result<BTreeSet<String>, Errno> {
        let mut folders = BTreeSet::new();
        for action in self.read()?.unwrap_or_default() {
            let target = match &action {
                Action::Rename { temp, target } => redo_rename(root, temp, target).map(|()| target)?,
                Action::Unlink { target, version } => redo_unlink(root, target, *version).map(|()| target)?,
            };
            folders.insert(split(target).0.to_owned());
        }
        Ok(folders)
    }

    /// Forces what was redone to the disk and ends the journal.
    pub(crate) fn settle(&self, root: &Root, folders: &BTreeSet<String>) -> Result<(), Errno> {
        for folder in folders {
            sync_up(root, folder)?;
        }
        self.end()
    }

    fn read(&self) -> Result<Option<Vec<Action>>, Errno> {
        let size = usize::try_from(fstat(&self.file)?.st_size).unwrap_or(0);
        let mut bytes = vec![0; size];
        let mut at = 0;
        while at < size {
            match retry_on_intr(|| rustix::io::pread(&self.file, &mut bytes[at..], at as u64))? {
                0 => break,
                read => at += read,
            }
        }
        Ok(decode(&bytes[..at]))
    }

    /// Forces what was written down to the disk, if the storage is strict.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        if self.strict { retry_on_intr(|| fsync(&self.file)) } else { Ok(()) }
    }
}

fn redo_rename(root: &Root, temp: &str, target: &str) -> Result<(), Errno> {
    let ((from, temp), (to, name)) = (split(temp), split(target));
    let from = match root.open_folder(from) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    let (to, _) = root.make_folder(to)?;
    match renameat(&from, temp, &to, name) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn redo_unlink(root: &Root, target: &str, version: u64) -> Result<(), Errno> {
    if version_at(root, target)? != Some(version) {
        return Ok(());
    }
    let (folder, name) = split(target);
    unlink(root.open_folder(folder)?, name).map(drop)
}

/// The version of the value in a file; 0 if it is damaged, `None` if there is no file.
pub(crate) fn version_at(root: &Root, target: &str) -> Result<Option<u64>, Errno> {
    let ending = target.rsplit_once('.').map_or("", |(_, ending)| ending);
    let file = match root.open_file(target) {
        Err(Errno::NOENT) => return Ok(None),
        found => found?,
    };
    let stored = Stored::read(Form::of_ending(ending).unwrap_or(Form::Bytes), file)?;
    Ok(Some(stored.metadata.map_or(0, |metadata| metadata.version.as_u64())))
}

/// Forces a folder and those above it to the disk.
fn sync_up(root: &Root, path: &str) -> Result<(), Errno> {
    match root.open_folder(path) {
        Ok(folder) => retry_on_intr(|| fsync(&folder))?,
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    if path.is_empty() { Ok(()) } else { sync_up(root, split(path).0) }
}

fn encode(actions: &[Action]) -> Vec<u8> {
    let mut body = Vec::new();
    for action in actions {
        match action {
            Action::Rename { temp, target } => {
                body.push(b'r');
                put(&mut body, temp);
                put(&mut body, target);
            }
            Action::Unlink { target, version } => {
                body.push(b'u');
                put(&mut body, target);
                body.extend(version.to_le_bytes());
            }
        }
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Paths are shorter than 4096 bytes, so two bytes hold their length.
fn put(body: &mut Vec<u8>, path: &str) {
    body.extend((path.len() as u16).to_le_bytes());
    body.extend(path.as_bytes());
}

fn decode(bytes: &[u8]) -> Option<Vec<Action>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let mut body = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut actions = Vec::new();
    while let Some((tag, rest)) = body.split_first() {
        body = rest;
        actions.push(match tag {
            b'r' => Action::Rename { temp: take(&mut body)?, target: take(&mut body)? },
            b'u' => Action::Unlink { target: take(&mut body)?, version: take_version(&mut body)? },
            _ => return None,
        });
    }
    Some(actions)
}

fn take(body: &mut &[u8]) -> Option<String> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    let (path, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    *body = rest;
    String::from_utf8(path.to_vec()).ok()
}

fn take_version(body: &mut &[u8]) -> Option<u64> {
    let (version, rest) = body.split_first_chunk::<8>()?;
    *body = rest;
    Some(u64::from_le_bytes(*version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Action> {
        vec![
            Action::Rename { temp: ".persist/tmp/1-a/0".into(), target: "x/new.bin".into() },
            Action::Unlink { target: "x/old.json".into(), version: 77 },
        ]
    }

    #[test]
    fn damage_promises_nothing() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes), Some(sample()));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn what_was_begun_is_finished_once() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::open(place.path(), true, false).unwrap();
        let journal = Journal::open(&root, true).unwrap();
        let at = |path: &str| place.path().join(path);
        for (path, text) in [("t", "new"), ("old.bin", "old"), ("other.bin", "other")] {
            std::fs::write(at(path), text).unwrap();
        }
        let version = version_at(&root, "old.bin").unwrap().unwrap();
        assert!(version > 0);
        let actions = [
            Action::Rename { temp: "t".into(), target: "deep/er/x".into() },
            Action::Unlink { target: "old.bin".into(), version },
            Action::Unlink { target: "other.bin".into(), version: 1 },
            Action::Rename { temp: "gone".into(), target: "y".into() },
        ];
        journal.write(&actions).unwrap();
        assert!(journal.pending().unwrap());
        for _ in 0..2 {
            journal.recover(&root).unwrap();
            assert!(!journal.pending().unwrap());
            assert_eq!(std::fs::read(at("deep/er/x")).unwrap(), b"new");
            assert!(!at("old.bin").exists() && at("other.bin").exists() && !at("y").exists());
        }
    }
}
