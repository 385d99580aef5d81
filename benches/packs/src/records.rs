//! What is stored: keys and values that everybody gets in the same order.

use bytes::Bytes;

/// How many bytes of noise values are cut out of.
const POOL: usize = 64 << 20;

/// The way from one value to the next in the pool: no two values are alike, and none begins as its neighbour ends.
const STRIDE: u64 = 1031;

/// The records. Their values are parts of a pool, so that making them costs nothing.
pub(crate) struct Records {
    pub(crate) count: u64,
    pub(crate) size: usize,
    pub(crate) lookups: u64,
    pool: Bytes,
}

impl Records {
    pub(crate) fn new(count: u64, size: usize, lookups: u64) -> Self {
        let mut state = 1;
        let pool: Vec<u8> = (0..(POOL + size) / 8 + 1).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        Self { count, size, lookups, pool: pool.into() }
    }

    /// The key of a record, 28 bytes.
    pub(crate) fn key(&self, at: u64) -> String {
        format!("group-{:05}/record-{at:09}", at % 1000)
    }

    /// The value of a record.
    pub(crate) fn value(&self, at: u64) -> Bytes {
        let start = (at * STRIDE % POOL as u64) as usize;
        self.pool.slice(start..start + self.size)
    }

    /// The records that are looked up, in random order, and the starts of pages.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = u64> {
        let mut state = 7;
        (0..self.lookups).map(move |_| next(&mut state) % self.count)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
