//! What is known of the order of the records of a log before it is read.

use crate::rows::Row;

/// How many stretches a log is cut into, which processors take one after the other.
const STRETCHES: usize = 32;

/// The offsets of records in the byte order of their keys, as an index has them. It saves work and decides nothing: rows
/// are sorted where it is wrong, and a log is read at a go where it leads into the middle of a record.
#[derive(Debug, Default)]
pub(crate) struct Guide(Vec<u64>);

impl Guide {
    /// By offsets of some records of the log, at best the newest one of each key.
    pub(crate) fn new(offsets: impl Iterator<Item = u64>) -> Self {
        Self(offsets.collect())
    }

    /// True if nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the log is cut into stretches.
    pub(crate) fn cuts(&self) -> Vec<u64> {
        let step = self.0.len().div_ceil(STRETCHES).max(1);
        let mut cuts: Vec<u64> = self.0.iter().copied().step_by(step).collect();
        cuts.sort_unstable();
        cuts
    }

    /// Sorts rows, which come by their offsets, by their keys: puts those that it knows in its order, the others behind
    /// them, and leaves the rest to a sort for which what is in order costs next to nothing.
    pub(crate) fn sort<'b>(&self, rows: &[Row<'b>]) -> Vec<Row<'b>> {
        let mut places: Vec<(u64, usize)> = self.0.iter().copied().zip(0..).collect();
        places.sort_unstable();
        let mut places = places.into_iter().peekable();
        let mut known: Vec<Option<usize>> = vec![None; self.0.len()];
        let mut sorted = Vec::with_capacity(rows.len());
        let mut unknown = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            while places.next_if(|(at, _)| *at < row.at).is_some() {}
            match places.next_if(|(at, _)| *at == row.at) {
                Some((_, place)) => known[place] = Some(number),
                None => unknown.push(*row),
            }
        }
        sorted.extend(known.into_iter().flatten().map(|number| rows[number]));
        sorted.extend(unknown);
        sorted.sort_by(|one: &Row<'_>, other| one.key.cmp(other.key).then(one.at.cmp(&other.at)));
        sorted
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use persist_core::{Descriptor, Key, StoreOptions, Value};

    use super::*;
    use crate::codec::Payload;
    use crate::config::Compression;
    use crate::head::PackHead;
    use crate::note::{About, Role};
    use crate::record::{Place, encode_head};
    use crate::rows::Rows;
    use crate::stretch::Visit;

    /// A log that is long enough to be cut, of keys in no order, every fifth of which comes twice.
    struct Written {
        bytes: Vec<u8>,
        pack: PackHead,
        start: u64,
        offsets: Vec<u64>,
    }

    fn written() -> Written {
        let pack = PackHead::new(9, 1, 1, 0);
        let mut bytes = pack.encode().unwrap();
        let (start, mut offsets) = (bytes.len() as u64, Vec::new());
        for number in 0..300_u32 {
            let value = Value::bytes(number.to_le_bytes().repeat(1200));
            let metadata = Descriptor::new("x", "pack").draft_metadata(&value, &StoreOptions::new());
            let payload = Payload::of(&value, Compression::None);
            let key = Key::new(format!("k{}", number * 77 % 250)).unwrap();
            let note = payload.note(Role::Value, About::Entry(key, metadata));
            let place = Place { salt: pack.salt, at: bytes.len() as u64 };
            offsets.push(place.at);
            encode_head(&mut bytes, place, String::new(), note, &payload).unwrap();
            payload.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        }
        Written { bytes, pack, start, offsets }
    }

    fn visit<'b>(log: &'b Written, guide: &Guide, visit: &Visit<'_, 'b, u64>) -> (String, Vec<u64>) {
        let (rows, visited) = Rows::visit(&log.bytes, &log.pack, log.start, guide, visit).unwrap();
        let by_key: Vec<_> = rows.by_key().collect();
        (format!("{by_key:?} {:?} {:?} {}", rows.contents, rows.others, rows.floor), visited)
    }

    fn in_order(log: &Written) -> Vec<u64> {
        let rows = Rows::read(&log.bytes, &log.pack, log.start, &Guide::default()).unwrap();
        rows.by_key().filter_map(|rows| Some(rows.last()?.at)).collect()
    }

    #[test]
    fn no_guide_changes_what_is_read() {
        let log = written();
        let (wanted, visited) = visit(&log, &Guide::default(), &|at, _| Some(at));
        assert_eq!(visited, log.offsets);
        let right = in_order(&log);
        assert_eq!(right.len(), 250);
        let part = right.iter().copied().step_by(3).collect();
        let twice = right.iter().flat_map(|at| [*at, *at]).collect();
        let reversed = right.iter().rev().copied().collect();
        let beyond = vec![0, 1, log.bytes.len() as u64, u64::MAX];
        for offsets in [right.clone(), part, twice, reversed, log.offsets.clone(), beyond] {
            let found = visit(&log, &Guide::new(offsets.iter().copied()), &|at, _| Some(at));
            assert_eq!(found, (wanted.clone(), visited.clone()), "{offsets:?}");
        }
        let beside = Guide::new(right.iter().map(|at| at + 1));
        assert_eq!(visit(&log, &beside, &|_, _| None).0, wanted, "a guide into the middle of records");
    }

    #[test]
    fn a_right_guide_cuts_the_log_between_records() {
        let log = written();
        let guide = Guide::new(in_order(&log).into_iter());
        let cuts = guide.cuts();
        assert!((STRETCHES / 2..=STRETCHES).contains(&cuts.len()), "{}", cuts.len());
        assert!(cuts.is_sorted() && cuts.iter().all(|cut| log.offsets.contains(cut)));
    }

    #[test]
    fn damage_is_found_at_the_same_place_with_a_guide() {
        let mut log = written();
        let guide = Guide::new(in_order(&log).into_iter());
        let bad = log.offsets[200];
        log.bytes[usize::try_from(bad).unwrap() + 40] ^= 1;
        for guide in [&guide, &Guide::default()] {
            let (at, _) = Rows::read(&log.bytes, &log.pack, log.start, guide).unwrap_err();
            assert_eq!(at, bad);
        }
    }
}
