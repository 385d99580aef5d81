//! A record: a local header of a ZIP file with our note in it, the data, and for large data a table of its chunks.
//!
//! Source: APPNOTE.TXT, the ZIP file format specification, 6.3.10, sections 4.3.7 (local file header) and 4.5.3 (ZIP64).

use crate::codec::{CHUNK, Method, Payload, chunks_of};
use crate::note::{Note, NoteView};
use crate::wire::{Reader, Wrong};

/// The signature of a local file header.
pub(crate) const LOCAL: u32 = 0x0403_4b50;

/// The header id of our extra field, "pr".
pub(crate) const NOTE_ID: u16 = 0x7270;

/// The header id of the ZIP64 extra field.
const ZIP64_ID: u16 = 1;

/// A length of 32 bits that says: look into the ZIP64 extra field.
pub(crate) const SEE_ZIP64: u32 = u32::MAX;

/// Bit 11: the name is UTF-8.
pub(crate) const UTF8_NAME: u16 = 1 << 11;

/// 1980-01-01 00:00:00, the first moment that ZIP knows: a pack has no times of files.
pub(crate) const NO_TIME: [u8; 4] = [0, 0, 0x21, 0];

/// The local file header without name and extra fields.
const FIXED: usize = 30;

/// The longest head: name and extra fields have lengths of 16 bits.
pub(crate) const MAX_HEAD: usize = FIXED + 2 * 0xFFFF;

/// A chunk in the table: where it ends in the data, and its CRC-32.
pub(crate) const TABLE_ENTRY: usize = 12;

/// The version of ZIP needed to read an entry: 2.0 for folders and deflate, 4.5 for ZIP64, 6.3 for zstd.
pub(crate) fn version_needed(method: Method, zip64: bool) -> u16 {
    match method {
        Method::Zstd => 63,
        _ if zip64 => 45,
        _ => 20,
    }
}

/// The part of a record before its data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) method: Method,
    /// CRC-32 of the unpacked data, for other tools.
    pub(crate) crc32: u32,
    pub(crate) note: Note,
    /// Length of the head itself.
    pub(crate) len: u64,
}

impl Head {
    /// Length of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        self.len.saturating_add(self.note.stored).saturating_add(self.table_len())
    }

    /// Length of the table of chunks after the data.
    pub(crate) fn table_len(&self) -> u64 {
        table_len(self.note.plain)
    }
}

/// The part of a record before its data, as it lies there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadView<'b> {
    pub(crate) name: &'b str,
    pub(crate) method: Method,
    pub(crate) crc32: u32,
    pub(crate) note: NoteView<'b>,
    len: u64,
}

impl HeadView<'_> {
    /// Length of the head itself.
    pub(crate) fn head_len(&self) -> u64 {
        self.len
    }

    /// Length of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        self.len.saturating_add(self.note.stored).saturating_add(table_len(self.note.plain))
    }
}

/// True if the lengths need more than 32 bits.
pub(crate) fn is_zip64(plain: u64, stored: u64) -> bool {
    plain.max(stored) >= u64::from(SEE_ZIP64)
}

/// Small data is one chunk, whose CRC is in the note.
pub(crate) fn table_len(plain: u64) -> u64 {
    if plain <= CHUNK { 0 } else { chunks_of(plain) * TABLE_ENTRY as u64 }
}

/// Which pack a record belongs to, and where: both are in its CRC, so that a block of another pack or from another place
/// is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) salt: u64,
    pub(crate) at: u64,
}

impl Place {
    fn crc_of(self, head: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let (salt, at) = (u128::from(self.salt), u128::from(self.at));
        hasher.update(&(salt | at << 64).to_le_bytes());
        hasher.update(head);
        hasher.finalize()
    }
}

/// Appends the head of a record to some bytes; what a reader will find there.
///
/// # Errors
/// If what is to be noted does not fit into an extra field; then nothing is appended.
pub(crate) fn encode_head(
    to: &mut Vec<u8>,
    place: Place,
    name: String,
    note: Note,
    payload: &Payload,
) -> Result<Head, Wrong> {
    let start = to.len();
    let zip64 = is_zip64(note.plain, note.stored);
    let short = |length: u64| if zip64 { SEE_ZIP64 } else { u32::try_from(length).unwrap_or(SEE_ZIP64) };
    to.extend(LOCAL.to_le_bytes());
    to.extend(version_needed(payload.method, zip64).to_le_bytes());
    to.extend(UTF8_NAME.to_le_bytes());
    to.extend((payload.method as u16).to_le_bytes());
    to.extend(NO_TIME);
    to.extend(payload.crc32.to_le_bytes());
    to.extend(short(note.stored).to_le_bytes());
    to.extend(short(note.plain).to_le_bytes());
    let lengths_at = to.len();
    to.extend([0; 4]);
    to.extend(name.as_bytes());
    let extra_at = to.len();
    if zip64 {
        to.extend(ZIP64_ID.to_le_bytes());
        to.extend(16_u16.to_le_bytes());
        to.extend(note.plain.to_le_bytes());
        to.extend(note.stored.to_le_bytes());
    }
    to.extend(NOTE_ID.to_le_bytes());
    let note_at = to.len() + 2;
    to.extend([0; 2]);
    note.encode(to);
    // With the CRC that comes last.
    let end = to.len() + 4;
    let lengths = [name.len(), end - extra_at, end - note_at].map(u16::try_from);
    let [Ok(name_len), Ok(extra_len), Ok(note_len)] = lengths else {
        to.truncate(start);
        return Err(Wrong(
            "the key, the tags and the encodings together do not fit into the head of a record",
        ));
    };
    to[lengths_at..lengths_at + 2].copy_from_slice(&name_len.to_le_bytes());
    to[lengths_at + 2..lengths_at + 4].copy_from_slice(&extra_len.to_le_bytes());
    to[note_at - 2..note_at].copy_from_slice(&note_len.to_le_bytes());
    let crc = place.crc_of(&to[start..]);
    to.extend(crc.to_le_bytes());
    Ok(Head { name, method: payload.method, crc32: payload.crc32, note, len: (end - start) as u64 })
}

/// Reads the head of a record from the front of some bytes, which may go on after it.
///
/// # Errors
/// What is wrong with it; that it is cut off, if the bytes end too early.
pub(crate) fn parse_head(bytes: &[u8], place: Place) -> Result<Head, Wrong> {
    let HeadView { name, method, crc32, note, len } = view_head(bytes, place)?;
    Ok(Head { name: name.to_owned(), method, crc32, note: note.to_note()?, len })
}

/// As [`parse_head`], without a copy.
///
/// # Errors
/// As there.
pub(crate) fn view_head(bytes: &[u8], place: Place) -> Result<HeadView<'_>, Wrong> {
    look_at(bytes, Some(place))
}

/// As [`view_head`], of a head whose CRC was right a moment ago.
///
/// # Errors
/// As there.
pub(crate) fn known_head(bytes: &[u8]) -> Result<HeadView<'_>, Wrong> {
    look_at(bytes, None)
}

/// `place`: where it should stand; `None`: its CRC was checked.
fn look_at(bytes: &[u8], place: Option<Place>) -> Result<HeadView<'_>, Wrong> {
    let mut from = Reader::new(bytes);
    if from.u32()? != LOCAL {
        return Err(Wrong("no record begins there"));
    }
    let version = from.u16()?;
    let (flags, method) = (from.u16()?, from.u16()?);
    let time = from.array::<4>()?;
    let crc32 = from.u32()?;
    let (short_stored, short_plain) = (from.u32()?, from.u32()?);
    let (name_len, extra_len) = (usize::from(from.u16()?), usize::from(from.u16()?));
    let name = from.take(name_len)?;
    let extra = from.take(extra_len)?;
    let len = FIXED + name_len + extra_len;
    let Some((covered, crc)) = bytes.get(..len).and_then(<[u8]>::split_last_chunk::<4>) else {
        return Err(Wrong("its head has no note"));
    };
    if place.is_some_and(|place| place.crc_of(covered) != u32::from_le_bytes(*crc)) {
        return Err(Wrong("its head does not match its CRC"));
    }
    let method = Method::of(method).ok_or(Wrong("it is packed with an unknown method"))?;
    let note = NoteView::decode(note_of(extra)?)?;
    let name = std::str::from_utf8(name).map_err(|_| Wrong("its name is no text"))?;
    let zip64 = is_zip64(note.plain, note.stored);
    let short = |length: u64| if zip64 { SEE_ZIP64 } else { u32::try_from(length).unwrap_or(SEE_ZIP64) };
    let agrees = flags == UTF8_NAME
        && time == NO_TIME
        && version == version_needed(method, zip64)
        && (short_stored, short_plain) == (short(note.stored), short(note.plain))
        && extra_agrees(extra, &note);
    if !agrees {
        return Err(Wrong("its head and its note do not agree"));
    }
    Ok(HeadView { name, method, crc32, note, len: len as u64 })
}

/// The bytes of our note, which is the last extra field, without the CRC at its end.
fn note_of(extra: &[u8]) -> Result<&[u8], Wrong> {
    let mut from = Reader::new(extra);
    loop {
        let (id, len) = (from.u16()?, usize::from(from.u16()?));
        let field = from.take(len)?;
        if id == NOTE_ID {
            from.end()?;
            return field.split_last_chunk::<4>().map(|(note, _)| note).ok_or(Wrong("its note is cut off"));
        }
        if id != ZIP64_ID {
            return Err(Wrong("it has an unknown extra field"));
        }
    }
}

/// The lengths of the ZIP64 field, if there is one, are those of the note.
fn extra_agrees(extra: &[u8], note: &NoteView<'_>) -> bool {
    let mut from = Reader::new(extra);
    let mut lengths = || -> Result<_, Wrong> {
        let (id, len) = (from.u16()?, from.u16()?);
        Ok(if id == ZIP64_ID { Some((len, from.u64()?, from.u64()?)) } else { None })
    };
    let wanted = is_zip64(note.plain, note.stored).then_some((16, note.plain, note.stored));
    lengths() == Ok(wanted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use persist_core::{Descriptor, Key, StoreOptions, Value, Version};

    use super::*;
    use crate::config::Compression;
    use crate::note::{About, Role};

    const PLACE: Place = Place { salt: 0x1234_5678_9abc_def0, at: 77 };

    fn entry() -> (Note, Payload) {
        let value = Value::bytes(vec![7; 40]);
        let payload = Payload::of(&value, Compression::None);
        let options = StoreOptions::new().tag("name", "text").tag("", "");
        let mut metadata = Descriptor::new("x", "pack").draft_metadata(&value, &options);
        metadata.encodings = vec!["zstd".to_owned(), String::new()];
        metadata.expires_at = Some(persist_core::Timestamp::from_millis(-3));
        let about = About::Entry(Key::new("a/β").unwrap(), metadata);
        (payload.note(Role::Value, about), payload)
    }

    fn encoded(place: Place) -> Vec<u8> {
        let (note, payload) = entry();
        let mut bytes = Vec::new();
        encode_head(&mut bytes, place, "a/β".to_owned(), note, &payload).unwrap();
        bytes
    }

    #[test]
    fn a_head_reads_back() {
        let (note, payload) = entry();
        let mut bytes = b"before".to_vec();
        let written = encode_head(&mut bytes, PLACE, "a/β".to_owned(), note.clone(), &payload).unwrap();
        let head = parse_head(&bytes[6..], PLACE).unwrap();
        assert_eq!(head, written);
        assert_eq!(head.note, note);
        assert_eq!((head.name.as_str(), head.len), ("a/β", bytes.len() as u64 - 6));
        for about in [About::Pack, About::Absence(Key::new("k").unwrap(), Version::from_u64(9))] {
            let role = if about == About::Pack { Role::Manifest } else { Role::Tombstone };
            let payload = Payload::empty();
            let note = Note { more: true, synced: u64::MAX, ..payload.note(role, about) };
            let mut bytes = Vec::new();
            encode_head(&mut bytes, PLACE, String::new(), note.clone(), &payload).unwrap();
            assert_eq!(parse_head(&bytes, PLACE).unwrap().note, note);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let good = encoded(PLACE);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(parse_head(&bad, PLACE).is_err(), "byte {at}, bit {bit}");
            }
            assert!(parse_head(&good[..at], PLACE).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_head_counts_only_where_it_was_written() {
        let bytes = encoded(PLACE);
        assert!(parse_head(&bytes, Place { at: 78, ..PLACE }).is_err(), "elsewhere in the pack");
        assert!(parse_head(&bytes, Place { salt: 1, ..PLACE }).is_err(), "in another pack");
    }

    #[test]
    fn lengths_over_four_gib_use_zip64() {
        for length in [u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, 1 << 40] {
            let (mut note, payload) = entry();
            (note.plain, note.stored) = (length, length);
            let mut bytes = Vec::new();
            encode_head(&mut bytes, PLACE, "n".to_owned(), note, &payload).unwrap();
            let head = parse_head(&bytes, PLACE).unwrap();
            assert_eq!((head.note.plain, head.note.stored), (length, length));
            let zip64 = length >= u64::from(u32::MAX);
            assert_eq!(is_zip64(head.note.plain, head.note.stored), zip64);
            let short = u32::from_le_bytes(bytes[18..22].try_into().unwrap());
            assert_eq!(u64::from(short), length.min(u64::from(u32::MAX)));
            assert_eq!(u16::from_le_bytes([bytes[4], bytes[5]]), if zip64 { 45 } else { 20 });
        }
    }

    #[test]
    fn tags_that_do_not_fit_are_refused() {
        let (mut note, payload) = entry();
        if let About::Entry(_, metadata) = &mut note.about {
            metadata.encodings = vec!["x".repeat(70_000)];
        }
        let mut bytes = b"before".to_vec();
        assert!(encode_head(&mut bytes, PLACE, "n".to_owned(), note, &payload).is_err());
        assert_eq!(bytes, b"before");
    }
}
