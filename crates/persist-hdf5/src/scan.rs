//! Finding all keys of a file when it is opened.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use persist_core::Key;

use crate::ffi::{Dataset, H5Error, H5File, Item};
use crate::index::Staged;
use crate::name::{SELF, key_of};
use crate::record::{Record, State, decode};

/// Deeper groups belong to no key: it would be longer than a key may be.
const DEEPEST: usize = 1024;

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Staged,
    pub(crate) groups: HashSet<String>,
    /// Paths at which something lies that is neither a dataset nor a group: links that are not followed, named types.
    pub(crate) others: HashSet<String>,
    /// Something that cannot be copied into another file as it is, in words.
    pub(crate) odd: Option<&'static str>,
}

/// Walks through the whole tree.
///
/// # Errors
/// What the library says.
pub(crate) fn scan(file: &H5File) -> Result<Found, H5Error> {
    let mut scan = Scan {
        file,
        found: Found::default(),
        visited: HashSet::from([file.place("/")?]),
        literal: BTreeMap::new(),
    };
    scan.group("", None, 0)?;
    // Names that only look like exceptions stand for themselves, unless a key has that name already.
    for (key, record) in std::mem::take(&mut scan.literal) {
        scan.found.records.entry(key).or_insert(record);
    }
    Ok(scan.found)
}

struct Scan<'a> {
    file: &'a H5File,
    found: Found,
    /// Groups by their place, so that a tree that leads back into itself comes to an end.
    visited: HashSet<u64>,
    literal: Staged,
}

impl Scan<'_> {
    fn group(&mut self, path: &str, key: Option<&str>, depth: usize) -> Result<(), H5Error> {
        for (name, item) in self.file.list(if path.is_empty() { "/" } else { path })? {
            let below = format!("{path}/{name}");
            match item {
                Item::Dataset(dataset) => self.dataset(&below, key, &name, &dataset)?,
                Item::Group(place) if depth < DEEPEST && self.visited.insert(place) => {
                    let level = key_of(key, &name).unwrap_or_else(|| literal(key, &name));
                    self.group(&below, Some(&level), depth + 1)?;
                    self.found.groups.insert(below);
                }
                Item::Group(_) => {
                    self.found.odd = Some("a group in it is reached by more than one path");
                    tracing::warn!(path = below, "a group that is reached twice or too deep is left out");
                }
                Item::Other => drop(self.found.others.insert(below)),
            }
        }
        Ok(())
    }

    fn dataset(
        &mut self,
        path: &str,
        above: Option<&str>,
        name: &str,
        dataset: &Dataset,
    ) -> Result<(), H5Error> {
        let known = key_of(above, name);
        let text = known.clone().unwrap_or_else(|| literal(above, name));
        let Ok(key) = Key::new(text) else {
            tracing::warn!(path, "a dataset whose path is no key is left out");
            return Ok(());
        };
        let record = Some(Arc::new(read(&key, path, dataset)?));
        match known {
            // The dataset of a key that is a group too yields to nobody: what lies at the key's own path is that group.
            Some(_) if name == SELF => drop(self.found.records.insert(key, record)),
            Some(_) => drop(self.found.records.entry(key).or_insert(record)),
            None => drop(self.literal.insert(key, record)),
        }
        Ok(())
    }
}

fn literal(above: Option<&str>, name: &str) -> String {
    above.map_or_else(|| name.to_owned(), |above| format!("{above}/{name}"))
}

fn read(key: &Key, path: &str, dataset: &Dataset) -> Result<Record, H5Error> {
    let state = match dataset.record() {
        Ok(Some(text)) => decode(key, &text),
        Ok(None) => State::Foreign,
        Err(error) => State::Damaged(error.to_string()),
    };
    let offset = match state {
        State::Sound(..) => dataset.offset(),
        State::Foreign | State::Damaged(_) => None,
    };
    Ok(Record { path: path.into(), offset, state })
}
