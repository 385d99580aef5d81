use std::path::Path;

use persist_core::{Checksum, Consistency, ErrorKind, Result, StorageError, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::damaged;

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// The name of the file in the folder of a snapshot.
pub(crate) const NAME: &str = "manifest.json";

/// The most bytes that a manifest may have: it lists a handful of files.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// What a snapshot holds. Kept as `manifest.json`, with a hash of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format: [`FORMAT`].
    pub format: u32,
    /// The name of the snapshot's folder, without the storage.
    pub snapshot: String,
    /// The name that the storage had.
    pub storage: String,
    /// The type of the storage.
    #[serde(rename = "type")]
    pub backend: String,
    /// In which form the values are kept.
    pub form: Form,
    /// Which moment it shows.
    pub consistency: Consistency,
    /// When it was begun, by the clock of the storage.
    pub created_at: Timestamp,
    /// How many keys it holds.
    pub keys: u64,
    /// How many bytes of plain values it holds.
    pub bytes: u64,
    /// Every file in the folder but this one, by name.
    pub files: Vec<Member>,
    /// BLAKE3 of the manifest without this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// The form in which a snapshot keeps values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One entry after the other, in a form that every storage can be restored from.
    Entries,
    /// Files that only a storage of the same type reads.
    Native,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// BLAKE3 of its content, as `b3sum` gives it.
    pub blake3: Checksum,
}

/// Enough to tell which format a manifest has, whatever else is in it.
#[derive(Deserialize)]
struct Probe {
    format: u32,
}

impl Manifest {
    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let unsealed = Self { checksum: None, ..self.clone() };
        let checksum = Checksum::of(&[&unsealed.text()]);
        Self { checksum: Some(checksum), ..unsealed }.text()
    }

    fn text(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads the file of the snapshot at `path`. It must be what [`encode`](Self::encode) writes, to the byte.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self> {
        let wrong = |error: serde_json::Error| damaged(path, format!("its {NAME} cannot be read: {error}"));
        let Probe { format } = serde_json::from_slice(bytes).map_err(wrong)?;
        if format > FORMAT {
            let message = format!(
                "the snapshot `{}` has format {format}, and this program knows {FORMAT}; use a newer program",
                path.display()
            );
            return Err(StorageError::new(ErrorKind::Unsupported, message));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        if manifest.encode() != bytes {
            return Err(damaged(path, format!("its {NAME} is not as it was written")));
        }
        if let Some(member) = manifest.files.iter().find(|member| !is_name(&member.name)) {
            return Err(damaged(
                path,
                format!("{} cannot name a file of it", persist_core::escape(&member.name)),
            ));
        }
        Ok(manifest)
    }
}

/// Whether a file of a snapshot may have this name: nothing that leads out of its folder, and not the manifest.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    name != NAME
        && (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            format: FORMAT,
            snapshot: "20261121T120301.123Z-5f3a9c2e".to_owned(),
            storage: "main".to_owned(),
            backend: "file".to_owned(),
            form: Form::Entries,
            consistency: Consistency::EachValue,
            created_at: Timestamp::from_millis(1_700_000_000_123),
            keys: 2,
            bytes: 10,
            files: vec![Member { name: "entries".to_owned(), size: 100, blake3: Checksum::of(&[b"x"]) }],
            checksum: None,
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let (bytes, path) = (sample().encode(), Path::new("x"));
        let read = Manifest::decode(&bytes, path).unwrap();
        assert_eq!(Manifest { checksum: None, ..read }, sample());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Manifest::decode(&damaged, path).is_err(), "byte {at}, bit {bit}");
            }
            assert!(Manifest::decode(&bytes[..at], path).is_err(), "cut at {at}");
        }
        let longer = [&bytes[..], b" "].concat();
        assert_eq!(Manifest::decode(&longer, path).unwrap_err().kind(), ErrorKind::Corruption);
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let newer = br#"{"format": 2, "and": "something else"}"#;
        let error = Manifest::decode(newer, Path::new("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("has format 2, and this program knows 1"), "{error}");
    }

    #[test]
    fn names_do_not_lead_out() {
        for bad in
            ["", ".", "..", "../x", "a/b", "/etc/passwd", "A", ".hidden", "manifest.json", "a\0", "c:\\x"]
        {
            assert!(!is_name(bad), "{bad:?}");
            let mut manifest = sample();
            manifest.files[0].name = bad.to_owned();
            assert!(Manifest::decode(&manifest.encode(), Path::new("x")).is_err(), "{bad:?}");
        }
        assert!(is_name("entries") && is_name("persist.db"));
    }
}
