//! Files read as memory. The only place of this crate with `unsafe` code.
#![allow(unsafe_code, reason = "mapping a file is unsafe, because others could change it")]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of a whole file, without a copy of them; they live as long as a part of them is used.
///
/// Only for files that nobody changes or cuts any more: a sealed pack is only ever replaced by another file and removed,
/// which leaves a map of it as it is.
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the contract of this function is that nobody changes the file, and persist keeps it for sealed packs.
    // Should somebody else change one, reads see other bytes, which the checksums find; should somebody cut one, the
    // system ends the process. No reference to the bytes lets anybody change them.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
