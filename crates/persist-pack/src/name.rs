//! The name of an entry in the ZIP file: the key itself where every tool can hold it, else an escaped form of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};

use persist_core::{Key, Kind};

use crate::wire::Wrong;

/// The folder in a pack that belongs to persist; no plain name lies in it.
const OWN: &str = ".persist";

/// Where keys lie that cannot be names.
const ESCAPED: &str = ".persist/keys/";

/// The longest plain segment of a name, in bytes: file systems hold 255.
const MAX_SEGMENT: usize = 200;

/// The longest plain name, in bytes.
const MAX_NAME: usize = 800;

/// Characters that Windows refuses in names.
const REFUSED: &str = "\\:*?\"<>|";

/// Names that Windows takes for devices, with or without an ending.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// The longest name of a device, in bytes: `conout$`, or `com` and a character.
const LONGEST_DEVICE: usize = 7;

/// The ending by which other tools know the kind of a value.
fn ending(kind: Kind) -> &'static str {
    match kind {
        Kind::Json => ".json",
        Kind::Bytes => "",
        Kind::Array => ".npy",
    }
}

/// The name as the key is: with the ending of its kind, unless it has it.
fn plain(key: &Key, kind: Kind) -> String {
    let ending = ending(kind);
    if key.ends_with(ending) { key.as_str().to_owned() } else { format!("{}{ending}", key.as_str()) }
}

/// The escaped name: `%XX` for every byte but lower-case letters, digits, `-` and `_`, cut into folders of 200 bytes, so
/// that it is another name for every key even where case is ignored.
fn escaped(key: &Key, kind: Kind) -> String {
    let mut text = String::with_capacity(key.len() * 3);
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => text.push(char::from(byte)),
            other => drop(write!(text, "%{other:02X}")),
        }
    }
    let mut name = String::with_capacity(ESCAPED.len() + text.len() + 16);
    name.push_str(ESCAPED);
    let mut rest = text.as_str();
    while rest.len() > MAX_SEGMENT {
        let (front, after) = rest.split_at(MAX_SEGMENT);
        name.push_str(front);
        name.push_str("+/");
        rest = after;
    }
    name + rest + ending(kind)
}

/// Reads an escaped name back.
#[cfg(test)]
fn unescaped(name: &str, kind: Kind) -> Option<String> {
    let text = name.strip_prefix(ESCAPED)?.strip_suffix(ending(kind))?.replace("+/", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What is wrong with a name that is to be unpacked; nothing, if every system can hold it.
pub(crate) fn check(name: &str) -> Result<(), Wrong> {
    if name.len() > MAX_NAME {
        return Err(Wrong("the name is too long"));
    }
    if is_own(name) {
        return Err(Wrong("the name lies in the folder of persist"));
    }
    name.split('/').try_for_each(check_segment)
}

fn is_own(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    first.eq_ignore_ascii_case(OWN)
}

fn check_segment(segment: &str) -> Result<(), Wrong> {
    if segment.is_empty() || segment == "." || segment == ".." {
        return Err(Wrong("the name leads elsewhere"));
    }
    if segment.len() > MAX_SEGMENT || segment.starts_with(' ') || segment.ends_with([' ', '.']) {
        return Err(Wrong("the name cannot be kept by every system"));
    }
    let is_bad = match segment.is_ascii() {
        true => segment.bytes().any(|byte| byte.is_ascii_control() || REFUSED.as_bytes().contains(&byte)),
        false => segment.contains(|c: char| c.is_control() || REFUSED.contains(c) || is_confusing(c)),
    };
    if is_bad {
        return Err(Wrong("the name has a character that not every system keeps"));
    }
    let stem = segment.split('.').next().unwrap_or_default().trim_end();
    if stem.len() > LONGEST_DEVICE {
        return Ok(());
    }
    let stem = stem.to_lowercase();
    let numbered = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    let device =
        DEVICES.contains(&stem.as_str()) || numbered.is_some_and(|number| number.chars().count() == 1);
    if device { Err(Wrong("the name is that of a device")) } else { Ok(()) }
}

/// Characters that are invisible, turn the direction of text, combine with the one before (so that systems which
/// normalise names change them), or are none.
fn is_confusing(c: char) -> bool {
    matches!(u32::from(c),
        0xAD | 0x300..=0x36F | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFE00..=0xFE0F | 0xFEFF
        | 0xF900..=0xFAFF | 0xFDD0..=0xFDEF | 0xFFF0..=0xFFFF | 0x1100..=0x11FF | 0x2F00..=0x2FFF | 0xE0000..)
        || u32::from(c) & 0xFFFE == 0xFFFE
}

/// The names that a pack has taken: a name may be taken once, whatever its case, and a file is no folder.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: HashMap<u64, Taken>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Folder,
    /// The file of a key, by the hash of the key and its kind.
    File(u64),
}

impl Names {
    /// The name for a key in this pack, which is taken from now on.
    pub(crate) fn take(&mut self, key: &Key, kind: Kind) -> String {
        let name = plain(key, kind);
        if check(&name).is_ok() && self.add(&name, key, kind) { name } else { escaped(key, kind) }
    }

    /// Notes a name that was read from the pack.
    pub(crate) fn note(&mut self, name: &str, key: &Key, kind: Kind) {
        if !is_own(name) {
            self.add(name, key, kind);
        }
    }

    /// Takes a name; false if another key has it, or it would be a file and a folder.
    fn add(&mut self, name: &str, key: &Key, kind: Kind) -> bool {
        let is_lower = name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
        let folded = if is_lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_lowercase()) };
        let file = self.hasher.hash_one(&*folded);
        let owner = Taken::File(self.hasher.hash_one((key, kind)));
        match self.taken.get(&file) {
            Some(taken) if *taken == owner => return true,
            Some(_) => return false,
            None => {}
        }
        let folders: Vec<u64> =
            folded.match_indices('/').map(|(at, _)| self.hasher.hash_one(&folded[..at])).collect();
        if folders.iter().any(|folder| matches!(self.taken.get(folder), Some(Taken::File(_)))) {
            return false;
        }
        for folder in folders {
            self.taken.insert(folder, Taken::Folder);
        }
        self.taken.insert(file, owner);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn keys_that_are_names_stay() {
        let mut names = Names::default();
        for (text, kind, name) in [
            ("a/b", Kind::Bytes, "a/b"),
            ("Report 1.pdf", Kind::Bytes, "Report 1.pdf"),
            ("users/ada", Kind::Json, "users/ada.json"),
            ("users/bob.json", Kind::Json, "users/bob.json"),
            ("weights", Kind::Array, "weights.npy"),
            ("naïve/日本", Kind::Bytes, "naïve/日本"),
        ] {
            assert_eq!(names.take(&key(text), kind), name);
        }
    }

    #[test]
    fn keys_that_are_none_are_escaped() {
        for text in [
            "../x",
            "/etc/passwd",
            "a//b",
            "a/",
            ".",
            "a/../b",
            "CON",
            "nul.txt",
            "com1",
            "a\\b",
            "C:x",
            "a\nb",
            "a.",
            " a",
            "a ",
            ".persist/index",
            ".PERSIST/x",
            "e\u{301}",
            "a\u{202e}b",
            "\u{feff}",
        ] {
            let name = Names::default().take(&key(text), Kind::Json);
            // An ending may make a name of it.
            if check(&format!("{text}.json")).is_err() {
                assert!(name.starts_with(ESCAPED), "{text:?}: {name}");
            }
            let name = Names::default().take(&key(text), Kind::Bytes);
            assert!(name.starts_with(ESCAPED), "{text:?}: {name}");
            assert_eq!(unescaped(&name, Kind::Bytes).unwrap(), text);
            assert!(name.split('/').all(|segment| segment.len() <= 255 && !segment.is_empty()));
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut names = Names::default();
        assert_eq!(names.take(&key("a"), Kind::Bytes), "a");
        assert_eq!(names.take(&key("a"), Kind::Bytes), "a", "the same key keeps its name");
        assert!(names.take(&key("A"), Kind::Bytes).starts_with(ESCAPED), "the case alone differs");
        assert!(names.take(&key("a/b"), Kind::Bytes).starts_with(ESCAPED), "a file is no folder");
        assert_eq!(names.take(&key("c/d"), Kind::Bytes), "c/d");
        assert!(names.take(&key("c"), Kind::Bytes).starts_with(ESCAPED), "a folder is no file");
        assert_eq!(names.take(&key("x"), Kind::Json), "x.json");
        assert!(names.take(&key("x.json"), Kind::Json).starts_with(ESCAPED));
    }

    #[test]
    fn hostile_keys_get_different_safe_names() {
        let mut names = Names::default();
        let mut seen = HashSet::new();
        for text in persist_testkit::hostile::keys() {
            for kind in [Kind::Json, Kind::Bytes, Kind::Array] {
                let name = names.take(&text, kind);
                let own = name.starts_with(ESCAPED);
                assert!(own || check(&name).is_ok(), "{name:?}");
                assert!(seen.insert((name.to_lowercase(), ())), "{name:?} twice");
                if own {
                    assert_eq!(unescaped(&name, kind).unwrap(), text.as_str());
                }
            }
        }
        assert!(seen.len() > 300);
    }
}
