use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use persist_core::Key;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::keyring::Master;

/// What is said of everything that cannot be opened, whatever the reason: a wrong key, a changed byte, another place.
pub(crate) const NOT_OPENED: &str = "the encrypted value cannot be opened: it was changed or moved, or the key is another one than it was sealed with";

/// Plain bytes of one segment.
const SEGMENT: usize = 64 << 10;

/// Bytes of an authentication tag.
const TAG: usize = 16;

/// Bytes of the random salt from which the key of a record is derived.
const SALT: usize = 32;

/// Bytes of the proof that a record belongs to a key.
const COMMITMENT: usize = 32;

/// It cannot be sealed or opened.
#[derive(Debug)]
pub(crate) struct NotOpened;

/// What is written beside a sealed value.
///
/// Its text form is `KEY-ID SALT COMMITMENT DESCRIPTION`, the last three in base64 (RFC 4648, section 5, no padding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) key_id: String,
    salt: Vec<u8>,
    commitment: Vec<u8>,
    /// What the value is, sealed.
    description: Vec<u8>,
}

/// The key of one value, and what it is bound to.
///
/// From the master key and a random salt of 32 bytes, HKDF-SHA-256 (RFC 5869) makes a key that seals this one value, and 32 bytes
/// that commit to it (GCM alone lets a ciphertext open under several keys: Albertini, Duong, Gueron, Kölbl, Luykx, Schmieg,
/// "How to abuse and fix authenticated encryption without key commitment", USENIX Security 2022). Because no key seals two
/// values, nonces may be counted: Hoang, Reyhanitabar, Rogaway, Vizár, "Online authenticated-encryption and its nonce-reuse
/// misuse-resistance" (STREAM, CRYPTO 2015), with the segment's number and whether it is the last in the nonce.
pub(crate) struct Record {
    key: LessSafeKey,
    commitment: [u8; COMMITMENT],
    /// SHA-256 of the format, the storage, the key of the value and the id of the key: the associated data of every seal.
    place: [u8; 32],
}

/// What a nonce is for; the first byte of it.
#[derive(Clone, Copy)]
enum Part {
    Segment = 0,
    LastSegment = 1,
    Description = 2,
}

/// How many bytes HKDF is to give.
pub(crate) struct Length(pub(crate) usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Record {
    /// A new key for one value, and its envelope, which holds the sealed description.
    pub(crate) fn create(
        master: &Master,
        key_id: &str,
        storage: &str,
        key: &Key,
        description: &str,
    ) -> Result<(Self, Envelope), NotOpened> {
        let mut salt = vec![0; SALT];
        SystemRandom::new().fill(&mut salt).map_err(|_| NotOpened)?;
        let record = Self::derive(master, &salt, key_id, storage, key)?;
        let mut sealed = description.as_bytes().to_vec();
        let (nonce, aad) = record.bound(Part::Description, 0);
        record.key.seal_in_place_append_tag(nonce, aad, &mut sealed).map_err(|_| NotOpened)?;
        let commitment = record.commitment.to_vec();
        Ok((record, Envelope { key_id: key_id.to_owned(), salt, commitment, description: sealed }))
    }

    /// The key of a value from its envelope.
    pub(crate) fn open(
        master: &Master,
        envelope: &Envelope,
        storage: &str,
        key: &Key,
    ) -> Result<Self, NotOpened> {
        let record = Self::derive(master, &envelope.salt, &envelope.key_id, storage, key)?;
        let pairs = record.commitment.iter().zip(&envelope.commitment);
        // Every byte is looked at, whichever differs.
        let differ = pairs.fold(0, |found, (ours, theirs)| found | (ours ^ theirs));
        if differ == 0 { Ok(record) } else { Err(NotOpened) }
    }

    fn derive(
        master: &Master,
        salt: &[u8],
        key_id: &str,
        storage: &str,
        key: &Key,
    ) -> Result<Self, NotOpened> {
        let random = Salt::new(HKDF_SHA256, salt).extract(master.expose());
        let info: [&[u8]; 2] = [b"persist-encrypt/1 ", key_id.as_bytes()];
        let mut derived = Zeroizing::new([0_u8; 32 + COMMITMENT]);
        let made =
            random.expand(&info, Length(derived.len())).and_then(|okm| okm.fill(derived.as_mut_slice()));
        made.map_err(|_| NotOpened)?;
        let (secret, proof) = derived.split_at(32);
        let mut commitment = [0; COMMITMENT];
        commitment.copy_from_slice(proof);
        let key_of_record = UnboundKey::new(&AES_256_GCM, secret).map_err(|_| NotOpened)?;
        Ok(Self { key: LessSafeKey::new(key_of_record), commitment, place: place(key_id, storage, key) })
    }

    /// Nonce and associated data of one seal.
    fn bound(&self, part: Part, number: u64) -> (Nonce, Aad<[u8; 32]>) {
        let mut nonce = [0; 12];
        nonce[0] = part as u8;
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        (Nonce::assume_unique_for_key(nonce), Aad::from(self.place))
    }

    /// What the value is.
    pub(crate) fn description(&self, envelope: &Envelope) -> Result<String, NotOpened> {
        let mut sealed = envelope.description.clone();
        let (nonce, aad) = self.bound(Part::Description, 0);
        let opened = self.key.open_in_place(nonce, aad, &mut sealed).map_err(|_| NotOpened)?;
        String::from_utf8(opened.to_vec()).map_err(|_| NotOpened)
    }

    /// Seals a value segment by segment; an empty value has one empty segment.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let count = plain.len().div_ceil(SEGMENT).max(1);
        let mut sealed = Vec::with_capacity(plain.len() + count * TAG);
        for number in 0..count {
            let segment = &plain[number * SEGMENT..plain.len().min((number + 1) * SEGMENT)];
            let start = sealed.len();
            sealed.extend_from_slice(segment);
            let (nonce, aad) = self.bound(part(number, count), number as u64);
            let tag = self
                .key
                .seal_in_place_separate_tag(nonce, aad, &mut sealed[start..])
                .map_err(|_| NotOpened)?;
            sealed.extend_from_slice(tag.as_ref());
        }
        Ok(sealed)
    }

    /// Opens what [`seal`](Self::seal) made. Nothing of it is given back before all of it was checked.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let count = sealed.len().div_ceil(SEGMENT + TAG).max(1);
        let mut plain = Vec::with_capacity(sealed.len());
        for (number, segment) in sealed.chunks(SEGMENT + TAG).enumerate() {
            let start = plain.len();
            plain.extend_from_slice(segment);
            let (nonce, aad) = self.bound(part(number, count), number as u64);
            let opened =
                self.key.open_in_place(nonce, aad, &mut plain[start..]).map_err(|_| NotOpened)?.len();
            plain.truncate(start + opened);
        }
        // Not even an empty value is sealed to nothing.
        if sealed.is_empty() { Err(NotOpened) } else { Ok(plain) }
    }
}

fn part(number: usize, count: usize) -> Part {
    if number + 1 == count { Part::LastSegment } else { Part::Segment }
}

/// What a value is bound to. Every text has its length before it, so that no two places are the same bytes.
fn place(key_id: &str, storage: &str, key: &Key) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    for text in ["persist-encrypt/1", key_id, storage, key.as_str()] {
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    let mut place = [0; 32];
    place.copy_from_slice(hash.finish().as_ref());
    place
}

/// The largest value whose sealed form has at most this many bytes.
pub(crate) fn plain_limit(sealed: u64) -> u64 {
    let (segment, whole) = (SEGMENT as u64, (SEGMENT + TAG) as u64);
    let rest = sealed % whole;
    sealed / whole * segment + rest.saturating_sub(TAG as u64)
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key_id)?;
        for part in [&self.salt, &self.commitment, &self.description] {
            write!(f, " {}", BASE64.encode(part))?;
        }
        Ok(())
    }
}

impl FromStr for Envelope {
    type Err = NotOpened;

    fn from_str(text: &str) -> Result<Self, NotOpened> {
        let mut words = text.split(' ');
        let key_id = words.next().filter(|id| !id.is_empty()).ok_or(NotOpened)?.to_owned();
        let mut bytes = || words.next().and_then(|word| BASE64.decode(word).ok()).ok_or(NotOpened);
        let (salt, commitment, description) = (bytes()?, bytes()?, bytes()?);
        if words.next().is_some() || salt.len() != SALT || commitment.len() != COMMITMENT {
            return Err(NotOpened);
        }
        Ok(Self { key_id, salt, commitment, description })
    }
}

/// Nothing of the key.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;

    fn keyring(byte: &str) -> Keyring {
        let mut keyring = Keyring::default();
        keyring.add("k", &byte.repeat(32)).unwrap();
        keyring
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn sealed(plain: &[u8]) -> (Envelope, Vec<u8>) {
        let keyring = keyring("a1");
        let master = keyring.get("k").unwrap();
        let (record, envelope) = Record::create(master, "k", "s", &key("a"), "what").unwrap();
        (envelope, record.seal(plain).unwrap())
    }

    fn opened(byte: &str, envelope: &Envelope, storage: &str, name: &str) -> Result<Record, NotOpened> {
        Record::open(keyring(byte).get("k").unwrap(), envelope, storage, &key(name))
    }

    #[test]
    fn every_length_comes_back() {
        for length in [0, 1, 15, 16, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT + 5] {
            let plain: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let (envelope, body) = sealed(&plain);
            let record = opened("a1", &envelope, "s", "a").unwrap();
            assert_eq!(record.unseal(&body).unwrap(), plain, "{length}");
            assert_eq!(record.description(&envelope).unwrap(), "what");
            assert_eq!(plain_limit(body.len() as u64), length as u64);
            assert_eq!(envelope.to_string().parse::<Envelope>().unwrap(), envelope);
        }
    }

    #[test]
    fn it_opens_with_its_key_and_in_its_place_alone() {
        let (envelope, body) = sealed(b"secret");
        assert!(opened("a2", &envelope, "s", "a").is_err());
        for (storage, name) in [("t", "a"), ("s", "b"), ("sa", "a")] {
            // The commitment is of the key; the place is bound by every seal.
            let record = opened("a1", &envelope, storage, name).unwrap();
            assert!(
                record.unseal(&body).is_err() && record.description(&envelope).is_err(),
                "{storage} {name}"
            );
        }
        let renamed = Envelope { key_id: "other".to_owned(), ..envelope };
        assert!(opened("a1", &renamed, "s", "a").is_err());
    }

    #[test]
    fn no_bit_can_be_changed_and_nothing_cut_swapped_or_added() {
        let plain: Vec<u8> = (0..2 * SEGMENT + 9).map(|i| (i % 256) as u8).collect();
        let (envelope, body) = sealed(&plain);
        let record = opened("a1", &envelope, "s", "a").unwrap();
        let whole = SEGMENT + TAG;
        let mut wrong: Vec<Vec<u8>> = [0, 7, whole - 1, whole, 2 * whole + 3, body.len() - 1]
            .iter()
            .map(|at| {
                let mut changed = body.clone();
                changed[*at] ^= 1;
                changed
            })
            .collect();
        wrong.extend([0, 1, TAG, whole, 2 * whole, body.len() - 1].map(|end| body[..end].to_vec()));
        wrong.push([&body[whole..2 * whole], &body[..whole], &body[2 * whole..]].concat());
        wrong.push([&body[..whole], &body[2 * whole..]].concat());
        wrong.push([&body[..], &body[2 * whole..]].concat());
        wrong.push([&body[..], &[0]].concat());
        for (number, body) in wrong.iter().enumerate() {
            assert!(record.unseal(body).is_err(), "case {number}");
        }
        let mut changed = envelope.clone();
        changed.description[0] ^= 1;
        assert!(record.description(&changed).is_err());
        for part in 0..2 {
            let mut changed = envelope.clone();
            if part == 0 {
                changed.salt[3] ^= 1;
            } else {
                changed.commitment[3] ^= 1;
            }
            assert!(opened("a1", &changed, "s", "a").is_err());
        }
    }

    #[test]
    fn the_same_value_is_never_sealed_to_the_same_bytes() {
        let (first, second) = (sealed(b"x"), sealed(b"x"));
        assert_ne!(first.1, second.1);
        assert_ne!(first.0.to_string(), second.0.to_string());
    }

    /// RFC 5869, appendix A.1: that HKDF is used as it is meant.
    #[test]
    fn hkdf_gives_what_its_specification_says() {
        let salt: Vec<u8> = (0..=12).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let random = Salt::new(HKDF_SHA256, &salt).extract(&[0x0b; 22]);
        let mut made = [0_u8; 42];
        random.expand(&[&info], Length(42)).unwrap().fill(&mut made).unwrap();
        assert_eq!(made[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
        assert_eq!(made[32..40], [0x34, 0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18]);
    }
}
