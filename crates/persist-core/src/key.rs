use std::borrow::Borrow;
use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ErrorKind, Result, StorageError};

/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// How much of a key an error message shows, in bytes.
const SHOWN_BYTES: usize = 256;

/// The name of a value: any Unicode string of 1 to 1024 bytes without NUL.
///
/// `/` separates levels by convention only. Keys are exact: case matters, nothing is normalised, `%2F` is not `/`
/// and `..` is just a name. Keys are ordered by their bytes. Cloning is cheap (a shared string).
///
/// ```
/// use persist_core::Key;
///
/// let key = Key::new("users/alice")?;
/// assert_eq!(key.as_str(), "users/alice");
/// assert!(Key::new("").is_err());
/// # Ok::<(), persist_core::StorageError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks `text` and makes it a key.
    ///
    /// # Errors
    /// `InvalidKey` if it is empty, longer than [`MAX_KEY_BYTES`] or holds a NUL.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self> {
        let text = text.into();
        if text.is_empty() {
            return Err(StorageError::new(
                ErrorKind::InvalidKey,
                "a key must not be empty; give it at least one character",
            ));
        }
        Self::check_prefix(&text)?;
        Ok(Self(text))
    }

    /// Checks the prefix of a listing: any string that a key can start with, the empty one included.
    ///
    /// # Errors
    /// `InvalidKey` if it is longer than [`MAX_KEY_BYTES`] or holds a NUL.
    pub fn check_prefix(prefix: &str) -> Result<()> {
        if prefix.len() > MAX_KEY_BYTES {
            return Err(StorageError::new(
                ErrorKind::InvalidKey,
                format!(
                    "{} is {} bytes long; a key has at most {MAX_KEY_BYTES}: shorten it or hash a part of it",
                    escape(prefix),
                    prefix.len()
                ),
            ));
        }
        if prefix.contains('\0') {
            return Err(StorageError::new(
                ErrorKind::InvalidKey,
                format!("{} holds a NUL; keys may hold every character but that one", escape(prefix)),
            ));
        }
        Ok(())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What decides where a storage of several parts keeps it: the text in the first braces, so that `orders/{7}/lines` and
    /// `orders/{7}/total` lie together; all of it if there are none or nothing is in them.
    ///
    /// Source: the Redis cluster specification, "Hash tags".
    pub fn hash_tag(&self) -> &str {
        let inner = self.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(inner, _)| inner);
        inner.filter(|inner| !inner.is_empty()).unwrap_or(self)
    }
}

/// Text as it may appear in a message: quoted, control characters escaped, cut after 256 bytes.
pub fn escape(text: &str) -> String {
    let mut end = text.len().min(SHOWN_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut shown = String::with_capacity(end + 2);
    shown.push('"');
    shown.extend(text[..end].escape_debug());
    shown.push('"');
    if end < text.len() {
        let _ = write!(shown, "… ({} bytes)", text.len());
    }
    shown
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The key byte for byte; for messages use [`Debug`](fmt::Debug), which escapes.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl FromStr for Key {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

/// What the conveniences accept as a key: a [`Key`], a reference to one, or text that is checked on the way in.
pub trait IntoKey: Send {
    /// Makes it a key.
    ///
    /// # Errors
    /// `InvalidKey` as [`Key::new`].
    fn into_key(self) -> Result<Key>;
}

impl IntoKey for Key {
    fn into_key(self) -> Result<Key> {
        Ok(self)
    }
}

impl IntoKey for &Key {
    fn into_key(self) -> Result<Key> {
        Ok(self.clone())
    }
}

impl IntoKey for &str {
    fn into_key(self) -> Result<Key> {
        Key::new(self)
    }
}

impl IntoKey for String {
    fn into_key(self) -> Result<Key> {
        Key::new(self)
    }
}

impl IntoKey for &String {
    fn into_key(self) -> Result<Key> {
        Key::new(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_exact() {
        assert_eq!(Key::new("k".repeat(1024)).unwrap().len(), 1024);
        let error = Key::new("k".repeat(1025)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey);
        assert!(error.to_string().contains("1025 bytes"), "{error}");
        // 512 two-byte characters fit, 513 do not: the limit counts bytes.
        assert!(Key::new("é".repeat(512)).is_ok());
        assert!(Key::new("é".repeat(513)).is_err());
        assert_eq!(Key::new("a\0b").unwrap_err().kind(), ErrorKind::InvalidKey);
        assert_eq!(Key::new("").unwrap_err().kind(), ErrorKind::InvalidKey);
    }

    #[test]
    fn messages_escape_and_cut() {
        assert_eq!(escape("a\nb\u{1b}[31m"), r#""a\nb\u{1b}[31m""#);
        let long = escape(&"é".repeat(400));
        assert!(long.ends_with("… (800 bytes)") && long.len() < 300, "{long}");
    }

    #[test]
    fn the_first_braces_decide_where_a_key_lies() {
        for (key, tag) in
            [("a{b}c", "b"), ("a{}c", "a{}c"), ("a{}b{c}", "a{}b{c}"), ("{x}{y}", "x"), ("a}b{c", "a}b{c")]
        {
            assert_eq!(Key::new(key).unwrap().hash_tag(), tag);
        }
    }

    #[test]
    fn order_is_by_bytes() {
        let mut keys: Vec<Key> =
            ["a/b", "a", "a-b", "a0", "B", "é", "z"].iter().map(|k| Key::new(*k).unwrap()).collect();
        keys.sort();
        let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
        assert_eq!(names, ["B", "a", "a-b", "a/b", "a0", "z", "é"]);
    }
}
