use std::collections::VecDeque;

use crate::{BaseStorage, Entry, Key, ListOptions, Result};

/// How many bytes of values are held in memory at a time, as far as that can be foreseen from the values before.
const BUDGET: u64 = 4 << 20;

/// The most values that are asked for at a time.
const MAX_BATCH: usize = 64;

/// Every value of a storage in the byte order of the keys, retrieved some at a time.
#[derive(Debug)]
pub(crate) struct Walk<'a, S: ?Sized> {
    storage: &'a S,
    prefix: &'a str,
    keys: VecDeque<Key>,
    /// Where the listing goes on, unless it has ended.
    next: Option<ListOptions>,
    read: VecDeque<(Key, Result<Option<Entry>>)>,
    /// How many values to ask for next.
    batch: usize,
}

impl<'a, S: BaseStorage + ?Sized> Walk<'a, S> {
    pub(crate) fn new(storage: &'a S) -> Self {
        Self::within(storage, "", None)
    }

    /// Those whose keys begin with a prefix, after a key.
    pub(crate) fn within(storage: &'a S, prefix: &'a str, after: Option<Key>) -> Self {
        Self {
            storage,
            prefix,
            keys: VecDeque::new(),
            next: Some(ListOptions::new().after(after)),
            read: VecDeque::new(),
            batch: 1,
        }
    }

    /// The next key and what `retrieve` says of it; `None`: that was the last.
    ///
    /// # Errors
    /// What keeps it from listing.
    pub(crate) async fn next(&mut self) -> Result<Option<(Key, Result<Option<Entry>>)>> {
        while self.read.is_empty() {
            if self.keys.is_empty() {
                let Some(options) = self.next.take() else { return Ok(None) };
                let page = self.storage.list_keys(self.prefix, options).await?;
                self.keys = page.keys.into();
                self.next = page.next.map(|after| ListOptions::new().after(Some(after)));
            }
            self.read().await;
        }
        Ok(self.read.pop_front())
    }

    async fn read(&mut self) {
        let keys: Vec<Key> = self.keys.drain(..self.batch.min(self.keys.len())).collect();
        let results = self.storage.retrieve_many(&keys).await;
        self.read = keys.into_iter().zip(results).collect();
        let sizes = self.read.iter().filter_map(|(_, result)| result.as_ref().ok()?.as_ref());
        let largest = sizes.map(|entry| entry.metadata.size).max().unwrap_or(0).max(1);
        let fitting = usize::try_from(BUDGET / largest).unwrap_or(MAX_BATCH);
        // At most twice as many as before: the next values may be larger.
        self.batch = fitting.clamp(1, (self.batch * 2).min(MAX_BATCH));
    }
}
