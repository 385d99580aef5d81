use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use persist_core::{
    BaseStorage, Descriptor, Entry, ErrorKind, Expiry, Key, ListOptions, Metadata, Result, StorageError,
    StoreOptions, Tags, Timestamp, Value, Version, Watchers,
};
use tokio::sync::RwLock;

use crate::copy::{note, original};
use crate::lanes::{Lanes, Rest};
use crate::members::Members;
use crate::repair::is_own;
use crate::tombstone::Tombstone;

/// How many keys of a batch are read at once.
pub(crate) const AT_ONCE: usize = 32;

/// The storages behind a `Replicated`, and what they know together.
///
/// Each value lies in the replicas with a note of the version and the times that it has for all of them; a value without a note
/// was there before, and has its own. A key that was deleted leaves a tombstone with a greater version. What was
/// acknowledged is in `write_quorum` replicas, and of those at least one is among any `read_quorum`, so the greatest version
/// that those have counts. What is not in `write_quorum` replicas yet is brought there before it is given to anybody, so
/// that nobody sees an older state later (Attiya, Bar-Noy and Dolev, "Sharing memory robustly in message-passing systems", 1995).
#[derive(Debug)]
pub(crate) struct Replicas {
    pub(crate) descriptor: Descriptor,
    /// The nearest first.
    pub(crate) members: Members,
    pub(crate) read_quorum: usize,
    pub(crate) write_quorum: usize,
    /// Whoever changes or repairs a key does it alone.
    pub(crate) lanes: Lanes,
    pub(crate) watchers: Watchers,
    /// Held by every write that goes on after its answer.
    pub(crate) unfinished: Arc<RwLock<()>>,
    /// Since it was opened all replicas were compared once, so that no change that was broken off before is in some of them only.
    pub(crate) compared: AtomicBool,
    pub(crate) repaired: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// What one replica has of a key.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) live: Option<Metadata>,
    pub(crate) deleted: Option<Version>,
}

impl State {
    pub(crate) fn version(&self) -> Option<Version> {
        self.live.as_ref().map(|metadata| metadata.version)
    }
}

/// What the replicas have of a key together.
#[derive(Debug, Default)]
pub(crate) struct Current {
    /// Expired values among them.
    pub(crate) entry: Option<Metadata>,
    pub(crate) deleted: Option<Version>,
}

impl Current {
    /// As what was stored before a change: what is greater than the version of all that was ever there.
    pub(crate) fn before(&self, value: &Value) -> Option<Metadata> {
        let deleted = self.deleted.map(|version| Metadata {
            kind: value.kind(),
            size: value.size(),
            version,
            created_at: Timestamp::from_millis(0),
            modified_at: Timestamp::from_millis(0),
            // It is never live.
            expires_at: Some(Timestamp::from_millis(i64::MIN)),
            checksum: value.checksum(),
            tags: Tags::default(),
            encodings: Vec::new(),
        });
        self.entry.clone().or(deleted)
    }
}

/// Answers of enough replicas, and who failed.
pub(crate) struct Answers<T> {
    pub(crate) given: Vec<(usize, T)>,
    pub(crate) failed: Vec<(usize, StorageError)>,
}

impl<T> Answers<T> {
    /// Whether all say the same, and what nobody has is damaged.
    pub(crate) fn agree<V: PartialEq>(&self, version: impl Fn(&T) -> V) -> bool {
        let mut versions = self.given.iter().map(|(_, answer)| version(answer));
        let first = versions.next();
        let damaged = self.failed.iter().any(|(_, error)| error.kind() == ErrorKind::Corruption);
        !damaged && versions.all(|version| Some(version) == first)
    }
}

impl Replicas {
    /// Asks the nearest `read_quorum` replicas, and others in the place of those that fail; until they were compared all of them. The
    /// question is told the position of the replica, and which of the answers it is for.
    pub(crate) async fn quorum<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        key: &Key,
        question: impl Fn(usize, usize) -> F,
    ) -> Result<Answers<T>> {
        let ask = |at: usize, place: usize| {
            let answer = question(at, place);
            async move { (at, place, answer.await) }
        };
        let mut answers = Answers { given: Vec::new(), failed: Vec::new() };
        let all = self.members.len();
        let asked = if self.compared.load(Ordering::Acquire) { self.read_quorum } else { all };
        let mut waiting: FuturesUnordered<_> = (0..asked).map(|at| ask(at, at)).collect();
        let mut others = asked..all;
        while let Some((at, place, answer)) = waiting.next().await {
            match answer {
                Ok(answer) => answers.given.push((at, answer)),
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    answers.failed.push((at, error));
                    waiting.extend(others.next().map(|at| ask(at, place)));
                }
            }
        }
        if answers.given.len() < self.read_quorum {
            let few = self.too_few(operation, answers.given.len(), self.read_quorum, answers.failed);
            return Err(few.with_key(key));
        }
        Ok(answers)
    }

    /// Why there were not enough answers.
    pub(crate) fn too_few(
        &self,
        operation: &'static str,
        answers: usize,
        wanted: usize,
        failed: Vec<(usize, StorageError)>,
    ) -> StorageError {
        // Damage needs a cure; the others may come back by themselves.
        let damaged = failed.iter().position(|(_, error)| error.kind() == ErrorKind::Corruption);
        let Some((at, first)) = failed.into_iter().nth(damaged.unwrap_or(0)) else {
            return self.descriptor.error(ErrorKind::Internal, operation, "no replica was asked");
        };
        let message = format!(
            "{answers} of {} replicas answered and {wanted} are needed; `{}`: {}",
            self.members.len(),
            self.members[at].describe().name(),
            first.message()
        );
        let unknown = first.outcome_unknown();
        // Of calls that meet a close some replicas are closed, and whatever keeps the others from answering is not the reason.
        let error = match self.descriptor.admit(operation) {
            Err(closed) => closed,
            Ok(()) => self.descriptor.error(first.kind(), operation, message).with_source(first),
        };
        if unknown { error.with_outcome_unknown() } else { error }
    }

    /// What the replicas have of a key. The caller has its lane.
    pub(crate) async fn current(&self, key: &Key, operation: &'static str) -> Result<Current> {
        let answers = self.quorum(operation, key, |at, _| self.state(at, key)).await?;
        if answers.agree(State::version) {
            let deleted = answers.given.iter().filter_map(|(_, state)| state.deleted).max();
            let entry = answers.given.into_iter().find_map(|(_, state)| state.live);
            return Ok(Current { entry, deleted });
        }
        let states = self.all_states(key, operation, Vec::new()).await?.0;
        let deleted = states.iter().filter_map(|(_, state)| state.deleted).max();
        let newest = states.into_iter().filter_map(|(_, state)| state.live).max_by_key(|live| live.version);
        Ok(Current { entry: newest.filter(|live| Some(live.version) > deleted), deleted })
    }

    /// What every replica that answers has of a key, and who failed.
    async fn all_states(
        &self,
        key: &Key,
        operation: &'static str,
        mut failed: Vec<(usize, StorageError)>,
    ) -> Result<(Vec<(usize, State)>, Vec<(usize, StorageError)>)> {
        let mut states = Vec::new();
        let asked = (0..self.members.len()).map(|at| self.whole_state(at, key));
        for (at, answer) in join_all(asked).await.into_iter().enumerate() {
            match answer {
                Ok(state) => states.push((at, state)),
                Err(error) => failed.push((at, error)),
            }
        }
        if states.len() < self.read_quorum {
            return Err(self.too_few(operation, states.len(), self.read_quorum, failed).with_key(key));
        }
        Ok((states, failed))
    }

    /// What one replica has of a key; the tombstone counts only where there is no value.
    async fn state(&self, at: usize, key: &Key) -> Result<State> {
        let replica = self.members[at].as_ref();
        let live = replica.metadata(key).await?.map(plain);
        let deleted = match live {
            Some(_) => None,
            None => Tombstone::read(replica, key).await?.map(|tombstone| tombstone.version()),
        };
        Ok(State { live, deleted })
    }

    /// The same with the tombstone in any case.
    pub(crate) async fn whole_state(&self, at: usize, key: &Key) -> Result<State> {
        let replica = self.members[at].as_ref();
        let live = replica.metadata(key).await?.map(plain);
        let deleted = Tombstone::read(replica, key).await?.map(|tombstone| tombstone.version());
        Ok(State { live, deleted })
    }

    /// Finds out what a key is, if replicas differ, and brings all of them to it; at least `write_quorum` have it then. Gives the entry
    /// (not if it has expired), and the greatest version that was deleted or has expired. The caller has the lane of the key.
    ///
    /// What lies in a replica that `failed` before because it is damaged is not believed, and is written anew.
    pub(crate) async fn resolve(
        &self,
        key: &Key,
        failed: Vec<(usize, StorageError)>,
        operation: &'static str,
    ) -> Result<(Option<Entry>, Option<Version>)> {
        let damaged: Vec<usize> = (0..self.members.len())
            .filter(|at| failed.iter().any(|(who, error)| who == at && error.kind() == ErrorKind::Corruption))
            .collect();
        let (states, mut failed) = self.all_states(key, operation, failed).await?;
        let newest = states.iter().filter_map(|(_, state)| state.version()).max();
        let deleted = states.iter().filter_map(|(_, state)| state.deleted).max();
        let Some(newest) = newest.filter(|version| Some(*version) > deleted) else {
            if let Some(version) = deleted {
                let stale =
                    states.iter().filter(|(_, state)| state.live.is_some() || state.deleted != deleted);
                let stale: Vec<usize> = stale.map(|(at, _)| *at).collect();
                let tombstone = Tombstone::new(key, version);
                let writes = stale.iter().map(|at| tombstone.put(self.members[*at].as_ref()));
                let writes = join_all(writes).await;
                self.established(states.len() - stale.len(), &stale, writes, failed, operation)?;
            }
            return Ok((None, deleted));
        };
        let (mut holders, mut entry, mut readable) = (Vec::new(), None, false);
        let newer = states.iter().filter(|(_, state)| state.version() == Some(newest));
        for at in newer.map(|(at, _)| *at).filter(|at| !damaged.contains(at)) {
            if entry.is_none() {
                match self.members[at].retrieve(key).await {
                    Ok(found) => (entry, readable) = (found, true),
                    Err(error) => {
                        failed.insert(0, (at, error));
                        continue;
                    }
                }
            }
            holders.push(at);
        }
        let Some(Entry { value, metadata }) = entry else {
            // It has expired meanwhile, or nobody can read it.
            return if readable {
                Ok((None, Some(newest)))
            } else {
                Err(self.too_few(operation, 0, 1, failed).with_key(key))
            };
        };
        let entry = Entry { value, metadata: plain(metadata) };
        if self.descriptor.live(Some(&entry.metadata)).is_none() {
            return Ok((None, Some(newest)));
        }
        let stale: Vec<usize> = states.iter().map(|(at, _)| *at).filter(|at| !holders.contains(at)).collect();
        let writes = stale.iter().map(|at| self.put(*at, key, &entry));
        let writes = join_all(writes).await;
        self.established(holders.len(), &stale, writes, failed, operation)?;
        Ok((Some(entry), None))
    }

    /// Counts what a repair wrote.
    ///
    /// # Errors
    /// If fewer than `write_quorum` replicas are of one mind now.
    fn established(
        &self,
        had: usize,
        stale: &[usize],
        writes: Vec<Result<()>>,
        mut failed: Vec<(usize, StorageError)>,
        operation: &'static str,
    ) -> Result<()> {
        let mut have = had;
        for (at, written) in stale.iter().zip(writes) {
            match written {
                Ok(()) => {
                    have += 1;
                    self.repaired.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    failed.insert(0, (*at, error));
                }
            }
        }
        if have >= self.write_quorum {
            Ok(())
        } else {
            Err(self.too_few(operation, have, self.write_quorum, failed))
        }
    }

    /// Stores an entry in one replica, with the note.
    async fn put(&self, at: usize, key: &Key, entry: &Entry) -> Result<()> {
        let Entry { value, metadata } = entry;
        self.members[at].store(key, value.clone(), options_of(metadata)).await.map(drop)
    }

    /// Writes to all replicas. It has succeeded as soon as `write_quorum` have done it; what remains goes on in [`Rest`].
    ///
    /// # Errors
    /// If fewer have done it at the end. If some have, the outcome is unknown.
    pub(crate) async fn spread(
        self: &Arc<Self>,
        operation: &'static str,
        write: impl Fn(Arc<dyn BaseStorage>) -> BoxFuture<'static, Result<()>>,
    ) -> Result<Rest> {
        let guard = Arc::clone(&self.unfinished).read_owned().await;
        let writes = self.members.iter().enumerate().map(|(at, member)| {
            let written = write(Arc::clone(member));
            async move { (at, written.await) }
        });
        let mut waiting: FuturesUnordered<_> = writes.collect();
        let (mut done, mut failed) = (0, Vec::new());
        while let Some((at, written)) = waiting.next().await {
            match written {
                Ok(()) => done += 1,
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    failed.push((at, error));
                }
            }
            if done == self.write_quorum {
                let replicas = Arc::clone(self);
                return Ok(Box::pin(async move {
                    while let Some((_, written)) = waiting.next().await {
                        replicas.failures.fetch_add(u64::from(written.is_err()), Ordering::Relaxed);
                    }
                    drop(guard);
                }));
            }
        }
        Err(self.too_few_written(operation, done, failed))
    }

    /// Why a change has not been made in enough replicas; in some it may be.
    pub(crate) fn too_few_written(
        &self,
        operation: &'static str,
        done: usize,
        failed: Vec<(usize, StorageError)>,
    ) -> StorageError {
        let unknown = done > 0 || failed.iter().any(|(_, error)| error.outcome_unknown());
        let error = self.too_few(operation, done, self.write_quorum, failed);
        if unknown { error.with_outcome_unknown() } else { error }
    }

    /// Lets a key be used.
    pub(crate) fn admit_key(&self, key: &Key) -> Result<()> {
        if !is_own(key) {
            return Ok(());
        }
        let message = "what was deleted is noted under keys that begin so; use another key";
        Err(StorageError::new(ErrorKind::InvalidKey, message)
            .with_storage(self.descriptor.name())
            .with_key(key))
    }

    /// One page of what is there, and where it ends if there may be more.
    pub(crate) async fn list(&self, prefix: &str, options: &ListOptions) -> Result<(Vec<Key>, Option<Key>)> {
        let (mut pages, mut failed) = (Vec::new(), Vec::new());
        let asked = self.members.ask(|replica| replica.list_keys(prefix, options.clone())).await;
        for (at, page) in asked.into_iter().enumerate() {
            match page {
                Ok(page) => pages.push(page),
                Err(error) => failed.push((at, error)),
            }
        }
        if pages.len() < self.read_quorum {
            return Err(self.too_few("list_keys", pages.len(), self.read_quorum, failed));
        }
        // Up to there all of them are known.
        let bound = pages.iter().filter_map(|page| page.next.clone()).min();
        let asked = pages.len();
        let mut holders: BTreeMap<Key, usize> = BTreeMap::new();
        for key in pages.into_iter().flat_map(|page| page.keys) {
            if !is_own(&key) && bound.as_ref().is_none_or(|bound| key <= *bound) {
                *holders.entry(key).or_default() += 1;
            }
        }
        let mut keys = Vec::with_capacity(holders.len());
        for (key, count) in holders {
            // Of a deletion at least one of those that were asked would know.
            if count == asked || self.settled(&key).await? {
                keys.push(key);
            }
        }
        Ok((keys, bound))
    }

    /// Whether a key is there that not all replicas have.
    async fn settled(&self, key: &Key) -> Result<bool> {
        let _lane = self.lanes.enter(key).await;
        match self.resolve(key, Vec::new(), "list_keys").await {
            Ok((entry, _)) => Ok(entry.is_some()),
            // It is there, and whoever reads it is told.
            Err(error) if error.kind() == ErrorKind::Corruption => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// The metadata of an entry as it is for all replicas.
pub(crate) fn plain(metadata: Metadata) -> Metadata {
    original(metadata).unwrap_or_else(|own| own)
}

/// How an entry is stored in a replica.
pub(crate) fn options_of(metadata: &Metadata) -> StoreOptions {
    let mut encodings = metadata.encodings.clone();
    encodings.push(note(metadata));
    StoreOptions {
        expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
        tags: metadata.tags.clone(),
        encodings,
        ..StoreOptions::new()
    }
}
