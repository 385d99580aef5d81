//! Applying changes to the tree: conditions, versions, datasets and the groups above them.

use std::collections::HashSet;
use std::sync::Arc;

use persist_core::writing::{Answer, Done, Step as _};
use persist_core::{
    Descriptor, ErrorKind, Expiry, Key, Kind, Metadata, Result, StorageError, Timestamp, Version,
};

use crate::change::{Adoption, Change, Draft, Growth, Step};
use crate::error::{damage, given_up};
use crate::ffi::{H5Error, H5File};
use crate::index::Staged;
use crate::name::{SELF, groups_of, path_of, split};
use crate::record::{Form, Record, State, encode, shape, unread_metadata};
use crate::state::Shared;
use crate::transfer::Transfers;

/// A value of at least so many bytes is written before the old one is taken away, so that it never needs the old one's room,
/// which may not be written directly.
const LARGE: u64 = 64 << 10;

/// Where a dataset lies while a group is made in its place.
const ASIDE: &str = "/%~";

/// Changes on the way to a commit.
pub(crate) struct Transaction<'t> {
    file: &'t H5File,
    shared: &'t Shared,
    descriptor: &'t Descriptor,
    groups: &'t mut HashSet<String>,
    others: &'t HashSet<String>,
    transfers: &'t Transfers,
    staged: Staged,
    /// Groups that were made (true) or removed.
    regrouped: Vec<(String, bool)>,
    /// No version up to this one may be given to a key that is absent.
    floor: u64,
}

/// What a transaction has changed.
pub(crate) struct Changed {
    pub(crate) staged: Staged,
    pub(crate) regrouped: Vec<(String, bool)>,
    pub(crate) floor: u64,
}

/// What is stored under a key.
type Found = Option<Arc<Record>>;

/// What of it conditions and versions are about.
fn metadata_of(found: &Found, foreign: &'static Metadata) -> Option<Metadata> {
    found.as_ref().and_then(|record| match &record.state {
        State::Sound(metadata, _) => Some(Metadata::clone(metadata)),
        State::Foreign => Some(foreign.clone()),
        State::Damaged(_) => None,
    })
}

impl<'t> Transaction<'t> {
    /// Begins with what was committed.
    pub(crate) fn new(
        file: &'t H5File,
        shared: &'t Shared,
        groups: &'t mut HashSet<String>,
        (others, transfers): (&'t HashSet<String>, &'t Transfers),
        floor: u64,
    ) -> Self {
        let descriptor = &shared.descriptor;
        let (staged, regrouped) = (Staged::new(), Vec::new());
        Self { file, shared, descriptor, groups, others, transfers, staged, regrouped, floor }
    }

    /// Ends it.
    pub(crate) fn finish(self) -> Changed {
        Changed { staged: self.staged, regrouped: self.regrouped, floor: self.floor }
    }

    /// Applies a change. An answer that is an error changed nothing of its step, or of its change if that is all or
    /// nothing.
    ///
    /// # Errors
    /// What the library says; the whole transaction must be given up then.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<Result<Answer>, H5Error> {
        let mut answer = Vec::with_capacity(change.steps.len());
        if !change.together {
            for at in 0..change.steps.len() {
                answer.push(self.apply_step(change, at)?);
            }
            return Ok(Ok(answer));
        }
        for step in &change.steps {
            if let Err(error) = self.admit(change.operation, step) {
                return Ok(Err(error));
            }
        }
        for step in &change.steps {
            answer.push(Ok(self.step(step)?));
        }
        Ok(Ok(answer))
    }

    /// Applies one step of a change as if it stood alone.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub(crate) fn apply_step(&mut self, change: &Change, at: usize) -> Result<Result<Done>, H5Error> {
        let step = &change.steps[at];
        Ok(match self.admit(change.operation, step) {
            Ok(()) => Ok(self.step(step)?),
            Err(error) => Err(error),
        })
    }

    fn find(&self, key: &Key) -> Found {
        match self.staged.get(key) {
            Some(staged) => staged.clone(),
            None => self.shared.index.read().get(key).cloned(),
        }
    }

    fn metadata(&self, found: &Found) -> Option<Metadata> {
        metadata_of(found, foreign())
    }

    fn admit(&self, operation: &'static str, step: &Step) -> Result<(), StorageError> {
        let found = self.find(step.key());
        let needs_metadata = step.condition() != Default::default() || matches!(step, Step::Touch { .. });
        if let (Some(State::Damaged(what)), true) =
            (found.as_ref().map(|record| &record.state), needs_metadata)
        {
            return Err(damage(self.descriptor, operation, step.key(), what));
        }
        self.check_foreign(operation, step, found.as_deref())?;
        self.check_transfer(operation, step)?;
        let metadata = self.metadata(&found);
        self.descriptor.check_condition(operation, step.condition(), step.key(), metadata.as_ref())
    }

    /// What was written of a value goes when a change fails while it is on its way.
    fn check_transfer(&self, operation: &'static str, step: &Step) -> Result<()> {
        match step {
            Step::Adopt(adoption) if self.transfers.get(adoption.transfer).is_none() => {
                Err(given_up(self.descriptor, operation).with_key(&adoption.key))
            }
            _ => Ok(()),
        }
    }

    /// What is somebody else's has no expiry, and what is neither a dataset nor a group stays where it is.
    fn check_foreign(&self, operation: &'static str, step: &Step, found: Option<&Record>) -> Result<()> {
        let message = match (step, found.map(|record| &record.state)) {
            (Step::Touch { .. }, Some(State::Foreign)) => {
                "the dataset was not written by persist and has no expiry; store it anew to give it one"
                    .to_owned()
            }
            (Step::Put(_) | Step::Adopt(_), None) if !self.others.is_empty() => {
                let path = path_of(step.key());
                let taken = groups_of(&path).chain([&*path]).find(|path| self.others.contains(*path));
                let Some(taken) = taken else { return Ok(()) };
                format!(
                    "a link or named type that persist does not touch lies at {taken}; remove it with another tool"
                )
            }
            _ => return Ok(()),
        };
        Err(self.descriptor.error(ErrorKind::Unsupported, operation, message).with_key(step.key()))
    }

    fn step(&mut self, step: &Step) -> Result<Done, H5Error> {
        let found = self.find(step.key());
        match step {
            Step::Put(draft) => self.put(draft, &found).map(Done::Stored),
            Step::Adopt(adoption) => self.adopt(adoption, &found).map(Done::Stored),
            Step::Grow(growth) => self.grow(growth, &found).map(Done::Stored),
            Step::Delete { key, .. } => self.delete(key, &found).map(Done::Deleted),
            Step::Sweep { key, before } => self.sweep(key, *before, &found).map(Done::Swept),
            Step::Touch { key, expiry } => self.touch(key, *expiry, &found).map(Done::Touched),
            Step::Check { .. } => Ok(Done::Checked),
        }
    }

    fn put(&mut self, draft: &Draft, found: &Found) -> Result<Metadata, H5Error> {
        let metadata = self.settled(&draft.metadata, found);
        let record = self.write(draft, &metadata, found)?;
        self.staged.insert(draft.key.clone(), Some(Arc::new(record)));
        Ok(metadata)
    }

    /// The metadata of a value in the place of what was found.
    fn settled(&self, draft: &Metadata, found: &Found) -> Metadata {
        let mut metadata = draft.clone();
        let before = self.metadata(found);
        self.descriptor.settle_metadata(&mut metadata, before.as_ref());
        if before.is_none() && metadata.version.as_u64() <= self.floor {
            metadata.version = self.descriptor.next_version(Some(Version::from_u64(self.floor)));
        }
        metadata
    }

    fn adopt(&mut self, adoption: &Adoption, found: &Found) -> Result<Metadata, H5Error> {
        let Some(dataset) = self.transfers.get(adoption.transfer) else {
            return Err(H5Error::new("what was written is not there any more"));
        };
        let metadata = self.settled(&adoption.metadata, found);
        let note = encode(&adoption.key, &metadata, &adoption.form)
            .map_err(|error| H5Error::new(error.to_string()))?;
        dataset.set_record(&note)?;
        let path = match found {
            Some(record) => Arc::clone(&record.path),
            None => self.place(&adoption.key)?.into(),
        };
        if found.is_some() {
            self.file.remove(&path)?;
        }
        self.file.link(dataset, &path)?;
        let state = State::Sound(Box::new(metadata.clone()), adoption.form.clone());
        let record = Record { path, offset: dataset.offset(), state };
        self.staged.insert(adoption.key.clone(), Some(Arc::new(record)));
        Ok(metadata)
    }

    /// Only the chunks with something new in them are written.
    fn grow(&mut self, growth: &Growth, found: &Found) -> Result<Metadata, H5Error> {
        let Some(record) = found else { return Err(H5Error::new("what grows is not there")) };
        let mut metadata = growth.metadata.clone();
        self.descriptor.settle_metadata(&mut metadata, record.metadata());
        let note =
            encode(&growth.key, &metadata, &growth.form).map_err(|error| H5Error::new(error.to_string()))?;
        let dataset = self.file.dataset(&record.path)?;
        dataset.resize(&growth.packed.grid.shape)?;
        growth.packed.chunks.iter().try_for_each(|(at, coded)| dataset.write_chunk(at, coded))?;
        dataset.set_record(&note)?;
        let state = State::Sound(Box::new(metadata.clone()), growth.form.clone());
        let grown = Record { path: Arc::clone(&record.path), offset: None, state };
        self.staged.insert(growth.key.clone(), Some(Arc::new(grown)));
        Ok(metadata)
    }

    fn write(&mut self, draft: &Draft, metadata: &Metadata, found: &Found) -> Result<Record, H5Error> {
        let form = Form::of(&draft.value);
        let note = encode(&draft.key, metadata, &form).map_err(|error| H5Error::new(error.to_string()))?;
        let path = match found {
            Some(record) => Arc::clone(&record.path),
            None => self.place(&draft.key)?.into(),
        };
        let mut len = [0];
        let shape = shape(&draft.value, &mut len);
        let large = metadata.size >= LARGE || draft.packed.is_some();
        let old = found.is_some();
        if old && !large {
            self.file.remove(&path)?;
        }
        let dataset = match &draft.packed {
            Some(packed) => {
                let dataset = self.file.create_chunked(&shape, &packed.grid, &packed.pipeline)?;
                packed.chunks.iter().try_for_each(|(at, coded)| dataset.write_chunk(at, coded))?;
                dataset
            }
            None => {
                let dataset = if large {
                    self.file.create_unnamed(&shape)?
                } else {
                    self.file.create_dataset(&path, &shape)?
                };
                dataset.write(draft.value.buffer())?;
                dataset
            }
        };
        dataset.set_record(&note)?;
        if large {
            if old {
                self.file.remove(&path)?;
            }
            self.file.link(&dataset, &path)?;
        }
        let state = State::Sound(Box::new(metadata.clone()), form);
        Ok(Record { path, offset: dataset.offset(), state })
    }

    /// Where the dataset of a new key goes. Whatever lies where a group must be is moved into that group.
    fn place(&mut self, key: &Key) -> Result<String, H5Error> {
        let path = path_of(key);
        for (group, (end, _)) in groups_of(&path).zip(key.match_indices('/')) {
            if self.groups.contains(group) {
                continue;
            }
            if let Ok(above) = Key::new(&key[..end])
                && let Some(record) = self.find(&above)
                && *record.path == *group
            {
                self.make_way(&above, &record, group)?;
            }
            self.add_group(group);
        }
        Ok(if self.groups.contains(&path) { format!("{path}/{SELF}") } else { path })
    }

    fn make_way(&mut self, key: &Key, record: &Record, group: &str) -> Result<(), H5Error> {
        let path = format!("{group}/{SELF}");
        self.file.rename(group, ASIDE)?;
        self.file.create_group(group)?;
        self.file.rename(ASIDE, &path)?;
        let moved = Record { path: path.into(), ..record.clone() };
        self.staged.insert(key.clone(), Some(Arc::new(moved)));
        Ok(())
    }

    fn add_group(&mut self, group: &str) {
        if self.groups.insert(group.to_owned()) {
            self.regrouped.push((group.to_owned(), true));
        }
    }

    fn touch(&mut self, key: &Key, expiry: Expiry, found: &Found) -> Result<Option<Metadata>, H5Error> {
        let Some(record) = found else { return Ok(None) };
        let State::Sound(stored, form) = &record.state else {
            return Err(H5Error::new("a dataset that persist did not write has no expiry; store it anew"));
        };
        if self.descriptor.live(Some(stored)).is_none() {
            return Ok(None);
        }
        let metadata = self.descriptor.touched_metadata(stored, expiry);
        let note = encode(key, &metadata, form).map_err(|error| H5Error::new(error.to_string()))?;
        self.file.dataset(&record.path)?.set_record(&note)?;
        let state = State::Sound(Box::new(metadata.clone()), form.clone());
        self.staged.insert(key.clone(), Some(Arc::new(Record { state, ..Record::clone(record) })));
        Ok(Some(metadata))
    }

    /// What has expired is removed too, and was not there.
    fn delete(&mut self, key: &Key, found: &Found) -> Result<bool, H5Error> {
        let Some(record) = found else { return Ok(false) };
        let metadata = self.metadata(found);
        let live = match &metadata {
            Some(metadata) => self.descriptor.live(Some(metadata)).is_some(),
            None => true,
        };
        // It may be unreadable which version it had; a new one is greater by the clock.
        let version =
            metadata.map_or_else(|| self.descriptor.next_version(None), |metadata| metadata.version);
        self.remove(key, record, version)?;
        Ok(live)
    }

    fn sweep(&mut self, key: &Key, before: Option<Timestamp>, found: &Found) -> Result<Option<u64>, H5Error> {
        let Some(record) = found else { return Ok(None) };
        let Some(metadata) = record.metadata() else { return Ok(None) };
        let is_old = before.is_some_and(|before| metadata.modified_at < before);
        if !is_old && self.descriptor.live(Some(metadata)).is_some() {
            return Ok(None);
        }
        let (size, version) = (metadata.size, metadata.version);
        self.remove(key, record, version)?;
        Ok(Some(size))
    }

    fn remove(&mut self, key: &Key, record: &Record, version: Version) -> Result<(), H5Error> {
        self.floor = self.floor.max(version.as_u64());
        self.file.remove(&record.path)?;
        self.staged.insert(key.clone(), None);
        self.prune(&record.path)
    }

    /// Removes the groups above a path that hold nothing any more.
    fn prune(&mut self, path: &str) -> Result<(), H5Error> {
        let mut group = split(path).0;
        while !group.is_empty() && self.file.count(group)? == 0 {
            self.file.remove(group)?;
            self.groups.remove(group);
            self.regrouped.push((group.to_owned(), false));
            group = split(group).0;
        }
        Ok(())
    }
}

/// The metadata of what somebody else wrote, as far as conditions need them.
fn foreign() -> &'static Metadata {
    static FOREIGN: std::sync::OnceLock<Metadata> = std::sync::OnceLock::new();
    FOREIGN.get_or_init(|| unread_metadata(Kind::Array))
}
