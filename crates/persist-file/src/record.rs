//! The metadata record: what an extended attribute or the head of an envelope holds. Byte by byte in
//! `docs/formats/file.md`.
//!
//! Without tags it takes at most 64 bytes, because that is what ext4 keeps inside an inode of 256 bytes: one byte
//! more costs a disk block for every value.

use persist_core::{Checksum, Kind, Metadata, Tags, Timestamp, Version};

/// Format 1, in the upper half of the first byte; flags and kind in the lower half.
const FORMAT: u8 = 0x10;
const EXPIRES: u8 = 0x04;
const NOTES: u8 = 0x08;

/// Writes a record. The size is not in it: the file has it.
pub(crate) fn encode(metadata: &Metadata) -> Vec<u8> {
    let notes = !metadata.tags.is_empty() || !metadata.encodings.is_empty();
    let kind = match metadata.kind {
        Kind::Json => 0,
        Kind::Bytes => 1,
        Kind::Array => 2,
    };
    let expires = if metadata.expires_at.is_some() { EXPIRES } else { 0 };
    let mut record = Vec::with_capacity(64);
    record.push(FORMAT | kind | expires | if notes { NOTES } else { 0 });
    record.extend(metadata.version.as_u64().to_le_bytes());
    put_time(&mut record, metadata.created_at.as_millis());
    put_time(&mut record, metadata.modified_at.as_millis().wrapping_sub(metadata.created_at.as_millis()));
    if let Some(expires_at) = metadata.expires_at {
        put_time(&mut record, expires_at.as_millis());
    }
    record.extend(metadata.checksum.as_bytes());
    if notes {
        put_notes(&mut record, metadata);
    }
    let crc = crc32fast::hash(&record);
    record.extend(crc.to_le_bytes());
    record
}

/// Reads the record of a value of `size` bytes; `Err` says what is wrong with it.
pub(crate) fn decode(record: &[u8], size: u64) -> Result<Metadata, &'static str> {
    let (body, crc) = record.split_last_chunk::<4>().ok_or("it is cut off")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err("its CRC does not match");
    }
    let mut rest = body;
    let [head] = take(&mut rest)?;
    if head & 0xf0 != FORMAT {
        return Err("it was written by another version of persist");
    }
    let kind = match head & 3 {
        0 => Kind::Json,
        1 => Kind::Bytes,
        2 => Kind::Array,
        _ => return Err("its kind is unknown"),
    };
    let version = Version::from_u64(u64::from_le_bytes(take(&mut rest)?));
    let created = take_time(&mut rest)?;
    let modified = created.wrapping_add(take_time(&mut rest)?);
    let expires_at =
        if head & EXPIRES != 0 { Some(Timestamp::from_millis(take_time(&mut rest)?)) } else { None };
    let checksum = Checksum::from_bytes(take(&mut rest)?);
    let (tags, encodings) = if head & NOTES != 0 { take_notes(&mut rest)? } else { Default::default() };
    if !rest.is_empty() {
        return Err("it goes on after its end");
    }
    let (created_at, modified_at) = (Timestamp::from_millis(created), Timestamp::from_millis(modified));
    Ok(Metadata { kind, size, version, created_at, modified_at, expires_at, checksum, tags, encodings })
}

fn put_notes(record: &mut Vec<u8>, metadata: &Metadata) {
    put_number(record, metadata.tags.len() as u64);
    for (name, text) in metadata.tags.iter() {
        put_text(record, name);
        put_text(record, text);
    }
    put_number(record, metadata.encodings.len() as u64);
    for encoding in &metadata.encodings {
        put_text(record, encoding);
    }
}

fn take_notes(rest: &mut &[u8]) -> Result<(Tags, Vec<String>), &'static str> {
    let tags = (0..take_number(rest)?)
        .map(|_| Ok((take_text(rest)?, take_text(rest)?)))
        .collect::<Result<Tags, &'static str>>()?;
    let encodings = (0..take_number(rest)?).map(|_| take_text(rest)).collect::<Result<_, _>>()?;
    Ok((tags, encodings))
}

fn put_text(record: &mut Vec<u8>, text: &str) {
    put_number(record, text.len() as u64);
    record.extend(text.as_bytes());
}

fn take_text(rest: &mut &[u8]) -> Result<String, &'static str> {
    let len = usize::try_from(take_number(rest)?).map_err(|_| "a text in it is cut off")?;
    let (head, tail) = rest.split_at_checked(len).ok_or("a text in it is cut off")?;
    *rest = tail;
    std::str::from_utf8(head).map(str::to_owned).map_err(|_| "a text in it is not UTF-8")
}

/// Milliseconds with the sign in the lowest bit ("zigzag"), so that times near zero are short both ways.
fn put_time(record: &mut Vec<u8>, millis: i64) {
    put_number(record, ((millis << 1) ^ (millis >> 63)).cast_unsigned());
}

fn take_time(rest: &mut &[u8]) -> Result<i64, &'static str> {
    let number = take_number(rest)?;
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

/// Seven bits a byte, the lowest first, the highest bit set on all but the last (LEB128).
fn put_number(record: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        record.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    record.push(number as u8);
}

fn take_number(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("a number in it is too long")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or("it is cut off")?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        Metadata {
            kind: Kind::Array,
            size: 1 << 40,
            version: Version::from_u64(1_700_000_000_000_000),
            created_at: Timestamp::from_millis(1_700_000_000_000),
            modified_at: Timestamp::from_millis(1_900_000_000_000),
            expires_at: Some(Timestamp::from_millis(1_800_000_000_000)),
            checksum: Checksum::of(&[b"x"]),
            tags: Tags::new().with("owner", "Ada").with("note", "é".repeat(300)).with("", ""),
            encodings: vec!["zstd".to_owned()],
        }
    }

    #[test]
    fn records_come_back() {
        let metadata = sample();
        assert_eq!(decode(&encode(&metadata), 1 << 40), Ok(metadata.clone()));
        let plain = Metadata { tags: Tags::new(), encodings: vec![], ..metadata };
        assert_eq!(encode(&plain).len(), 63, "an inode of ext4 has room for 64");
        assert_eq!(decode(&encode(&plain), 1 << 40), Ok(plain.clone()));
        for millis in [i64::MIN, -1, 0, 1, i64::MAX] {
            let at = Timestamp::from_millis(millis);
            let odd = Metadata {
                created_at: at,
                modified_at: Timestamp::from_millis(7),
                expires_at: Some(at),
                ..plain.clone()
            };
            assert_eq!(decode(&encode(&odd), 1 << 40), Ok(odd));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let record = encode(&sample());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, 0).is_err(), "bit {bit}");
        }
        for cut in 0..record.len() {
            assert!(decode(&record[..cut], 0).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_wrong_body_under_a_right_crc_does_not_panic() {
        let record = encode(&sample());
        let body = &record[..record.len() - 4];
        for at in 0..body.len() {
            for value in [0, 1, 0x10, 0x7f, 0x80, 0xff] {
                let mut damaged = body.to_vec();
                damaged[at] = value;
                let crc = crc32fast::hash(&damaged);
                damaged.extend(crc.to_le_bytes());
                let _ = decode(&damaged, 0);
            }
        }
        assert_eq!(decode(&[], 0), Err("it is cut off"));
    }
}
