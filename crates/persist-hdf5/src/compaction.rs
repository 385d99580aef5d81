//! Giving back the room that nothing lies in: everything is copied into a new file, which takes the place of the old one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use persist_core::{Descriptor, ErrorKind, Result, StorageError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{library, system};
use crate::ffi::{H5Error, H5File, SharedSession};
use crate::medium::{Medium, Session};
use crate::parts::{Parts, first_of, remove};
use crate::scan::{Found, scan};
use crate::site::{Site, compacting, folder, lock_shared, sync_folder};

/// Files of fewer bytes are not worth it.
const SMALL: u64 = 16 << 20;

/// About how many bytes a dataset takes beside its data.
const OVERHEAD: u64 = 1024;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Compacted {
    /// It is done; the length of the file before and after.
    Done { before: u64, after: u64 },
    /// Another process reads the file.
    Busy,
    /// The file holds something that cannot be copied as it is.
    Refused(&'static str),
}

/// About how many bytes of a file hold nothing.
pub(crate) fn unused(end: u64, keys: usize, bytes: u64) -> u64 {
    end.saturating_sub(bytes + keys as u64 * OVERHEAD)
}

/// True if a file of `end` bytes, `unused` of which hold nothing, is to be compacted. `last` is how many of them held nothing
/// after the last time: if the estimate is wrong, the same file is not compacted again and again.
pub(crate) fn is_due(end: u64, unused: u64, last: u64, per_cent: u8) -> bool {
    match per_cent {
        0 => true,
        100.. => false,
        _ => {
            end >= SMALL
                && unused / 100 >= (end / 100) * u64::from(per_cent) / 100
                && unused - last.min(unused) >= SMALL / 2
        }
    }
}

/// A file that is complete and has not taken the place of the old one yet.
pub(crate) struct Fresh {
    pub(crate) medium: Arc<Medium>,
    pub(crate) session: SharedSession,
    pub(crate) file: H5File,
    pub(crate) found: Found,
}

/// Makes a new file of all that is in an old one, beside it, cut into parts of `limit` bytes if there is one, and reads it back.
///
/// # Errors
/// What the library and the disk say; nothing is left then.
pub(crate) fn build(descriptor: &Descriptor, site: &Site, old: &H5File, limit: Option<u64>) -> Result<Fresh> {
    let path = compacting(&site.path);
    let built = copy(descriptor, site, old, (&path, limit));
    if built.is_err() {
        // It takes room, and is removed when the file is opened the next time if that fails now.
        let _ = remove(&path);
    }
    built
}

fn copy(
    descriptor: &Descriptor,
    site: &Site,
    old: &H5File,
    (path, limit): (&Path, Option<u64>),
) -> Result<Fresh> {
    let fail =
        |error: std::io::Error| system(descriptor, "maintain", "the compacted file cannot be written", error);
    let said = |error: H5Error, session: &SharedSession| -> StorageError {
        let disk = session.lock().take_failure().or_else(|| site.session.lock().take_failure());
        library(descriptor, "maintain", "the file cannot be compacted", error, disk)
    };
    remove(path).map_err(fail)?;
    let open = || -> Result<Arc<Medium>> {
        let parts = Parts::open(path, limit).map_err(fail)?;
        Medium::new(parts, Vec::new()).map(Arc::new).map_err(|error| fail(std::io::Error::other(error)))
    };
    let handle = open()?;
    let mode = std::fs::metadata(first_of(&site.path)).map_err(fail)?.mode();
    handle.parts().set_mode(mode).map_err(fail)?;
    let writing = Arc::new(Mutex::new(Session::unguarded(handle)));
    let new = H5File::create(&writing).map_err(|error| said(error, &writing))?;
    let copied = new.copy_all(old).and_then(|()| new.flush());
    if copied.is_err() {
        writing.lock().forget();
    }
    let closed = new.close();
    copied.and(closed).map_err(|error| said(error, &writing))?;
    writing.lock().finish().map_err(fail)?;
    let medium = open()?;
    if !lock_shared(medium.parts()).map_err(fail)? {
        let message = "another program opened the file while it was compacted; try again";
        return Err(descriptor.error(ErrorKind::Locked, "maintain", message));
    }
    let session = Arc::new(Mutex::new(Session::new(Arc::clone(&medium), None, false)));
    let file = H5File::open(&session, true).map_err(|error| said(error, &session))?;
    let found = scan(&file).map_err(|error| said(error, &session))?;
    Ok(Fresh { medium, session, file, found })
}

/// Gives a complete file the name of the old one; false if this file system cannot do that in one step where one of the two is a folder
/// of parts.
///
/// # Errors
/// What the disk says. If that is the last step, the file has its name, perhaps not for good.
pub(crate) fn install(path: &Path) -> std::io::Result<bool> {
    let new = compacting(path);
    if !path.is_dir() && !new.is_dir() {
        std::fs::rename(new, path)?;
        sync_folder(folder(path))?;
        return Ok(true);
    }
    match renameat_with(CWD, &new, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => sync_folder(folder(path))?,
        Err(Errno::INVAL | Errno::NOSYS) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // The old one now; what is left of it is removed when the file is opened the next time.
    let _ = remove(&new);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compacted_when_much_of_it_holds_nothing_and_not_again_and_again() {
        let mib = 1 << 20;
        assert!(is_due(100 * mib, 60 * mib, 0, 50));
        assert!(!is_due(100 * mib, 40 * mib, 0, 50));
        assert!(!is_due(100 * mib, 60 * mib, 55 * mib, 50), "as much was left the last time");
        assert!(!is_due(10 * mib, 9 * mib, 0, 50), "it is small");
        assert!(is_due(0, 0, 0, 0) && !is_due(100 * mib, 100 * mib, 0, 100));
        assert_eq!(unused(10_000, 2, 1000), 10_000 - 1000 - 2048);
        assert_eq!(unused(10, 2, 1000), 0);
    }
}
