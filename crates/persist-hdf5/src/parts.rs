//! The bytes of the HDF5 file where they lie: in one file, or cut into parts of equal length in a folder.
//!
//! The parts are what HDF5's own family driver reads (`h5py.File("NAME/%05d.h5", driver="family")`): each but the last one is as long
//! as the others, and the file is all of them in a row. See `docs/formats/hdf5.md`.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use crate::site::{folder, is_named, remove_if_there, sync_folder, writable};

/// How long the parts are where nothing says so: of a folder with one part, opened without `max_file_size`.
const DEFAULT_LEN: u64 = 1 << 30;

/// The HDF5 file.
#[derive(Debug)]
pub(crate) struct Parts {
    /// In order; one, unless it is cut.
    files: RwLock<Vec<Arc<File>>>,
    cut: Option<Cut>,
    /// Those that may have something that is not on the disk.
    dirty: Mutex<BTreeSet<usize>>,
    /// Whoever forces them to the disk: who finds nothing dirty must know that it is there.
    forcing: Mutex<()>,
    /// Something could not be forced to the disk: nobody knows what is there.
    failed: AtomicBool,
}

/// How a file is cut.
#[derive(Debug)]
struct Cut {
    folder: File,
    /// Bytes of each part but the last one.
    len: u64,
}

/// The name of a part.
fn name_of(number: usize) -> String {
    format!("{number:05}.h5")
}

/// The file that is locked for the whole: the only one, or the first part.
pub(crate) fn first_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(name_of(0)) } else { path.to_owned() }
}

impl Parts {
    /// Opens what lies at a path for reading and writing, and makes it if nothing does: cut into parts of `limit` bytes, or one
    /// file. What is there already stays as it is cut.
    ///
    /// # Errors
    /// What the disk says; `IsADirectory` for a folder that holds something else, `InvalidData` if a part is missing.
    pub(crate) fn open(path: &Path, limit: Option<u64>) -> io::Result<Self> {
        if !path.is_dir() && (limit.is_none() || path.exists()) {
            return Ok(Self::one(writable().open(path)?));
        }
        if !path.is_dir() {
            std::fs::DirBuilder::new().mode(0o700).create(path)?;
            sync_folder(folder(path))?;
        }
        let count = count(path)?;
        let place = File::open(path)?;
        let first = open_part(&place, 0, true)?;
        if count == 0 {
            place.sync_all()?;
        }
        Self::cut(place, first, limit)?.with_others(count, true)
    }

    /// Opens what lies at a path for reading, of a file that is cut the first part only: [`find_others`](Self::find_others) has to follow once it
    /// is known what was committed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_to_read(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            return Ok(Self::one(File::open(path)?));
        }
        let place = File::open(path)?;
        let first = open_part(&place, 0, false)?;
        Self::cut(place, first, None)
    }

    /// Opens the other parts that are there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn find_others(self, path: &Path) -> io::Result<Self> {
        if self.cut.is_none() {
            return Ok(self);
        }
        let count = count(path)?;
        self.with_others(count, false)
    }

    fn one(file: File) -> Self {
        Self {
            files: RwLock::new(vec![Arc::new(file)]),
            cut: None,
            // A process that died may have left something.
            dirty: Mutex::new(BTreeSet::from([0])),
            forcing: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    fn cut(folder: File, first: File, limit: Option<u64>) -> io::Result<Self> {
        // It is as long as the others are to be only when there are others.
        let len = limit.unwrap_or(DEFAULT_LEN).max(first.metadata()?.len().next_multiple_of(4096));
        Ok(Self { cut: Some(Cut { folder, len }), ..Self::one(first) })
    }

    fn with_others(mut self, count: usize, writable: bool) -> io::Result<Self> {
        let Some(cut) = &mut self.cut else { return Ok(self) };
        let files = self.files.get_mut();
        if count > 1 {
            cut.len = files[0].metadata()?.len();
        }
        for number in 1..count {
            files.push(Arc::new(open_part(&cut.folder, number, writable)?));
            self.dirty.get_mut().insert(number);
        }
        if cut.len == 0 {
            return Err(invalid("the first part is empty, and there are others".to_owned()));
        }
        Ok(self)
    }

    /// How long the parts are; `None`: it is one file.
    pub(crate) fn part_len(&self) -> Option<u64> {
        self.cut.as_ref().map(|cut| cut.len)
    }

    /// How many files there are.
    pub(crate) fn count(&self) -> usize {
        self.files.read().len()
    }

    /// Gives it the rights of another file; who may read parts may enter their folder.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = mode & 0o666;
        if let Some(cut) = &self.cut {
            cut.folder.set_permissions(Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
        }
        self.files.read().iter().try_for_each(|file| file.set_permissions(Permissions::from_mode(mode)))
    }

    /// How many bytes there are in all.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn len(&self) -> io::Result<u64> {
        let files = self.files.read();
        let Some((last, before)) = files.split_last() else { return Ok(0) };
        Ok(before.len() as u64 * self.part_len().unwrap_or(0) + last.metadata()?.len())
    }

    /// Cuts a range of bytes at the borders of parts: number, place in the part, place in the buffer.
    fn pieces(&self, offset: u64, len: usize) -> impl Iterator<Item = (usize, u64, Range<usize>)> + use<> {
        let part = self.part_len().unwrap_or(u64::MAX);
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let room = usize::try_from(part - at % part).unwrap_or(usize::MAX);
            let from = done;
            done += room.min(len - done);
            (from < done).then(|| (usize::try_from(at / part).unwrap_or(usize::MAX), at % part, from..done))
        })
    }

    /// Reads; beyond the end there are zeros.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (number, at, place) in self.pieces(offset, buffer.len()) {
            let file = self.files.read().get(number).cloned();
            match file {
                Some(file) => read_file(&file, at, &mut buffer[place])?,
                None => buffer[place].fill(0),
            }
        }
        Ok(())
    }

    /// Reads if that needs no disk; false if it would.
    pub(crate) fn try_read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        use rustix::io::{ReadWriteFlags, preadv2};
        self.pieces(offset, buffer.len()).all(|(number, at, place)| {
            let Some(file) = self.files.read().get(number).cloned() else { return false };
            let len = place.len();
            let mut slices = [io::IoSliceMut::new(&mut buffer[place])];
            preadv2(&*file, &mut slices, at, ReadWriteFlags::NOWAIT) == Ok(len)
        })
    }

    /// Writes; parts are made as they are needed.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, at, place) in self.pieces(offset, bytes.len()) {
            let written = self.part(number)?.write_all_at(&bytes[place], at);
            // Not before: whoever forces the parts to the disk meanwhile would forget this one too early.
            self.dirty.lock().insert(number);
            written?;
        }
        Ok(())
    }

    /// A part, which is made if it is missing, and all before it.
    fn part(&self, number: usize) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.read().get(number) {
            return Ok(Arc::clone(file));
        }
        let mut files = self.files.write();
        while let (Some(cut), Some(last)) = (&self.cut, files.last())
            && files.len() <= number
        {
            // The name of a part is never on the disk before all that comes before it is as long as it must be.
            last.set_len(cut.len)?;
            self.sure(last.sync_all())?;
            let mode = last.metadata()?.permissions();
            let next = open_part(&cut.folder, files.len(), true)?;
            next.set_permissions(mode)?;
            self.sure(cut.folder.sync_all())?;
            files.push(Arc::new(next));
        }
        files.get(number).cloned().ok_or_else(|| invalid(format!("there is no part {number}")))
    }

    /// After a sync that failed nothing on the disk can be trusted.
    fn sure(&self, synced: io::Result<()>) -> io::Result<()> {
        if synced.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        synced
    }

    /// Lets it end there.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        let part = self.part_len().unwrap_or(u64::MAX);
        let last = usize::try_from(len.saturating_sub(1) / part).unwrap_or(usize::MAX);
        self.part(last)?.set_len(len - last as u64 * part)?;
        self.dirty.lock().insert(last);
        let Some(cut) = &self.cut else { return Ok(()) };
        let mut files = self.files.write();
        while files.len() > last + 1 {
            // The last one first, and for good, so that none is ever missing in the middle.
            unlinkat(&cut.folder, name_of(files.len() - 1), AtFlags::empty())?;
            files.pop();
            self.sure(cut.folder.sync_all())?;
        }
        Ok(())
    }

    /// Forces all bytes to the disk.
    ///
    /// # Errors
    /// What the disk says, now or when a part was made.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let _turn = self.forcing.lock();
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("what was written before could not be forced to the disk"));
        }
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let files = self.files.read().clone();
        dirty
            .into_iter()
            .filter_map(|number| files.get(number))
            .try_for_each(|file| self.sure(file.sync_data()))
    }

    /// True if something could not be forced to the disk.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Forces everything to the disk, names and all.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.files.read().iter().try_for_each(|file| self.sure(file.sync_all()))?;
        self.cut.as_ref().map_or(Ok(()), |cut| self.sure(cut.folder.sync_all()))
    }

    /// Takes, changes or gives back the lock on the file.
    ///
    /// # Errors
    /// `WOULDBLOCK` if somebody else has it.
    pub(crate) fn lock(&self, operation: FlockOperation) -> Result<(), Errno> {
        flock(&self.files.read()[0], operation)
    }

    /// True if this is what lies at a path.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        is_named(&self.files.read()[0], &first_of(path))
    }
}

/// Removes what lies at a path: a file, or a folder of parts and nothing else.
///
/// # Errors
/// What the disk says; also if a folder holds something else.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return remove_if_there(path);
    }
    for number in (0..count(path)?).rev() {
        std::fs::remove_file(path.join(name_of(number)))?;
    }
    std::fs::remove_dir(path)
}

/// How many parts a folder holds.
///
/// # Errors
/// `IsADirectory` if it holds something else, `InvalidData` if one is missing.
pub(crate) fn count(path: &Path) -> io::Result<usize> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".h5")?.parse().ok());
        match number.filter(|number| *name_of(*number) == *name) {
            Some(number) => numbers.push(number),
            None => {
                let what =
                    format!("it is a folder that holds {}, which is no part of an HDF5 file", name.display());
                return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
            }
        }
    }
    numbers.sort_unstable();
    match numbers.iter().enumerate().find(|(at, number)| at != *number) {
        Some((at, _)) => Err(invalid(format!("the part {} is missing", name_of(at)))),
        None => Ok(numbers.len()),
    }
}

fn open_part(folder: &File, number: usize, writable: bool) -> io::Result<File> {
    let flags = if writable { OFlags::RDWR | OFlags::CREATE } else { OFlags::RDONLY };
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(openat(folder, name_of(number), flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)?.into())
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_file(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[done..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use super::*;

    fn names(path: &Path) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
        let of = |entry: std::fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
        };
        let mut names: Vec<_> = entries.map(of).collect();
        names.sort();
        names
    }

    #[test]
    fn bytes_lie_across_parts_and_come_back() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("main.h5");
        let parts = Parts::open(&path, Some(4096)).unwrap();
        parts.write(4090, b"across the border").unwrap();
        parts.write(3 * 4096 + 1, b"x").unwrap();
        let all: Vec<_> = (0..4).map(name_of).zip([4096, 4096, 4096, 2]).collect();
        assert_eq!(names(&path), all);
        assert_eq!((parts.len().unwrap(), parts.count()), (3 * 4096 + 2, 4));
        for parts in [&parts, &Parts::open(&path, Some(8192)).unwrap()] {
            let mut read = [7; 19];
            parts.read(4089, &mut read).unwrap();
            assert_eq!(&read, b"\0across the border\0");
            assert!(parts.try_read(4090, &mut read[..17]) && !parts.try_read(3 * 4096, &mut read));
            parts.read(5 * 4096, &mut read).unwrap();
            assert_eq!((read, parts.part_len()), ([0; 19], Some(4096)));
        }
        parts.set_len(4096).unwrap();
        assert_eq!(names(&path), [(name_of(0), 4096)]);
        parts.set_len(4097).unwrap();
        assert_eq!(names(&path), [(name_of(0), 4096), (name_of(1), 1)]);
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_part_that_is_missing_and_a_folder_of_others_are_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("main.h5");
        Parts::open(&path, Some(4096)).unwrap().set_len(9000).unwrap();
        std::fs::remove_file(path.join(name_of(1))).unwrap();
        let missing = Parts::open(&path, Some(4096)).unwrap_err();
        assert_eq!(
            (missing.kind(), missing.to_string()),
            (io::ErrorKind::InvalidData, "the part 00001.h5 is missing".to_owned())
        );
        std::fs::write(path.join("notes.txt"), "").unwrap();
        for refused in [Parts::open(&path, Some(4096)).map(drop), remove(&path)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::IsADirectory);
        }
        assert!(path.join("notes.txt").exists() && path.join(name_of(0)).exists());
    }
}
