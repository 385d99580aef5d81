//! Compares a sealed pack with what follows from its log: index, manifest, central directory and seal must be what sealing
//! the log anew gives, byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use persist_core::{Checksum, ChecksumBuilder, Key, Kind};

use crate::codec::{CHUNK, Method, Payload, Source, unpack, unpack_range};
use crate::fault::Fault;
use crate::memory::Slot;
use crate::note::Role;
use crate::reading::MAX_ARRAY_HEADER;
use crate::record::HeadView;
use crate::rows::Rows;
use crate::sealed::Sealed;
use crate::state::{Found, Home, value_of};
use crate::tail::{Extras, Tail};
use crate::wire::Wrong;

/// The largest signature that is read, in bytes.
const MAX_SIGNATURE: u64 = 64 << 10;

/// What is wrong with a part of a pack: the key concerned, if it is about one, and in words what.
pub(crate) type Finding = (Option<Key>, String);

/// What is known of a pack that was read whole.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    pub(crate) findings: Vec<Finding>,
    /// It could not be gone along, so that its values were not read.
    pub(crate) is_broken: bool,
}

/// Reads a sealed pack whole: the data of each record, whether a key leads to it or not, and what follows the log.
/// `step` is told the bytes of each value.
pub(crate) fn inspect(pack: &Arc<Sealed>, step: &(dyn Fn(u64) + Sync)) -> Inspection {
    let path = pack.path.display();
    let look = |at, head: &HeadView<'_>| {
        let checked = check(pack, at, head);
        step(head.note.plain);
        checked.err().map(|fault| finding(pack, at, head, &fault))
    };
    let (rows, mut findings) = match Rows::visit(pack.log(), &pack.pack, pack.start, &pack.guide(), &look) {
        Ok(read) => read,
        Err((at, wrong)) => {
            let what =
                format!("the pack {path} is damaged at byte {at} ({}); restore it from a backup", wrong.0);
            return Inspection { findings: vec![(None, what)], is_broken: true };
        }
    };
    findings.extend(tail_problem(pack, &rows).map(|what| (None, what)));
    Inspection { findings, is_broken: false }
}

/// What is wrong with a sealed pack.
pub(crate) fn problems(pack: &Arc<Sealed>) -> Vec<Finding> {
    inspect(pack, &|_| ()).findings
}

/// What follows the log must be what sealing it anew gives.
fn tail_problem(pack: &Arc<Sealed>, rows: &Rows<'_>) -> Option<String> {
    let path = pack.path.display();
    let extras = match extras(pack) {
        Ok(extras) => extras,
        Err(what) => return Some(format!("the pack {path} is damaged: {what}; compact it, or restore it")),
    };
    let wanted =
        Extras { signature: extras.signature.as_deref(), manifest: extras.manifest, ..Extras::default() };
    let log_len = pack.log().len();
    let tail = match Tail::of_rows(rows, &pack.pack, log_len as u64, &wanted) {
        Ok(tail) => tail,
        Err((at, wrong)) => {
            return Some(format!(
                "the pack {path} is damaged at byte {at} ({}); restore it from a backup",
                wrong.0
            ));
        }
    };
    let at = log_len + first_difference(&tail.bytes, &pack.bytes[log_len..])?;
    let part = part_of(pack, at as u64);
    Some(format!(
        "the pack {path} is not what follows from its records: {part} differs at byte {at}; compact it, or restore it \
         from a backup"
    ))
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
    if one == other {
        return None;
    }
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    at.or_else(|| (one.len() != other.len()).then(|| one.len().min(other.len())))
}

fn finding(pack: &Sealed, at: u64, head: &HeadView<'_>, fault: &Fault) -> Finding {
    let why = match fault {
        Fault::Damage(wrong) => wrong.0.to_owned(),
        Fault::Pack(what) => what.clone(),
        Fault::System(error) => error.to_string(),
    };
    let path = pack.path.display();
    let what =
        format!("a record at byte {at} of the pack {path} is damaged ({why}); restore it from a backup");
    (head.note.key().and_then(|key| Key::new(key).ok()), what)
}

/// Checks the data of a record against its CRCs, and a value against its checksum and its size.
fn check(pack: &Sealed, at: u64, head: &HeadView<'_>) -> Result<(), Fault> {
    const CHANGED: Wrong = Wrong("the value does not match its checksum");
    let data = Data { pack, head, at: at + head.head_len() };
    let sum = data.sum()?;
    if !matches!(head.note.role, Role::Value | Role::Content) {
        return Ok(());
    }
    if head.note.checksum() != Some(sum) {
        return Err(CHANGED.into());
    }
    match head.note.entry() {
        Some(entry) if data.size_of(entry.kind, entry.size)? != entry.size => Err(CHANGED.into()),
        _ => Ok(()),
    }
}

/// The data of a record.
struct Data<'p> {
    pack: &'p Sealed,
    head: &'p HeadView<'p>,
    /// Where it begins.
    at: u64,
}

impl Data<'_> {
    /// The checksum of the unpacked data, whose CRCs are checked; one chunk of it is in memory at a time.
    fn sum(&self) -> Result<Checksum, Wrong> {
        let layout = self.head.note.layout();
        if self.head.method == Method::Stored && layout.plain <= CHUNK {
            let bytes = self.pack.view(self.at, layout.stored)?;
            if layout.stored != layout.plain || crc32fast::hash(bytes) != layout.data_crc {
                return Err(Wrong("its data does not match its CRC"));
            }
            return Ok(Checksum::of(&[bytes]));
        }
        let mut sum = ChecksumBuilder::new();
        for start in (0..layout.plain).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
            let end = layout.plain.min(start + CHUNK);
            sum.update(&unpack_range(self, self.head.method, layout, start, end)?);
        }
        Ok(sum.finish())
    }

    /// The size of the value that the data is, which should be `size`.
    fn size_of(&self, kind: Kind, size: u64) -> Result<u64, Wrong> {
        let layout = self.head.note.layout();
        if kind != Kind::Array || layout.plain > size.saturating_add(MAX_ARRAY_HEADER) {
            return Ok(layout.plain);
        }
        Ok(value_of(kind, unpack(self, self.head.method, layout)?)?.size())
    }
}

impl Source for Data<'_> {
    type Error = Wrong;

    fn stored(&self, start: u64, len: u64) -> Result<Bytes, Wrong> {
        self.pack.slice(self.at.saturating_add(start), len)
    }

    fn table(&self, len: u64) -> Result<Bytes, Wrong> {
        self.pack.slice(self.at.saturating_add(self.head.note.stored), len)
    }
}

/// What the tail has that does not follow from the log.
struct Kept {
    signature: Option<Bytes>,
    manifest: Option<(Bytes, Payload)>,
}

fn extras(pack: &Arc<Sealed>) -> Result<Kept, &'static str> {
    let manifest = found(pack, pack.seal.manifest_at, Role::Manifest)?;
    let text = unpack(&manifest, manifest.head().method, manifest.head().note.layout());
    let text = text.map_err(|_| "its manifest cannot be read")?;
    let payload = manifest.payload().map_err(|_| "its manifest cannot be read")?;
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

/// A record of the tail.
pub(crate) fn found(pack: &Arc<Sealed>, at: u64, role: Role) -> Result<Found, &'static str> {
    let head = pack.head(at).map_err(|wrong| wrong.0)?;
    if head.note.role != role {
        return Err("a record of its end is of another kind");
    }
    Ok(Found { home: Home::Pack(Arc::clone(pack)), slot: Slot { at, head: head.into() } })
}
