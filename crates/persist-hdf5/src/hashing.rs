//! Checksums of large values: block by block on all cores, while the bytes are in the caches of the core that reads them.

use std::io;
use std::ops::Range;

use persist_core::{BlockSum, Checksum, NpyHeader, Value};

use crate::medium::View;
use crate::parallel::in_parallel;
use crate::record::Form;

/// Values of fewer bytes are hashed on one core: to wake another one takes longer.
const LARGE: usize = 1 << 20;

/// How many blocks one core does in one go: 512 KiB, which its cache holds.
const BLOCKS: usize = 8;

/// What stands before the bytes of a value where it is hashed.
pub(crate) fn header_of(form: &Form) -> Vec<u8> {
    match form {
        Form::Array(dtype, shape) => NpyHeader { dtype: *dtype, shape: shape.to_vec() }.encode(),
        Form::Json | Form::Bytes => Vec::new(),
    }
}

/// The checksum of a value.
pub(crate) fn checksum_of(value: &Value) -> Checksum {
    let bytes = value.buffer();
    if bytes.len() < LARGE {
        return value.checksum();
    }
    let header = header_of(&Form::of(value));
    let sums = in_parallel(pieces(header.len(), bytes.len()), |(number, place)| {
        sums(&header, number, &bytes[place])
    });
    joined(&sums.concat(), header.len() + bytes.len())
}

/// Reads a value whose bytes lie in one piece, and its checksum.
///
/// # Errors
/// What the disk says.
pub(crate) fn read(view: &View, offset: u64, form: &Form, bytes: &mut [u8]) -> io::Result<Checksum> {
    let header = header_of(form);
    if bytes.len() < LARGE {
        view.read(offset, bytes)?;
        return Ok(Checksum::of(&[&header, bytes]));
    }
    let (len, mut rest, mut parts) = (bytes.len(), bytes, Vec::new());
    for (number, place) in pieces(header.len(), len) {
        let (part, after) = rest.split_at_mut(place.len());
        parts.push((number, offset + place.start as u64, part));
        rest = after;
    }
    let sums = in_parallel(parts, |(number, at, part)| {
        view.read(at, part)?;
        Ok(sums(&header, number, part))
    });
    let sums = sums.into_iter().collect::<io::Result<Vec<_>>>()?;
    Ok(joined(&sums.concat(), header.len() + len))
}

/// Cuts a value so that each part has whole blocks: the number of its first block, and its place.
fn pieces(header: usize, len: usize) -> Vec<(u64, Range<usize>)> {
    let step = BLOCKS * BlockSum::LEN;
    let place = |at: usize| at.saturating_sub(header)..(at + step - header).min(len);
    (0..header + len).step_by(step).map(|at| ((at / BlockSum::LEN) as u64, place(at))).collect()
}

/// The hashes of the blocks of a part.
fn sums(header: &[u8], number: u64, part: &[u8]) -> Vec<BlockSum> {
    let mut sums = Vec::with_capacity(BLOCKS);
    let mut rest = part;
    if number == 0 {
        let (first, after) = part.split_at((BlockSum::LEN - header.len()).min(part.len()));
        sums.push(BlockSum::of(0, &[header, first]));
        rest = after;
    }
    let from = number + sums.len() as u64;
    sums.extend(
        (from..).zip(rest.chunks(BlockSum::LEN)).map(|(number, block)| BlockSum::of(number, &[block])),
    );
    sums
}

fn joined(sums: &[BlockSum], len: usize) -> Checksum {
    // There are as many as so many bytes have, and more than one; a sum of nothing matches no value.
    Checksum::of_blocks(sums, len as u64).unwrap_or(Checksum::from_bytes([0; 32]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use persist_core::Array;

    use super::*;

    #[test]
    fn large_values_have_the_checksum_of_all_values() {
        let step = BLOCKS * BlockSum::LEN;
        for len in [0, 9, LARGE - 1, LARGE, LARGE + 1, 2 * step - 128, 3 * step, 3 * step + 77] {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
            let rows = Array::new(persist_core::DType::U8, vec![len, 1], bytes.clone().into()).unwrap();
            for value in [Value::bytes(bytes), Value::Array(rows)] {
                assert_eq!(checksum_of(&value), value.checksum(), "{} of {len} bytes", value.kind());
            }
        }
    }
}
