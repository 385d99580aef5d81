//! The manifest of a sealed pack: path, kind, size and hash of every entry, and the root over all of them.

use std::collections::BTreeMap;

use persist_core::{ErrorKind, Key, Metadata, StorageError, Timestamp, Value};
use serde::{Deserialize, Serialize};

use crate::head::FORMAT;
use crate::merkle::{self, Hash};
use crate::note::EntryView;
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
            expires_at: metadata.expires_at.map(Timestamp::as_millis),
            tags: metadata.tags.clone().into(),
            encodings: metadata.encodings.clone(),
        }
    }

    /// The hash of its leaf.
    pub(crate) fn leaf(&self) -> Result<Hash, Wrong> {
        let mut line = Vec::new();
        ItemView::of(self).write(&mut line)?;
        Ok(merkle::leaf(&line))
    }
}

/// An item as it is written: what is hashed as a leaf is its JSON without white space, members in this order.
#[derive(Serialize)]
pub(crate) struct ItemView<'i> {
    path: &'i str,
    kind: &'i str,
    size: u64,
    hash: &'i str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'i str, &'i str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    encodings: Vec<&'i str>,
}

impl<'i> ItemView<'i> {
    /// What a record says of an entry; `hash`: its checksum in hexadecimal.
    pub(crate) fn of_entry(entry: &EntryView<'i>, hash: &'i str) -> Self {
        Self {
            path: entry.key,
            kind: entry.kind.as_str(),
            size: entry.size,
            hash,
            expires_at: entry.expires_at.map(Timestamp::as_millis),
            tags: entry.tags(),
            encodings: entry.encodings(),
        }
    }

    fn of(item: &'i Item) -> Self {
        Self {
            path: &item.path,
            kind: &item.kind,
            size: item.size,
            hash: &item.hash,
            expires_at: item.expires_at,
            tags: item.tags.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
            encodings: item.encodings.iter().map(String::as_str).collect(),
        }
    }

    fn write(&self, to: &mut Vec<u8>) -> Result<(), Wrong> {
        serde_json::to_writer(to, self).map_err(|_| UNWRITTEN)
    }
}

const UNWRITTEN: Wrong = Wrong("its manifest cannot be written");

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
    pub(crate) fn add(&mut self, item: &ItemView<'_>, name: Option<&str>) -> Result<(), Wrong> {
        self.lines.extend(b",\n");
        let start = self.lines.len();
        item.write(&mut self.lines)?;
        self.leaves.push(merkle::leaf(&self.lines[start..]));
        if name != Some(item.path) {
            self.lines.pop();
            self.lines.extend(b",\"name\":");
            serde_json::to_writer(&mut self.lines, &name).map_err(|_| UNWRITTEN)?;
            self.lines.push(b'}');
        }
        Ok(())
    }

    /// Adds what another one holds, behind its own.
    pub(crate) fn append(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.leaves.extend(other.leaves);
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
        // Without the comma before the first line.
        text.extend(self.lines.get(1..).unwrap_or_default());
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
