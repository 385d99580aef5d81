//! What is in the file when it is opened.

use persist_core::{Descriptor, ErrorKind, Result};

use crate::error::library;
use crate::ffi::{H5Error, H5File};
use crate::record::{FORMAT, Root};
use crate::scan::{Found, scan};
use crate::site::Site;

/// Opens the file, and finds all that is in it.
pub(super) fn load(descriptor: &Descriptor, site: &Site) -> Result<(H5File, Root, Found)> {
    let session = &site.session;
    let fail = |error: H5Error| {
        let disk = session.lock().take_failure();
        library(descriptor, "open", &format!("cannot open {}", site.path.display()), error, disk)
    };
    let file = match site.is_new {
        true => H5File::create(session),
        false => H5File::open(session, site.is_writable()),
    };
    let file = file.map_err(fail)?;
    let root = read_root(descriptor, site, &file)?;
    let found = scan(&file).map_err(fail)?;
    Ok((file, root, found))
}

/// Reads what the file says of itself; a file that somebody else made says nothing.
fn read_root(descriptor: &Descriptor, site: &Site, file: &H5File) -> Result<Root> {
    let none = Root { format: FORMAT, floor: 0 };
    let read = file.record().map_err(|error| {
        let disk = site.session.lock().take_failure();
        library(descriptor, "open", &format!("cannot open {}", site.path.display()), error, disk)
    })?;
    let Some(text) = read else { return Ok(none) };
    let root: Root = serde_json::from_slice(&text).map_err(|error| {
        let message = format!(
            "the attribute `persist` of the root of {} cannot be read ({error}); restore the file from a backup",
            site.path.display()
        );
        descriptor.error(ErrorKind::Corruption, "open", message)
    })?;
    if root.format > FORMAT {
        let message = format!(
            "{} has format {}, and this persist knows formats up to {FORMAT}; use a newer persist",
            site.path.display(),
            root.format
        );
        return Err(descriptor.error(ErrorKind::Unsupported, "open", message));
    }
    Ok(root)
}
