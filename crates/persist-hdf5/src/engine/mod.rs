//! What the thread that writes does with its file: changes, commits, checkpoints, and going back when one fails.

mod batch;
mod checkpoint;
mod compaction;
mod failure;
mod loading;
mod reading;
mod transfers;

use std::collections::HashSet;
use std::sync::Arc;

use persist_core::{Descriptor, ErrorKind, Result, StorageError};

use crate::config::Hdf5Config;
use crate::error::{library, system};
use crate::ffi::{H5Error, H5File};
use crate::medium::CommitError;
use crate::record::{FORMAT, Root};
use crate::report::Report;
use crate::site::Site;
use crate::state::Shared;
use crate::transfer::Transfers;

use failure::Failure;
use loading::load;

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
    /// Values that are on their way in.
    transfers: Transfers,
    /// What the file says of versions.
    floor: u64,
    log_limit: u64,
    compact_at: u8,
    /// How long the files are into which it is cut; `None`: it is one.
    max_file_size: Option<u64>,
    /// How much of the file held nothing after it was compacted the last time.
    unused: u64,
    /// Why the file cannot be compacted.
    odd: Option<&'static str>,
    /// How long the log may become before the next checkpoint: more, if a reader kept the last one from taking place.
    due_at: u64,
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
            transfers: Transfers::default(),
            floor: root.floor,
            log_limit: config.log_limit.0,
            compact_at: config.compact_at,
            max_file_size: config.max_file_size.map(|size| size.0),
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
        self.transfers.clear();
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
        self.transfers.clear();
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
