//! All keys in order, in memory: what they hold, and where it lies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use persist_core::{Key, ListOptions, Page, Timestamp};

use crate::medium::Medium;
use crate::record::Record;

/// What a commit changes: a record, or none any more.
pub(crate) type Staged = BTreeMap<Key, Option<Arc<Record>>>;

/// The index; it shows what was committed.
pub(crate) struct Index {
    /// The file in which all of it lies.
    medium: Arc<Medium>,
    records: BTreeMap<Key, Arc<Record>>,
    /// Who ceases to exist when.
    expiring: BTreeSet<(Timestamp, Key)>,
    /// How many bytes all values have.
    bytes: u64,
}

/// Shows how much there is, and nothing of it: tags are nobody's business.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("keys", &self.records.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Nothing yet.
    pub(crate) fn new(medium: Arc<Medium>) -> Self {
        Self { medium, records: BTreeMap::new(), expiring: BTreeSet::new(), bytes: 0 }
    }

    /// The file in which all of it lies.
    pub(crate) fn medium(&self) -> &Arc<Medium> {
        &self.medium
    }

    /// The same values in another file: `None` if they are not the same.
    pub(crate) fn moved(&self, medium: Arc<Medium>, found: Staged) -> Option<Self> {
        let mut moved = Self::new(medium);
        moved.apply(found);
        let same = moved.records.len() == self.records.len()
            && moved
                .records
                .iter()
                .zip(&self.records)
                .all(|(new, old)| new.0 == old.0 && new.1.is_like(old.1));
        same.then_some(moved)
    }

    /// What a key holds, expired or not.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Record>> {
        self.records.get(key)
    }

    /// How many keys there are, and how many bytes they hold; expired ones included.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.records.len(), self.bytes)
    }

    /// Takes over a commit.
    pub(crate) fn apply(&mut self, staged: Staged) {
        for (key, record) in staged {
            match record {
                Some(record) => self.insert(key, record),
                None => self.remove(&key),
            }
        }
    }

    fn insert(&mut self, key: Key, record: Arc<Record>) {
        self.remove(&key);
        if let Some(end) = record.expires_at() {
            self.expiring.insert((end, key.clone()));
        }
        self.bytes += record.size();
        self.records.insert(key, record);
    }

    fn remove(&mut self, key: &Key) {
        let Some(record) = self.records.remove(key) else { return };
        self.bytes -= record.size();
        if let Some(end) = record.expires_at() {
            self.expiring.remove(&(end, key.clone()));
        }
    }

    /// A page of keys that have not expired.
    pub(crate) fn page(&self, prefix: &str, options: &ListOptions, limit: usize, now: Timestamp) -> Page {
        let from = match options.after.as_deref() {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let keys = self
            .records
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, record)| record.expires_at().is_none_or(|end| end > now))
            .map(|(key, _)| key.clone());
        Page::collect(keys, limit)
    }

    /// Keys that have expired, at most `limit`.
    pub(crate) fn expired(&self, now: Timestamp, limit: usize) -> Vec<Key> {
        let ended = self.expiring.iter().take_while(|(end, _)| *end <= now);
        ended.take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// Keys whose values were changed before the moment that `oldest` gives for them, out of at most `limit` keys after a key;
    /// and where to go on, unless that was all.
    pub(crate) fn older(
        &self,
        after: Option<&Key>,
        limit: usize,
        oldest: impl Fn(&str) -> Option<Timestamp>,
    ) -> (Vec<(Key, Timestamp)>, Option<Key>) {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_str()));
        let (mut old, mut last) = (Vec::new(), None);
        for (count, (key, record)) in self.records.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if count == limit {
                return (old, last);
            }
            let changed = record.metadata().map(|metadata| metadata.modified_at);
            if let (Some(changed), Some(oldest)) = (changed, oldest(key))
                && changed < oldest
            {
                old.push((key.clone(), oldest));
            }
            last = Some(key.clone());
        }
        (old, None)
    }

    /// How many keys have expired.
    pub(crate) fn count_expired(&self, now: Timestamp) -> usize {
        self.expiring.iter().take_while(|(end, _)| *end <= now).count()
    }
}
