use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::Checksum;

/// The hash of one block of a long value: a part of its [`Checksum`] that can be computed apart from the others, by another
/// thread or at another time.
///
/// BLAKE3 is a binary tree over chunks of 1 KiB; a block is a complete subtree of it. Source: the BLAKE3 paper, section 2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSum(ChainingValue);

impl BlockSum {
    /// Bytes of each block but the last one.
    pub const LEN: usize = 64 << 10;

    /// Hashes the block of a number, from 0 on; its bytes may lie in several pieces, and are at most [`LEN`](Self::LEN) and at
    /// least one.
    pub fn of(number: u64, pieces: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(number * Self::LEN as u64);
        for piece in pieces {
            hasher.update(piece);
        }
        Self(hasher.finalize_non_root())
    }
}

impl Checksum {
    /// The checksum of a value of `len` bytes out of the hashes of all its blocks; `None` if they are not as many as so many
    /// bytes have, or if it has only one block, whose hash says less than its bytes.
    pub fn of_blocks(blocks: &[BlockSum], len: u64) -> Option<Self> {
        if blocks.len() < 2 || blocks.len() as u64 != len.div_ceil(BlockSum::LEN as u64) {
            return None;
        }
        let (left, right) = blocks.split_at(left_blocks(len));
        let left_len = left_subtree_len(len);
        let (left, right) = (joined(left, left_len), joined(right, len - left_len));
        Some(Self::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
    }
}

/// How many blocks the left half of a tree has.
fn left_blocks(len: u64) -> usize {
    usize::try_from(left_subtree_len(len)).unwrap_or(usize::MAX) / BlockSum::LEN
}

fn joined(blocks: &[BlockSum], len: u64) -> ChainingValue {
    if let [one] = blocks {
        return one.0;
    }
    let (left, right) = blocks.split_at(left_blocks(len));
    let left_len = left_subtree_len(len);
    merge_subtrees_non_root(&joined(left, left_len), &joined(right, len - left_len), Mode::Hash)
}

/// The checksum of a value that grows at its end and whose header changes, without hashing again what was hashed: of an array to
/// which rows are appended, whose header says how many there are. Takes 128 KiB, and 32 bytes for each 64 KiB of the value.
#[derive(Clone, Debug)]
pub struct GrowingChecksum {
    /// How long the header is.
    header: usize,
    /// What follows the header in the first block.
    head: Vec<u8>,
    /// The whole blocks after the first one.
    blocks: Vec<BlockSum>,
    /// What follows them.
    tail: Vec<u8>,
}

impl GrowingChecksum {
    /// Of a value with a header of so many bytes, fewer than a block has, and nothing after it yet.
    pub fn new(header: usize) -> Self {
        Self { header: header.min(BlockSum::LEN), head: Vec::new(), blocks: Vec::new(), tail: Vec::new() }
    }

    /// What comes next.
    pub fn update(&mut self, data: &[u8]) {
        let room = BlockSum::LEN - self.header - self.head.len();
        let (head, mut rest) = data.split_at(room.min(data.len()));
        self.head.extend_from_slice(head);
        if !self.tail.is_empty() {
            let (more, after) = rest.split_at((BlockSum::LEN - self.tail.len()).min(rest.len()));
            self.tail.extend_from_slice(more);
            rest = after;
            if self.tail.len() == BlockSum::LEN {
                let tail = std::mem::take(&mut self.tail);
                self.push(&tail);
            }
        }
        let whole = rest.chunks_exact(BlockSum::LEN);
        self.tail.extend_from_slice(whole.remainder());
        whole.for_each(|block| self.push(block));
    }

    fn push(&mut self, block: &[u8]) {
        self.blocks.push(BlockSum::of(self.blocks.len() as u64 + 1, &[block]));
    }

    /// The checksum of a header and all that came after it; `None` if the header is not as long as was said.
    pub fn finish(&self, header: &[u8]) -> Option<Checksum> {
        if header.len() != self.header {
            return None;
        }
        if self.blocks.is_empty() && self.tail.is_empty() {
            return Some(Checksum::of(&[header, &self.head]));
        }
        let mut all = Vec::with_capacity(self.blocks.len() + 2);
        all.push(BlockSum::of(0, &[header, &self.head]));
        all.extend_from_slice(&self.blocks);
        if !self.tail.is_empty() {
            all.push(BlockSum::of(all.len() as u64, &[&self.tail]));
        }
        let len = (1 + self.blocks.len()) * BlockSum::LEN + self.tail.len();
        Checksum::of_blocks(&all, len as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    /// Lengths around blocks, and around complete trees of them.
    fn lengths() -> impl Iterator<Item = usize> {
        let near = [0, 1, 1023, 1024, 1025, BlockSum::LEN - 1];
        (0..9).flat_map(move |blocks| near.map(|more| blocks * BlockSum::LEN + more))
    }

    #[test]
    fn blocks_give_the_checksum_of_the_whole() {
        for len in lengths() {
            let whole = bytes(len);
            let blocks: Vec<BlockSum> = whole
                .chunks(BlockSum::LEN)
                .enumerate()
                .map(|(number, block)| {
                    BlockSum::of(number as u64, &[&block[..block.len() / 3], &block[block.len() / 3..]])
                })
                .collect();
            let expected = (len > BlockSum::LEN).then(|| Checksum::of(&[&whole]));
            assert_eq!(Checksum::of_blocks(&blocks, len as u64), expected, "{len} bytes");
            assert_eq!(Checksum::of_blocks(&blocks, len as u64 + BlockSum::LEN as u64), None);
        }
    }

    #[test]
    fn what_grows_has_the_checksum_of_what_it_has_become() {
        let header = bytes(128);
        for step in [1000, BlockSum::LEN - 128, BlockSum::LEN, 3 * BlockSum::LEN + 5] {
            let (mut sum, mut whole) = (GrowingChecksum::new(header.len()), Vec::new());
            while whole.len() < 7 * BlockSum::LEN {
                let changed = [&(whole.len() as u64).to_le_bytes()[..], &header[8..]].concat();
                assert_eq!(
                    sum.finish(&changed),
                    Some(Checksum::of(&[&changed, &whole])),
                    "{} bytes",
                    whole.len()
                );
                let more = bytes(step);
                sum.update(&more);
                whole.extend(more);
            }
            assert_eq!(sum.finish(&header[1..]), None);
        }
    }
}
