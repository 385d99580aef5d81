//! What the thread that writes does with its file: changes, commits, checkpoints, and going back when one fails.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use persist_core::{Descriptor, ErrorKind, Result, StorageError};

use crate::apply::Transaction;
use crate::change::{Answer, Change, Done};
use crate::compaction::{Compacted, Fresh, build, install, is_due, unused};
use crate::config::Hdf5Config;
use crate::error::{library, system};
use crate::fetch::{Fetched, fetch_own};
use crate::ffi::{H5Error, H5File};
use crate::foreign::{self, ForeignError};
use crate::medium::CommitError;
use crate::record::{FORMAT, Record, Root, State};
use crate::report::Report;
use crate::scan::{Found, scan};
use crate::site::{Site, compacting, remove_if_there};
use crate::state::Shared;

/// How often closing tries to copy the log into a file that others read, and how long it waits between.
const PATIENCE: u32 = 20;
const MOMENT: Duration = Duration::from_millis(10);

/// The library's view of the file, and all that changes it.
#[derive(Debug)]
pub(crate) struct Engine {
    site: Site,
    /// `None`: it could not be opened again after a failure, or it is closed.
    file: Option<H5File>,
    shared: Arc<Shared>,
    /// The groups in the file.
    groups: HashSet<String>,
    /// Where something lies that is neither a dataset nor a group.
    others: HashSet<String>,
    /// What the file says of versions.
    floor: u64,
    log_limit: u64,
    compact_at: u8,
    /// How much of the file held nothing after it was compacted the last time.
    unused: u64,
    /// Why the file cannot be compacted.
    odd: Option<&'static str>,
    /// How long the log may become before the next checkpoint: more, if a reader kept the last one from taking place.
    due_at: u64,
}

/// Why changes did not take place, or perhaps did.
pub(crate) enum Failure {
    /// Nothing of them did.
    Undone(StorageError),
    /// Nobody knows.
    Unknown(StorageError),
}

impl Engine {
    /// Opens the file, takes over what a process that died left in the log, and finds all keys.
    ///
    /// # Errors
    /// `Corruption` and `Unsupported` of the file; what the library and the disk say.
    pub(crate) fn open(descriptor: &Arc<Descriptor>, site: Site, config: &Hdf5Config) -> Result<Self> {
        let (file, root, found) = load(descriptor, &site).inspect_err(|_| site.tidy())?;
        let shared = Arc::new(Shared::new(Arc::clone(descriptor), Arc::clone(&site.medium)));
        shared.index.write().apply(found.records);
        let mut engine = Self {
            site,
            file: Some(file),
            shared,
            groups: found.groups,
            others: found.others,
            floor: root.floor,
            log_limit: config.log_limit.0,
            compact_at: config.compact_at,
            unused: 0,
            odd: found.odd,
            due_at: config.log_limit.0,
        };
        engine.begin()?;
        Ok(engine)
    }

    /// A new file is complete before anything is stored in it, and so is one that was left with a log.
    fn begin(&mut self) -> Result<()> {
        if !self.site.is_writable() {
            return Ok(());
        }
        if self.site.is_new {
            let made = self.write_root(0).and_then(|()| self.seal());
            made.map_err(|failure| failure.error("open"))?;
        }
        match self.checkpoint() {
            // The log has all of it, and a full disk may be emptied.
            Err(error)
                if error.kind() == ErrorKind::Capacity
                    && !self.site.is_new
                    && self.report().failure().is_none() =>
            {
                Ok(())
            }
            Err(error) => Err(error.with_operation("open")),
            Ok(_) => Ok(()),
        }
    }

    /// What it shares with those who read.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn report(&self) -> &Report {
        &self.shared.report
    }

    fn descriptor(&self) -> &Descriptor {
        &self.shared.descriptor
    }

    /// Makes changes, all in one commit if none of them fails, and answers each.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Vec<Result<Answer>> {
        match self.together(changes) {
            Ok(answers) => answers,
            // One of them cannot be done: the others must not suffer from that.
            Err(Failure::Undone(error)) if changes.len() > 1 && may_be_one_of_them(&error) => {
                Report::count(&self.report().retried_batches, 1);
                changes.iter().map(|change| self.alone(change)).collect()
            }
            Err(Failure::Undone(error)) if is_splittable(changes) && may_be_one_of_them(&error) => {
                changes.iter().map(|change| self.alone(change)).collect()
            }
            Err(failure) => refuse(changes, failure),
        }
    }

    /// A change in a commit of its own; if its steps do not belong together, each of them.
    fn alone(&mut self, change: &Change) -> Result<Answer> {
        if change.together || change.steps.len() < 2 {
            return match self.together(std::slice::from_ref(change)) {
                Ok(mut answers) => answers.pop().unwrap_or_else(|| Ok(Vec::new())),
                Err(failure) => Err(failure.error(change.operation)),
            };
        }
        Ok((0..change.steps.len()).map(|at| self.step_alone(change, at)).collect())
    }

    fn step_alone(&mut self, change: &Change, at: usize) -> Result<Done> {
        let answer = self.transaction(change.operation, |transaction| transaction.apply_step(change, at));
        answer.unwrap_or_else(|failure| Err(failure.error(change.operation)))
    }

    fn together(&mut self, changes: &[Change]) -> std::result::Result<Vec<Result<Answer>>, Failure> {
        let operation = changes.first().map_or("store", |change| change.operation);
        let answers = self.transaction(operation, |transaction| {
            changes.iter().map(|change| transaction.apply(change)).collect::<Result<Vec<_>, _>>()
        })?;
        let count = changes.len() as u64;
        Report::count(&self.report().changes, count);
        self.report().largest_batch.fetch_max(count, Ordering::Relaxed);
        Ok(answers)
    }

    /// Does some work in one commit.
    fn transaction<T>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<T, H5Error>,
    ) -> std::result::Result<T, Failure> {
        self.report().admit(&self.shared.descriptor, operation).map_err(Failure::Undone)?;
        let Some(file) = &self.file else { return Err(Failure::Undone(self.ended(operation))) };
        let mut transaction =
            Transaction::new(file, &self.shared, &mut self.groups, &self.others, self.floor);
        let done = work(&mut transaction);
        let changed = transaction.finish();
        let done = done.map_err(|error| self.undo(operation, error, &changed.regrouped))?;
        if changed.staged.is_empty() && changed.floor == self.floor {
            return Ok(done);
        }
        let sealed = match changed.floor > self.floor {
            true => self.write_root(changed.floor),
            false => Ok(()),
        };
        sealed.and_then(|()| self.flush()).map_err(|failure| self.give_up(failure, &changed.regrouped))?;
        {
            let shared = Arc::clone(&self.shared);
            let mut index = shared.index.write();
            self.site.session.lock().publish();
            index.apply(changed.staged);
        }
        self.floor = changed.floor;
        Report::count(&self.report().commits, 1);
        self.note_log();
        Ok(done)
    }

    /// Makes durable what the library has changed. Readers see it with `publish`.
    fn flush(&mut self) -> std::result::Result<(), Failure> {
        let Some(file) = &self.file else { return Err(Failure::Undone(self.ended("store"))) };
        if let Err(error) = file.flush() {
            return Err(Failure::Undone(self.library_error("store", "cannot write", error)));
        }
        let committed = self.site.session.lock().commit();
        committed.map_err(|error| self.judge(error))
    }

    fn seal(&mut self) -> std::result::Result<(), Failure> {
        self.flush()?;
        self.site.session.lock().publish();
        Ok(())
    }

    /// What a commit that failed means. If writing the log failed, what was written of it does not count. If a sync failed,
    /// nobody knows, and since the kernel forgets what it could not write, nothing written later could be trusted either.
    fn judge(&self, error: CommitError) -> Failure {
        let descriptor = self.descriptor();
        match error {
            CommitError::Undone(error) => Failure::Undone(system(
                descriptor,
                "store",
                "nothing was changed; the log cannot be written",
                error,
            )),
            CommitError::Sync(error) => {
                self.report().fail(&error);
                Failure::Unknown(
                    system(descriptor, "store", "the commit failed", error).with_outcome_unknown(),
                )
            }
            CommitError::Taken => {
                let message = "another program has opened the file for writing; close it there, then open the storage again";
                self.report().fail(&message);
                Failure::Undone(descriptor.error(ErrorKind::Locked, "store", message))
            }
        }
    }

    fn undo(&mut self, operation: &'static str, error: H5Error, regrouped: &[(String, bool)]) -> Failure {
        let error = self.library_error(operation, "nothing was changed", error);
        self.give_up(Failure::Undone(error), regrouped)
    }

    /// Goes back to the last commit: the library closes the file, what it writes meanwhile is forgotten, and the file is
    /// opened as it was.
    fn give_up(&mut self, failure: Failure, regrouped: &[(String, bool)]) -> Failure {
        for (group, added) in regrouped.iter().rev() {
            match added {
                true => self.groups.remove(group),
                false => self.groups.insert(group.clone()),
            };
        }
        self.site.session.lock().forget();
        if let Some(file) = self.file.take() {
            // What it says was said before.
            let _ = file.close();
        }
        self.site.session.lock().roll_back();
        match H5File::open(&self.site.session, true) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.report().fail(&error),
        }
        failure
    }

    fn library_error(&self, operation: &'static str, what: &str, error: H5Error) -> StorageError {
        let disk = self.site.session.lock().take_failure();
        library(self.descriptor(), operation, what, error, disk)
    }

    fn ended(&self, operation: &'static str) -> StorageError {
        let message = "the file could not be opened again after a failure; open the storage again";
        self.descriptor().error(ErrorKind::Unavailable, operation, message)
    }

    fn write_root(&mut self, floor: u64) -> std::result::Result<(), Failure> {
        let Some(file) = &self.file else { return Err(Failure::Undone(self.ended("store"))) };
        let text = serde_json::to_string(&Root { format: FORMAT, floor }).unwrap_or_default();
        file.set_record(&text)
            .map_err(|error| Failure::Undone(self.library_error("store", "cannot write", error)))
    }

    fn note_log(&self) {
        let bytes = self.site.session.lock().log_bytes();
        self.report().log_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Copies the log into the file if it has grown long.
    pub(crate) fn checkpoint_if_due(&mut self) {
        if self.report().log_bytes.load(Ordering::Relaxed) < self.due_at || self.report().failure().is_some()
        {
            return;
        }
        let complete = self.checkpoint().unwrap_or(false);
        let bytes = self.report().log_bytes.load(Ordering::Relaxed);
        self.due_at = if complete { self.log_limit } else { bytes + self.log_limit };
    }

    /// True if the file lacks something that was committed, and it may be put there.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.site.is_writable() && self.report().failure().is_none() && !self.site.session.lock().is_settled()
    }

    /// Copies the log into the file, unless another process reads it; true if the file is complete then.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn checkpoint(&mut self) -> Result<bool> {
        let free = self.free_places();
        if self.site.session.lock().is_settled() {
            return Ok(true);
        }
        let done = self.site.session.lock().checkpoint(&free, self.log_limit);
        *self.report().trouble.lock() = done.as_ref().err().map(ToString::to_string);
        self.note_log();
        match done {
            Ok(complete) => {
                let counter =
                    if complete { &self.report().checkpoints } else { &self.report().delayed_checkpoints };
                Report::count(counter, 1);
                Ok(complete)
            }
            Err(CommitError::Undone(error)) => {
                Err(system(self.descriptor(), "maintain", "the log cannot be copied into the file", error))
            }
            Err(error) => Err(self.judge(error).error("maintain")),
        }
    }

    /// The same, with some patience for somebody who reads for a moment only.
    fn last_checkpoint(&mut self) -> Result<bool> {
        for _ in 0..PATIENCE {
            if self.checkpoint()? {
                return Ok(true);
            }
            std::thread::sleep(MOMENT);
        }
        self.checkpoint()
    }

    /// Places that hold nothing; an answer is not needed, it only saves a second writing.
    fn free_places(&self) -> Vec<Range<u64>> {
        self.file.as_ref().and_then(|file| file.free_places().ok()).unwrap_or_default()
    }

    /// Compacts the file if much of it holds nothing.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub(crate) fn compact_if_due(&mut self) -> Result<Option<Compacted>> {
        let (end, unused) = self.room();
        match is_due(end, unused, self.unused, self.compact_at) {
            true => self.compact().map(Some),
            false => Ok(None),
        }
    }

    /// How long the file is, and about how much of it holds nothing.
    fn room(&self) -> (u64, u64) {
        let index = self.shared.index.read();
        let (end, (keys, bytes)) = (index.medium().end(), index.size());
        (end, unused(end, keys, bytes))
    }

    /// Writes everything into a new file, which takes the place of the old one.
    ///
    /// # Errors
    /// What the library and the disk say; the old file stays then.
    pub(crate) fn compact(&mut self) -> Result<Compacted> {
        self.report().admit(&self.shared.descriptor, "maintain")?;
        // The log is the old file's: nothing of it may be left.
        if !self.checkpoint()? {
            return Ok(Compacted::Busy);
        }
        if let Some(why) = self.odd {
            return Ok(Compacted::Refused(why));
        }
        let Some(old) = &self.file else { return Err(self.ended("maintain")) };
        let before = self.site.medium.end();
        let Fresh { medium, session, file, found } = build(&self.shared.descriptor, &self.site, old)?;
        let moved = self.shared.index.read().moved(Arc::clone(&medium), found.records);
        let Some(index) = moved else {
            drop(file);
            let _ = remove_if_there(&compacting(&self.site.path));
            return Ok(Compacted::Refused("the copy is not the same; `verify` says what is damaged"));
        };
        install(&self.site.path).map_err(|error| {
            // Whether the new file has the name is unknown, and so is which of the two the next change belongs to.
            self.report().fail(&error);
            system(
                self.descriptor(),
                "maintain",
                "the compacted file cannot take the place of the old one",
                error,
            )
        })?;
        session.lock().take_log(&mut self.site.session.lock());
        self.site.session.lock().forget();
        *self.shared.index.write() = index;
        drop(self.file.replace(file));
        self.site.medium.release();
        (self.site.medium, self.site.session) = (medium, session);
        self.groups = found.groups;
        self.unused = self.room().1;
        Report::count(&self.report().compactions, 1);
        Ok(Compacted::Done { before, after: self.site.medium.end() })
    }

    /// Forces to the disk what a relaxed commit left to the operating system.
    ///
    /// # Errors
    /// What the disk says; nothing is written after that.
    pub(crate) fn force(&mut self) -> Result<()> {
        if !self.site.is_writable() {
            return Ok(());
        }
        self.report().admit(self.descriptor(), "flush")?;
        let synced = self.site.session.lock().sync();
        synced.map_err(|error| self.judge(error).error("flush"))
    }

    /// Reads a value through the library, or the part of an array that lies within some axes.
    ///
    /// # Errors
    /// `Corruption`; `Unsupported` for what is no value.
    pub(crate) fn fetch(
        &mut self,
        operation: &'static str,
        record: &Record,
        part: Option<&[Range<usize>]>,
    ) -> Result<Fetched> {
        let Some(file) = &self.file else { return Err(self.ended(operation)) };
        let limit = self.descriptor().max_value_bytes();
        let value = file.dataset(&record.path).map_err(ForeignError::from).and_then(|dataset| {
            Ok(match &record.state {
                State::Sound(metadata, form) => fetch_own(&dataset, form, metadata.size, part)?,
                State::Foreign | State::Damaged(_) => Fetched::Value(foreign::read(&dataset, limit)?),
            })
        });
        value.map_err(|error| match error {
            ForeignError::Library(error) => self.library_error(operation, "cannot read the dataset", error),
            ForeignError::Unsupported(why) => {
                let message = format!(
                    "the dataset {} cannot be read as a value: {why}; read it with another tool",
                    record.path
                );
                self.descriptor().error(ErrorKind::Unsupported, operation, message)
            }
            ForeignError::TooLarge(bytes) => {
                let message = format!(
                    "the dataset {} has {bytes} bytes, and {limit} are allowed; raise max_value",
                    record.path
                );
                self.descriptor().error(ErrorKind::TooLarge, operation, message)
            }
        })
    }

    /// Ends it. What was committed is copied into the file, unless another process reads it; after a failure the log is left
    /// as it is, for the next one to recover from.
    ///
    /// # Errors
    /// What could not be written.
    pub(crate) fn close(mut self) -> Result<()> {
        let ended = self.end();
        // Those who still hold the storage do not keep others from the file.
        self.site.medium.release();
        ended
    }

    fn end(&mut self) -> Result<()> {
        let sound = self.report().admit(self.descriptor(), "close");
        if !self.site.is_writable() || sound.is_err() {
            self.site.session.lock().forget();
            drop(self.file.take());
            return sound;
        }
        // The last commit left a complete file. What the library writes when it closes one only gives back some bytes at its end.
        self.site.session.lock().forget();
        let closed = self.file.take().map_or(Ok(()), H5File::close);
        closed.map_err(|error| self.library_error("close", "cannot close the file", error))?;
        self.site.session.lock().roll_back();
        match self.last_checkpoint() {
            Ok(true) => {
                self.site.remove_log().map_err(|error| system(self.descriptor(), "close", "the log", error))
            }
            Ok(false) => Ok(()),
            // A full disk keeps the log from being copied, and nothing is lost by that: it stays.
            Err(error) if error.kind() == ErrorKind::Capacity && self.report().failure().is_none() => Ok(()),
            Err(error) => Err(error.with_operation("close")),
        }
    }
}

impl Failure {
    /// The error to answer with.
    pub(crate) fn error(self, operation: &'static str) -> StorageError {
        match self {
            Self::Undone(error) | Self::Unknown(error) => error.with_operation(operation),
        }
    }
}

fn refuse(changes: &[Change], failure: Failure) -> Vec<Result<Answer>> {
    let Some((first, rest)) = changes.split_first() else { return Vec::new() };
    let error = failure.error(first.operation);
    let rest: Vec<_> = rest.iter().map(|change| Err(error.again(change.operation))).collect();
    std::iter::once(Err(error)).chain(rest).collect()
}

/// True unless the disk fails whatever is written: then each of them would only fail by itself.
fn may_be_one_of_them(error: &StorageError) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::AccessDenied | ErrorKind::ReadOnly)
}

fn is_splittable(changes: &[Change]) -> bool {
    changes.iter().any(|change| !change.together && change.steps.len() > 1)
}

/// Opens the file, and finds all that is in it.
fn load(descriptor: &Descriptor, site: &Site) -> Result<(H5File, Root, Found)> {
    let session = &site.session;
    let fail = |error: H5Error| {
        let disk = session.lock().take_failure();
        library(descriptor, "open", &format!("cannot open {}", site.path.display()), error, disk)
    };
    let file = match site.is_new {
        true => H5File::create(session),
        false => H5File::open(session, site.is_writable()),
    };
    let file = file.map_err(fail)?;
    let root = read_root(descriptor, site, &file)?;
    let found = scan(&file).map_err(fail)?;
    Ok((file, root, found))
}

/// Reads what the file says of itself; a file that somebody else made says nothing.
fn read_root(descriptor: &Descriptor, site: &Site, file: &H5File) -> Result<Root> {
    let none = Root { format: FORMAT, floor: 0 };
    let read = file.record().map_err(|error| {
        let disk = site.session.lock().take_failure();
        library(descriptor, "open", &format!("cannot open {}", site.path.display()), error, disk)
    })?;
    let Some(text) = read else { return Ok(none) };
    let root: Root = serde_json::from_slice(&text).map_err(|error| {
        let message = format!(
            "the attribute `persist` of the root of {} cannot be read ({error}); restore the file from a backup",
            site.path.display()
        );
        descriptor.error(ErrorKind::Corruption, "open", message)
    })?;
    if root.format > FORMAT {
        let message = format!(
            "{} has format {}, and this persist knows formats up to {FORMAT}; use a newer persist",
            site.path.display(),
            root.format
        );
        return Err(descriptor.error(ErrorKind::Unsupported, "open", message));
    }
    Ok(root)
}
