//! LZF, the quick compression that h5py brings along (filter 32000), in the format of Marc Lehmann's liblzf.
//!
//! A byte below 32 announces that many bytes plus one as they are. Any other one is a copy of what came before: its upper three bits
//! are the length minus two (7: another byte is added to it), its lower five bits and one more byte the distance minus one.

/// The longest run of bytes as they are.
const LITERALS: usize = 32;

/// The longest copy, and the farthest that it reaches back.
pub(crate) const LONGEST: usize = 264;
const FARTHEST: usize = 8192;

/// How many places are remembered.
const SLOTS: usize = 1 << 14;

/// Compresses; `None` if that takes as many bytes as before.
pub(crate) fn compress(input: &[u8]) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(input.len());
    let mut seen = vec![usize::MAX; SLOTS];
    let (mut at, mut literals) = (0, 0);
    while at + 2 < input.len() {
        let slot = &mut seen[slot(input, at)];
        let earlier = std::mem::replace(slot, at);
        let near = earlier != usize::MAX && at - earlier <= FARTHEST;
        if !near || input[earlier..earlier + 3] != input[at..at + 3] {
            at += 1;
            continue;
        }
        copy_literals(&input[literals..at], &mut output);
        let len = common(&input[earlier..], &input[at..]);
        copy_back(at - earlier - 1, len - 2, &mut output);
        at += len;
        literals = at;
        if output.len() >= input.len() {
            return None;
        }
    }
    copy_literals(&input[literals..], &mut output);
    (output.len() < input.len()).then_some(output)
}

fn slot(input: &[u8], at: usize) -> usize {
    let three = u32::from_le_bytes([input[at], input[at + 1], input[at + 2], 0]);
    (three.wrapping_mul(0x9E37_79B1) >> 18) as usize
}

/// How long two pieces agree; at least three bytes are known to.
fn common(earlier: &[u8], now: &[u8]) -> usize {
    let most = now.len().min(LONGEST);
    (3..most).find(|at| earlier[*at] != now[*at]).unwrap_or(most)
}

fn copy_literals(bytes: &[u8], output: &mut Vec<u8>) {
    for run in bytes.chunks(LITERALS) {
        output.push((run.len() - 1) as u8);
        output.extend_from_slice(run);
    }
}

fn copy_back(distance: usize, len: usize, output: &mut Vec<u8>) {
    let high = (distance >> 8) as u8;
    if len < 7 {
        output.push(((len as u8) << 5) | high);
    } else {
        output.extend([(7 << 5) | high, (len - 7) as u8]);
    }
    output.push((distance & 0xff) as u8);
}

/// Decompresses; how many bytes there were. `None` if they are damaged, or more than there is room for.
pub(crate) fn decompress(input: &[u8], output: &mut [u8]) -> Option<usize> {
    let (mut rest, mut done) = (input, 0);
    while let Some((control, after)) = rest.split_first() {
        rest = after;
        let control = usize::from(*control);
        if control < LITERALS {
            let literals;
            (literals, rest) = rest.split_at_checked(control + 1)?;
            output.get_mut(done..done + literals.len())?.copy_from_slice(literals);
            done += literals.len();
        } else {
            let mut next = || {
                let (byte, after) = rest.split_first()?;
                rest = after;
                Some(usize::from(*byte))
            };
            let count = 2 + if control >> 5 == 7 { 7 + next()? } else { control >> 5 };
            let distance = ((control & 0x1f) << 8) + next()? + 1;
            let start = done.checked_sub(distance)?;
            let end = done + count;
            if end > output.len() {
                return None;
            }
            // What is repeated may reach into what it is repeated to: each time twice as much can be copied.
            while done < end {
                let some = (done - start).min(end - done);
                output.copy_within(start..start + some, done);
                done += some;
            }
        }
    }
    Some(done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), picks in prop::collection::vec(0_usize..6, 0..400)) {
            let input: Vec<u8> = picks.iter().flat_map(|pick| words[pick % words.len()].clone()).collect();
            if let Some(packed) = compress(&input) {
                prop_assert!(packed.len() < input.len());
                let mut output = vec![0; input.len() + 1];
                prop_assert_eq!(decompress(&packed, &mut output), Some(input.len()));
                prop_assert_eq!(&output[..input.len()], &input);
                prop_assert_eq!(decompress(&packed, &mut output[1..input.len()]), None);
            }
        }

        #[test]
        fn damage_is_no_panic(input in prop::collection::vec(any::<u8>(), 0..300), len in 0_usize..2000) {
            let decompressed = decompress(&input, &mut vec![0; len]);
            prop_assert!(decompressed.is_none_or(|done| done <= len));
        }
    }

    #[test]
    fn repetition_is_worth_it_and_noise_is_not() {
        assert!(compress(&[7; 100_000]).unwrap().len() < 2000);
        let noise = crate::codec::tests::noise(10_000);
        assert_eq!(compress(&noise), None);
        let mut output = [0; 6];
        assert_eq!(decompress(b"\x02abc\x20\x02", &mut output), Some(6));
        assert_eq!(&output, b"abcabc");
    }
}
