//! Signatures of packs: ed25519 (RFC 8032) over the root, which covers every entry and their number.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, VerifyingKey};
use persist_core::{ErrorKind, Result, StorageError};
use serde::{Deserialize, Serialize};

use crate::manifest::hex;
use crate::merkle::Hash;

/// What is signed: these bytes and the root. They keep the signature from meaning anything elsewhere.
const CONTEXT: &[u8] = b"persist pack signature 1\0";

/// What stands before the bytes of a secret key in its text form.
const SECRET: &str = "persist-secret-key-1:";

/// What stands before the bytes of a public key in its text form.
const PUBLIC: &str = "persist-public-key-1:";

fn message(root: &Hash) -> Vec<u8> {
    [CONTEXT, root].concat()
}

fn wrong(message: impl Into<String>) -> StorageError {
    StorageError::new(ErrorKind::InvalidValue, message.into())
}

/// A secret key. It is never shown but by [`to_text`](Self::to_text).
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public_key())
    }
}

impl SigningKey {
    /// A new key from the generator of the operating system.
    ///
    /// # Errors
    /// If there is none.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .ok()
            .filter(|read| *read == seed.len())
            .ok_or_else(|| StorageError::new(ErrorKind::Unavailable, "the system gives no random numbers"))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The text to keep in a file that nobody else may read.
    pub fn to_text(&self) -> String {
        format!("{SECRET}{}\n", hex(self.0.as_bytes()))
    }

    /// The key that others check signatures with.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a root.
    pub fn sign(&self, root: &Hash) -> Signature {
        let signature = self.0.sign(&message(root)).to_bytes();
        Signature {
            format: 1,
            algorithm: ALGORITHM.to_owned(),
            root: hex(root),
            public_key: self.public_key().to_string(),
            signature: signature.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

impl FromStr for SigningKey {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self> {
        let seed = bytes_after::<32>(text.trim(), SECRET);
        let seed = seed
            .ok_or_else(|| wrong("this is no secret key of persist; make one with `persist pack keygen`"))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self> {
        bytes_after::<32>(text.trim(), PUBLIC)
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .filter(|key| !key.is_weak())
            .map(Self)
            .ok_or_else(|| wrong("this is no public key of persist; `persist pack keygen` says what it is"))
    }
}

const ALGORITHM: &str = "ed25519";

/// A signature as it lies in a pack. It means nothing before [`check`](Self::check).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    format: u32,
    algorithm: String,
    root: String,
    public_key: String,
    signature: String,
}

impl Signature {
    /// Reads the text of a signature.
    ///
    /// # Errors
    /// `Corruption` if it is none.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text)
            .map_err(|_| StorageError::new(ErrorKind::Corruption, "the signature of the pack is none"))
    }

    /// The text that lies in the pack.
    pub fn to_json(&self) -> String {
        // Strings and a number cannot fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// The key that it says it was made with; anybody can write that.
    ///
    /// # Errors
    /// `Corruption` if it is none.
    pub fn claimed_key(&self) -> Result<PublicKey> {
        self.public_key
            .parse()
            .map_err(|_| StorageError::new(ErrorKind::Corruption, "the signature of the pack names no key"))
    }

    /// Checks that the owner of `key` signed this root.
    ///
    /// # Errors
    /// `Corruption` if not.
    pub fn check(&self, key: &PublicKey, root: &Hash) -> Result<()> {
        let bad = |what: &str| {
            Err(StorageError::new(ErrorKind::Corruption, format!("the signature is not valid: {what}")))
        };
        if self.format != 1 || self.algorithm != ALGORITHM {
            return bad("it has an unknown form");
        }
        if self.root != hex(root) {
            return bad("it is of another root");
        }
        if self.public_key != key.to_string() {
            return bad("it was made with another key");
        }
        let Some(bytes) = bytes_after::<64>(&self.signature, "") else { return bad("its form is wrong") };
        let signature = ed25519_dalek::Signature::from_bytes(&bytes);
        match key.0.verify_strict(&message(root), &signature) {
            Ok(()) => Ok(()),
            Err(_) => bad("the owner of the key did not make it"),
        }
    }
}

/// Bytes in lower-case hexadecimal behind a word.
fn bytes_after<const N: usize>(text: &str, word: &str) -> Option<[u8; N]> {
    let digits = text.strip_prefix(word)?.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        if !pair.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_root_and_key_alone() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let signature = key.sign(&[7; 32]);
        let signature = Signature::from_json(signature.to_json().as_bytes()).unwrap();
        signature.check(&key.public_key(), &[7; 32]).unwrap();
        assert!(signature.check(&key.public_key(), &[8; 32]).is_err(), "another root");
        assert!(signature.check(&other.public_key(), &[7; 32]).is_err(), "another key");
        let forged = Signature { public_key: other.public_key().to_string(), ..signature.clone() };
        assert!(forged.check(&other.public_key(), &[7; 32]).is_err(), "the name of another key");
        for at in 0..128 {
            let mut text = signature.signature.clone().into_bytes();
            text[at] = if text[at] == b'0' { b'1' } else { b'0' };
            let bad = Signature { signature: String::from_utf8(text).unwrap(), ..signature.clone() };
            assert!(bad.check(&key.public_key(), &[7; 32]).is_err(), "digit {at}");
        }
    }

    /// Else a root that somebody lets be signed for another purpose would do for a pack.
    #[test]
    fn what_is_signed_is_more_than_the_root() {
        let key = SigningKey::generate().unwrap();
        let root = [7; 32];
        let signature = key.0.sign(&root).to_bytes();
        let signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        let bare = Signature { signature, ..key.sign(&root) };
        assert!(bare.check(&key.public_key(), &root).is_err());
    }

    #[test]
    fn keys_read_back_and_are_not_shown() {
        let key = SigningKey::generate().unwrap();
        let again: SigningKey = key.to_text().parse().unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(key.public_key().to_string().parse::<PublicKey>().unwrap(), key.public_key());
        let secret = key.to_text();
        let digits = secret.trim().strip_prefix(SECRET).unwrap();
        assert!(!format!("{key:?}").contains(digits));
        assert!(secret.parse::<PublicKey>().is_err(), "a secret key is no public one");
        assert!("".parse::<SigningKey>().is_err());
        // The point of order one, which any signature fits.
        let weak = format!("{PUBLIC}01{}", "00".repeat(31));
        assert!(weak.parse::<PublicKey>().is_err());
    }

    /// RFC 8032, section 7.1, test 1: the key of a known seed.
    #[test]
    fn the_keys_are_those_of_the_standard() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key: SigningKey = format!("{SECRET}{seed}").parse().unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.public_key().to_string(), format!("{PUBLIC}{public}"));
    }
}
