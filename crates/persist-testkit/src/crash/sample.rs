//! Values that tell what they are: everything stored is a function of the key and its generation.
//!
//! A torn value, a value under the wrong key, and a value with the metadata of another generation are all visible,
//! because the value, its tags and its expiry can be computed again from the two numbers that it names itself.

use persist_core::{Array, Kind, StoreOptions, Timestamp, Value};

/// The first bytes of every sample.
const MAGIC: &[u8; 4] = b"PSmp";

/// The tag that repeats the generation, so that tags of another generation are noticed.
pub const TAG: &str = "generation";

/// A stream of numbers from a seed (splitmix64; Steele, Lea, Flood 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next_u64() % end }
    }

    /// `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Which kind of value a generation of a key is.
pub fn kind(generation: u64) -> Kind {
    match generation % 3 {
        0 => Kind::Bytes,
        1 => Kind::Json,
        _ => Kind::Array,
    }
}

/// The moment of expiry of a generation in milliseconds: never, or a day in the next century.
pub fn expiry(generation: u64) -> Option<i64> {
    let day = i64::try_from(generation % 10_000).unwrap_or(0);
    (!generation.is_multiple_of(4)).then_some(4_102_444_800_000 + day * 86_400_000)
}

/// The options that a generation is stored with.
pub fn options(generation: u64) -> StoreOptions {
    let options = StoreOptions::new().tag(TAG, generation.to_string());
    match expiry(generation) {
        Some(at) => options.expires_at(Timestamp::from_millis(at)),
        None => options,
    }
}

/// The value of a generation, its body at most `max` bytes long.
///
/// # Panics
/// Never: the text is JSON and the shape fits the buffer.
pub fn value(key: &str, generation: u64, max: usize) -> Value {
    let bytes = record(key, generation, max);
    match kind(generation) {
        Kind::Bytes => Value::bytes(bytes),
        Kind::Json => Value::json(&hex(&bytes)).expect("a text is JSON"),
        Kind::Array => Value::from(array(&bytes)),
    }
}

/// Which generation of `key` a value is.
///
/// # Errors
/// In words, where and how it differs from what was stored.
pub fn generation_of(key: &str, value: &Value) -> Result<u64, String> {
    let bytes = match value {
        Value::Bytes(bytes) => bytes.to_vec(),
        Value::Json(_) => unhex(&value.to::<String>().map_err(|error| error.to_string())?)?,
        Value::Array(array) => array.data().to_vec(),
    };
    let generation = check_record(key, &bytes)?;
    if value.kind() == kind(generation) {
        Ok(generation)
    } else {
        Err(format!("generation {generation} was stored as {}, found as {}", kind(generation), value.kind()))
    }
}

/// Magic, generation, hash of the key, length, body, CRC-32 of all before it.
fn record(key: &str, generation: u64, max: usize) -> Vec<u8> {
    let mut random = Random::new(seed(key, generation));
    let length = match random.below(8) {
        0 => 0,
        1 => random.below(16),
        2..6 => random.below(max.min(4096) as u64 + 1),
        _ => random.below(max as u64 + 1),
    };
    let mut record = MAGIC.to_vec();
    record.extend_from_slice(&generation.to_le_bytes());
    record.extend_from_slice(&seed(key, 0).to_le_bytes());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend(random.bytes(usize::try_from(length).unwrap_or(max)));
    record.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
    record
}

fn check_record(key: &str, bytes: &[u8]) -> Result<u64, String> {
    let torn = |what: &str| Err(format!("torn value of {} bytes: {what}", bytes.len()));
    if bytes.len() < 32 || !bytes.starts_with(MAGIC) {
        return torn("no header");
    }
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return torn("the checksum at its end does not match");
    }
    if bytes[12..20] != seed(key, 0).to_le_bytes() {
        return torn("it belongs to another key");
    }
    let mut generation = [0; 8];
    generation.copy_from_slice(&bytes[4..12]);
    Ok(u64::from_le_bytes(generation))
}

fn seed(key: &str, generation: u64) -> u64 {
    key.bytes().fold(generation ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn array(bytes: &[u8]) -> Array {
    Array::from_vec(vec![bytes.len()], bytes.to_vec()).expect("the shape is the length")
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    String::from_utf8(text).unwrap_or_default()
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| Some((digit(pair[0])? << 4) | digit(*pair.get(1)?)?);
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| "torn JSON value: not hexadecimal".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_tells_its_own_number() {
        for generation in 1..200 {
            let value = value("a/b", generation, 10_000);
            assert_eq!(value.kind(), kind(generation));
            assert_eq!(generation_of("a/b", &value), Ok(generation));
            assert!(generation_of("a/c", &value).unwrap_err().contains("another key"));
        }
    }

    #[test]
    fn a_cut_or_mixed_value_is_noticed() {
        let old = record("k", 3, 1000);
        let new = record("k", 6, 1000);
        for cut in 0..new.len() {
            assert!(check_record("k", &new[..cut]).is_err(), "cut at {cut}");
            let mut mixed = old.clone();
            mixed.splice(..cut.min(old.len()), new[..cut].iter().copied());
            let found = check_record("k", &mixed);
            assert!(found.is_err() || mixed == old || mixed == new, "mixed at {cut}: {found:?}");
        }
    }
}
