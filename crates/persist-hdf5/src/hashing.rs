//! Checksums of large values: block by block on all cores, while the bytes are in the caches of the core that reads them.

use std::io;
use std::ops::Range;

use persist_core::{BlockSum, Checksum, NpyHeader};

use crate::medium::View;
use crate::parallel::in_parallel;
use crate::record::Form;

/// Values of fewer bytes are hashed on one core: to wake another one takes longer.
const LARGE: usize = 1 << 20;

/// What stands before the bytes of a value where it is hashed.
pub(crate) fn header_of(form: &Form) -> Vec<u8> {
    match form {
        Form::Array(dtype, shape) => NpyHeader { dtype: *dtype, shape: shape.to_vec() }.encode(),
        Form::Json | Form::Bytes => Vec::new(),
    }
}

/// The checksum of a value of that form.
pub(crate) fn checksum_of(form: &Form, bytes: &[u8]) -> Checksum {
    if bytes.len() < LARGE {
        return Checksum::of(&[&header_of(form), bytes]);
    }
    Sums::new(form, bytes.len()).finish(bytes)
}

/// Reads a value whose bytes lie in one piece, and its checksum.
///
/// # Errors
/// What the disk says.
pub(crate) fn read(view: &View, offset: u64, form: &Form, bytes: &mut [u8]) -> io::Result<Checksum> {
    if bytes.len() < LARGE {
        view.read(offset, bytes)?;
        return Ok(checksum_of(form, bytes));
    }
    let mut sums = Sums::new(form, bytes.len());
    // 512 KiB at a go, which the cache of a core holds.
    let steps = (0..sums.blocks.len()).step_by(8).map(|first| (first, (first + 8).min(sums.blocks.len())));
    let (mut rest, mut parts) = (&mut *bytes, Vec::new());
    for (first, after) in steps {
        let place = sums.place(first).start..sums.place(after - 1).end;
        let (part, others) = rest.split_at_mut(place.len());
        parts.push((place.start, part));
        rest = others;
    }
    let read = in_parallel(parts, |(at, part)| {
        view.read(offset + at as u64, part)?;
        Ok(sums.within(at, part))
    });
    for some in read.into_iter().collect::<io::Result<Vec<_>>>()? {
        sums.add(some);
    }
    Ok(sums.finish(bytes))
}

/// The hash of a block, and the number of that.
pub(crate) type NumberedSum = (usize, BlockSum);

/// The hashes of the blocks of a large value, whose bytes may come part by part.
#[derive(Debug)]
pub(crate) struct Sums {
    header: Vec<u8>,
    /// Bytes of the value.
    len: usize,
    blocks: Vec<Option<BlockSum>>,
}

impl Sums {
    /// None is known yet.
    pub(crate) fn new(form: &Form, len: usize) -> Self {
        let header = header_of(form);
        let blocks = vec![None; (header.len() + len).div_ceil(BlockSum::LEN)];
        Self { header, len, blocks }
    }

    /// Where the bytes of a block lie in the value.
    fn place(&self, number: usize) -> Range<usize> {
        let begin = number * BlockSum::LEN;
        begin.saturating_sub(self.header.len())..(begin + BlockSum::LEN - self.header.len()).min(self.len)
    }

    /// The hashes of the blocks that lie in a part as a whole, which begins at a place of the value; not of one with a header.
    pub(crate) fn within(&self, from: usize, part: &[u8]) -> Vec<NumberedSum> {
        let (first, end) = ((self.header.len() + from).div_ceil(BlockSum::LEN), from + part.len());
        (first..self.blocks.len())
            .map(|number| (number, self.place(number)))
            .take_while(|(_, place)| place.end <= end)
            .map(|(number, place)| {
                (number, BlockSum::of(number as u64, &[&part[place.start - from..place.end - from]]))
            })
            .collect()
    }

    /// Takes what was hashed in.
    pub(crate) fn add(&mut self, some: Vec<NumberedSum>) {
        for (number, sum) in some {
            self.blocks[number] = Some(sum);
        }
    }

    /// The checksum of the value, once all blocks that are not known are hashed on all cores.
    pub(crate) fn finish(self, bytes: &[u8]) -> Checksum {
        if self.blocks.len() < 2 {
            return Checksum::of(&[&self.header, bytes]);
        }
        let missing = (0..self.blocks.len()).filter(|number| self.blocks[*number].is_none()).collect();
        let hashed = in_parallel(missing, |number: usize| {
            let header = if number == 0 { &*self.header } else { &[] };
            BlockSum::of(number as u64, &[header, &bytes[self.place(number)]])
        });
        let mut hashed = hashed.into_iter();
        let sums: Vec<BlockSum> =
            self.blocks.iter().filter_map(|sum| sum.or_else(|| hashed.next())).collect();
        // There are as many as so many bytes have; a sum of nothing matches no value.
        let len = self.header.len() + self.len;
        Checksum::of_blocks(&sums, len as u64).unwrap_or(Checksum::from_bytes([0; 32]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use persist_core::{Array, Value};

    use super::*;

    #[test]
    fn large_values_have_the_checksum_of_all_values() {
        let step = 8 * BlockSum::LEN;
        for len in [0, 9, LARGE - 1, LARGE, LARGE + 1, 2 * step - 128, 3 * step, 3 * step + 77] {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
            let rows = Array::new(persist_core::DType::U8, vec![len, 1], bytes.clone().into()).unwrap();
            for value in [Value::bytes(bytes), Value::Array(rows)] {
                assert_eq!(
                    checksum_of(&Form::of(&value), value.buffer()),
                    value.checksum(),
                    "{} of {len} bytes",
                    value.kind()
                );
                for part in [1000, BlockSum::LEN, 3 * BlockSum::LEN + 5, len] {
                    let mut sums = Sums::new(&Form::of(&value), len);
                    for from in (0..len).step_by(part.max(1)) {
                        sums.add(sums.within(from, &value.buffer()[from..(from + part).min(len)]));
                    }
                    assert_eq!(
                        sums.finish(value.buffer()),
                        value.checksum(),
                        "{} of {len} bytes in {part}",
                        value.kind()
                    );
                }
            }
        }
    }
}
