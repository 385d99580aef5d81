use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a user notes beside a value: names and texts, 2 KiB in all (names and texts counted together).
///
/// Cloning is cheap; no tags cost no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags(Option<Arc<BTreeMap<String, String>>>);

impl Tags {
    /// No tags.
    pub const fn new() -> Self {
        Self(None)
    }

    /// These tags and one more; a tag of the same name is replaced.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        Arc::make_mut(self.0.get_or_insert_default()).insert(name.into(), text.into());
        self
    }

    /// The text of a tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// All tags, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|tags| tags.iter()).map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |tags| tags.len())
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size that the limit counts: bytes of all names and texts.
    pub fn byte_size(&self) -> usize {
        self.iter().map(|(name, text)| name.len() + text.len()).sum()
    }
}

impl From<BTreeMap<String, String>> for Tags {
    fn from(tags: BTreeMap<String, String>) -> Self {
        Self((!tags.is_empty()).then(|| Arc::new(tags)))
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.0.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for Tags {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(pairs: I) -> Self {
        pairs.into_iter().map(|(name, text)| (name.into(), text.into())).collect::<BTreeMap<_, _>>().into()
    }
}
