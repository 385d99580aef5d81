use std::collections::BinaryHeap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use persist_core::{BaseStorage, ErrorKind, Key, ListOptions, Page, Result, StorageError, async_trait};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use zeroize::Zeroizing;

use crate::keyring::Master;
use crate::record::Length;
use crate::renamed::Names;

/// Bytes of the synthetic nonce, which authenticates a level as well.
const IV: usize = 16;

/// Keys whose levels, the parts between `/`, are each encrypted, always to the same text: SIV (Rogaway and Shrimpton, "A provable-security treatment of
/// the key-wrap problem", EUROCRYPT 2006) with HMAC-SHA-256 as its pseudorandom function and, in counter mode, as its cipher.
///
/// A level is bound to the storage and to the levels before it, so that only whole paths can be recognised as equal. Whoever reads the
/// storage below learns how many levels a key has, how long they are, and which keys lie together; not what they are called.
pub(crate) struct SealedNames {
    storage: String,
    nonce: hmac::Key,
    stream: hmac::Key,
}

/// It was not made with this key, or not here.
struct NotOurs;

impl SealedNames {
    /// Names in a storage, sealed with what is derived from a key.
    pub(crate) fn new(master: &Master, storage: &str) -> Result<Self> {
        let random = Salt::new(HKDF_SHA256, b"persist-names/1").extract(master.expose());
        let mut derived = Zeroizing::new([0_u8; 64]);
        let made = random
            .expand(&[b"persist-names/1"], Length(derived.len()))
            .and_then(|okm| okm.fill(derived.as_mut_slice()));
        made.map_err(|_| StorageError::new(ErrorKind::Internal, "no key for names could be derived"))?;
        let (nonce, stream) = derived.split_at(32);
        Ok(Self {
            storage: storage.to_owned(),
            nonce: hmac::Key::new(HMAC_SHA256, nonce),
            stream: hmac::Key::new(HMAC_SHA256, stream),
        })
    }

    /// The nonce of a level below some others.
    fn iv(&self, parent: &str, level: &str) -> [u8; IV] {
        let mut context = hmac::Context::with_key(&self.nonce);
        for text in [self.storage.as_str(), parent, level] {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut iv = [0; IV];
        iv.copy_from_slice(&context.sign().as_ref()[..IV]);
        iv
    }

    /// Encrypts or decrypts: the same either way.
    fn apply_stream(&self, iv: &[u8], text: &mut [u8]) {
        for (number, block) in text.chunks_mut(32).enumerate() {
            let mut context = hmac::Context::with_key(&self.stream);
            context.update(iv);
            context.update(&(number as u64).to_be_bytes());
            let stream = context.sign();
            block.iter_mut().zip(stream.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
        }
    }

    fn seal(&self, parent: &str, level: &str) -> String {
        let iv = self.iv(parent, level);
        let mut sealed = [&iv[..], level.as_bytes()].concat();
        self.apply_stream(&iv, &mut sealed[IV..]);
        BASE64.encode(sealed)
    }

    fn open(&self, parent: &str, sealed: &str) -> Result<String, NotOurs> {
        let mut sealed = BASE64.decode(sealed).map_err(|_| NotOurs)?;
        let (iv, text) = sealed.split_at_mut_checked(IV).ok_or(NotOurs)?;
        self.apply_stream(iv, text);
        let level = String::from_utf8(text.to_vec()).map_err(|_| NotOurs)?;
        if self.iv(parent, &level) == *iv { Ok(level) } else { Err(NotOurs) }
    }

    /// A path with every level sealed; its parents are those of the plain one.
    fn seal_path(&self, path: &str) -> String {
        let mut sealed = String::new();
        let mut end = 0;
        for level in path.split('/') {
            if end > 0 {
                sealed.push('/');
            }
            // What lies before the level, with the last `/`.
            let parent = &path[..end];
            sealed.push_str(&self.seal(parent, level));
            end += level.len() + 1;
        }
        sealed
    }

    fn open_path(&self, sealed: &str) -> Result<String, NotOurs> {
        let mut path = String::new();
        for (place, level) in sealed.split('/').enumerate() {
            if place > 0 {
                path.push('/');
            }
            let opened = self.open(&path, level)?;
            path.push_str(&opened);
        }
        Ok(path)
    }
}

#[async_trait]
impl Names for SealedNames {
    fn below(&self, key: &Key) -> Result<Key> {
        let sealed = self.seal_path(key);
        let bytes = sealed.len();
        Key::new(sealed).map_err(|_| {
            let message =
                format!("the key takes {bytes} bytes when it is encrypted, and may take 1024; shorten it");
            StorageError::new(ErrorKind::InvalidKey, message).with_key(key)
        })
    }

    fn above(&self, key: &Key) -> Option<Result<Key>> {
        let opened = self.open_path(key).ok().and_then(|path| Key::new(path).ok());
        Some(opened.ok_or_else(|| {
            let message = "the name of a key cannot be decrypted: it was changed or moved, stored before names were encrypted, or \
                           the key is another one; delete it below or give the right key";
            StorageError::new(ErrorKind::Corruption, message).with_key(key)
        }))
    }

    /// Reads all keys below the last `/` of the prefix, because they lie there in another order, and keeps those of the page.
    async fn list(&self, inner: &dyn BaseStorage, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = inner.describe().admit_list(prefix, &options)?;
        let below = self.below_prefix(prefix);
        // The greatest on top, so that it can give way.
        let mut page = BinaryHeap::new();
        let mut after = None;
        loop {
            let some = inner.list_keys(&below, ListOptions::new().after(after)).await?;
            for sealed in &some.keys {
                let Some(key) = self.above(sealed) else { continue };
                let key =
                    key.map_err(|error| error.with_operation("list_keys").with_storage(&self.storage))?;
                if key.starts_with(prefix) && options.after.as_ref().is_none_or(|after| key > *after) {
                    page.push(key);
                    if page.len() > limit + 1 {
                        page.pop();
                    }
                }
            }
            after = some.next;
            if after.is_none() {
                return Ok(Page::collect(page.into_sorted_vec(), limit));
            }
        }
    }

    fn below_prefix(&self, prefix: &str) -> String {
        let Some((folder, _)) = prefix.rsplit_once('/') else { return String::new() };
        let sealed = format!("{}/", self.seal_path(folder));
        // No key can lie there, and a longer prefix would be refused.
        if sealed.len() > persist_core::MAX_KEY_BYTES { "\u{1}".to_owned() } else { sealed }
    }
}

/// Nothing of the keys.
impl fmt::Debug for SealedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedNames").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;

    fn names(byte: &str, storage: &str) -> SealedNames {
        let mut keyring = Keyring::default();
        keyring.add("k", &byte.repeat(32)).unwrap();
        SealedNames::new(keyring.get("k").unwrap(), storage).unwrap()
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn every_name_comes_back_and_nothing_of_it_is_seen() {
        let names = names("a1", "s");
        let long = "x".repeat(700);
        for name in ["a", "/", "//a/", "folder/file.json", "ä/\u{1F600}", "..", &long] {
            let sealed = names.below(&key(name)).unwrap();
            assert_eq!(names.above(&sealed).unwrap().unwrap(), key(name));
            assert_eq!(names.below(&key(name)).unwrap(), sealed, "always the same");
            assert_eq!(sealed.matches('/').count(), name.matches('/').count());
            assert!(!name.split('/').any(|level| level.len() > 1 && sealed.contains(level)), "{sealed}");
        }
        assert_eq!(names.below(&key(&"x".repeat(900))).unwrap_err().kind(), ErrorKind::InvalidKey);
    }

    #[test]
    fn what_lies_in_a_folder_begins_with_the_folder_and_the_rest_is_bound_to_it() {
        let names = names("a1", "s");
        let sealed = names.below(&key("a/b/same")).unwrap();
        assert!(
            sealed.starts_with(&names.below_prefix("a/b/"))
                && sealed.starts_with(&names.below_prefix("a/b/sa"))
        );
        assert_eq!((names.below_prefix(""), names.below_prefix("sa")), (String::new(), String::new()));
        let last = |sealed: &Key| sealed.rsplit('/').next().unwrap().to_owned();
        assert_ne!(
            last(&sealed),
            last(&names.below(&key("a/c/same")).unwrap()),
            "equal names in two folders look alike"
        );
        let moved = key(&format!("{}/{}", names.below(&key("a/c")).unwrap(), last(&sealed)));
        assert_eq!(names.above(&moved).unwrap().unwrap_err().kind(), ErrorKind::Corruption);
    }

    #[test]
    fn another_key_or_storage_and_a_changed_name_open_nothing() {
        let ours = names("a1", "s");
        let sealed = ours.below(&key("a/b")).unwrap();
        for other in [names("a2", "s"), names("a1", "t")] {
            assert!(other.above(&sealed).unwrap().is_err());
            assert_ne!(other.below(&key("a/b")).unwrap(), sealed);
        }
        for at in 0..sealed.len() {
            let mut text = sealed.as_bytes().to_vec();
            text[at] = if text[at] == b'A' { b'B' } else { b'A' };
            let changed = key(&String::from_utf8(text).unwrap());
            assert!(ours.above(&changed).unwrap().is_err(), "byte {at}");
        }
    }
}
