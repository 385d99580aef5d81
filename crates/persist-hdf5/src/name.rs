//! Keys as paths in the tree of the file, and back.
//!
//! Each level of a key is a group and the last one the dataset, under its own name. Only what HDF5 cannot hold, and what
//! begins with the sign of the exceptions, is written otherwise: the rules are in `docs/formats/hdf5.md`.

use std::borrow::Cow;

/// The sign with which the names begin that are not what they say.
const SIGN: char = '%';

/// A level without a name.
const EMPTY: &str = "%0";

/// A level that is called `.`, which HDF5 takes for the group itself.
const DOT: &str = "%.";

/// The dataset of a key that is a group at the same time, within that group.
pub(crate) const SELF: &str = "%=";

/// Begins a name that holds all the levels that are left.
const DEEP: &str = "%:";

/// `/` in such a name; a sign is doubled in it.
const SLASH: &str = "%-";

/// How deep the tree becomes: every level costs room in the file, and time.
const LEVELS: usize = 16;

/// The path at which the dataset of a key lies, unless a group has it.
pub(crate) fn path_of(key: &str) -> String {
    let mut path = String::with_capacity(key.len() + 8);
    let mut levels = key.splitn(LEVELS, '/').peekable();
    let mut level = 0;
    while let Some(name) = levels.next() {
        level += 1;
        path.push('/');
        match level == LEVELS && levels.peek().is_none() && name.contains('/') {
            true => path.push_str(&deep(name)),
            false => path.push_str(&component(name)),
        }
    }
    path
}

fn component(name: &str) -> Cow<'_, str> {
    match name {
        "" => Cow::Borrowed(EMPTY),
        "." => Cow::Borrowed(DOT),
        _ if name.starts_with(SIGN) => Cow::Owned(format!("{SIGN}{name}")),
        _ => Cow::Borrowed(name),
    }
}

fn deep(rest: &str) -> String {
    format!("{DEEP}{}", rest.replace(SIGN, "%%").replace('/', SLASH))
}

/// The groups above a path, from the top.
pub(crate) fn groups_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).map(|(at, _)| &path[..at])
}

/// The group that holds what lies at a path, and its own name.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The key whose dataset lies in the group `above` (whose levels are known) under a name; `None`: no key's.
pub(crate) fn key_of(above: Option<&str>, name: &str) -> Option<String> {
    if name == SELF {
        return above.map(str::to_owned);
    }
    let level = level_of(name)?;
    Some(match above {
        Some(above) => format!("{above}/{level}"),
        None => level,
    })
}

/// What a name says of the key.
fn level_of(name: &str) -> Option<String> {
    match name {
        EMPTY => return Some(String::new()),
        DOT => return Some(".".to_owned()),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix(DEEP) {
        return undeep(rest);
    }
    match name.strip_prefix(SIGN) {
        None => Some(name.to_owned()),
        Some(rest) => rest.starts_with(SIGN).then(|| rest.to_owned()),
    }
}

fn undeep(rest: &str) -> Option<String> {
    let mut text = String::with_capacity(rest.len());
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        text.push(match letter {
            SIGN => match letters.next()? {
                SIGN => SIGN,
                '-' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(path: &str) -> Option<String> {
        let mut key = None;
        for name in path.split('/').skip(1) {
            key = Some(key_of(key.as_deref(), name)?);
        }
        key
    }

    #[test]
    fn ordinary_keys_are_their_own_paths() {
        for key in ["a", "a/b/c", "50%", "..", "weights/layer.1", "ü/🦀", "a b"] {
            assert_eq!(path_of(key), format!("/{key}"));
        }
    }

    #[test]
    fn what_hdf5_cannot_hold_is_written_otherwise() {
        for (key, path) in [
            ("", "/%0"),
            ("/", "/%0/%0"),
            ("a//b", "/a/%0/b"),
            ("a/", "/a/%0"),
            (".", "/%."),
            ("./a", "/%./a"),
            ("%", "/%%"),
            ("%=", "/%%="),
            ("a/%2F", "/a/%%2F"),
            ("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/1%/17", "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/%:1%%%-17"),
        ] {
            assert_eq!(path_of(key), path, "{key}");
            assert_eq!(back(path).as_deref(), Some(key));
        }
        assert_eq!(back("/a/%="), Some("a".to_owned()));
        for foreign in ["/%", "/%x", "/%:%x", "/%="] {
            assert_eq!(back(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in "([%./=:0-]|a|é|\\PC){0,60}") {
            let path = path_of(&key);
            prop_assert_eq!(back(&path), Some(key), "{}", &path);
            prop_assert!(path.split('/').skip(1).all(|name| !name.is_empty() && name != "."));
            prop_assert!(path.matches('/').count() <= LEVELS);
        }
    }
}
