//! The records of a log by their keys, in the order of the log.

use std::collections::HashSet;

use persist_core::Checksum;

use crate::guide::Guide;
use crate::head::PackHead;
use crate::memory::FirstBytesBuilder;
use crate::note::Role;
use crate::parallel::in_parallel;
use crate::record::{HeadView, known_head};
use crate::stretch::{Part, Stretch, Visit};
use crate::wire::Wrong;

/// What is remembered of a record with a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'b> {
    pub(crate) key: &'b str,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) role: Role,
    pub(crate) checksum: Option<Checksum>,
}

/// The offset of a record that is damaged, and how.
pub(crate) type Damaged = (u64, Wrong);

/// The records of a whole log.
#[derive(Debug)]
pub(crate) struct Rows<'b> {
    log: Stretch<'b>,
    /// Those with a key, by key and offset.
    rows: Vec<Row<'b>>,
    /// The first record with each content, in the order of the log.
    pub(crate) contents: Vec<(Checksum, u64)>,
    /// The offsets of those without a key, that of the first record among them.
    pub(crate) others: Vec<u64>,
    /// The greatest version in the pack and before it.
    pub(crate) floor: u64,
}

impl<'b> Rows<'b> {
    /// Goes along a log that begins with `pack`, whose second record is at `start`.
    ///
    /// # Errors
    /// The offset of a record that is damaged, and how.
    pub(crate) fn read(bytes: &'b [u8], pack: &PackHead, start: u64, guide: &Guide) -> Result<Self, Damaged> {
        Self::visit(bytes, pack, start, guide, &|_, _| None::<()>).map(|(rows, _)| rows)
    }

    /// As [`read`](Self::read), with what `visit` has to say of each record behind the first one.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn visit<T: Send>(
        bytes: &'b [u8],
        pack: &PackHead,
        start: u64,
        guide: &Guide,
        visit: &Visit<'_, 'b, T>,
    ) -> Result<(Self, Vec<T>), Damaged> {
        let log = Stretch { bytes, salt: pack.salt, start, end: bytes.len() as u64 };
        let parts: Result<Vec<_>, _> =
            in_parallel(&log.cut(guide), |part| part.read(visit)).into_iter().collect();
        match parts {
            Ok(parts) => Ok(Self::join(log, pack, parts, guide)),
            // A cut may have been in the middle of a record.
            Err(_) if !guide.is_empty() => Self::visit(bytes, pack, start, &Guide::default(), visit),
            Err(damaged) => Err(damaged),
        }
    }

    fn join<T>(log: Stretch<'b>, pack: &PackHead, parts: Vec<Part<'b, T>>, guide: &Guide) -> (Self, Vec<T>) {
        let count = parts.iter().map(|part| part.rows.len()).sum();
        let mut seen = HashSet::with_capacity_and_hasher(count, FirstBytesBuilder::default());
        let (rows, contents) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut whole = Self { log, rows, contents, others: vec![0], floor: pack.floor };
        let mut remarks = Vec::new();
        for part in parts {
            whole.contents.extend(part.contents.into_iter().filter(|(checksum, _)| seen.insert(*checksum)));
            whole.rows.extend(part.rows);
            whole.others.extend(part.others);
            whole.floor = whole.floor.max(part.floor);
            remarks.extend(part.remarks);
        }
        whole.rows = guide.sort(&whole.rows);
        (whole, remarks)
    }

    /// The head of the record at an offset, which was checked when the log was read.
    pub(crate) fn head(&self, at: u64) -> Result<HeadView<'b>, Wrong> {
        known_head(self.log.from(at)?)
    }

    /// The records of each key, in the byte order of the keys.
    pub(crate) fn by_key(&self) -> impl Iterator<Item = &[Row<'b>]> {
        self.rows.chunk_by(|one, other| one.key == other.key)
    }
}

/// The record that other tools see as the entry of a key: the last one that holds the value which the key has now.
pub(crate) fn shown<'r, 'b>(rows: &'r [Row<'b>]) -> Option<&'r Row<'b>> {
    let last = rows.last()?;
    rows.iter().rev().find(|row| row.role == Role::Value && row.checksum == last.checksum)
}
