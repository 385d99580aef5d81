use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use persist_core::{Key, Tags};

/// Which keys bear which tag.
#[derive(Debug, Default)]
pub(crate) struct TagIndex(BTreeMap<String, BTreeMap<String, BTreeSet<Key>>>);

impl TagIndex {
    pub(crate) fn insert(&mut self, tags: &Tags, key: &Key) {
        for (name, text) in tags.iter() {
            let texts = self.0.entry(name.to_owned()).or_default();
            texts.entry(text.to_owned()).or_default().insert(key.clone());
        }
    }

    /// Forgets a key and every tag that nothing else bears.
    pub(crate) fn remove(&mut self, tags: &Tags, key: &Key) {
        for (name, text) in tags.iter() {
            let Some(texts) = self.0.get_mut(name) else { continue };
            let Some(keys) = texts.get_mut(text) else { continue };
            keys.remove(key.as_str());
            if keys.is_empty() {
                texts.remove(text);
            }
            if texts.is_empty() {
                self.0.remove(name);
            }
        }
    }

    /// The first `limit` keys after `after` that bear a tag.
    pub(crate) fn page(&self, name: &str, text: &str, after: Option<&Key>, limit: usize) -> Vec<Key> {
        let Some(keys) = self.0.get(name).and_then(|texts| texts.get(text)) else { return Vec::new() };
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_str()));
        keys.range::<str, _>((start, Bound::Unbounded)).take(limit).cloned().collect()
    }

    /// Whether nothing bears any tag.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_tag_and_leave_nothing_behind() {
        let keys = ["a", "b", "c"].map(|key| Key::new(key).unwrap());
        let both = Tags::new().with("team", "engines").with("year", "1843");
        let one = Tags::new().with("team", "engines");
        let mut index = TagIndex::default();
        index.insert(&both, &keys[0]);
        index.insert(&one, &keys[1]);
        index.insert(&Tags::new().with("team", "looms"), &keys[2]);
        assert_eq!(index.page("team", "engines", None, 10), keys[..2]);
        assert_eq!(index.page("team", "engines", None, 1), keys[..1]);
        assert_eq!(index.page("team", "engines", Some(&keys[0]), 10), keys[1..2]);
        assert_eq!(index.page("team", "engine", None, 10), []);
        assert_eq!(index.page("year", "1843", None, 10), keys[..1]);
        index.remove(&both, &keys[0]);
        assert_eq!(index.page("year", "1843", None, 10), []);
        index.remove(&one, &keys[1]);
        index.remove(&Tags::new().with("team", "looms"), &keys[2]);
        assert!(index.is_empty(), "{index:?}");
    }
}
