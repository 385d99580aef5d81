//! One turn with the commit lock: what each change does to names, and what must reach the disk before it counts.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use persist_core::{Condition, Expiry, Key, Metadata, StorageError, StoreItem, StoreOptions, Version};
use rustix::fs::{RenameFlags, fsync, renameat, renameat_with};
use rustix::io::{Errno, retry_on_intr};

use crate::error::system;
use crate::form::{self, Form};
use crate::index::{Change, Stamp};
use crate::journal::{Action, version_at};
use crate::name::KeyPath;
use crate::place::Place;
use crate::probe::{Probe, Stored};
use crate::reader::Wait;
use crate::record;
use crate::root::unlink;
use crate::session::Temp;
use crate::stage::{Staged, look, metadata_for};
use crate::writer::{Answer, Done, Step, Writer};

/// A turn with the lock.
pub(crate) struct Commit<'a> {
    place: &'a Place,
    writer: &'a Writer,
    operation: &'static str,
    /// Folders that changed, open.
    folders: HashMap<String, Arc<OwnedFd>>,
    /// Files whose attribute changed.
    files: Vec<OwnedFd>,
    /// Old values that a temp name holds now; removed after the lock is given back.
    replaced: Vec<Temp>,
}

/// What a step does to the disk.
enum Act {
    Rename { temp: Temp, path: KeyPath, form: Form, over: bool },
    Unlink { path: KeyPath, form: Form },
    Attribute { file: OwnedFd, record: Vec<u8> },
}

impl Act {
    fn temp(&self) -> Option<&Temp> {
        match self {
            Self::Rename { temp, .. } => Some(temp),
            Self::Unlink { .. } | Self::Attribute { .. } => None,
        }
    }
}

impl<'a> Commit<'a> {
    pub(crate) fn new(place: &'a Place, writer: &'a Writer, operation: &'static str) -> Self {
        Self { place, writer, operation, folders: HashMap::new(), files: Vec::new(), replaced: Vec::new() }
    }

    /// Applies one change as a whole: all conditions are checked before anything is done.
    pub(crate) fn change(&mut self, steps: Vec<Step>) -> Answer {
        self.writer.check_failed(self.place, self.operation)?;
        let (mut acts, mut done) = (Vec::new(), Vec::with_capacity(steps.len()));
        for step in steps {
            done.push(self.plan(step, &mut acts)?);
        }
        match acts.len() {
            0 => {}
            1 => self.apply(acts, true)?,
            _ => self.apply_journaled(acts)?,
        }
        Ok(done)
    }

    /// Forces to the disk what must be there before the changes count. The lock is no longer held.
    pub(crate) fn finish(mut self) -> Result<(), StorageError> {
        self.replaced.clear();
        if !self.writer.strict {
            return Ok(());
        }
        self.sync().map_err(|errno| self.writer.fail(self.place, self.operation, errno))
    }

    fn system(&self, what: &str, errno: Errno) -> StorageError {
        system(&self.place.descriptor, self.operation, what, errno)
    }

    fn plan(&mut self, step: Step, acts: &mut Vec<Act>) -> Result<Done, StorageError> {
        match step {
            Step::Put(staged) => {
                let key = staged.key.clone();
                self.put(*staged, acts).map_err(|error| error.with_key(&key))
            }
            Step::Delete { key, condition } => self.delete(&key, condition, acts),
            Step::Expire { key, version } => self.expire(&key, version, acts),
            Step::Touch { key, expiry } => self.touch(&key, expiry, acts),
            Step::Check { key, condition } => {
                let (_, stored) = self.look(&key)?;
                let stored = metadata_for(self.place, self.operation, &key, condition, stored)?;
                self.check(&key, condition, stored.as_ref()).map(|()| Done::Checked)
            }
        }
    }

    fn look(&self, key: &Key) -> Result<(Probe, Option<Stored>), StorageError> {
        look(self.place, &KeyPath::of(key), self.operation).map_err(|error| error.with_key(key))
    }

    fn check(&self, key: &Key, condition: Condition, stored: Option<&Metadata>) -> Result<(), StorageError> {
        self.place.descriptor.check_condition(self.operation, condition, key, stored)
    }

    fn put(&mut self, mut staged: Staged, acts: &mut Vec<Act>) -> Result<Done, StorageError> {
        let seen = self.probe(&staged.path)?;
        if seen != staged.seen {
            let (seen, stored) = look(self.place, &staged.path, self.operation)?;
            let stored = metadata_for(self.place, self.operation, &staged.key, staged.condition, stored)?;
            self.check(&staged.key, staged.condition, stored.as_ref())?;
            if staged.may_yield && self.superseded(&staged.metadata, stored.as_ref()) {
                // Somebody stored a newer version since this one was staged: both took place, this one first. It
                // counts only once the newer one is on the disk.
                self.folder(&staged.path.folder)?;
                return Ok(Done::Stored(staged.metadata));
            }
            staged.settle(self.place, self.writer, seen, stored, self.floor()?)?;
        } else {
            // Unchanged, but it may have expired in the meantime.
            self.check(&staged.key, staged.condition, staged.stored.as_ref())?;
            let floor = self.floor()?;
            if staged.metadata.version <= floor {
                let stored = staged.stored.take();
                staged.settle(self.place, self.writer, seen, stored, floor)?;
            }
        }
        let Staged { path, metadata, form, temp, seen, .. } = staged;
        let over = seen.has(form);
        let other_forms = seen.forms().filter(|other| *other != form);
        let unlinks: Vec<_> = other_forms.map(|form| Act::Unlink { path: path.clone(), form }).collect();
        acts.push(Act::Rename { temp, path, form, over });
        acts.extend(unlinks);
        Ok(Done::Stored(metadata))
    }

    fn probe(&self, path: &KeyPath) -> Result<Probe, StorageError> {
        let folder = self.place.folder(&path.folder);
        folder
            .and_then(|folder| Probe::look(folder.as_ref(), &path.stem))
            .map_err(|errno| self.system("the stored value cannot be looked up", errno))
    }

    fn floor(&self) -> Result<Version, StorageError> {
        self.writer.lock.version_floor().map_err(|errno| self.system("the lock file cannot be read", errno))
    }

    /// Notes the version of a key that is about to be deleted, so that nobody uses it again.
    fn bury(&self, stored: Option<&Metadata>) -> Result<(), StorageError> {
        let raised = stored.map_or(Ok(()), |stored| self.writer.lock.raise_version_floor(stored.version));
        raised.map_err(|errno| self.system("the lock file cannot be written", errno))
    }

    fn superseded(&self, draft: &Metadata, stored: Option<&Metadata>) -> bool {
        self.place.descriptor.live(stored).is_some_and(|stored| stored.version > draft.version)
    }

    fn delete(&mut self, key: &Key, condition: Condition, acts: &mut Vec<Act>) -> Result<Done, StorageError> {
        let (seen, stored) = self.look(key)?;
        let damaged = stored.as_ref().is_some_and(|stored| stored.metadata.is_err());
        let stored = metadata_for(self.place, self.operation, key, condition, stored)?;
        self.check(key, condition, stored.as_ref())?;
        self.bury(stored.as_ref())?;
        acts.extend(seen.forms().map(|form| Act::Unlink { path: KeyPath::of(key), form }));
        Ok(Done::Deleted(damaged || self.place.descriptor.live(stored.as_ref()).is_some()))
    }

    fn expire(&mut self, key: &Key, version: Version, acts: &mut Vec<Act>) -> Result<Done, StorageError> {
        let (seen, stored) = self.look(key)?;
        let stored = stored.and_then(|stored| stored.metadata.ok());
        let now = self.place.descriptor.now();
        let due = stored.as_ref().is_some_and(|stored| stored.version == version && stored.is_expired(now));
        if due {
            self.bury(stored.as_ref())?;
            acts.extend(seen.forms().map(|form| Act::Unlink { path: KeyPath::of(key), form }));
        }
        Ok(Done::Deleted(due))
    }

    fn touch(&mut self, key: &Key, expiry: Expiry, acts: &mut Vec<Act>) -> Result<Done, StorageError> {
        let (seen, Some(stored)) = self.look(key)? else { return Ok(Done::Touched(None)) };
        let (form, ours, file) = (stored.form, stored.ours, stored.file);
        let metadata = stored.metadata.map_err(|what| self.place.corruption(self.operation, key, &what))?;
        if self.place.descriptor.live(Some(&metadata)).is_none() {
            return Ok(Done::Touched(None));
        }
        let touched = self.place.descriptor.touched_metadata(&metadata, expiry);
        let record = record::encode(&touched);
        if ours && form != Form::Envelope && seen.forms().count() == 1 {
            acts.push(Act::Attribute { file, record });
            return Ok(Done::Touched(Some(touched)));
        }
        self.rewrite(key, touched, acts).map(|metadata| Done::Touched(Some(metadata)))
    }

    /// Touches a value whose metadata cannot be changed in place: it is written anew.
    fn rewrite(
        &mut self,
        key: &Key,
        touched: Metadata,
        acts: &mut Vec<Act>,
    ) -> Result<Metadata, StorageError> {
        let path = KeyPath::of(key);
        let entry = self.place.reader.entry(&self.place.root, &path, self.place.descriptor.now(), Wait::Yes);
        let entry = entry.map_err(|error| self.place.read_error(self.operation, key, error))?;
        // The lock is held, so only another program can have removed it.
        let Some(entry) = entry else { return Ok(touched) };
        let options = StoreOptions {
            expiry: touched.expires_at.map_or(Expiry::Never, Expiry::At),
            condition: Condition::None,
            tags: touched.tags,
            encodings: touched.encodings,
        };
        let item = StoreItem { key: key.clone(), value: entry.value, options };
        match self.put(Staged::new(self.place, self.writer, item)?, acts)? {
            Done::Stored(metadata) => Ok(metadata),
            _ => unreachable!("a put stores"),
        }
    }

    fn apply_journaled(&mut self, mut acts: Vec<Act>) -> Result<(), StorageError> {
        self.sync_temps(&acts).map_err(|errno| self.writer.fail(self.place, self.operation, errno))?;
        let actions = self.actions(&acts);
        let actions = actions.map_err(|errno| self.system("the change cannot be written down", errno))?;
        let written = self.writer.journal.write(&actions);
        written.map_err(|errno| self.system("the change cannot be written down", errno))?;
        // From here on it will take place: now, or when the next one who takes the lock finishes it. So its temp
        // files must stay whatever happens.
        for act in &mut acts {
            if let Act::Rename { temp, .. } = act {
                temp.keep();
            }
        }
        self.writer.counters.journaled.fetch_add(1, Ordering::Relaxed);
        self.must_sync(self.writer.journal.sync())?;
        self.apply(acts, false).map_err(StorageError::with_outcome_unknown)?;
        self.must_sync(if self.writer.strict { self.sync() } else { Ok(()) })?;
        self.must_sync(self.writer.journal.end())
    }

    /// A change that is in the journal cannot be called off when a sync fails.
    fn must_sync(&self, synced: Result<(), Errno>) -> Result<(), StorageError> {
        synced.map_err(|errno| self.writer.fail(self.place, self.operation, errno).with_outcome_unknown())
    }

    /// The names of temp files must be on the disk before the journal that tells of them: a temp file that is gone
    /// counts as renamed.
    fn sync_temps(&self, acts: &[Act]) -> Result<(), Errno> {
        if !self.writer.strict {
            return Ok(());
        }
        for temp in acts.iter().filter_map(Act::temp) {
            retry_on_intr(|| fsync(temp.folder()))?;
        }
        self.writer.session.sync_names()
    }

    /// What the journal says of a change.
    fn actions(&self, acts: &[Act]) -> Result<Vec<Action>, Errno> {
        let mut actions = Vec::with_capacity(acts.len());
        for act in acts {
            match act {
                Act::Rename { temp, path, form, .. } => {
                    actions.push(Action::Rename { temp: temp.path(), target: path.file(form.ending()) });
                }
                Act::Unlink { path, form } => {
                    let target = path.file(form.ending());
                    if let Some(version) = version_at(&self.place.root, &target)? {
                        actions.push(Action::Unlink { target, version });
                    }
                }
                Act::Attribute { .. } => {}
            }
        }
        Ok(actions)
    }

    fn apply(&mut self, acts: Vec<Act>, exchange: bool) -> Result<(), StorageError> {
        for act in acts {
            match act {
                Act::Rename { temp, path, form, over } => self.rename(temp, &path, form, over && exchange)?,
                Act::Unlink { path, form } => self.unlink(&path, form)?,
                Act::Attribute { file, record } => self.attribute(file, &record)?,
            }
        }
        Ok(())
    }

    /// Gives a temp file its name. Over an existing file names are exchanged: the old value is then removed after the
    /// lock is given back, which measured twice as fast on ext4 as replacing it (`docs/decisions/0001-*.md`).
    fn rename(
        &mut self,
        mut temp: Temp,
        path: &KeyPath,
        form: Form,
        exchange: bool,
    ) -> Result<(), StorageError> {
        let name = format!("{}.{}", path.stem, form.ending());
        let folder = self.folder(&path.folder)?;
        let exchanged = self.changing(path, form, true, &folder, || {
            if exchange && swap(&temp, &folder, &name)? {
                return Ok(true);
            }
            retry_on_intr(|| renameat(temp.folder(), temp.name(), &folder, &name)).map(|()| false)
        });
        if exchanged.map_err(|errno| self.system("the value cannot be given its name", errno))? {
            self.replaced.push(temp);
        } else {
            temp.keep();
        }
        Ok(())
    }

    fn unlink(&mut self, path: &KeyPath, form: Form) -> Result<(), StorageError> {
        let name = format!("{}.{}", path.stem, form.ending());
        let folder = self.folder(&path.folder)?;
        let removed = self.changing(path, form, false, &folder, || unlink(&folder, &name));
        removed.map_err(|errno| self.system("the file cannot be removed", errno))?;
        // A folder that cannot be removed now is removed by `maintain`: the key is gone either way.
        if let Ok(Some(stays)) = self.writer.prune(self.place, &path.folder) {
            // What must reach the disk is that the folders are gone.
            let gone = |folder: &str| folder.len() > stays.len() && is_in(&path.folder, folder);
            self.folders.retain(|folder, _| !gone(folder));
            self.folder(&stays).map_err(StorageError::with_outcome_unknown)?;
        }
        Ok(())
    }

    /// Changes a name in a folder and tells the index.
    fn changing<T>(
        &self,
        path: &KeyPath,
        form: Form,
        there: bool,
        folder: &OwnedFd,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if !self.place.index.in_use() {
            return change();
        }
        let before = Stamp::of(folder)?;
        let result = change()?;
        // Without the stamp the index will find a change that it does not know, and read the folder again.
        if let Ok(after) = Stamp::of(folder) {
            let file = (path.stem.clone(), form, there);
            self.place.index.note(Change { folder: path.folder.clone(), stamps: (before, after), file });
        }
        Ok(result)
    }

    fn attribute(&mut self, file: OwnedFd, record: &[u8]) -> Result<(), StorageError> {
        let fits = form::set_attribute(&file, record);
        if !fits.map_err(|errno| self.system("the metadata cannot be written", errno))? {
            return Err(
                self.system("the metadata has no room beside the value; store the value again", Errno::NOSPC)
            );
        }
        self.files.push(file);
        Ok(())
    }

    /// The folder of a change, made if it is missing; it will be forced to the disk.
    fn folder(&mut self, path: &str) -> Result<Arc<OwnedFd>, StorageError> {
        if let Some(folder) = self.folders.get(path) {
            return Ok(Arc::clone(folder));
        }
        let made = self.place.root.make_folder(path);
        let (folder, _) = made.map_err(|errno| self.system("the folder cannot be made", errno))?;
        let folder = Arc::new(folder);
        self.folders.insert(path.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    fn sync(&self) -> Result<(), Errno> {
        for file in &self.files {
            retry_on_intr(|| fsync(file))?;
        }
        for (path, folder) in &self.folders {
            self.writer.sync_folder(folder)?;
            self.writer.sync_above(self.place, path, folder)?;
        }
        Ok(())
    }
}

/// Whether a path is a folder or lies in it.
fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Exchanges the names of a temp file and the file it replaces; false if there is no such file by now, or the file
/// system cannot do that.
fn swap(temp: &Temp, folder: &OwnedFd, name: &str) -> Result<bool, Errno> {
    let swapped =
        retry_on_intr(|| renameat_with(temp.folder(), temp.name(), folder, name, RenameFlags::EXCHANGE));
    match swapped {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error),
    }
}
