//! Arrays in chunks: which chunks there are, and moving elements between them and a row-major buffer.

use std::ops::Range;

use parking_lot::Mutex;

use crate::buffer::Buffer;
use crate::codec::{Coded, Filter, Pipeline, encode};
use crate::decoder::Decoders;
use crate::parallel::in_parallel;

/// The shape of chunks that are not to be larger than `target` bytes: whole rows of the last axes, as many as fit.
pub(crate) fn chunk_shape(shape: &[usize], element: usize, target: usize) -> Vec<usize> {
    let mut chunk = vec![1; shape.len()];
    let mut room = (target / element).max(1);
    for (axis, len) in shape.iter().enumerate().rev() {
        chunk[axis] = (*len).clamp(1, room);
        room /= chunk[axis];
    }
    chunk
}

/// The part of an array that some of its rows are.
pub(crate) fn of_rows(shape: &[usize], rows: Range<usize>) -> Vec<Range<usize>> {
    let axis = |(axis, len): (usize, &usize)| if axis == 0 { rows.clone() } else { 0..*len };
    shape.iter().enumerate().map(axis).collect()
}

/// An array and its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) shape: Vec<usize>,
    pub(crate) chunk: Vec<usize>,
    /// Bytes of an element.
    pub(crate) element: usize,
}

impl Grid {
    /// How many chunks there are along each axis.
    fn counts(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.chunk).map(|(len, chunk)| len.div_ceil(*chunk)).collect()
    }

    /// How many bytes a chunk has; those at the end are as long as the others.
    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk.iter().product::<usize>() * self.element
    }

    /// The first element of each chunk that holds some of the elements, axis by axis.
    pub(crate) fn chunks(&self, wanted: &[Range<usize>]) -> Vec<Vec<usize>> {
        let mut chunks = vec![Vec::new()];
        for ((axis, count), chunk) in wanted.iter().zip(self.counts()).zip(&self.chunk) {
            let (first, last) = (axis.start / chunk, axis.end.div_ceil(*chunk).min(count));
            let last = if axis.is_empty() { first } else { last };
            chunks = chunks
                .into_iter()
                .flat_map(|above| {
                    (first..last).map(move |at| above.iter().copied().chain([at * chunk]).collect::<Vec<_>>())
                })
                .collect();
        }
        chunks
    }

    /// All elements.
    pub(crate) fn all(&self) -> Vec<Range<usize>> {
        self.shape.iter().map(|len| 0..*len).collect()
    }

    /// Takes a chunk out of a buffer of a part of the array; what lies beyond it is zero.
    fn gather(&self, buffer: &[u8], part: &[Range<usize>], at: &[usize]) -> Vec<u8> {
        let mut chunk = vec![0; self.chunk_bytes()];
        self.runs(at, part, |in_chunk, in_buffer, len| {
            chunk[in_chunk..in_chunk + len].copy_from_slice(&buffer[in_buffer..in_buffer + len]);
        });
        chunk
    }

    /// Calls `copy` for each run of bytes that a chunk and a part of the array share: where it lies in the chunk, where in a
    /// row-major buffer of the part, and how long it is.
    fn runs(&self, at: &[usize], part: &[Range<usize>], mut copy: impl FnMut(usize, usize, usize)) {
        let both: Vec<Range<usize>> = at
            .iter()
            .zip(&self.chunk)
            .zip(part)
            .map(|((at, len), part)| part.start.max(*at)..part.end.min(at + len))
            .collect();
        if both.iter().any(Range::is_empty) {
            return;
        }
        let Some((last, above)) = both.split_last() else { return copy(0, 0, self.element) };
        let mut place: Vec<usize> = above.iter().map(|axis| axis.start).collect();
        loop {
            let (mut in_chunk, mut in_buffer) = (0, 0);
            for (axis, place) in place.iter().chain([&last.start]).enumerate() {
                in_chunk = in_chunk * self.chunk[axis] + place - at[axis];
                in_buffer = in_buffer * part[axis].len() + place - part[axis].start;
            }
            copy(in_chunk * self.element, in_buffer * self.element, last.len() * self.element);
            // The next row, as an odometer counts.
            let Some(axis) = (0..above.len()).rev().find(|axis| place[*axis] + 1 < above[*axis].end) else {
                return;
            };
            place[axis] += 1;
            for inner in axis + 1..above.len() {
                place[inner] = above[inner].start;
            }
        }
    }
}

/// An array that went through its filters, ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) grid: Grid,
    pub(crate) pipeline: Pipeline,
    /// Where each chunk begins, and what it became.
    pub(crate) chunks: Vec<(Vec<usize>, Coded)>,
}

impl Packed {
    /// How many bytes its chunks have.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, coded)| coded.bytes.len() as u64).sum()
    }
}

/// Copies a part of an array: `copy` is told where a run of bytes lies in the array, where in a row-major buffer of the part, and
/// how long it is.
pub(crate) fn rows(
    shape: &[usize],
    element: usize,
    part: &[Range<usize>],
    copy: impl FnMut(usize, usize, usize),
) {
    // Axes at the end that are wanted whole lie in one run with the one before them.
    let (mut rank, mut element) = (shape.len(), element);
    while rank > 1 && part[rank - 1] == (0..shape[rank - 1]) {
        rank -= 1;
        element *= shape[rank];
    }
    let shape = &shape[..rank];
    let whole = Grid { shape: shape.to_vec(), chunk: shape.to_vec(), element };
    whole.runs(&vec![0; rank], &part[..rank], copy);
}

/// Codes all chunks of a buffer on all cores.
pub(crate) fn pack(grid: Grid, pipeline: Pipeline, buffer: &[u8]) -> Packed {
    let all = grid.all();
    pack_part(grid, pipeline, buffer, &all)
}

/// Codes the chunks that hold a part of the array; the buffer has that part, which must have all of each chunk that there is.
pub(crate) fn pack_part(grid: Grid, pipeline: Pipeline, buffer: &[u8], part: &[Range<usize>]) -> Packed {
    let places = grid.chunks(part);
    let coded = in_parallel(places, |at| {
        let coded = encode(&pipeline, grid.gather(buffer, part, &at));
        (at, coded)
    });
    Packed { grid, pipeline, chunks: coded }
}

/// Decodes chunks on all cores; the elements of a part of the array, row-major. `None` if a chunk is damaged, or there is no room.
pub(crate) fn unpack(packed: Packed, part: &[Range<usize>]) -> Option<Buffer> {
    let count: usize = part.iter().map(Range::len).product();
    let mut buffer = Buffer::zeroed((count * packed.grid.element) as u64)?;
    unpack_into(packed, part, &Decoders::default(), &mut buffer, |_, _| ())?;
    Some(buffer)
}

/// Decodes chunks on all cores and puts the elements of a part of the array into a row-major buffer of it, in which places without a chunk
/// stay as they are; `None` if a chunk is damaged. Of chunks of whole rows `look` is shown what became of each, and where that
/// lies in the buffer, while it is in the caches of the core that decoded it.
pub(crate) fn unpack_into<R: Send>(
    packed: Packed,
    part: &[Range<usize>],
    decoders: &Decoders,
    buffer: &mut [u8],
    look: impl Fn(usize, &[u8]) -> R + Sync,
) -> Option<Vec<R>> {
    let Packed { grid, pipeline, chunks } = packed;
    let len = grid.chunk_bytes();
    let whole = |coded: &Coded| {
        let mut chunk = Buffer::zeroed(len as u64)?;
        decoders.decode(&pipeline, coded, &mut chunk)?;
        Some(chunk)
    };
    if let Some(strips) = strips(&grid, &chunks, part, buffer) {
        let strips = strips.into_iter().zip(chunks).collect();
        let decoded = in_parallel(strips, |(Strip { skipped, place, bytes }, (_, coded))| {
            match bytes.len() == len {
                true => decoders.decode(&pipeline, &coded, bytes)?,
                false => bytes.copy_from_slice(&whole(&coded)?[skipped..skipped + bytes.len()]),
            }
            Some(look(place, bytes))
        });
        return decoded.into_iter().collect();
    }
    let buffer = Mutex::new(buffer);
    let decoded = in_parallel(chunks, |(at, coded)| {
        let chunk = whole(&coded)?;
        let mut buffer = buffer.lock();
        grid.runs(&at, part, |in_chunk, in_buffer, len| {
            buffer[in_buffer..in_buffer + len].copy_from_slice(&chunk[in_chunk..in_chunk + len]);
        });
        Some(())
    });
    decoded.into_iter().all(|decoded| decoded.is_some()).then(Vec::new)
}

/// What a chunk of whole rows has of a buffer.
struct Strip<'b> {
    /// How many bytes of the chunk come before.
    skipped: usize,
    /// Where it lies in the buffer.
    place: usize,
    bytes: &'b mut [u8],
}

/// For each chunk what it has of a buffer of a part, so that all of them can be decoded at once; `None` unless chunks consist of whole
/// rows, as they do unless somebody wanted others.
fn strips<'b>(
    grid: &Grid,
    chunks: &[(Vec<usize>, Coded)],
    part: &[Range<usize>],
    buffer: &'b mut [u8],
) -> Option<Vec<Strip<'b>>> {
    let (rows, others) = part.split_first()?;
    let lengths = grid.shape[1..].iter().zip(&grid.chunk[1..]);
    if !lengths.zip(others).all(|((shape, chunk), part)| shape == chunk && *part == (0..*shape)) {
        return None;
    }
    let row = grid.shape[1..].iter().product::<usize>() * grid.element;
    let (mut strips, mut rest, mut reached) = (Vec::with_capacity(chunks.len()), buffer, rows.start);
    for (at, _) in chunks {
        let (start, end) = (at[0].max(rows.start), (at[0] + grid.chunk[0]).min(rows.end));
        let (gap, length) = (start.checked_sub(reached)?, end.checked_sub(start)?);
        let (strip, after) = rest.split_at_mut_checked(gap * row)?.1.split_at_mut_checked(length * row)?;
        let (skipped, place) = ((start - at[0]) * row, (start - rows.start) * row);
        strips.push(Strip { skipped, place, bytes: strip });
        (rest, reached) = (after, end);
    }
    Some(strips)
}

/// The filters of a dataset with elements of so many bytes.
pub(crate) fn pipeline(shuffle: bool, codec: Option<Filter>, fletcher32: bool, element: usize) -> Pipeline {
    let shuffle = (shuffle && element > 1 && codec.is_some()).then_some(Filter::Shuffle(element));
    shuffle.into_iter().chain(codec).chain(fletcher32.then_some(Filter::Fletcher32)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_hold_whole_rows_as_many_as_fit() {
        assert_eq!(chunk_shape(&[1000, 10, 10], 8, 8000), [10, 10, 10]);
        assert_eq!(chunk_shape(&[5], 8, 1 << 20), [5]);
        assert_eq!(chunk_shape(&[3, 1 << 20], 8, 1 << 10), [1, 128]);
        assert_eq!(chunk_shape(&[0, 4], 8, 1 << 10), [1, 4]);
    }

    proptest! {
        #[test]
        fn parts_of_packed_arrays_are_those_of_the_array(
            axes in prop::collection::vec((1_usize..9, 1_usize..5, 0_usize..9, 0_usize..9), 1..4), rows: bool, whole: bool,
        ) {
            let shape: Vec<usize> = axes.iter().map(|axis| axis.0).collect();
            let chunk: Vec<usize> = axes.iter().map(|axis| axis.1.min(axis.0)).collect();
            let part: Vec<Range<usize>> =
                axes.iter().enumerate().map(|(place, axis)| match whole && place > 0 {
                    true => 0..axis.0,
                    false => axis.2.min(axis.3).min(axis.0)..axis.2.max(axis.3).min(axis.0),
                }).collect();
            let count: usize = shape.iter().product();
            let buffer: Vec<u8> = (0..count).flat_map(|at| u16::try_from(at).unwrap().to_le_bytes()).collect();
            let mut chunk = chunk;
            if rows {
                chunk[1..].copy_from_slice(&shape[1..]);
            }
            let grid = Grid { shape: shape.clone(), chunk, element: 2 };
            let mut packed = pack(grid.clone(), pipeline(true, Some(Filter::Gzip(1)), true, 2), &buffer);
            let needed = grid.chunks(&part);
            packed.chunks.retain(|(at, _)| needed.contains(at));
            let mut expected = Vec::new();
            for at in 0..count {
                let mut rest = at;
                let place: Vec<usize> = shape.iter().rev().map(|len| { let p = rest % len; rest /= len; p }).collect();
                if place.iter().rev().zip(&part).all(|(place, part)| part.contains(place)) {
                    expected.extend(u16::try_from(at).unwrap().to_le_bytes());
                }
            }
            prop_assert_eq!(&*unpack(packed, &part).unwrap(), &*expected);
        }
    }
}
