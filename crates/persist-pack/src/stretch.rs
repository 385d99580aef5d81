//! A part of a log, which one processor goes along.

use persist_core::Checksum;

use crate::guide::Guide;
use crate::note::Role;
use crate::record::{HeadView, MAX_HEAD, Place, view_head};
use crate::rows::{Damaged, Row};
use crate::wire::Wrong;

/// A log of fewer bytes is read by one thread.
const SHORT: u64 = 1 << 20;

const CUT: Wrong = Wrong("it is cut off");

/// What is to be said of a record, by its offset and its head.
pub(crate) type Visit<'v, 'b, T> = dyn Fn(u64, &HeadView<'b>) -> Option<T> + Sync + 'v;

/// Records of a log in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'b> {
    /// The whole log.
    pub(crate) bytes: &'b [u8],
    pub(crate) salt: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What a stretch holds, as [`Rows`] has it.
pub(crate) struct Part<'b, T> {
    pub(crate) rows: Vec<Row<'b>>,
    pub(crate) contents: Vec<(Checksum, u64)>,
    pub(crate) others: Vec<u64>,
    pub(crate) floor: u64,
    pub(crate) remarks: Vec<T>,
}

impl<'b> Stretch<'b> {
    pub(crate) fn cut(self, guide: &Guide) -> Vec<Self> {
        let mut start = self.start;
        let cuts = if self.end.saturating_sub(start) < SHORT { Vec::new() } else { guide.cuts() };
        let within = cuts.into_iter().filter(|cut| *cut > self.start && *cut < self.end);
        let ends = within.chain([self.end]);
        ends.map(|end| Self { start: std::mem::replace(&mut start, end), end, ..self }).collect()
    }

    /// Goes along it; a record must end where it ends.
    pub(crate) fn read<T>(&self, visit: &Visit<'_, 'b, T>) -> Result<Part<'b, T>, Damaged> {
        let mut part = Part {
            rows: Vec::new(),
            contents: Vec::new(),
            others: Vec::new(),
            floor: 0,
            remarks: Vec::new(),
        };
        let mut at = self.start;
        while at < self.end {
            let head = self.head(at).map_err(|wrong| (at, wrong))?;
            if !head.note.role.in_log() || head.note.role == Role::Head {
                return Err((at, Wrong("it is in the wrong place")));
            }
            part.add(at, &head);
            part.remarks.extend(visit(at, &head));
            at += head.record_len();
        }
        Ok(part)
    }

    pub(crate) fn from(&self, at: u64) -> Result<&'b [u8], Wrong> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).ok_or(CUT)?;
        Ok(&rest[..rest.len().min(MAX_HEAD)])
    }

    pub(crate) fn head(&self, at: u64) -> Result<HeadView<'b>, Wrong> {
        let head = view_head(self.from(at)?, Place { salt: self.salt, at })?;
        if head.record_len() <= self.end - at { Ok(head) } else { Err(CUT) }
    }
}

impl<'b, T> Part<'b, T> {
    fn add(&mut self, at: u64, head: &HeadView<'b>) {
        let note = &head.note;
        if let Some(version) = note.version() {
            self.floor = self.floor.max(version.as_u64());
        }
        let checksum = note.checksum();
        if let (Some(checksum), true) = (checksum, note.role != Role::Reference) {
            self.contents.push((checksum, at));
        }
        match note.key() {
            Some(key) => self.rows.push(Row { key, at, len: head.record_len(), role: note.role, checksum }),
            None => self.others.push(at),
        }
    }
}
