//! A proof that an entry is in a pack, which needs the root and no pack.

use persist_core::{ErrorKind, Result, StorageError};
use serde::{Deserialize, Serialize};

use crate::manifest::{Item, hex, unhex};
use crate::merkle::{self, Hash};

/// The version of the form.
const FORMAT: u32 = 1;

/// The longest path: a tree of 2^64 leaves.
const MAX_PATH: usize = 64;

/// That an entry is in the pack with a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    format: u32,
    /// The entry.
    pub item: Item,
    /// Its place among the entries.
    pub index: u64,
    /// How many entries there are.
    pub count: u64,
    /// The hashes beside the way to the top, from below, in hexadecimal.
    path: Vec<String>,
    /// The root that it proves, in hexadecimal. Compare it with one that you know, or give that to [`check`](Self::check).
    pub root: String,
}

fn invalid(what: &str) -> StorageError {
    StorageError::new(ErrorKind::Corruption, format!("the proof does not hold: {what}"))
}

impl Proof {
    /// The proof of the item at a place among all items; `None`: there is none.
    pub(crate) fn of(item: Item, index: usize, leaves: &[Hash]) -> Option<Self> {
        let path = merkle::path(leaves, index)?.iter().map(hex).collect();
        let (index, count) = (index as u64, leaves.len() as u64);
        Some(Self { format: FORMAT, item, index, count, path, root: hex(&merkle::root(leaves)) })
    }

    /// Reads the text of a proof.
    ///
    /// # Errors
    /// `Corruption` if it is none.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|_| invalid("this is no proof; `persist pack prove` makes one"))
    }

    /// Checks that the entry is in the pack with this root (without one: with the root that the proof names).
    ///
    /// # Errors
    /// `Corruption` if it is not, or the proof is of another root.
    pub fn check(&self, root: Option<&Hash>) -> Result<()> {
        if self.format != FORMAT {
            return Err(invalid("a newer persist made it"));
        }
        let named = unhex(&self.root).ok_or_else(|| invalid("its root is none"))?;
        if root.is_some_and(|root| *root != named) {
            return Err(invalid("it is of another root"));
        }
        if self.path.len() > MAX_PATH {
            return Err(invalid("its path is too long"));
        }
        let path: Option<Vec<Hash>> = self.path.iter().map(|hash| unhex(hash)).collect();
        let path = path.ok_or_else(|| invalid("its path has something in it that is no hash"))?;
        let leaf = self.item.leaf().map_err(|wrong| invalid(wrong.0))?;
        match merkle::root_from(&leaf, self.index, self.count, &path) {
            Some(found) if found == named => Ok(()),
            _ => Err(invalid("the entry, its place or the path was changed")),
        }
    }

    /// Checks that data is what the entry holds: JSON text, bytes, or an `.npy` file.
    ///
    /// # Errors
    /// `Corruption` if it is not.
    pub fn check_data(&self, data: &[u8]) -> Result<()> {
        if blake3::hash(data).to_hex().as_str() == self.item.hash {
            return Ok(());
        }
        Err(invalid("the data has another hash than the entry"))
    }
}
