use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use persist_core::{
    BaseStorage, Checksum, Condition, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Key, ListOptions,
    Metadata, Page, Result, Stats, StorageError, StorageExt, StoreOptions, Verification,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::lanes::Lanes;
use crate::members::Members;
use crate::{Composite, Sharded, ShardedConfig};

/// How often a value is stored again where it moves to, until its version is greater than it was.
const VERSION_ATTEMPTS: usize = 1000;

/// What a shard holds about all of them, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The name of the storage that is made of them.
    storage: String,
    shards: BTreeSet<String>,
    /// Keys may be where they do not belong.
    #[serde(default)]
    moving: bool,
}

/// The storages behind a [`Sharded`], and where keys belong.
#[derive(Debug)]
pub(crate) struct Shards {
    pub(crate) descriptor: Descriptor,
    /// Those that take keys, then those that are draining.
    pub(crate) members: Members,
    names: Vec<String>,
    /// How many of them take keys.
    active: usize,
    /// Keys may be where they do not belong.
    pub(crate) moving: bool,
    pub(crate) lanes: Lanes,
    /// Set when the notes have been read, and allow it to be used.
    ready: OnceCell<()>,
}

impl Shards {
    pub(crate) fn new(name: &str, config: &ShardedConfig, members: Members) -> Self {
        let moving = config.rebalance || !config.draining.is_empty();
        let described = members.describe(name, Sharded::TYPE);
        let mut capabilities = described.capabilities();
        // Two programs that move keys do not know of each other.
        capabilities.shared &= !moving;
        capabilities.read_only = members.iter().any(|member| member.describe().capabilities().read_only);
        Self {
            descriptor: described.with_capabilities(capabilities),
            members,
            names: config.shards.iter().chain(&config.draining).cloned().collect(),
            active: config.shards.len(),
            moving,
            lanes: Lanes::default(),
            ready: OnceCell::new(),
        }
    }

    /// The name of the shard at a position.
    pub(crate) fn name(&self, position: usize) -> &str {
        &self.names[position]
    }

    /// How many shards take keys.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// The position of the shard that a key belongs to.
    pub(crate) fn owner(&self, key: &Key) -> usize {
        let scores = self.names[..self.active].iter().map(|name| score(name, key));
        scores.enumerate().max_by_key(|(_, score)| *score).map_or(0, |(position, _)| position)
    }

    /// Whether a key belongs to the shard at a position; the note belongs to none.
    pub(crate) fn belongs(&self, key: &Key, position: usize) -> bool {
        key.as_str() != Sharded::NOTE && self.owner(key) == position
    }

    /// The shard that a key belongs to.
    pub(crate) fn shard(&self, key: &Key) -> &Arc<dyn BaseStorage> {
        &self.members[self.owner(key)]
    }

    /// Lets a key be used.
    pub(crate) fn admit_key(&self, key: &Key) -> Result<()> {
        if key.as_str() != Sharded::NOTE {
            return Ok(());
        }
        let message = "each shard notes under this key which shards there are; use another key";
        Err(StorageError::new(ErrorKind::InvalidKey, message)
            .with_storage(self.descriptor.name())
            .with_key(key))
    }

    /// Waits until the notes have been read.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.ready.get_or_try_init(|| self.check_notes()).await.copied()
    }

    /// Reads the notes of all shards; writes them if the shards are new.
    async fn check_notes(&self) -> Result<()> {
        let key = Key::new(Sharded::NOTE)?;
        let mut notes: Vec<Option<Note>> = Vec::with_capacity(self.members.len());
        for answer in self.members.ask(|member| member.retrieve(&key)).await {
            notes.push(answer?.map(|entry| entry.to()).transpose()?);
        }
        for (note, holder) in
            notes.iter().zip(&self.names).filter_map(|(note, name)| Some((note.as_ref()?, name)))
        {
            self.check_note(note, holder)?;
        }
        let fixed = self.descriptor.capabilities().read_only;
        if self.moving {
            // Before anything moves, so that nobody takes some of the shards for all of them afterwards.
            return if fixed { Ok(()) } else { self.write_notes(true, 0..self.names.len()).await };
        }
        let wanted = self.note(false);
        let missing: Vec<usize> = (0..self.active).filter(|at| notes[*at].is_none()).collect();
        if let Some(other) = notes.iter().flatten().find(|note| **note != wanted) {
            return Err(self.changed(other));
        }
        for at in &missing {
            let member = &self.members[*at];
            if member.list_keys("", ListOptions::new().limit(1)).await?.keys.is_empty() {
                continue;
            }
            // Another program may have written it since it was looked for.
            let note = member.retrieve(&key).await?.map(|entry| entry.to::<Note>()).transpose()?;
            match note {
                Some(note) if note == wanted => {}
                Some(other) => return Err(self.changed(&other)),
                None => {
                    return Err(self.invalid(format!(
                        "`{}` holds keys and was never a shard of it; set `rebalance: true` until `maintain` has \
                         moved what belongs elsewhere",
                        self.names[*at]
                    )));
                }
            }
        }
        if fixed { Ok(()) } else { self.write_notes(false, missing.into_iter()).await }
    }

    fn check_note(&self, note: &Note, holder: &str) -> Result<()> {
        if note.storage != self.descriptor.name() {
            return Err(self.invalid(format!(
                "`{holder}` is a shard of the storage `{}`; name another storage, or delete the key `{}` in it if \
                 that one is no more",
                note.storage,
                Sharded::NOTE
            )));
        }
        match note.shards.iter().find(|shard| !self.names.contains(shard)) {
            Some(gone) => Err(self.invalid(format!(
                "`{gone}` is missing, which was one of the shards and may hold keys; name it under `draining` until \
                 `maintain` has moved them"
            ))),
            None => Ok(()),
        }
    }

    fn changed(&self, before: &Note) -> StorageError {
        let list = |note: &Note| note.shards.iter().cloned().collect::<Vec<_>>().join(", ");
        let what = if before.moving {
            "keys were being moved and that did not come to its end".to_owned()
        } else {
            format!("the shards were {} and are {} now", list(before), list(&self.note(false)))
        };
        self.invalid(format!(
            "{what}, so keys may not be where they belong; set `rebalance: true` until `maintain` has moved them"
        ))
    }

    fn invalid(&self, message: String) -> StorageError {
        StorageError::new(ErrorKind::InvalidConfig, message).with_storage(self.descriptor.name())
    }

    fn note(&self, moving: bool) -> Note {
        let count = if moving { self.names.len() } else { self.active };
        let shards = self.names[..count].iter().cloned().collect();
        Note { storage: self.descriptor.name().to_owned(), shards, moving }
    }

    async fn write_notes(&self, moving: bool, positions: impl Iterator<Item = usize>) -> Result<()> {
        let note = self.note(moving);
        for at in positions {
            let options = StoreOptions { expiry: Expiry::Never, ..StoreOptions::new() };
            self.members[at].put_with(Sharded::NOTE, &note, options).await?;
        }
        Ok(())
    }

    /// Moves every key to where it belongs.
    pub(crate) async fn rebalance(&self) -> Result<u64> {
        if !self.moving {
            let message = "nothing is moving; set `rebalance: true` or name storages under `draining`";
            return Err(self.invalid(message.to_owned()));
        }
        let mut moved = 0;
        for (at, member) in self.members.iter().enumerate() {
            let mut after = None;
            loop {
                let page = member.list_keys("", ListOptions::new().after(after)).await?;
                for key in
                    page.keys.iter().filter(|key| !self.belongs(key, at) && key.as_str() != Sharded::NOTE)
                {
                    let _lane = self.lanes.enter(key).await;
                    moved += u64::from(self.settle(key).await?);
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        self.members.flush().await?;
        self.write_notes(false, 0..self.active).await?;
        let key = Key::new(Sharded::NOTE)?;
        for drained in self.members.iter().skip(self.active) {
            drained.delete(&key, DeleteOptions::new()).await?;
        }
        Ok(moved)
    }

    /// Brings a key to the shard that it belongs to and removes it everywhere else; true if there was something to do. The caller
    /// has its lane.
    ///
    /// What the owner has is newer than what others have: while keys are moving every change is made there.
    pub(crate) async fn settle(&self, key: &Key) -> Result<bool> {
        let (owner, mut moved) = (self.owner(key), false);
        for (_, member) in self.members.iter().enumerate().filter(|(at, _)| *at != owner) {
            let Some(entry) = member.retrieve(key).await? else { continue };
            let version = entry.metadata.version;
            self.take_over(owner, key, entry).await?;
            match member.delete(key, DeleteOptions::new().if_version(version)).await {
                Ok(_) => moved = true,
                // Expired meanwhile.
                Err(error) if error.kind() == ErrorKind::Conflict && error.found().is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    /// Stores an entry of another shard where it belongs, if nothing is there, with a greater version than it had.
    async fn take_over(&self, owner: usize, key: &Key, Entry { value, metadata }: Entry) -> Result<()> {
        let owner = &self.members[owner];
        let mut options = StoreOptions {
            expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
            tags: metadata.tags.clone(),
            encodings: metadata.encodings.clone(),
            ..StoreOptions::new().if_absent()
        };
        for _ in 0..VERSION_ATTEMPTS {
            let stored: Metadata = match owner.store(key, value.clone(), options.clone()).await {
                Ok(stored) => stored,
                // What is there is newer, or a copy whose original was not removed yet.
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
                Err(error) => return Err(error),
            };
            if stored.version > metadata.version {
                return Ok(());
            }
            // Versions follow the clock, and that of this shard is behind.
            options = StoreOptions { condition: Condition::IfVersion(stored.version), ..options };
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let message = format!(
            "a value cannot move to `{}`, whose clock is behind that of the shard it comes from; set the clocks right",
            owner.describe().name()
        );
        Err(self.descriptor.error(ErrorKind::Unavailable, "rebalance", message).with_key(key))
    }

    /// A page of the keys of all shards.
    pub(crate) async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = options.limit;
        let (mut merged, mut more) = (BTreeSet::new(), false);
        // A key that moves has left one shard only when it is in another: what the first round misses is in the second.
        for _ in 0..if self.moving { 2 } else { 1 } {
            let pages = (0..self.members.len()).map(|at| self.collect(at, prefix, options.clone()));
            for page in join_all(pages).await {
                let (keys, unfinished) = page?;
                merged.extend(keys);
                more |= unfinished;
            }
        }
        more |= merged.len() > limit;
        let keys: Vec<Key> = merged.into_iter().take(limit).collect();
        let next = keys.last().filter(|_| more).cloned();
        Ok(Page { keys, next })
    }

    /// The first keys of one shard, at least as many as asked for unless there are no more, and whether there may be more.
    async fn collect(&self, at: usize, prefix: &str, options: ListOptions) -> Result<(Vec<Key>, bool)> {
        let (mut found, mut after) = (Vec::new(), options.after);
        loop {
            let page =
                self.members[at].list_keys(prefix, ListOptions { after, limit: options.limit }).await?;
            let shown = |key: &Key| self.belongs(key, at) || (self.moving && key.as_str() != Sharded::NOTE);
            found.extend(page.keys.into_iter().filter(shown));
            after = page.next;
            if after.is_none() || found.len() >= options.limit {
                return Ok((found, after.is_some()));
            }
        }
    }

    /// The sums over all shards, without their notes.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let mut stats = self.members.stats().await?;
        let (notes, bytes) = self.noted().await?;
        stats.keys = stats.keys.filter(|_| !self.moving).map(|keys| keys.saturating_sub(notes));
        stats.bytes = stats.bytes.filter(|_| !self.moving).map(|all| all.saturating_sub(bytes));
        Ok(stats)
    }

    /// What all shards found, without their notes.
    pub(crate) async fn verify(&self) -> Result<Verification> {
        let mut found = self.members.verify().await?;
        let (notes, bytes) = self.noted().await?;
        found.checked = found.checked.saturating_sub(notes);
        found.bytes = found.bytes.saturating_sub(bytes);
        Ok(found)
    }

    /// How many notes there are, and how many bytes they have.
    async fn noted(&self) -> Result<(u64, u64)> {
        let key = Key::new(Sharded::NOTE)?;
        let (mut notes, mut bytes) = (0, 0);
        for note in self.members.ask(|member| member.metadata(&key)).await {
            if let Some(note) = note? {
                notes += 1;
                bytes += note.size;
            }
        }
        Ok((notes, bytes))
    }
}

/// How much a shard wants a key.
fn score(shard: &str, key: &Key) -> u64 {
    // A NUL is in no key and no name, so that no two pairs are the same bytes.
    let hash = Checksum::of(&[shard.as_bytes(), b"\0", key.hash_tag().as_bytes()]);
    hash.as_bytes().iter().take(8).fold(0, |score, byte| score << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where keys lie is a format: it must never change.
    #[test]
    fn scores_are_what_they_always_were() {
        let scores = ["a", "b"].map(|shard| score(shard, &Key::new("users/ada").expect("a key")));
        assert_eq!(scores, [14_146_940_587_389_750_009, 3_232_767_737_785_925_507]);
    }
}
