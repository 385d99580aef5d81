use std::ops::Range;

use bytes::{Bytes, BytesMut};
use persist_core::{Checksum, Value};

/// The length of a part. A value up to this length is one string that `redis-cli` shows; a longer one is cut, so that
/// a range is read alone.
pub(crate) const PART: usize = 256 << 10;

/// The bytes of a sum in the list of them.
const SUM: usize = 32;

/// A value cut for the wire: JSON text and bytes as they are, an array as an `.npy` file.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) parts: Vec<Bytes>,
    /// The length of the `.npy` header; 0 for the other kinds.
    pub(crate) header: usize,
}

impl Parts {
    pub(crate) fn of(value: &Value) -> Self {
        let header = match value {
            Value::Array(array) => array.npy_header().encode(),
            Value::Json(_) | Value::Bytes(_) => Vec::new(),
        };
        Self { header: header.len(), parts: cut(header, value.buffer()) }
    }

    /// The BLAKE3 sums of the parts in a row; nothing for one part, which the checksum of the value covers.
    pub(crate) fn sums(&self) -> Option<Bytes> {
        (self.parts.len() > 1).then(|| {
            let mut sums = BytesMut::with_capacity(self.parts.len() * SUM);
            self.parts.iter().for_each(|part| sums.extend_from_slice(Checksum::of(&[part]).as_bytes()));
            sums.freeze()
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

fn cut(header: Vec<u8>, body: &Bytes) -> Vec<Bytes> {
    if header.len() + body.len() <= PART {
        return vec![joined(header, body)];
    }
    let first = PART - header.len();
    let head = joined(header, &body.slice(..first));
    let rest = (first..body.len()).step_by(PART).map(|at| body.slice(at..body.len().min(at + PART)));
    std::iter::once(head).chain(rest).collect()
}

/// One after the other; without a copy where there is no header.
fn joined(header: Vec<u8>, body: &Bytes) -> Bytes {
    if header.is_empty() {
        return body.clone();
    }
    let mut whole = BytesMut::from(header.as_slice());
    whole.extend_from_slice(body);
    whole.freeze()
}

/// Which parts hold a range of the plain buffer, and where it begins and ends within them.
pub(crate) fn locate(range: Range<u64>, size: u64, header: usize) -> Option<(Range<usize>, Range<usize>)> {
    let at = |position: u64| usize::try_from(position.min(size)).ok()?.checked_add(header);
    let (start, end) = (at(range.start)?, at(range.end)?);
    if start >= end {
        return None;
    }
    let parts = start / PART..(end - 1) / PART + 1;
    let offset = parts.start * PART;
    Some((parts, start - offset..end - offset))
}

/// Whether a part is what its sum says.
pub(crate) fn is_sound(part: &[u8], number: usize, sums: &[u8]) -> bool {
    let sum = number.checked_mul(SUM).and_then(|at| sums.get(at..at + SUM));
    sum.is_some_and(|sum| Checksum::of(&[part]).as_bytes() == sum)
}

#[cfg(test)]
mod tests {
    use persist_core::Array;

    use super::*;

    #[test]
    fn parts_make_the_whole_again() {
        for size in [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 7] {
            let value = Value::bytes(vec![7; size]);
            let parts = Parts::of(&value);
            assert_eq!(parts.parts.concat().len(), size);
            assert_eq!(parts.parts.len(), size.div_ceil(PART).max(1));
            assert_eq!(parts.sums().is_some(), size > PART);
        }
        let array = Value::Array(Array::from_vec(vec![PART], vec![1_u16; PART]).unwrap());
        let parts = Parts::of(&array);
        assert_eq!(Array::from_npy(&parts.parts.concat().into()).unwrap().len(), PART);
        assert!(parts.parts.iter().all(|part| part.len() <= PART) && parts.header > 0);
    }

    #[test]
    fn ranges_are_found() {
        let size = 3 * PART as u64;
        assert_eq!(locate(0..1, size, 0), Some((0..1, 0..1)));
        assert_eq!(locate(PART as u64 - 1..PART as u64 + 1, size, 0), Some((0..2, PART - 1..PART + 1)));
        assert_eq!(locate(PART as u64..PART as u64 + 2, size, 0), Some((1..2, 0..2)));
        assert_eq!(locate(size - 1..u64::MAX, size, 0), Some((2..3, PART - 1..PART)));
        assert_eq!(locate(0..8, size, 128), Some((0..1, 128..136)));
        assert_eq!(locate(size..size + 5, size, 0), None);
        assert_eq!(locate(5..5, size, 0), None);
    }

    #[test]
    fn a_damaged_part_is_seen() {
        let parts = Parts::of(&Value::bytes(vec![7; 2 * PART]));
        let sums = parts.sums().unwrap();
        assert!(is_sound(&parts.parts[1], 1, &sums));
        assert!(!is_sound(&parts.parts[1][1..], 1, &sums));
        assert!(!is_sound(&parts.parts[1], 2, &sums));
    }
}
