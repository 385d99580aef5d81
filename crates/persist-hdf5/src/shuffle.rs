//! The shuffle filter: the bytes of equal weight of all elements put together, so that they compress better.

/// Puts the first bytes of all elements first, then the second ones, and so on. Elements that are left over at the end stay as they are.
pub(crate) fn shuffle(chunk: &[u8], size: usize) -> Vec<u8> {
    let count = chunk.len() / size.max(1);
    let mut bytes = chunk.to_vec();
    if size < 2 || count < 2 {
        return bytes;
    }
    let (planes, elements) = (&mut bytes[..count * size], &chunk[..count * size]);
    let whole = if size == 8 { count / 8 * 8 } else { 0 };
    for at in (0..whole).step_by(8) {
        let block = transposed(load(&elements[at * 8..], 8));
        for (plane, word) in block.into_iter().enumerate() {
            planes[plane * count + at..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
    for (place, plane) in planes.chunks_exact_mut(count).enumerate() {
        for (byte, element) in plane[whole..].iter_mut().zip(elements[whole * size..].chunks_exact(size)) {
            *byte = element[place];
        }
    }
    bytes
}

/// Undoes [`shuffle`]; both have the same length.
pub(crate) fn unshuffle(chunk: &[u8], size: usize, into: &mut [u8]) {
    let count = chunk.len() / size.max(1);
    if size < 2 || count < 2 {
        return into.copy_from_slice(chunk);
    }
    let (planes, rest) = chunk.split_at(count * size);
    let (elements, after) = into.split_at_mut(count * size);
    after.copy_from_slice(rest);
    let whole = if size == 8 { count / 8 * 8 } else { 0 };
    for at in (0..whole).step_by(8) {
        let block = transposed(load(&planes[at..], count));
        for (element, word) in elements[at * 8..][..64].chunks_exact_mut(8).zip(block) {
            element.copy_from_slice(&word.to_le_bytes());
        }
    }
    for (place, plane) in planes.chunks_exact(count).enumerate() {
        for (element, byte) in elements[whole * size..].chunks_exact_mut(size).zip(&plane[whole..]) {
            element[place] = *byte;
        }
    }
}

/// Eight words that lie `step` bytes apart.
fn load(bytes: &[u8], step: usize) -> [u64; 8] {
    std::array::from_fn(|row| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[row * step..][..8]);
        u64::from_le_bytes(word)
    })
}

/// Exchanges rows and columns of a square of eight by eight bytes, in three steps that exchange squares of four, two and one. Source:
/// H. S. Warren, "Hacker's Delight", 7-3.
fn transposed(mut rows: [u64; 8]) -> [u64; 8] {
    for (distance, mask) in
        [(4, 0x0000_0000_ffff_ffff_u64), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)]
    {
        let mut row = 0;
        while row < 8 {
            let (upper, lower) = (rows[row], rows[row + distance]);
            let swapped = ((upper >> (8 * distance)) ^ lower) & mask;
            rows[row] = upper ^ (swapped << (8 * distance));
            rows[row + distance] = lower ^ swapped;
            // The next row whose partner lies below it.
            row = (row + distance + 1) & !distance;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the documentation of the filter has it, byte by byte.
    fn plainly(chunk: &[u8], size: usize) -> Vec<u8> {
        let count = chunk.len() / size;
        let planes = (0..size).flat_map(|place| (0..count).map(move |at| chunk[at * size + place]));
        planes.chain(chunk[count * size..].iter().copied()).collect()
    }

    proptest! {
        #[test]
        fn bytes_go_where_they_belong_and_back(chunk in prop::collection::vec(any::<u8>(), 0..700), size in 1_usize..20) {
            for size in [size, 8] {
                let shuffled = shuffle(&chunk, size);
                prop_assert_eq!(&shuffled, &plainly(&chunk, size));
                let mut back = vec![0; chunk.len()];
                unshuffle(&shuffled, size, &mut back);
                prop_assert_eq!(&back, &chunk);
            }
        }
    }
}
