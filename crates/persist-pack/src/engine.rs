//! What the thread that writes does: applies changes, appends them to the log, makes them durable, seals the log.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use persist_core::{Checksum, ErrorKind, Expiry, Key, Metadata, Result, StorageError, Version};

use crate::change::{Answer, Change, Done, Draft, Step};
use crate::codec::Payload;
use crate::config::Durability;
use crate::core::{Core, Report};
use crate::fault::{damage, is_full, system};
use crate::folder::{Lock, Mark, Span};
use crate::log::Log;
use crate::map::map;
use crate::memory::Slot;
use crate::name::Names;
use crate::note::{About, Role};
use crate::record::{Place, encode_head, parse_head};
use crate::sealed::{Opened, Sealed};
use crate::state::State;
use crate::tail::{Extras, Tail};
use crate::wire::Wrong;

/// A value of at least so many bytes that is in a pack already is referred to; for a shorter one that saves nothing.
const SHARED_BYTES: u64 = 64;

/// Pieces of data up to this length are copied into one buffer before they are written.
const COPIED_BYTES: usize = 64 << 10;

/// A log of at least so many bytes is sealed at the end, so that the next opening need not read it.
const SEALED_AT_CLOSE: u64 = 4 << 20;

/// What the thread that writes knows of the log.
#[derive(Debug)]
struct Appending {
    file: Arc<File>,
    span: Span,
    salt: u64,
    end: u64,
    /// So many bytes are on the disk.
    synced: u64,
    names: Names,
    /// The length at which it is sealed.
    full_at: u64,
}

impl Appending {
    /// Goes on behind a log that is on the disk.
    fn to(log: &Log, names: Names, full_at: u64) -> Self {
        let (file, span, salt, end) = (Arc::clone(&log.file), log.span, log.pack.salt, log.end);
        Self { file, span, salt, end, synced: end, names, full_at }
    }
}

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Engine {
    core: Arc<Core>,
    log: Option<Appending>,
    /// The greatest version written.
    floor: u64,
    marked: Option<Mark>,
    _lock: Lock,
}

/// What is stored under a key.
enum Stored {
    Nothing,
    Slot(Slot),
    /// A record that cannot be read; it may be replaced and deleted.
    Damaged(Wrong),
}

impl Stored {
    fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Slot(slot) => slot.head.note.metadata(),
            Self::Nothing | Self::Damaged(_) => None,
        }
    }
}

/// A record about to be written.
struct Plan {
    about: About,
    role: Role,
    name: String,
    payload: Payload,
}

/// Records that are written together, and what they change.
#[derive(Default)]
struct Batch {
    /// In order; small pieces are joined.
    pieces: Vec<Bytes>,
    buffer: Vec<u8>,
    /// Where the next record begins.
    at: u64,
    slots: Vec<Slot>,
    keys: HashMap<Key, Slot>,
    contents: HashMap<Checksum, ()>,
}

impl Batch {
    fn push(&mut self, head: Vec<u8>, payload: Payload, slot: Slot) {
        self.at += slot.head.record_len();
        self.buffer.extend(head);
        for piece in payload.pieces {
            if piece.len() <= COPIED_BYTES {
                self.buffer.extend_from_slice(&piece);
            } else {
                self.flush_buffer();
                self.pieces.push(piece);
            }
        }
        self.buffer.extend(payload.table);
        let note = &slot.head.note;
        if let Some(key) = note.key() {
            self.keys.insert(key.clone(), slot.clone());
        }
        if let (Some(checksum), Role::Value) = (note.checksum(), note.role) {
            self.contents.insert(checksum, ());
        }
        self.slots.push(slot);
    }

    fn flush_buffer(&mut self) {
        if !self.buffer.is_empty() {
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }
}

/// Why records were not written.
enum Failure {
    /// Nothing of them was.
    Undone(io::Error),
    /// Nobody knows.
    Unknown(io::Error),
}

impl Engine {
    /// Takes over a folder of packs whose lock is held: cuts what was not written to its end, makes sure that what is
    /// there is on the disk, and removes what is left of a compaction.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn open(core: Arc<Core>, lock: Lock) -> io::Result<Self> {
        let listing = core.folder.list()?;
        for path in &listing.unfinished {
            std::fs::remove_file(path)?;
        }
        for span in &listing.replaced {
            core.folder.remove(*span)?;
        }
        let mut state = core.state.write();
        let floor = state.floor();
        core.descriptor.next_version(Some(Version::from_u64(floor)));
        let log = state.log.as_mut().map(|log| Self::take_over(&core, log)).transpose()?;
        drop(state);
        let marked = core.folder.mark()?.and_then(|mark| mark.ok());
        let mut engine = Self { core, log, floor, marked, _lock: lock };
        engine.seal_if_full();
        Ok(engine)
    }

    fn take_over(core: &Core, log: &mut Log) -> io::Result<Appending> {
        if log.file.metadata()?.len() > log.end {
            log.file.set_len(log.end)?;
            log.has_tail = false;
        }
        // What another process wrote may not be on the disk yet, and from here on it is seen.
        log.file.sync_all()?;
        core.folder.sync()?;
        let mut names = Names::default();
        for slot in log.memory.keys.values().chain(log.memory.contents.values()) {
            let note = &slot.head.note;
            if let (Role::Value, Some(key), Some(metadata)) = (note.role, note.key(), note.metadata()) {
                names.note(&slot.head.name, key, metadata.kind);
            }
        }
        Ok(Appending::to(log, names, core.config.pack_size.0))
    }

    /// Makes changes, all with one sync, and answers each.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Vec<Result<Answer>> {
        let first = changes.first().map_or("store", |change| change.operation);
        if let Err(error) = self.core.admit(first).and_then(|()| self.begin(first)) {
            return changes.iter().map(|change| Err(error.again(change.operation))).collect();
        }
        let mut batch = Batch { at: self.log.as_ref().map_or(0, |log| log.end), ..Batch::default() };
        let answers: Vec<_> = changes.iter().map(|change| self.apply(change, &mut batch)).collect();
        let written = self.write(batch);
        match written {
            Ok(()) => {
                Report::count(&self.core.report.changes, changes.len() as u64);
                self.core.report.largest_batch.fetch_max(changes.len() as u64, Ordering::Relaxed);
                self.seal_if_full();
                answers
            }
            // One of them may be too large for the room that is left: the others must not suffer from that.
            Err(Failure::Undone(error)) if changes.len() > 1 && is_full(&error) => {
                changes.iter().flat_map(|change| self.commit(std::slice::from_ref(change))).collect()
            }
            Err(failure) => {
                let refuse = |change: &Change| Err(self.refused(change.operation, &failure));
                changes.iter().map(refuse).collect()
            }
        }
    }

    fn refused(&self, operation: &'static str, failure: &Failure) -> StorageError {
        let copy = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match failure {
            Failure::Undone(error) => {
                system(&self.core.descriptor, operation, "nothing was changed", copy(error))
            }
            Failure::Unknown(error) => {
                system(&self.core.descriptor, operation, "the write failed", copy(error))
                    .with_outcome_unknown()
            }
        }
    }

    /// Makes a log if there is none.
    fn begin(&mut self, operation: &'static str) -> Result<()> {
        if self.log.is_some() {
            return Ok(());
        }
        let mut state = self.core.state.write();
        let log = Log::create(&self.core.folder, Span::one(state.next), self.floor).map_err(|unmade| {
            if unmade.is_unsynced {
                self.core.report.fail(&unmade.error);
            }
            system(&self.core.descriptor, operation, "a new pack cannot be made", unmade.error)
        })?;
        self.log = Some(Appending::to(&log, Names::default(), self.core.config.pack_size.0));
        state.log = Some(log);
        state.next += 1;
        Ok(())
    }

    /// Applies a change to a batch. An answer that is an error changed nothing of its step, or of its change if that is
    /// all or nothing.
    fn apply(&mut self, change: &Change, batch: &mut Batch) -> Result<Answer> {
        let mut answer = Vec::with_capacity(change.steps.len());
        if !change.together {
            for step in &change.steps {
                let stored = self.admit(change.operation, step, batch);
                answer.push(stored.and_then(|stored| {
                    let (done, plan) = self.plan(change.operation, step, &stored, batch)?;
                    self.add(change.operation, plan.into_iter().collect(), batch)?;
                    Ok(done)
                }));
            }
            return Ok(answer);
        }
        let mut admitted = Vec::with_capacity(change.steps.len());
        for step in &change.steps {
            admitted.push(self.admit(change.operation, step, batch)?);
        }
        let mut plans = Vec::new();
        for (step, stored) in change.steps.iter().zip(admitted) {
            let (done, plan) = self.plan(change.operation, step, &stored, batch)?;
            plans.extend(plan);
            answer.push(Ok(done));
        }
        self.add(change.operation, plans, batch)?;
        Ok(answer)
    }

    /// What is stored under the key of a step, if the step may take place.
    fn admit(&self, operation: &'static str, step: &Step, batch: &Batch) -> Result<Stored> {
        let descriptor = &self.core.descriptor;
        let stored = self.stored(step.key(), batch);
        let needs_metadata = step.condition() != Default::default() || matches!(step, Step::Touch { .. });
        if let (Stored::Damaged(wrong), true) = (&stored, needs_metadata) {
            return Err(damage(descriptor, operation, *wrong).with_key(step.key()));
        }
        descriptor.check_condition(operation, step.condition(), step.key(), stored.metadata())?;
        Ok(stored)
    }

    fn stored(&self, key: &Key, batch: &Batch) -> Stored {
        if let Some(slot) = batch.keys.get(key) {
            let is_there = slot.head.note.role != Role::Tombstone;
            return if is_there { Stored::Slot(slot.clone()) } else { Stored::Nothing };
        }
        match self.core.state.read().find(key) {
            Ok(Some(found)) => Stored::Slot(found.slot),
            Ok(None) => Stored::Nothing,
            Err(wrong) => Stored::Damaged(wrong),
        }
    }

    /// What a step does, and the record that says so.
    fn plan(
        &mut self,
        operation: &'static str,
        step: &Step,
        stored: &Stored,
        batch: &Batch,
    ) -> Result<(Done, Option<Plan>)> {
        match step {
            Step::Put(draft) => self.put(draft, stored, batch),
            Step::Delete { key, .. } => Ok(self.delete(key, stored)),
            Step::Touch { key, expiry } => Ok(self.touch(key, *expiry, stored)),
            Step::Check { .. } => Ok((Done::Checked, None)),
            Step::Sweep { key } => Ok(self.sweep(key, stored)),
        }
        .map_err(|error: StorageError| error.with_operation(operation))
    }

    fn put(&mut self, draft: &Draft, stored: &Stored, batch: &Batch) -> Result<(Done, Option<Plan>)> {
        let descriptor = &self.core.descriptor;
        let mut metadata = draft.metadata.clone();
        descriptor.settle_metadata(&mut metadata, stored.metadata());
        if metadata.version.as_u64() <= self.floor {
            metadata.version = descriptor.next_version(Some(Version::from_u64(self.floor)));
        }
        self.floor = metadata.version.as_u64();
        let about = About::Entry(draft.key.clone(), metadata.clone());
        let kind = metadata.kind;
        let done = Done::Stored(metadata);
        if self.is_there(draft, batch) {
            Report::count(&self.core.report.shared_values, 1);
            let name = String::new();
            return Ok((done, Some(Plan { about, role: Role::Reference, name, payload: Payload::empty() })));
        }
        let name = self.log.as_mut().map(|log| log.names.take(&draft.key, kind)).unwrap_or_default();
        Ok((done, Some(Plan { about, role: Role::Value, name, payload: draft.payload.clone() })))
    }

    /// True if the value is in a pack already, and whole.
    fn is_there(&self, draft: &Draft, batch: &Batch) -> bool {
        let checksum = draft.metadata.checksum;
        if !self.core.config.deduplicate || draft.payload.plain < SHARED_BYTES {
            return false;
        }
        if batch.contents.contains_key(&checksum) {
            return true;
        }
        // A pack that is being compacted may lose it.
        let state = self.core.state.read();
        let Ok(Some(found)) = state.content(&checksum, |pack| !pack.is_retiring()) else { return false };
        drop(state);
        found.data(draft.payload.plain).is_ok_and(|data| Checksum::of(&[&data]) == checksum)
    }

    fn next_version(&mut self, stored: Option<&Metadata>) -> Version {
        let before = stored.map_or(self.floor, |metadata| metadata.version.as_u64().max(self.floor));
        let version = self.core.descriptor.next_version(Some(Version::from_u64(before)));
        self.floor = version.as_u64();
        version
    }

    fn tombstone(&mut self, key: &Key, stored: &Stored) -> Plan {
        let version = self.next_version(stored.metadata());
        let about = About::Absence(key.clone(), version);
        Plan { about, role: Role::Tombstone, name: String::new(), payload: Payload::empty() }
    }

    /// What has expired is removed too, and was not there.
    fn delete(&mut self, key: &Key, stored: &Stored) -> (Done, Option<Plan>) {
        let was_there = match stored {
            Stored::Nothing => return (Done::Deleted(false), None),
            Stored::Damaged(_) => true,
            Stored::Slot(_) => self.core.descriptor.live(stored.metadata()).is_some(),
        };
        (Done::Deleted(was_there), Some(self.tombstone(key, stored)))
    }

    fn sweep(&mut self, key: &Key, stored: &Stored) -> (Done, Option<Plan>) {
        let size = stored.metadata().map(|metadata| metadata.size);
        match (size, self.core.descriptor.live(stored.metadata())) {
            (Some(size), None) => (Done::Swept(Some(size)), Some(self.tombstone(key, stored))),
            _ => (Done::Swept(None), None),
        }
    }

    fn touch(&mut self, key: &Key, expiry: Expiry, stored: &Stored) -> (Done, Option<Plan>) {
        let descriptor = Arc::clone(&self.core.descriptor);
        let Some(live) = descriptor.live(stored.metadata()) else { return (Done::Touched(None), None) };
        let mut metadata = descriptor.touched_metadata(live, expiry);
        if metadata.version.as_u64() <= self.floor {
            metadata.version = self.next_version(Some(&metadata));
        }
        self.floor = metadata.version.as_u64();
        let about = About::Entry(key.clone(), metadata.clone());
        let plan = Plan { about, role: Role::Reference, name: String::new(), payload: Payload::empty() };
        (Done::Touched(Some(metadata)), Some(plan))
    }

    /// Adds records to a batch, as one that counts as a whole.
    fn add(&self, operation: &'static str, plans: Vec<Plan>, batch: &mut Batch) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let last = plans.len().saturating_sub(1);
        let mut records = Vec::with_capacity(plans.len());
        let mut at = batch.at;
        for (number, Plan { about, role, name, payload }) in plans.into_iter().enumerate() {
            let mut note = payload.note(role, about);
            (note.more, note.synced) = (number != last, log.synced);
            let place = Place { salt: log.salt, at };
            let mut bytes = Vec::with_capacity(256);
            let head = encode_head(&mut bytes, place, &name, &note, &payload)
                .and_then(|()| parse_head(&bytes, place))
                .map_err(|wrong| {
                    let error = self.core.descriptor.error(ErrorKind::InvalidValue, operation, wrong.0);
                    note.key().map_or_else(
                        || error.with_operation(operation),
                        |key| {
                            self.core
                                .descriptor
                                .error(ErrorKind::InvalidValue, operation, wrong.0)
                                .with_key(key)
                        },
                    )
                })?;
            let slot = Slot { at, head: Arc::new(head) };
            at += slot.head.record_len();
            records.push((bytes, payload, slot));
        }
        for (bytes, payload, slot) in records {
            batch.push(bytes, payload, slot);
        }
        Ok(())
    }

    /// Appends a batch to the log, makes it durable and then visible.
    fn write(&mut self, mut batch: Batch) -> std::result::Result<(), Failure> {
        batch.flush_buffer();
        let Some(log) = &mut self.log else { return Ok(()) };
        if batch.slots.is_empty() {
            return Ok(());
        }
        let mut at = log.end;
        for piece in &batch.pieces {
            if let Err(error) = log.file.write_all_at(piece, at) {
                return Err(self.undo(error));
            }
            at += piece.len() as u64;
        }
        if self.core.config.durability == Durability::Strict {
            if let Err(error) = log.file.sync_data() {
                // The kernel forgets what it could not write: nothing that is written later could be trusted.
                self.core.report.fail(&error);
                return Err(Failure::Unknown(error));
            }
            log.synced = at;
        }
        log.end = at;
        Report::count(&self.core.report.commits, 1);
        let mut state = self.core.state.write();
        if let Some(log) = &mut state.log {
            batch.slots.into_iter().for_each(|slot| log.memory.add(slot));
            log.end = at;
        }
        Ok(())
    }

    /// Cuts off what was written of a batch.
    fn undo(&mut self, error: io::Error) -> Failure {
        let Some(log) = &self.log else { return Failure::Undone(error) };
        match log.file.set_len(log.end) {
            Ok(()) => Failure::Undone(error),
            Err(worse) => {
                self.core.report.fail(&worse);
                Failure::Unknown(error)
            }
        }
    }

    /// Forces to the disk what a relaxed commit left to the operating system.
    ///
    /// # Errors
    /// What the disk says; nothing is written after that.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.core.admit("flush")?;
        let Some(log) = &mut self.log else { return Ok(()) };
        if log.synced < log.end {
            if let Err(error) = log.file.sync_data() {
                self.core.report.fail(&error);
                return Err(system(&self.core.descriptor, "flush", "the log cannot be synced", error));
            }
            log.synced = log.end;
        }
        Ok(())
    }

    fn seal_if_full(&mut self) {
        if self.log.as_ref().is_some_and(|log| log.end >= log.full_at) {
            self.seal_or_go_on();
        }
    }

    /// Seals the log. If that fails it goes on as it is, and is tried again when it has grown by a quarter; nothing of
    /// what was acknowledged depends on it.
    fn seal_or_go_on(&mut self) {
        if let Err(error) = self.seal() {
            tracing::warn!(storage = self.core.descriptor.name(), %error, "a pack cannot be sealed now");
            let step = self.core.config.pack_size.0 / 4 + 1;
            if let Some(log) = &mut self.log {
                log.full_at = log.end + step;
            }
        }
    }

    /// Makes the log a sealed pack; the next change begins a new one.
    ///
    /// # Errors
    /// Why it cannot be sealed; the log is as it was then.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.flush()?;
        let Some(log) = &self.log else { return Ok(()) };
        let descriptor = Arc::clone(&self.core.descriptor);
        let fail = |error| system(&descriptor, "seal", "the pack cannot be sealed", error);
        let state = self.core.state.read();
        let Some((pack, start)) = state.log.as_ref().map(|log| (log.pack.clone(), log.start)) else {
            return Ok(());
        };
        drop(state);
        let tail = {
            let bytes = map(&log.file).map_err(fail)?;
            let len = usize::try_from(log.end).unwrap_or(usize::MAX).min(bytes.len());
            let extras =
                Extras { compression: self.core.config.compression.of_manifest(), ..Extras::default() };
            Tail::of(&bytes[..len], &pack, start, &extras)
        };
        let tail = tail.map_err(|(_, wrong)| damage(&descriptor, "seal", wrong))?;
        if let Err(error) = log.file.write_all_at(&tail.bytes, log.end) {
            let (Failure::Undone(error) | Failure::Unknown(error)) = self.undo(error);
            return Err(fail(error));
        }
        if let Err(error) = log.file.sync_data() {
            self.core.report.fail(&error);
            return Err(fail(error));
        }
        let root = crate::manifest::hex(&tail.seal.root);
        tracing::debug!(storage = descriptor.name(), %root, items = tail.seal.items, "sealed a pack");
        self.exchange()
    }

    /// Takes the file that was sealed into the packs.
    fn exchange(&mut self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let path = self.core.folder.pack(log.span);
        let opened = File::open(&path)
            .map_err(crate::fault::Fault::from)
            .and_then(|file| Sealed::open(&path, &file))
            .map_err(|fault| self.core.fault("seal", None, fault));
        match opened {
            Ok(Opened::Sealed(sealed)) => {
                let mut state = self.core.state.write();
                state.packs.push(sealed.into());
                state.log = None;
                self.log = None;
                Report::count(&self.core.report.sealed, 1);
                Ok(())
            }
            // It was written, and cannot be read: the log must not grow behind it.
            Ok(Opened::Unsealed) | Err(_) => {
                let error = io::Error::other("the pack that was just sealed cannot be read");
                self.core.report.fail(&error);
                Err(system(&self.core.descriptor, "seal", "the pack cannot be sealed", error))
            }
        }
    }

    /// The state of the packs, for work between two commits.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// How long the log is.
    pub(crate) fn log_len(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.end)
    }

    /// Ends writing: makes everything durable, seals a log that has grown long, and notes what must be there.
    ///
    /// # Errors
    /// What could not be made durable.
    pub(crate) fn close(mut self) -> Result<()> {
        if self.core.report.failure().is_some() {
            return Ok(());
        }
        self.flush().map_err(|error| error.again("close"))?;
        if self.log.as_ref().is_some_and(|log| log.end >= SEALED_AT_CLOSE) {
            self.seal_or_go_on();
        }
        let state = self.core.state.read();
        let Some(mark) = mark_of(&state) else { return Ok(()) };
        drop(state);
        if self.marked == Some(mark) {
            return Ok(());
        }
        match self.core.folder.set_mark(mark) {
            // Without it damage at the end of the log is found less surely; nothing is lost by that.
            Err(unmade) if is_full(&unmade.error) && !unmade.is_unsynced => Ok(()),
            result => result.map_err(|unmade| {
                system(&self.core.descriptor, "close", "the file `mark` cannot be written", unmade.error)
            }),
        }
    }
}

fn mark_of(state: &State) -> Option<Mark> {
    match (&state.log, state.packs.last()) {
        (Some(log), _) => Some(Mark { pack: log.span.last, log_len: log.end }),
        (None, Some(pack)) => Some(Mark { pack: pack.pack.last, log_len: pack.seal.index_at }),
        (None, None) => None,
    }
}
