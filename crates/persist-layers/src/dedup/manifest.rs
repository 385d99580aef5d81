use std::ops::Range;

use bytes::Bytes;
use persist_core::{Checksum, Key, Metadata};

use crate::plain::Plain;
use crate::reserved::OWN;

/// What the note of a value begins with that lies in chunks.
pub(super) const MARK: &str = "persist-dedup/1 ";

/// Bytes of one chunk in a manifest: its id, and its length as 32 bits, little-endian.
const RECORD: usize = 36;

/// The chunks that a value consists of, in their order: what is stored in place of the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest(pub(super) Vec<ChunkRef>);

/// A chunk of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkRef {
    /// BLAKE3 of its bytes.
    pub(super) id: Checksum,
    pub(super) length: u32,
}

impl Manifest {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.0.len() * RECORD);
        for chunk in &self.0 {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.extend_from_slice(&chunk.length.to_le_bytes());
        }
        bytes.into()
    }

    /// Reads what [`encode`](Self::encode) made; `None`: it is something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(RECORD) {
            return None;
        }
        let chunk = |record: &[u8]| {
            let id = Checksum::from_bytes(record[..32].try_into().ok()?);
            let length = u32::from_le_bytes(record[32..].try_into().ok()?);
            Some(ChunkRef { id, length })
        };
        bytes.chunks_exact(RECORD).map(chunk).collect::<Option<_>>().map(Self)
    }

    /// How many bytes the value has.
    pub(super) fn size(&self) -> u64 {
        self.0.iter().map(|chunk| u64::from(chunk.length)).sum()
    }

    /// The chunks that a range of the value touches, and which part of them in a row it is.
    pub(super) fn within(&self, range: &Range<u64>) -> (&[ChunkRef], Range<usize>) {
        let (mut start, mut first, mut skipped) = (0_u64, 0, 0);
        let mut last = 0;
        for (place, chunk) in self.0.iter().enumerate() {
            let end = start + u64::from(chunk.length);
            if end <= range.start {
                (first, skipped) = (place + 1, end);
            }
            if start < range.end {
                last = place + 1;
            }
            start = end;
        }
        let (from, to) = (range.start.min(start), range.end.min(start));
        if first >= last || to <= from {
            return (&[], 0..0);
        }
        let part = |at: u64| usize::try_from(at - skipped).unwrap_or(usize::MAX);
        (&self.0[first..last], part(from)..part(to))
    }
}

/// Takes the note of this layer out of the metadata; `None`: the value lies there as it is.
///
/// # Errors
/// It is no note that this layer made.
pub(super) fn take_note(metadata: &mut Metadata) -> Result<Option<Plain>, crate::plain::NotPlain> {
    let Some(note) = metadata.encodings.last().and_then(|note| note.strip_prefix(MARK)) else {
        return Ok(None);
    };
    let plain: Plain = note.parse()?;
    metadata.encodings.pop();
    Ok(Some(plain))
}

/// What the keys of all chunks begin with.
pub(super) fn chunks() -> String {
    format!("{OWN}dedup/")
}

/// Where a chunk lies.
pub(super) fn chunk_key(id: &Checksum) -> persist_core::Result<Key> {
    Key::new(format!("{OWN}dedup/{id}"))
}

/// Which chunk lies there.
pub(super) fn chunk_id(key: &Key) -> Option<Checksum> {
    key.strip_prefix(OWN)?.strip_prefix("dedup/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(lengths: &[u32]) -> Manifest {
        let chunk = |length: &u32| ChunkRef { id: Checksum::of(&[&length.to_le_bytes()]), length: *length };
        Manifest(lengths.iter().map(chunk).collect())
    }

    #[test]
    fn it_is_read_back_and_nothing_else_is_one() {
        let manifest = manifest(&[5, 1, 9]);
        assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest.clone()));
        assert_eq!(manifest.encode().len(), 108);
        assert_eq!(Manifest::decode(&manifest.encode()[1..]), None);
        let key = chunk_key(&manifest.0[0].id).unwrap();
        assert_eq!(chunk_id(&key), Some(manifest.0[0].id));
        assert_eq!(chunk_id(&Key::new("dedup/00").unwrap()), None);
    }

    #[test]
    fn a_range_needs_the_chunks_that_it_touches_and_no_other() {
        let manifest = manifest(&[5, 1, 9]);
        let all: Vec<u8> = (0..15).collect();
        for start in 0..18_u64 {
            for end in 0..18_u64 {
                let (chunks, part) = manifest.within(&(start..end));
                let first = manifest.0.iter().position(|chunk| Some(chunk) == chunks.first()).unwrap_or(0);
                let offset: u32 = manifest.0[..first].iter().map(|chunk| chunk.length).sum();
                let found = &all[offset as usize..][part];
                let (from, to) = (start.min(15) as usize, end.min(15) as usize);
                assert_eq!(found, if from < to { &all[from..to] } else { &[] }, "{start}..{end}");
            }
        }
        assert_eq!(manifest.within(&(5..6)).0.len(), 1);
        assert_eq!(manifest.within(&(4..7)).0.len(), 3);
    }
}
