//! The central directory of ZIP and its end records.
//!
//! Source: APPNOTE.TXT 6.3.10, sections 4.3.12 (central directory header), 4.3.14 to 4.3.16 (end records) and 4.5.3.

use crate::record::{HeadView, NO_TIME, SEE_ZIP64, UTF8_NAME, is_zip64, version_needed};
use crate::seal::COMMENT;
use crate::wire::Reader;

const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

/// The end record of ZIP without its comment.
const END_BYTES: usize = 22;

/// Made by Unix, by version 6.3 of the specification.
const MADE_BY: u16 = (3 << 8) | 63;

/// A regular file that everybody may read, as Unix writes it.
const MODE: u32 = 0o100_644 << 16;

/// So many entries that ZIP64 is needed to say how many.
const MANY: u64 = 0xFFFF;

/// The central directory in the making.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    bytes: Vec<u8>,
    count: u64,
}

impl Directory {
    /// Adds the entry of a record.
    pub(crate) fn add(&mut self, head: &HeadView<'_>, at: u64) {
        let (note, far) = (&head.note, at >= u64::from(SEE_ZIP64));
        let zip64 = is_zip64(note.plain, note.stored);
        let mut extra = Vec::new();
        if zip64 || far {
            let len = if zip64 { 16 } else { 0 } + if far { 8 } else { 0 };
            extra.extend(1_u16.to_le_bytes());
            extra.extend(u16::to_le_bytes(len));
            if zip64 {
                extra.extend(note.plain.to_le_bytes());
                extra.extend(note.stored.to_le_bytes());
            }
            if far {
                extra.extend(at.to_le_bytes());
            }
        }
        let short = |length: u64| if zip64 { SEE_ZIP64 } else { u32::try_from(length).unwrap_or(SEE_ZIP64) };
        let to = &mut self.bytes;
        to.extend(CENTRAL.to_le_bytes());
        to.extend(MADE_BY.to_le_bytes());
        to.extend(version_needed(head.method, zip64 || far).to_le_bytes());
        to.extend(UTF8_NAME.to_le_bytes());
        to.extend((head.method as u16).to_le_bytes());
        to.extend(NO_TIME);
        to.extend(head.crc32.to_le_bytes());
        to.extend(short(note.stored).to_le_bytes());
        to.extend(short(note.plain).to_le_bytes());
        to.extend(u16::try_from(head.name.len()).unwrap_or(u16::MAX).to_le_bytes());
        to.extend(u16::try_from(extra.len()).unwrap_or(u16::MAX).to_le_bytes());
        // No comment, the first disk, no internal attributes.
        to.extend([0; 6]);
        to.extend(MODE.to_le_bytes());
        to.extend(u32::try_from(at).unwrap_or(SEE_ZIP64).to_le_bytes());
        to.extend(head.name.as_bytes());
        to.extend(extra);
        self.count += 1;
    }

    /// Adds what another one holds.
    pub(crate) fn append(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
        self.count += other.count;
    }

    /// The directory and its end records, as they stand at `at`.
    pub(crate) fn finish(mut self, at: u64, comment: &str) -> Vec<u8> {
        let len = self.bytes.len() as u64;
        let many = self.count >= MANY;
        let far = at.max(len) >= u64::from(SEE_ZIP64);
        let to = &mut self.bytes;
        if many || far {
            to.extend(END64.to_le_bytes());
            to.extend(44_u64.to_le_bytes());
            to.extend(MADE_BY.to_le_bytes());
            to.extend(45_u16.to_le_bytes());
            to.extend([0; 8]);
            for number in [self.count, self.count, len, at] {
                to.extend(number.to_le_bytes());
            }
            to.extend(LOCATOR64.to_le_bytes());
            to.extend([0; 4]);
            to.extend((at + len).to_le_bytes());
            to.extend(1_u32.to_le_bytes());
        }
        let count = u16::try_from(self.count.min(MANY)).unwrap_or(u16::MAX);
        let short = |number: u64| u32::try_from(number).unwrap_or(SEE_ZIP64);
        to.extend(END.to_le_bytes());
        to.extend([0; 4]);
        to.extend(count.to_le_bytes());
        to.extend(count.to_le_bytes());
        to.extend(short(len).to_le_bytes());
        to.extend(short(at).to_le_bytes());
        to.extend(u16::try_from(comment.len()).unwrap_or(0).to_le_bytes());
        to.extend(comment.as_bytes());
        self.bytes
    }
}

/// True if a seal stands where ZIP tools look for the end of the directory.
pub(crate) fn has_end(pack: &[u8]) -> bool {
    let at = pack.len().checked_sub(COMMENT + END_BYTES);
    let end = at.and_then(|at| pack.get(at..)).unwrap_or_default();
    Reader::new(end).u32() == Ok(END)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;
    use crate::codec::Payload;
    use crate::note::{About, Role};
    use crate::record::{Place, encode_head, view_head};

    #[test]
    fn offsets_and_counts_beyond_the_old_limits_use_zip64() {
        let payload = Payload::empty();
        let note = payload.note(Role::Manifest, About::Pack);
        let mut bytes = Vec::new();
        let place = Place { salt: 0, at: 1 << 33 };
        encode_head(&mut bytes, place, "n".to_owned(), note, &payload).unwrap();
        let head = view_head(&bytes, place).unwrap();
        let mut directory = Directory::default();
        directory.add(&head, 1 << 33);
        assert_eq!(directory.bytes[42..46], [0xFF; 4], "the offset is in the extra field");
        assert_eq!(directory.bytes[47..51], [1, 0, 8, 0]);
        assert_eq!(directory.bytes[51..59], (1_u64 << 33).to_le_bytes());
        let end = directory.finish(1 << 33, "c");
        assert_eq!(end[59..63], END64.to_le_bytes());
        for (count, zip64) in [(0xFFFE, false), (0xFFFF, true), (70_000, true)] {
            let directory = Directory { count, bytes: Vec::new() };
            let end = directory.finish(10, "");
            let wanted = if zip64 { END64 } else { END };
            assert_eq!(end[..4], wanted.to_le_bytes(), "{count} entries");
        }
    }
}
