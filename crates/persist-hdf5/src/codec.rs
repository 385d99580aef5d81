//! The filters through which the chunks of a dataset go, as HDF5 defines them, outside the library and its lock; but for szip.
//!
//! Source: "HDF5 File Format Specification", Filter Pipeline, and the documentation of the predefined filters.

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::ffi::Szip;
use crate::lzf;
use crate::shuffle::shuffle;

/// One filter and what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// The bytes of equal weight of all elements together; elements of so many bytes.
    Shuffle(usize),
    /// zlib, level 0 to 9.
    Gzip(u8),
    /// szip, which the library codes.
    Szip(Szip),
    /// LZF.
    Lzf,
    /// zstd, level 1 to 19.
    Zstd(u8),
    /// A checksum of 32 bits after the data.
    Fletcher32,
}

/// The filters of a dataset in the order in which they are applied when it is written.
pub(crate) type Pipeline = Vec<Filter>;

/// A chunk as it stands in the file, and which filters were left out (bit 0: the first one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) skipped: u32,
}

/// Applies all filters; a compression that gains nothing is left out.
pub(crate) fn encode(pipeline: &[Filter], chunk: Vec<u8>) -> Coded {
    let mut coded = Coded { bytes: chunk, skipped: 0 };
    for (at, filter) in pipeline.iter().enumerate() {
        match apply(*filter, &coded.bytes) {
            Some(bytes) => coded.bytes = bytes,
            None => coded.skipped |= 1 << at,
        }
    }
    coded
}

fn apply(filter: Filter, chunk: &[u8]) -> Option<Vec<u8>> {
    match filter {
        Filter::Shuffle(size) => Some(shuffle(chunk, size)),
        Filter::Gzip(level) => gzip(chunk, level),
        Filter::Szip(szip) => szip.encode(chunk),
        Filter::Lzf => lzf::compress(chunk),
        Filter::Zstd(level) => zstd(chunk, level),
        Filter::Fletcher32 => Some([chunk, &fletcher32(chunk).to_le_bytes()].concat()),
    }
}

/// In one call, with room for less than the chunk: what does not fit gains nothing.
fn gzip(chunk: &[u8], level: u8) -> Option<Vec<u8>> {
    let mut packed = Vec::with_capacity(chunk.len().checked_sub(1)?);
    let mut encoder = Compress::new(Compression::new(level.into()), true);
    let status = encoder.compress_vec(chunk, &mut packed, FlushCompress::Finish).ok()?;
    (status == Status::StreamEnd && packed.len() < chunk.len()).then_some(packed)
}

/// One frame, as the registered filter has it; `None` also if zstd is not built in.
#[cfg(feature = "zstd")]
pub(crate) fn zstd(chunk: &[u8], level: u8) -> Option<Vec<u8>> {
    let packed = zstd::bulk::compress(chunk, level.into()).ok()?;
    (packed.len() < chunk.len()).then_some(packed)
}

/// How long the chunk says that it will be.
#[cfg(feature = "zstd")]
pub(crate) fn zstd_length(chunk: &[u8]) -> Option<usize> {
    zstd::zstd_safe::get_frame_content_size(chunk).ok().flatten().and_then(|len| usize::try_from(len).ok())
}

#[cfg(not(feature = "zstd"))]
pub(crate) fn zstd_length(_: &[u8]) -> Option<usize> {
    None
}

#[cfg(not(feature = "zstd"))]
pub(crate) fn zstd(_: &[u8], _: u8) -> Option<Vec<u8>> {
    None
}

/// Fletcher's checksum over 16-bit words, the first byte of each the upper one (Fletcher, "An Arithmetic Checksum for
/// Serial Transmissions", 1982).
fn fletcher32(bytes: &[u8]) -> u32 {
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (mut first, mut second) = (0_u32, 0_u32);
    let words = bytes.chunks_exact(2);
    let rest = words.remainder();
    // So many words fit before the sums overflow.
    for block in bytes[..bytes.len() - rest.len()].chunks(720) {
        for word in block.chunks_exact(2) {
            first += (u32::from(word[0]) << 8) | u32::from(word[1]);
            second += first;
        }
        (first, second) = (fold(first), fold(second));
    }
    if let [last] = rest {
        first += u32::from(*last) << 8;
        second += first;
        (first, second) = (fold(first), fold(second));
    }
    (first, second) = (fold(first), fold(second));
    (second << 16) | first
}

/// The bytes before the checksum, if it is theirs.
pub(crate) fn unfletcher32(chunk: &[u8]) -> Option<&[u8]> {
    let (chunk, stored) = chunk.split_last_chunk()?;
    let sum = u32::from_le_bytes(*stored);
    let right = fletcher32(chunk);
    // Some old releases wrote both bytes of each half in the other order.
    let swapped = (right & 0xff00_ff00) >> 8 | (right & 0x00ff_00ff) << 8;
    (sum == right || sum == swapped).then_some(chunk)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use proptest::prelude::*;

    use super::*;
    use crate::decoder::Decoder;

    /// Bytes that nothing makes smaller: xorshift, as Marsaglia gives it in "Xorshift RNGs" (2003).
    pub(crate) fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// With a decoder that is new.
    fn decode(pipeline: &[Filter], coded: &Coded, len: usize) -> Option<Vec<u8>> {
        let mut chunk = vec![7; len];
        Decoder::default().decode(pipeline, coded, &mut chunk).map(|()| chunk)
    }

    fn pipelines() -> Vec<Pipeline> {
        use Filter::{Fletcher32, Gzip, Lzf, Shuffle, Zstd};
        vec![
            vec![],
            vec![Shuffle(8), Gzip(4)],
            vec![Gzip(9), Fletcher32],
            vec![Shuffle(2), Lzf, Fletcher32],
            vec![Shuffle(4), Zstd(3)],
            vec![Fletcher32, Gzip(4), Shuffle(3), Lzf],
            vec![Fletcher32],
        ]
    }

    proptest! {
        #[test]
        fn chunks_come_back(chunk in prop::collection::vec(0_u8..5, 0..3000)) {
            for pipeline in pipelines() {
                let coded = encode(&pipeline, chunk.clone());
                prop_assert_eq!(decode(&pipeline, &coded, chunk.len()).unwrap(), chunk.clone());
                prop_assert_eq!(decode(&pipeline, &coded, chunk.len() + 1), None);
                if let Some(less) = chunk.len().checked_sub(1) {
                    prop_assert_eq!(decode(&pipeline, &coded, less), None);
                }
            }
        }

        #[test]
        fn damage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0_usize..400, skipped: u32) {
            for pipeline in pipelines() {
                decode(&pipeline, &Coded { bytes: bytes.clone(), skipped }, len);
            }
        }
    }

    #[test]
    fn what_gains_nothing_is_left_out() {
        let noise = noise(4096);
        let coded = encode(&[Filter::Shuffle(4), Filter::Gzip(4), Filter::Fletcher32], noise.clone());
        assert_eq!(coded.skipped, 0b10);
        assert_eq!(coded.bytes.len(), noise.len() + 4);
    }

    #[test]
    fn a_flipped_bit_does_not_match_the_checksum() {
        let pipeline = [Filter::Fletcher32];
        let coded = encode(&pipeline, vec![3; 1001]);
        for at in 0..coded.bytes.len() {
            let mut damaged = coded.clone();
            damaged.bytes[at] ^= 16;
            assert_eq!(decode(&pipeline, &damaged, 1001), None, "byte {at}");
        }
    }
}
