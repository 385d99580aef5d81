use bytes::Bytes;

/// Where buffers are cut: at places that depend on some 64 bytes before them, so that an insertion moves the cuts near it alone.
///
/// FastCDC with normalized chunking: Xia, Zhou, Jiang, Feng, Hua, Hu, Zhang, Liu, "FastCDC: a fast and efficient content-defined chunking
/// approach for data deduplication" (USENIX ATC 2016). A gear hash runs over the bytes; before the average size a cut needs two more
/// zero bits than after it, which keeps chunks near the average.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunker {
    min: usize,
    average: usize,
    max: usize,
    /// How many zero bits a cut needs at the average size.
    bits: u32,
}

impl Chunker {
    /// Chunks of about this many bytes, from a quarter to four times of it.
    pub(super) fn new(average: usize) -> Self {
        Self { min: average / 4, average, max: average * 4, bits: average.max(4).ilog2() }
    }

    /// The chunks of a buffer, which share its memory.
    pub(super) fn cut(self, buffer: &Bytes) -> Vec<Bytes> {
        let (mut chunks, mut rest) = (Vec::new(), buffer.clone());
        while !rest.is_empty() {
            chunks.push(rest.split_to(self.first(&rest)));
        }
        chunks
    }

    /// How long the first chunk is.
    fn first(self, data: &[u8]) -> usize {
        if data.len() <= self.min {
            return data.len();
        }
        let middle = self.average.min(data.len());
        let end = self.max.min(data.len());
        let mut hash = 0_u64;
        let mut scan = |from: usize, to: usize, bits: u32| {
            data[from..to].iter().position(|byte| {
                hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
                // The upper bits depend on the most bytes.
                hash >> (64 - bits) == 0
            })
        };
        if let Some(at) = scan(self.min, middle, self.bits + 1) {
            return self.min + at + 1;
        }
        scan(middle, end, self.bits - 1).map_or(end, |at| middle + at + 1)
    }
}

/// A random number for each byte: SplitMix64 (Steele, Lea, Flood 2014) from 1. Another table would cut elsewhere.
static GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let (mut table, mut state, mut at) = ([0; 256], 1_u64, 0);
    while at < 256 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::Random;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut random = Random::seeded(seed);
        (0..length).map(|_| (random.next() & 255) as u8).collect()
    }

    #[test]
    fn chunks_are_the_whole_buffer_and_within_their_bounds() {
        let chunker = Chunker::new(4096);
        for length in [0, 1, 1023, 1024, 1025, 4096, 100_000, 1_000_000] {
            for data in [noise(length, 3), vec![0; length]] {
                let data = Bytes::from(data);
                let chunks = chunker.cut(&data);
                assert_eq!(chunks.concat(), data);
                let (last, others) =
                    chunks.split_last().map_or((None, &[][..]), |(last, all)| (Some(last), all));
                assert!(others.iter().all(|chunk| (1024..=16_384).contains(&chunk.len())));
                assert!(last.is_none_or(|last| (1..=16_384).contains(&last.len())));
            }
        }
    }

    #[test]
    fn chunks_have_about_the_size_that_was_asked_for() {
        for average in [1024, 4096, 65_536] {
            let count = Chunker::new(average).cut(&Bytes::from(noise(4 << 20, 9))).len();
            let found = (4 << 20) / count;
            assert!((average * 3 / 4..average * 3 / 2).contains(&found), "{average}: {found}");
        }
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(1 << 20, 5);
        let mut after = before.clone();
        after.splice(300_000..300_000, *b"a few bytes");
        let chunker = Chunker::new(4096);
        let known: HashSet<Bytes> = chunker.cut(&Bytes::from(before)).into_iter().collect();
        let new = chunker.cut(&Bytes::from(after)).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!((1..=4).contains(&new), "{new} chunks of {} are new", known.len());
    }
}
