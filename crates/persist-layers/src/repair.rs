use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use persist_core::{DeleteOptions, ErrorKind, Key, ListOptions, Result};

use crate::replicas::{Replicas, State};
use crate::routes::last_key;
use crate::tombstone::{self, Tombstone};

/// What [`Replicated::repair`](crate::Replicated::repair) found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// How many keys were compared.
    pub checked: u64,
    /// How many of them were not the same everywhere, and are now.
    pub repaired: u64,
    /// How many tombstones were removed, because no replica has an older value any more.
    pub forgotten: u64,
}

impl Replicas {
    /// Compares all keys of all replicas, and their values if that is asked for, and makes them the same.
    pub(crate) async fn repair(&self, values: bool) -> Result<Repaired> {
        let mut repaired = Repaired::default();
        let mut after = None;
        loop {
            let (keys, bound) = self.union("", after, false).await?;
            for key in &keys {
                repaired.checked += 1;
                repaired.repaired += u64::from(self.repair_key(key, values).await?);
            }
            after = bound;
            if after.is_none() {
                break;
            }
        }
        self.compared.store(true, Ordering::Release);
        loop {
            let (places, bound) = self.union(tombstone::PREFIX, after, true).await?;
            for place in &places {
                repaired.forgotten += u64::from(self.forget(place).await?);
            }
            after = bound;
            if after.is_none() {
                return Ok(repaired);
            }
        }
    }

    /// The keys that any replica has, up to the last one of which all of them are known; that one, if there may be more.
    async fn union(
        &self,
        prefix: &str,
        after: Option<Key>,
        own: bool,
    ) -> Result<(BTreeSet<Key>, Option<Key>)> {
        let (mut keys, mut bound) = (BTreeSet::new(), None::<Key>);
        for page in self
            .members
            .ask(|replica| replica.list_keys(prefix, ListOptions::new().after(after.clone())))
            .await
        {
            let page = page?;
            keys.extend(page.keys);
            bound = [bound, page.next].into_iter().flatten().min();
        }
        if let Some(bound) = &bound {
            keys.retain(|key| key <= bound);
        }
        keys.retain(|key| own || !is_own(key));
        Ok((keys, bound))
    }

    /// Makes a key the same everywhere; true if it was not.
    async fn repair_key(&self, key: &Key, values: bool) -> Result<bool> {
        let _lane = self.lanes.enter(key).await;
        let states = self.every_state(key).await?;
        let mut damaged = Vec::new();
        if values {
            let read = (0..self.members.len()).map(|at| self.members[at].retrieve(key));
            for (at, answer) in join_all(read).await.into_iter().enumerate() {
                match answer {
                    Err(error) if error.kind() == ErrorKind::Corruption => damaged.push((at, error)),
                    other => drop(other?),
                }
            }
        }
        let same = states.windows(2).all(|pair| pair[0].version() == pair[1].version());
        if same && damaged.is_empty() {
            return Ok(false);
        }
        self.resolve(key, damaged, "repair").await?;
        Ok(true)
    }

    /// Removes the tombstone at a place from all replicas, if none of them has what it stands for.
    async fn forget(&self, place: &Key) -> Result<bool> {
        let mut key = None;
        for replica in self.members.iter() {
            if let Some(entry) = replica.retrieve(place).await? {
                key = Some(entry.to::<Tombstone>()?.key);
            }
        }
        let Some(key) = key else { return Ok(false) };
        let _lane = self.lanes.enter(&key).await;
        let mut states = self.every_state(&key).await?;
        let deleted = states.iter().filter_map(|state| state.deleted).max();
        if states.iter().any(|state| state.live.is_some() && state.version() <= deleted) {
            self.resolve(&key, Vec::new(), "repair").await?;
            states = self.every_state(&key).await?;
        }
        // A value that came later must be everywhere, or somebody would ask for the tombstone.
        let done = states.windows(2).all(|pair| pair[0].version() == pair[1].version())
            && states.iter().all(|state| state.live.is_none() || state.version() > deleted);
        if done {
            for replica in self.members.iter() {
                replica.delete(place, DeleteOptions::new()).await?;
            }
        }
        Ok(done)
    }

    async fn every_state(&self, key: &Key) -> Result<Vec<State>> {
        join_all((0..self.members.len()).map(|at| self.whole_state(at, key))).await.into_iter().collect()
    }
}

/// Whether a key is that of a tombstone.
pub(crate) fn is_own(key: &Key) -> bool {
    key.starts_with(tombstone::PREFIX)
}

/// Where a listing goes on after a key: past all tombstones, if it stands at one.
pub(crate) fn past_own(after: Option<Key>) -> Option<Key> {
    match after {
        Some(key) if is_own(&key) => last_key(tombstone::PREFIX),
        other => other,
    }
}
