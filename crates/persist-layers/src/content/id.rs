use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use persist_core::{Checksum, Key, Result, Value};
use sha2::{Digest, Sha256};

/// What contents are named by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentHash {
    /// BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020), which every storage computes anyway.
    #[default]
    Blake3,
    /// SHA-256 (FIPS 180-4), for whom other tools know.
    Sha256,
}

impl ContentHash {
    fn as_str(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// The name of a content: `blake3-` or `sha256-` and 64 hex digits.
///
/// It is the hash of a JSON text, of bytes, or of an array in its `.npy` form, as `b3sum` and `sha256sum` show it of a file. The kind is no part
/// of it: a JSON text and the same text as bytes have one id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId {
    hash: ContentHash,
    digest: [u8; 32],
}

impl ContentId {
    /// The name of a value.
    pub fn of(value: &Value, hash: ContentHash) -> Self {
        let digest = match hash {
            ContentHash::Blake3 => *value.checksum().as_bytes(),
            ContentHash::Sha256 => {
                let header = value.as_array().map(|array| array.npy_header().encode()).unwrap_or_default();
                Sha256::new().chain_update(header).chain_update(value.buffer()).finalize().into()
            }
        };
        Self { hash, digest }
    }

    /// The name of some bytes.
    pub fn of_bytes(bytes: impl Into<Bytes>, hash: ContentHash) -> Self {
        Self::of(&Value::Bytes(bytes.into()), hash)
    }

    /// Which hash it is.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The key of a content under a prefix.
    pub(super) fn key(&self, prefix: &str) -> Result<Key> {
        Key::new(format!("{prefix}{self}"))
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash.as_str(), Checksum::from_bytes(self.digest))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a content is named by `blake3-` or `sha256-` and 64 hex digits")
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for ContentId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (name, digits) = text.split_once('-').ok_or(NotAnId)?;
        let hashes = [ContentHash::Blake3, ContentHash::Sha256];
        let hash = hashes.into_iter().find(|hash| hash.as_str() == name).ok_or(NotAnId)?;
        // One id, one spelling.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(NotAnId);
        }
        let digest: Checksum = digits.parse().map_err(|_| NotAnId)?;
        Ok(Self { hash, digest: *digest.as_bytes() })
    }
}
