//! Records of a layer beside the values of the program, in one storage, where every key is the program's.
//!
//! The layers' own keys begin with [`OWN`]. A key of the program that begins with `U+0001 U+0001 persist/` is stored with U+0002 behind that, every
//! other one as it is, which keeps the order of keys and what begins with what. The price: a key of 1024 bytes that begins so
//! cannot be stored.

use persist_core::{BaseStorage, ErrorKind, Key, ListOptions, MAX_KEY_BYTES, Page, Result, StorageError};

/// What the keys begin with among which the layers' own lie.
const SHARED: &str = "\u{1}\u{1}persist/";

/// What the program's keys among them begin with below.
const ESCAPED: &str = "\u{1}\u{1}persist/\u{2}";

/// What the layers' own keys begin with.
pub(crate) const OWN: &str = "\u{1}\u{1}persist/\u{1}";

/// After all of the layers' own keys, and before what follows them.
const AFTER_OWN: &str = "\u{1}\u{1}persist/\u{1}\u{10FFFF}";

/// How many keys are asked for where the layers' own may be among them.
const FEW: usize = 16;

/// Where a key of the program lies below.
pub(crate) fn below(key: &Key) -> Result<Key> {
    match key.strip_prefix(SHARED) {
        None => Ok(key.clone()),
        Some(rest) => Key::new(format!("{ESCAPED}{rest}")).map_err(|_| {
            let message =
                format!("a key that begins so may have {} bytes here; shorten it", MAX_KEY_BYTES - 1);
            StorageError::new(ErrorKind::InvalidKey, message).with_key(key)
        }),
    }
}

/// Which key of the program lies there; `None`: something else does.
pub(crate) fn above(key: &Key) -> Option<Key> {
    match key.strip_prefix(ESCAPED) {
        Some(rest) => Key::new(format!("{SHARED}{rest}")).ok(),
        None => (!key.starts_with(SHARED)).then(|| key.clone()),
    }
}

/// The same of a prefix; `None`: no key can begin with it.
pub(crate) fn below_prefix(prefix: &str) -> Option<String> {
    match prefix.strip_prefix(SHARED) {
        None => Some(prefix.to_owned()),
        Some(rest) => Some(format!("{ESCAPED}{rest}")).filter(|prefix| prefix.len() <= MAX_KEY_BYTES),
    }
}

/// After which key a listing goes on below.
fn below_after(after: &Key) -> Option<Key> {
    let Some(rest) = after.strip_prefix(SHARED) else { return Some(after.clone()) };
    let mut name = format!("{ESCAPED}{rest}");
    // A key that cannot be stored may still be named; what its first bytes stand for is before it.
    while name.len() > MAX_KEY_BYTES {
        name.pop();
    }
    Key::new(name).ok()
}

/// One page of the program's keys in a storage, as the program calls them.
pub(crate) async fn list(storage: &dyn BaseStorage, prefix: &str, options: ListOptions) -> Result<Page> {
    let limit = storage.describe().admit_list(prefix, &options)?;
    let Some(below) = below_prefix(prefix) else { return Ok(Page::default()) };
    let mut after = options.after.as_ref().and_then(below_after);
    let mut keys = Vec::new();
    // One more than the page holds tells whether it is the last.
    while keys.len() <= limit {
        let before_own = after.as_ref().is_none_or(|after| after.as_str() < OWN) && OWN.starts_with(&below);
        let asked = (limit + 1 - keys.len()).min(if before_own { FEW } else { usize::MAX });
        let page = storage.list_keys(&below, ListOptions { after, limit: asked }).await?;
        let own = page.keys.iter().position(|key| key.starts_with(OWN));
        keys.extend(page.keys[..own.unwrap_or(page.keys.len())].iter().filter_map(above));
        after = if own.is_some() { Some(Key::new(AFTER_OWN)?) } else { page.next };
        if after.is_none() {
            break;
        }
    }
    Ok(Page::collect(keys, limit))
}

/// The names of a storage without the records that a layer keeps in it.
#[cfg(feature = "encrypt")]
#[derive(Debug)]
pub(crate) struct Hidden;

#[cfg(feature = "encrypt")]
#[persist_core::async_trait]
impl crate::renamed::Names for Hidden {
    fn below(&self, key: &Key) -> Result<Key> {
        below(key)
    }

    fn above(&self, key: &Key) -> Option<Result<Key>> {
        above(key).map(Ok)
    }

    async fn list(&self, inner: &dyn BaseStorage, prefix: &str, options: ListOptions) -> Result<Page> {
        list(inner, prefix, options).await
    }

    fn below_prefix(&self, prefix: &str) -> String {
        below_prefix(prefix).unwrap_or_else(|| OWN.to_owned())
    }
}

/// An error of the storage below, about the key that was asked for.
pub(crate) fn renamed(error: StorageError) -> StorageError {
    match error.key().and_then(above) {
        Some(key) => error.about_key(&key),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn every_key_comes_back_and_the_order_stays() {
        let names = [
            "\u{1}",
            "\u{1}\u{1}",
            SHARED,
            OWN,
            ESCAPED,
            "\u{1}\u{1}persist/x",
            "\u{1}\u{1}q",
            "\u{2}",
            "a",
            "\u{10FFFF}",
        ];
        let mut names = names.to_vec();
        names.sort_unstable();
        let stored: Vec<Key> = names.iter().map(|name| below(&key(name)).unwrap()).collect();
        assert!(stored.is_sorted() && stored.iter().all(|key| !key.starts_with(OWN)));
        for (name, stored) in names.iter().zip(&stored) {
            assert_eq!(above(stored), Some(key(name)));
            for prefix in &names {
                let below = below_prefix(prefix).unwrap();
                assert_eq!(stored.starts_with(&below), name.starts_with(prefix), "{name:?} {prefix:?}");
            }
        }
        assert!(key(&format!("{OWN}dedup/ff")).as_str() < AFTER_OWN);
        assert_eq!(above(&key(&format!("{OWN}dedup/ff"))), None);
    }

    #[test]
    fn what_is_too_long_is_refused_and_still_has_its_place() {
        let long = key(&format!("{SHARED}{}", "x".repeat(MAX_KEY_BYTES - SHARED.len())));
        assert_eq!(below(&long).unwrap_err().kind(), ErrorKind::InvalidKey);
        assert!(below_after(&long).unwrap() < below(&key(&format!("{SHARED}y"))).unwrap());
        assert_eq!(below_prefix(&long), None);
    }
}
