//! Tidying up: expired values, empty folders, what dead processes left; and finding what is not ours.

use persist_core::{ErrorKind, Key, MAX_PAGE, Maintenance, Problem, StorageError, Version};
use rustix::io::Errno;

use crate::error::system;
use crate::index::{Index, Query};
use crate::name::KeyPath;
use crate::place::Place;
use crate::reader::Wait;
use crate::writer::{Caller, Done, Step, Writer};

/// How many expired values are removed, or folders looked at, with one turn of the commit lock.
const TURN: usize = 256;

/// Removes what has expired, empty folders, and the temp files of dead processes.
pub(crate) fn maintain(place: &Place, writer: &Writer, caller: &Caller) -> Result<Maintenance, StorageError> {
    let mut report = Maintenance::default();
    let swept = writer.sweep(place)?;
    if swept > 0 {
        report.notes.push(format!("removed {swept} temp files of dead processes"));
    }
    let mut after = None;
    loop {
        let (found, next) = expired(place, after.as_ref())?;
        for turn in found.chunks(TURN) {
            remove(place, writer, caller, turn, &mut report)?;
        }
        after = next;
        if after.is_none() {
            break;
        }
    }
    let pruned = prune(place, writer)?;
    if pruned > 0 {
        report.notes.push(format!("removed {pruned} empty folders"));
    }
    Ok(report)
}

/// An expired value: its key, version and size.
type Expired = (Key, Version, u64);

fn expired(place: &Place, after: Option<&Key>) -> Result<(Vec<Expired>, Option<Key>), StorageError> {
    let now = place.descriptor.now();
    let mut found = Vec::new();
    let query = Query { prefix: "", after, limit: MAX_PAGE };
    let page = place.index.page::<Errno>(&place.root, &query, |key| {
        // What cannot be read is the business of `verify`.
        if let Ok(Some(metadata)) = place.reader.stored_metadata(&place.root, &KeyPath::of(key))
            && metadata.is_expired(now)
        {
            found.push((key.clone(), metadata.version, metadata.size));
        }
        Ok(true)
    });
    let page =
        page.map_err(|errno| system(&place.descriptor, "maintain", "a folder cannot be read", errno))?;
    Ok((found, page.next))
}

fn remove(
    place: &Place,
    writer: &Writer,
    caller: &Caller,
    turn: &[Expired],
    report: &mut Maintenance,
) -> Result<(), StorageError> {
    let steps =
        turn.iter().map(|(key, version, _)| vec![Step::Expire { key: key.clone(), version: *version }]);
    for ((.., size), answer) in turn.iter().zip(writer.commit(place, steps.collect(), "maintain", caller)) {
        if let Some(Done::Deleted(true)) = answer?.pop() {
            report.expired += 1;
            report.freed_bytes += size;
        }
    }
    Ok(())
}

fn prune(place: &Place, writer: &Writer) -> Result<u64, StorageError> {
    let fail = |errno| system(&place.descriptor, "maintain", "an empty folder cannot be removed", errno);
    let folders = Index::folders(&place.root).map_err(fail)?;
    let mut pruned = 0;
    for turn in folders.chunks(TURN) {
        let _held = writer.hold(place, "maintain")?;
        for folder in turn {
            pruned += u64::from(writer.prune(place, folder).map_err(fail)?.is_some());
        }
    }
    Ok(pruned)
}

/// What lies in the folder and is not ours; it is reported and never touched.
pub(crate) fn strangers(place: &Place) -> Result<Vec<Problem>, StorageError> {
    let found = Index::strangers(&place.root)
        .map_err(|errno| system(&place.descriptor, "verify", "a folder cannot be read", errno))?;
    let problem = |path: String| {
        let message =
            format!("{path:?} in the folder was not made by persist and is ignored; move it elsewhere");
        Problem::from(place.descriptor.error(ErrorKind::InvalidKey, "verify", message))
    };
    Ok(found.into_iter().map(problem).collect())
}

/// Whether a key found in the index is to be listed.
pub(crate) fn is_live(place: &Place, key: &Key) -> bool {
    let metadata = place.reader.metadata(&place.root, &KeyPath::of(key), place.descriptor.now(), Wait::Yes);
    // A damaged value is there: it must be listed, so that it can be found and dealt with.
    !matches!(metadata, Ok(None))
}
