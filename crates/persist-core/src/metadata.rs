use serde::{Deserialize, Serialize};

use crate::{Checksum, Kind, Tags, Timestamp, Version};

/// What a storage knows of a value beside the value itself; kept atomically with it on every backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Json, bytes or array.
    pub kind: Kind,
    /// Length of the plain buffer in bytes: JSON text, bytes, or array elements without a header.
    pub size: u64,
    /// Grows with every change of the key; never used twice.
    pub version: Version,
    /// When the key was first stored; overwriting keeps it, deleting (or expiring) ends it.
    pub created_at: Timestamp,
    /// When the value or its expiry was last changed.
    pub modified_at: Timestamp,
    /// When the value ceases to exist; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// BLAKE3 of the plain value.
    pub checksum: Checksum,
    /// The user's tags.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// What layers did to the value on its way in, innermost last (for instance `zstd`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<String>,
}

impl Metadata {
    /// True if the value has ceased to exist at `now`. The moment of expiry itself counts as expired.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}
