//! The seal of a pack: the comment at its very end, which says where things lie in it.

use crate::manifest::{hex, unhex};
use crate::merkle::Hash;

/// Where things lie in a sealed pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Where the log ends and the index begins.
    pub(crate) index_at: u64,
    pub(crate) manifest_at: u64,
    pub(crate) directory_at: u64,
    /// How many items the manifest has.
    pub(crate) items: u64,
    /// The greatest version in the pack and before it.
    pub(crate) floor: u64,
    pub(crate) root: Hash,
}

/// Length of the comment.
pub(crate) const COMMENT: usize = 14 + 5 * 17 + 65 + 8;

impl Seal {
    pub(crate) fn text(&self) -> String {
        let front = format!(
            "persist-pack1 {:016x} {:016x} {:016x} {:016x} {:016x} {} ",
            self.index_at,
            self.manifest_at,
            self.directory_at,
            self.items,
            self.floor,
            hex(&self.root)
        );
        let crc = crc32fast::hash(front.as_bytes());
        format!("{front}{crc:08x}")
    }

    /// Reads the seal from the end of a pack; `None`: it has none that is whole.
    pub(crate) fn read(pack: &[u8]) -> Option<Self> {
        let comment = pack.get(pack.len().checked_sub(COMMENT)?..)?;
        let text = std::str::from_utf8(comment).ok()?;
        let mut words = text.split(' ');
        let magic = words.next()?;
        let mut number = || words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        let (index_at, manifest_at, directory_at) = (number()?, number()?, number()?);
        let (items, floor) = (number()?, number()?);
        let root = unhex(words.next()?)?;
        let seal = Self { index_at, manifest_at, directory_at, items, floor, root };
        let in_order =
            index_at < manifest_at && manifest_at < directory_at && directory_at < pack.len() as u64;
        (magic == "persist-pack1" && in_order && seal.text() == text).then_some(seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seal_reads_back_and_no_damaged_one_does() {
        let seal = Seal {
            index_at: 100,
            manifest_at: 200,
            directory_at: 300,
            items: 7,
            floor: u64::MAX,
            root: [9; 32],
        };
        let pack = [vec![0; 400], seal.text().into_bytes()].concat();
        assert_eq!(pack.len() - 400, COMMENT);
        assert_eq!(Seal::read(&pack), Some(seal));
        for at in 400..pack.len() {
            let mut bad = pack.clone();
            bad[at] ^= 4;
            assert_eq!(Seal::read(&bad), None, "byte {at}");
            assert_eq!(Seal::read(&pack[..at]), None, "cut at {at}");
        }
    }
}
