//! Compares a sealed pack with what follows from its log: index, manifest, central directory and seal must be what sealing
//! the log anew gives, byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use persist_core::Key;

use crate::codec::{Payload, unpack};
use crate::memory::Slot;
use crate::note::Role;
use crate::record::Head;
use crate::sealed::Sealed;
use crate::state::{Found, Home};
use crate::tail::{Extras, Tail};
use crate::walk::data_is_whole;

/// The largest signature that is read, in bytes.
const MAX_SIGNATURE: u64 = 64 << 10;

/// What is wrong with a part of a pack: the key concerned, if it is about one, and in words what.
pub(crate) type Finding = (Option<Key>, String);

/// What is wrong with a sealed pack, whether a key leads to it or not.
pub(crate) fn problems(pack: &Arc<Sealed>) -> Vec<Finding> {
    let path = pack.path.display();
    let mut problems = records(pack);
    let extras = match extras(pack) {
        Ok(extras) => extras,
        Err(what) => {
            problems.push((None, format!("the pack {path} is damaged: {what}; compact it, or restore it")));
            return problems;
        }
    };
    let signature = extras.signature.clone();
    let wanted = Extras { signature: signature.as_deref(), manifest: extras.manifest, ..Extras::default() };
    match Tail::of(pack.log(), &pack.pack, pack.start, &wanted) {
        Ok(tail) => {
            let found = &pack.bytes[pack.log().len()..];
            if let Some(at) = first_difference(&tail.bytes, found) {
                let at = pack.log().len() + at;
                let part = part_of(pack, at as u64);
                let what = format!(
                    "the pack {path} is not what follows from its records: {part} differs at byte {at}; compact it, or \
                     restore it from a backup"
                );
                problems.push((None, what));
            }
        }
        Err((at, wrong)) => {
            let what =
                format!("the pack {path} is damaged at byte {at} ({}); restore it from a backup", wrong.0);
            problems.push((None, what));
        }
    }
    problems
}

fn part_of(pack: &Sealed, at: u64) -> &'static str {
    let seal = &pack.seal;
    if at < seal.manifest_at {
        "its index"
    } else if at < seal.directory_at {
        "its manifest"
    } else {
        "its central directory"
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    at.or_else(|| (one.len() != other.len()).then(|| one.len().min(other.len())))
}

/// Records whose data does not match its CRC: also those that no key leads to any more.
fn records(pack: &Sealed) -> Vec<Finding> {
    let path = pack.path.display();
    let mut track: &[u8] = &pack.bytes;
    let mut problems = Vec::new();
    let mut at = pack.start;
    while at < pack.seal.index_at {
        let Ok(head) = pack.head(at) else { break };
        if !data_is_whole(&mut track, at, &head).unwrap_or(false) {
            let what = format!(
                "a record at byte {at} of the pack {path} does not match its CRC; restore it from a backup"
            );
            problems.push((head.note.key().cloned(), what));
        }
        at += head.record_len();
    }
    problems
}

/// What the tail has that does not follow from the log.
struct Kept {
    signature: Option<Bytes>,
    manifest: Option<(Bytes, Payload)>,
}

fn extras(pack: &Arc<Sealed>) -> Result<Kept, &'static str> {
    let manifest = found(pack, pack.seal.manifest_at, Role::Manifest)?;
    let text = unpack(&manifest, manifest.head().method, &manifest.head().note);
    let text = text.map_err(|_| "its manifest cannot be read")?;
    let payload = payload_of(&manifest).ok_or("its manifest cannot be read")?;
    let next = pack.seal.manifest_at + manifest.head().record_len();
    let signature = if next == pack.seal.directory_at {
        None
    } else {
        let signature = found(pack, next, Role::Signature)?;
        Some(signature.data(MAX_SIGNATURE).map_err(|_| "its signature cannot be read")?)
    };
    Ok(Kept { signature, manifest: Some((text, payload)) })
}

/// The text of the manifest, and how it is packed.
pub(crate) fn kept_manifest(pack: &Arc<Sealed>) -> Result<(Bytes, Payload), &'static str> {
    extras(pack)?.manifest.ok_or("its manifest cannot be read")
}

fn payload_of(found: &Found) -> Option<Payload> {
    let head: &Head = found.head();
    Some(Payload {
        method: head.method,
        plain: head.note.plain,
        pieces: vec![found.packed().ok()?],
        crc32: head.crc32,
        table: found.chunk_table().ok()?.to_vec(),
        data_crc: head.note.data_crc,
    })
}

/// A record of the tail.
pub(crate) fn found(pack: &Arc<Sealed>, at: u64, role: Role) -> Result<Found, &'static str> {
    let head = pack.head(at).map_err(|wrong| wrong.0)?;
    if head.note.role != role {
        return Err("a record of its end is of another kind");
    }
    Ok(Found { home: Home::Pack(Arc::clone(pack)), slot: Slot { at, head: head.into() } })
}
