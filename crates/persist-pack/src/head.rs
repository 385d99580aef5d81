//! The first record of a pack: a text that says what the file is, for programs and for people.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{Method, Payload};
use crate::config::Compression;
use crate::note::{About, Role};
use crate::record::{Place, encode_head};
use crate::walk::{Track, data_is_whole, head_at};
use crate::wire::Wrong;

/// The version of the format.
pub(crate) const FORMAT: u32 = 1;

/// The name of the first record.
pub(crate) const NAME: &str = ".persist/pack.json";

/// The longest head that is read, in bytes.
const MAX_BYTES: u64 = 4096;

const ABOUT: &str = "A pack of persist: values in a ZIP file. Entries are the values under their keys; \
                     .persist/manifest.json lists them with their BLAKE3 hashes. Format: docs/formats/pack.md.";

/// What a pack says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackHead {
    /// Raised when an older reader would read it wrongly.
    pub(crate) format: u32,
    /// A random number in the CRC of each record: records of another pack do not fit in.
    pub(crate) salt: u64,
    /// The numbers of the packs of a folder that it holds; 0 for a pack that is in no folder.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// No version up to this one may be given again.
    pub(crate) floor: u64,
    about: String,
}

impl PackHead {
    pub(crate) fn new(salt: u64, first: u64, last: u64, floor: u64) -> Self {
        Self { format: FORMAT, salt, first, last, floor, about: ABOUT.to_owned() }
    }

    /// The record.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Wrong> {
        let text = serde_json::to_vec(self).map_err(|_| Wrong("its head cannot be written"))?;
        let payload = Payload::of_bytes(Bytes::from(text), Compression::None);
        let note = payload.note(Role::Head, About::Pack);
        let mut bytes = Vec::new();
        encode_head(&mut bytes, Place { salt: 0, at: 0 }, NAME.to_owned(), note, &payload)?;
        payload.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        Ok(bytes)
    }

    /// Reads the first record, and where the second begins.
    ///
    /// # Errors
    /// Why the file cannot be read; within: that it is no pack, or damaged.
    pub(crate) fn read(track: &mut impl Track) -> io::Result<Result<(Self, u64), Wrong>> {
        let head = match head_at(track, Place { salt: 0, at: 0 })? {
            Ok(head) => head,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let fits = head.note.role == Role::Head
            && head.method == Method::Stored
            && head.note.stored <= MAX_BYTES
            && data_is_whole(track, 0, &head)?;
        if !fits {
            return Ok(Err(Wrong("its first record does not say what it is")));
        }
        let text = track.part(head.len, head.note.stored)?.unwrap_or_default();
        let pack = serde_json::from_slice::<Self>(text)
            .map_err(|_| Wrong("its first record does not say what it is"))
            .and_then(|pack| match pack.format {
                FORMAT => Ok(pack),
                _ => Err(Wrong(NEWER)),
            });
        Ok(pack.map(|pack| (pack, head.record_len())))
    }
}

/// What is said of a pack of another format.
pub(crate) const NEWER: &str = "a newer persist wrote it; read it with that";
