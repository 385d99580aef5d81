use bytes::Bytes;
use persist_core::{Entry, Key, Metadata, Tags, Timestamp, Version};

use super::queue::{Change, Staged};
use crate::plain::Plain;

/// What every frame begins with.
const MAGIC: [u8; 4] = *b"PWB1";

/// Bytes of a frame before its content: the magic, the length of the content, the CRC-32 of all that follows it, and how
/// much of the file was synced when the frame was made.
const HEADER: usize = 20;

/// Puts a frame with some changes, which belong together, at the end of a buffer.
///
/// `synced` is how many bytes of the same file are known to have reached the disk. A frame that says more than where a damaged
/// one lies proves that the damaged one had been acknowledged.
pub(super) fn append(buffer: &mut Vec<u8>, synced: u64, staged: &[Staged]) {
    let start = buffer.len();
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(&synced.to_le_bytes());
    staged.iter().for_each(|staged| change(buffer, staged));
    let length = (buffer.len() - start - HEADER) as u32;
    let crc = crc32fast::hash(&buffer[start + 12..]);
    buffer[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    buffer[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// What lies at a place of a file.
#[derive(Debug)]
pub(super) enum Found {
    /// A frame, and where the next one begins.
    Frame { changes: Vec<(Key, Read)>, next: usize },
    /// The end of the file.
    End,
    /// What is no frame: it was cut off, or damaged.
    Broken,
}

/// A change as it was read back.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    Put(Entry),
    Delete(Version),
}

impl From<Read> for Change {
    fn from(read: Read) -> Self {
        match read {
            Read::Put(entry) => Self::Put(entry),
            Read::Delete(version) => Self::Delete(version),
        }
    }
}

/// Reads the frame at a place.
pub(super) fn read(file: &Bytes, at: usize) -> Found {
    if at == file.len() {
        return Found::End;
    }
    let Some((content, _)) = content(file, at) else { return Found::Broken };
    let next = content.end;
    let mut reader = Reader { bytes: file.slice(content), at: 0 };
    let mut changes = Vec::new();
    while reader.at < reader.bytes.len() {
        let Some(change) = reader.change() else { return Found::Broken };
        changes.push(change);
    }
    Found::Frame { changes, next }
}

/// True if a whole frame after `at` was made when what lies at `at` had been synced.
pub(super) fn was_synced(file: &[u8], at: usize) -> bool {
    whole_after(file, at).any(|synced| synced > at as u64)
}

/// True if there is a whole frame anywhere.
pub(super) fn holds_any(file: &[u8]) -> bool {
    whole_after(file, 0).next().is_some()
}

/// How much had been synced when each whole frame from a place on was made.
fn whole_after(file: &[u8], at: usize) -> impl Iterator<Item = u64> + '_ {
    let starts = file[at..].windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    starts.filter_map(move |(offset, _)| content(file, at + offset).map(|(_, synced)| synced))
}

/// Where the content of a whole frame lies, and how much had been synced when it was made.
fn content(file: &[u8], at: usize) -> Option<(std::ops::Range<usize>, u64)> {
    let header = file.get(at..at + HEADER)?;
    let number = |from: usize| {
        u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
    };
    let length = number(4) as usize;
    let end = (at + HEADER).checked_add(length)?;
    let checked = file.get(at + 12..end)?;
    let synced = u64::from_le_bytes(header[12..20].try_into().ok()?);
    (header[..4] == MAGIC && crc32fast::hash(checked) == number(8)).then_some((at + HEADER..end, synced))
}

fn change(buffer: &mut Vec<u8>, staged: &Staged) {
    let version = staged.change.version().as_u64();
    match &staged.change {
        Change::Delete(_) => {
            buffer.push(0);
            buffer.extend_from_slice(&version.to_le_bytes());
            text(buffer, &staged.key);
        }
        Change::Put(Entry { value, metadata }) => {
            buffer.push(1);
            buffer.extend_from_slice(&version.to_le_bytes());
            text(buffer, &staged.key);
            for moment in [metadata.created_at, metadata.modified_at] {
                buffer.extend_from_slice(&moment.as_millis().to_le_bytes());
            }
            buffer.push(u8::from(metadata.expires_at.is_some()));
            let end = metadata.expires_at.map_or(0, Timestamp::as_millis);
            buffer.extend_from_slice(&end.to_le_bytes());
            text(buffer, &Plain::of(value).to_string());
            buffer.extend_from_slice(&(metadata.tags.len() as u32).to_le_bytes());
            for (name, tag) in metadata.tags.iter() {
                text(buffer, name);
                text(buffer, tag);
            }
            buffer.extend_from_slice(&(metadata.encodings.len() as u32).to_le_bytes());
            metadata.encodings.iter().for_each(|encoding| text(buffer, encoding));
            bytes(buffer, value.buffer());
        }
    }
}

fn text(buffer: &mut Vec<u8>, text: &str) {
    bytes(buffer, text.as_bytes());
}

fn bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

/// Reads the content of a frame. `None`: it is not what [`append`] makes.
struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    fn take(&mut self, count: usize) -> Option<Bytes> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len())?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.as_ref().try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.as_ref().try_into().ok()?))
    }

    fn moment(&mut self) -> Option<Timestamp> {
        self.u64().map(|bits| Timestamp::from_millis(bits.cast_signed()))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn change(&mut self) -> Option<(Key, Read)> {
        let (is_put, version) = (self.byte()?, Version::from_u64(self.u64()?));
        let key = Key::new(self.text()?).ok()?;
        match is_put {
            0 => Some((key, Read::Delete(version))),
            1 => Some((key, Read::Put(self.entry(version)?))),
            _ => None,
        }
    }

    fn entry(&mut self, version: Version) -> Option<Entry> {
        let (created_at, modified_at) = (self.moment()?, self.moment()?);
        let (expires, end) = (self.byte()? != 0, self.moment()?);
        let plain: Plain = self.text()?.parse().ok()?;
        let mut tags = Tags::new();
        for _ in 0..self.u32()? {
            tags = tags.with(self.text()?, self.text()?);
        }
        let encodings = (0..self.u32()?).map(|_| self.text()).collect::<Option<Vec<_>>>()?;
        // A buffer of its own, so that a value does not keep a whole file of the journal in memory.
        let value = plain.value(Bytes::copy_from_slice(&self.bytes()?))?;
        let (kind, size, checksum) = (value.kind(), value.size(), value.checksum());
        let mut metadata = Metadata {
            kind,
            size,
            version,
            created_at,
            modified_at,
            expires_at: expires.then_some(end),
            checksum,
            tags,
            encodings,
        };
        let hashed = metadata.checksum;
        plain.put_into(&mut metadata);
        (metadata.checksum == hashed).then_some(Entry { value, metadata })
    }
}

#[cfg(test)]
mod tests {
    use persist_core::{Array, Descriptor, StoreOptions, Value};

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn puts() -> Vec<Staged> {
        let descriptor = Descriptor::new("s", "memory");
        let values = [
            Value::json(&[1, 2]).unwrap(),
            Value::bytes(""),
            Value::Array(Array::from_vec(vec![2, 0, 3], Vec::<f32>::new()).unwrap()),
        ];
        let options = StoreOptions::new().tag("a", "é").expires_at(Timestamp::from_millis(-7));
        let options = StoreOptions { encodings: vec!["x y".to_owned()], ..options };
        let puts = values.into_iter().enumerate().map(|(number, value)| {
            let metadata = descriptor.draft_metadata(&value, &options);
            Staged { key: key(&format!("k{number}")), change: Change::Put(Entry { value, metadata }) }
        });
        puts.collect()
    }

    fn entries(staged: &[Staged]) -> Vec<(Key, Read)> {
        let read = |staged: &Staged| match &staged.change {
            Change::Put(entry) => (staged.key.clone(), Read::Put(entry.clone())),
            Change::Delete(version) => (staged.key.clone(), Read::Delete(*version)),
        };
        staged.iter().map(read).collect()
    }

    #[test]
    fn every_change_is_read_back() {
        let deletes = [Staged { key: key("gone"), change: Change::Delete(Version::from_u64(9)) }];
        let mut file = Vec::new();
        append(&mut file, 0, &puts());
        append(&mut file, 0, &deletes);
        let file = Bytes::from(file);
        let Found::Frame { changes, next } = read(&file, 0) else { panic!("no frame") };
        assert_eq!(changes, entries(&puts_like(&changes)));
        assert_eq!(changes.len(), 3);
        let Found::Frame { changes, next } = read(&file, next) else { panic!("no second frame") };
        assert_eq!(changes, entries(&deletes));
        assert!(matches!(read(&file, next), Found::End));
    }

    /// What was read, staged again: versions and times differ from one `puts()` to the next.
    fn puts_like(changes: &[(Key, Read)]) -> Vec<Staged> {
        let fresh = puts();
        fresh
            .into_iter()
            .zip(changes)
            .map(|(Staged { key, change }, (_, read))| {
                let (Change::Put(mut entry), Read::Put(was)) = (change, read) else { panic!("a put") };
                entry.metadata.version = was.metadata.version;
                entry.metadata.created_at = was.metadata.created_at;
                entry.metadata.modified_at = was.metadata.modified_at;
                Staged { key, change: Change::Put(entry) }
            })
            .collect()
    }

    #[test]
    fn no_bit_can_be_changed_and_nothing_cut() {
        let mut file = Vec::new();
        append(&mut file, 0, &puts());
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(matches!(read(&Bytes::from(damaged), 0), Found::Broken), "byte {at}");
            let cut = Bytes::copy_from_slice(&file[..at]);
            assert!(at == 0 || matches!(read(&cut, 0), Found::Broken), "cut at {at}");
        }
    }

    #[test]
    fn a_later_frame_tells_whether_a_broken_one_was_acknowledged() {
        let mut file = Vec::new();
        append(&mut file, 0, &puts());
        let first = file.len();
        append(&mut file, 0, &puts());
        let mut damaged = file.clone();
        damaged[30] ^= 1;
        assert!(!was_synced(&damaged, 0), "nobody was told that it is there");
        append(&mut damaged, first as u64, &puts());
        assert!(was_synced(&damaged, 0));
        assert!(!was_synced(&damaged, first), "what came after it had not been synced");
        assert!(holds_any(&damaged) && !holds_any(&damaged[..first]) && !holds_any(&[0; 100]));
    }
}
