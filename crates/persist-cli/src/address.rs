use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use persist_core::Key;

use crate::text::key_line;

/// Where something is, as it stands on the command line.
///
/// | written | meaning |
/// |---|---|
/// | `NAME:KEY` | a key of the storage NAME |
/// | `NAME:` | the whole storage NAME |
/// | `:KEY`, `:` | the storage that the routes give KEY to; the default storage |
/// | `-` | standard input or output |
/// | anything else | a local file or folder |
///
/// What stands before the first colon is a storage's name unless it holds a `/`, so a local path with a colon is
/// written `./a:b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Standard input or output.
    Stdio,
    /// A file or folder.
    Local(PathBuf),
    /// A key, a prefix, or (with an empty `rest`) the whole of a storage.
    Stored(Stored),
}

/// A storage and what follows the colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The storage's name; `None`: by route, or the default.
    pub(crate) name: Option<String>,
    /// A key or a prefix; may be empty.
    pub(crate) rest: String,
}

/// One key of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyAddress {
    /// The storage's name; `None`: by route, or the default.
    pub(crate) name: Option<String>,
    /// The key.
    pub(crate) key: Key,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong and how it is written.
    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an address must not be empty; write NAME:KEY, NAME:, a path or -".to_owned());
        }
        if text == "-" {
            return Ok(Self::Stdio);
        }
        match split(&text) {
            Some((name, rest)) => Ok(Self::Stored(Stored { name, rest: rest? })),
            None => Ok(Self::Local(text.into())),
        }
    }
}

impl Stored {
    /// Reads an address that must be in a storage: a key, a prefix, or the whole.
    ///
    /// # Errors
    /// What is wrong and how it is written.
    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        let shown = text.to_string_lossy().into_owned();
        match Address::parse(text)? {
            Address::Stored(stored) => {
                Key::check_prefix(&stored.rest).map_err(|error| error.to_string())?;
                Ok(stored)
            }
            Address::Stdio => {
                Err("standard input and output are no storage; write NAME:KEY or NAME:".to_owned())
            }
            Address::Local(_) => Err(not_stored(&shown)),
        }
    }

    /// Reads the name of a storage, with or without a colon after it.
    ///
    /// # Errors
    /// What is wrong and how it is written.
    pub(crate) fn parse_whole(text: OsString) -> Result<Self, String> {
        let mut with_colon = text.clone();
        if split(&text).is_none() {
            with_colon.push(":");
        }
        let stored = Self::parse(with_colon)?;
        if stored.rest.is_empty() {
            return Ok(stored);
        }
        Err(format!("this is about a whole storage; leave the key {} out", key_line(&stored.rest)))
    }
}

impl KeyAddress {
    /// Reads the address of one key.
    ///
    /// # Errors
    /// What is wrong and how it is written.
    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        let Stored { name, rest } = Stored::parse(text)?;
        if rest.is_empty() {
            let storage = name.unwrap_or_default();
            return Err(format!(
                "this takes one key, and {storage}: is a whole storage; write {storage}:KEY"
            ));
        }
        let key = Key::new(rest).map_err(|error| error.to_string())?;
        Ok(Self { name, key })
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name.as_deref().unwrap_or_default(), key_line(&self.rest))
    }
}

impl fmt::Display for KeyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name.as_deref().unwrap_or_default(), key_line(&self.key))
    }
}

type Split = (Option<String>, Result<String, String>);

/// The name and what follows the colon; `None` for a local path.
fn split(text: &OsStr) -> Option<Split> {
    let bytes = text.as_encoded_bytes();
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let (name, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    let separators = if cfg!(windows) { &b"/\\"[..] } else { &b"/"[..] };
    let is_drive =
        cfg!(windows) && name.len() == 1 && rest.first().is_some_and(|byte| separators.contains(byte));
    if is_drive || name.iter().any(|byte| separators.contains(byte)) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    let rest = std::str::from_utf8(rest).map(str::to_owned).map_err(|_| {
        format!("{} is not UTF-8; keys are Unicode text", persist_core::escape(&text.to_string_lossy()))
    });
    Some(((!name.is_empty()).then(|| name.to_owned()), rest))
}

fn not_stored(text: &str) -> String {
    let shown = persist_core::escape(text);
    format!("{shown} is a local path; a key of a storage is written NAME:KEY, the whole of it NAME:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, rest: &str) -> Address {
        let name = (!name.is_empty()).then(|| name.to_owned());
        Address::Stored(Stored { name, rest: rest.to_owned() })
    }

    #[test]
    fn addresses_are_what_the_table_says() {
        let parse = |text: &str| Address::parse(text.into()).unwrap();
        assert_eq!(parse("-"), Address::Stdio);
        assert_eq!(parse("main:a/b:c"), stored("main", "a/b:c"));
        assert_eq!(parse("main:"), stored("main", ""));
        assert_eq!(parse(":k"), stored("", "k"));
        assert_eq!(parse(":"), stored("", ""));
        assert_eq!(parse("main:../../x"), stored("main", "../../x"));
        for path in ["a", "./a:b", "/a:b", "dir/a:b", "..", "main"] {
            assert_eq!(parse(path), Address::Local(path.into()));
        }
        assert!(Address::parse("".into()).unwrap_err().contains("NAME:KEY"));
    }

    #[test]
    fn a_key_must_be_one() {
        let parse = |text: &str| KeyAddress::parse(text.into());
        assert_eq!(parse("main:k").unwrap().key.as_str(), "k");
        assert!(parse("main:").unwrap_err().contains("write main:KEY"));
        assert!(parse("file.txt").unwrap_err().contains("is a local path"));
        assert!(parse("-").unwrap_err().contains("no storage"));
        assert!(parse(&format!("main:{}", "k".repeat(1025))).unwrap_err().contains("1025 bytes"));
    }

    #[test]
    fn a_whole_storage_needs_no_colon() {
        let parse = |text: &str| Stored::parse_whole(text.into());
        assert_eq!(parse("main").unwrap().name.as_deref(), Some("main"));
        assert_eq!(parse("main:").unwrap().name.as_deref(), Some("main"));
        assert_eq!(parse(":").unwrap().name, None);
        assert!(parse("main:k").unwrap_err().contains("leave the key k out"));
    }

    #[cfg(unix)]
    #[test]
    fn keys_must_be_unicode_and_paths_need_not() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(b"main:\xff".to_vec());
        assert!(Address::parse(bad).unwrap_err().contains("not UTF-8"));
        let path = OsString::from_vec(b"dir/\xff:x".to_vec());
        assert_eq!(Address::parse(path.clone()).unwrap(), Address::Local(path.into()));
    }
}
