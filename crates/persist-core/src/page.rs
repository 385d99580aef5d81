use crate::Key;

/// One page of a listing: keys in byte order, and where the next page starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, ordered by their bytes, each once.
    pub keys: Vec<Key>,
    /// What to give as `after` for the next page; `None`: this was the last.
    pub next: Option<Key>,
}

impl Page {
    /// The first `limit` of some keys that come in order.
    pub fn collect(keys: impl IntoIterator<Item = Key>, limit: usize) -> Self {
        let mut keys = keys.into_iter();
        let page: Vec<Key> = keys.by_ref().take(limit).collect();
        let next = keys.next().and(page.last().cloned());
        Self { keys: page, next }
    }
}
