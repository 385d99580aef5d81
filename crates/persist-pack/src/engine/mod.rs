//! What the thread that writes does: applies changes, appends them to the log, makes them durable, seals the log.

mod batch;
mod sealing;
mod steps;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use persist_core::writing::{Answer, Done};
use persist_core::{Result, StorageError, Version};

use crate::change::{Change, Step};
use crate::core::{Core, Report};
use crate::fault::{is_full, system};
use crate::folder::{Lock, Mark, Span};
use crate::log::Log;
use crate::name::Names;
use crate::note::Role;
use crate::state::State;

use batch::{Appending, Batch, Failure};

/// A log of at least so many bytes is sealed at the end, so that the next opening need not read it.
const SEALED_AT_CLOSE: u64 = 4 << 20;

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Engine {
    core: Arc<Core>,
    log: Option<Appending>,
    /// The greatest version written.
    floor: u64,
    marked: Option<Mark>,
    /// For the records of the next batch.
    buffer: Vec<u8>,
    _lock: Lock,
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
        let mut engine = Self { core, log, floor, marked, buffer: Vec::new(), _lock: lock };
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
        for slot in log.memory.slots().chain(log.memory.contents.values()) {
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
        let mut batch = Batch::behind(self.log.as_ref(), std::mem::take(&mut self.buffer));
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
            Err(Failure::Undone(error)) if is_splittable(changes) && is_full(&error) => {
                changes.iter().map(|change| Ok(self.one_by_one(change))).collect()
            }
            Err(failure) => {
                let refuse = |change: &Change| Err(self.refused(change.operation, &failure));
                changes.iter().map(refuse).collect()
            }
        }
    }

    /// Makes the steps of a change each in a batch of its own.
    fn one_by_one(&mut self, change: &Change) -> Answer {
        let alone = |engine: &mut Self, step| -> Result<Done> {
            let mut batch = Batch::behind(engine.log.as_ref(), std::mem::take(&mut engine.buffer));
            let done = engine.apply_step(change.operation, step, &mut batch)?;
            engine.write(batch).map_err(|failure| engine.refused(change.operation, &failure))?;
            Ok(done)
        };
        change.steps.iter().map(|step| alone(self, step)).collect()
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
                self.core.report.poison.set(&unmade.error);
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
                answer.push(self.apply_step(change.operation, step, batch));
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

    fn apply_step(&mut self, operation: &'static str, step: &Step, batch: &mut Batch) -> Result<Done> {
        let stored = self.admit(operation, step, batch)?;
        let (done, plan) = self.plan(operation, step, &stored, batch)?;
        self.add(operation, plan.into_iter().collect(), batch)?;
        Ok(done)
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
                self.core.report.poison.set(&error);
                return Err(system(&self.core.descriptor, "flush", "the log cannot be synced", error));
            }
            log.synced = log.end;
        }
        Ok(())
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
        if self.core.report.poison.why().is_some() {
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

/// True for a change of several steps that succeed and fail each on its own.
fn is_splittable(changes: &[Change]) -> bool {
    matches!(changes, [change] if !change.together && change.steps.len() > 1)
}

fn mark_of(state: &State) -> Option<Mark> {
    match (&state.log, state.packs.last()) {
        (Some(log), _) => Some(Mark { pack: log.span.last, log_len: log.end }),
        (None, Some(pack)) => Some(Mark { pack: pack.pack.last, log_len: pack.seal.index_at }),
        (None, None) => None,
    }
}
