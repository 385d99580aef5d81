//! The manifest of a sealed pack: path, kind, size and hash of every entry, and the root over all of them.

use std::collections::BTreeMap;

use persist_core::{ErrorKind, Key, Metadata, StorageError, Value};
use serde::{Deserialize, Serialize};

use crate::head::FORMAT;
use crate::merkle::{self, Hash};
use crate::wire::Wrong;

/// The name of the manifest in the pack.
pub(crate) const NAME: &str = ".persist/manifest.json";

/// What a manifest says of an entry, and the root covers: nothing that differs between machines or days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The key.
    pub path: String,
    /// `json`, `bytes` or `array`.
    pub kind: String,
    /// The size of the value in bytes, without the header of an array.
    pub size: u64,
    /// BLAKE3 of the entry as it is unpacked, in hexadecimal.
    pub hash: String,
    /// When it expires, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The user's tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What layers did to the value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<String>,
}

impl Item {
    /// What a manifest says of a value without tags and lifetime.
    pub fn of_value(key: &Key, value: &Value) -> Self {
        Self {
            path: key.as_str().to_owned(),
            kind: value.kind().as_str().to_owned(),
            size: value.size(),
            hash: value.checksum().to_string(),
            expires_at: None,
            tags: BTreeMap::new(),
            encodings: Vec::new(),
        }
    }

    /// What a manifest says of an entry.
    pub fn of(key: &Key, metadata: &Metadata) -> Self {
        Self {
            path: key.as_str().to_owned(),
            kind: metadata.kind.as_str().to_owned(),
            size: metadata.size,
            hash: metadata.checksum.to_string(),
            expires_at: metadata.expires_at.map(persist_core::Timestamp::as_millis),
            tags: metadata.tags.clone().into(),
            encodings: metadata.encodings.clone(),
        }
    }

    /// The bytes that are hashed as a leaf: its JSON without white space, members in the order above.
    fn canonical(&self) -> Result<Vec<u8>, Wrong> {
        serde_json::to_vec(self).map_err(|_| Wrong("its manifest cannot be written"))
    }

    /// The hash of its leaf.
    pub(crate) fn leaf(&self) -> Result<Hash, Wrong> {
        self.canonical().map(|bytes| merkle::leaf(&bytes))
    }
}

/// The root over items in the byte order of their paths: that of a pack with these entries.
///
/// # Errors
/// `InvalidKey` if they are not in order, each once.
pub fn root_of(items: &[Item]) -> persist_core::Result<Hash> {
    if !items.is_sorted_by(|one, other| one.path < other.path) {
        let message = "the entries must be in the byte order of their paths, each once";
        return Err(StorageError::new(ErrorKind::InvalidKey, message));
    }
    let leaves = items.iter().map(Item::leaf).collect::<Result<Vec<_>, _>>();
    leaves
        .map(|leaves| merkle::root(&leaves))
        .map_err(|wrong| StorageError::new(ErrorKind::Internal, wrong.0))
}

/// A manifest in the making: items come in the byte order of their paths.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    lines: Vec<u8>,
    leaves: Vec<Hash>,
}

impl Manifest {
    /// Adds an item, and the name of its entry in this pack if that is not its path (`None`: its value is in another
    /// pack of the folder).
    pub(crate) fn add(&mut self, item: &Item, name: Option<&str>) -> Result<(), Wrong> {
        let line = item.canonical()?;
        self.leaves.push(merkle::leaf(&line));
        self.lines.extend(if self.lines.is_empty() { &b"\n"[..] } else { &b",\n"[..] });
        match name {
            Some(name) if name == item.path => self.lines.extend(line),
            name => {
                let name = serde_json::to_vec(&name).map_err(|_| Wrong("its manifest cannot be written"))?;
                let (body, _) = line.split_at(line.len() - 1);
                self.lines.extend(body);
                self.lines.extend(b",\"name\":");
                self.lines.extend(name);
                self.lines.push(b'}');
            }
        }
        Ok(())
    }

    /// How many items there are.
    pub(crate) fn count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The text, and the root over the items.
    pub(crate) fn finish(self) -> (Vec<u8>, Hash) {
        let root = merkle::root(&self.leaves);
        let mut text = format!(
            "{{\"format\":{FORMAT},\"count\":{},\"root\":\"{}\",\"entries\":[",
            self.leaves.len(),
            hex(&root)
        )
        .into_bytes();
        text.extend(self.lines);
        text.extend(b"\n]}\n");
        (text, root)
    }
}

/// A hash in hexadecimal.
pub(crate) fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// A hash read from hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Hash> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}
