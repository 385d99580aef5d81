//! What the thread that writes does with its connection: transactions, checkpoints, and refusing to go on after a sync
//! that failed.

use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use persist_core::writing::Answer;
use persist_core::{Descriptor, ErrorKind, Result, StorageError};
use rusqlite::config::DbConfig;
use rusqlite::ffi::ErrorCode;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, MAIN_DB};

use crate::apply::Transaction;
use crate::change::Change;
use crate::config::Durability;
use crate::database::{Database, Role};
use crate::error::{kind_of, sqlite, system};
use crate::watching::data_version;
use crate::writer::Report;

/// The longest pause between two attempts to write while another process does.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

thread_local! {
    /// How many pages the log held after the last commit of this thread.
    static LOG_PAGES: Cell<u64> = const { Cell::new(0) };
}

/// The connection that writes.
#[derive(Debug)]
pub(crate) struct Engine {
    connection: Connection,
    database: Arc<Database>,
    descriptor: Arc<Descriptor>,
    report: Arc<Report>,
    /// How many pages the log may hold before a checkpoint.
    log_limit: u64,
    /// How many it may hold before the next one: more, if a reader kept the last one from copying all.
    due_at: u64,
}

/// Why a transaction did not take place, or perhaps did.
enum Failure {
    /// Nothing of it did.
    Undone(rusqlite::Error),
    /// Nobody knows: the commit itself failed.
    Unknown(rusqlite::Error),
}

impl Engine {
    /// Opens the connection, checks the schema, and takes over what a process that died left in the log.
    ///
    /// # Errors
    /// Why the database cannot be opened for writing.
    pub(crate) fn open(
        database: &Arc<Database>,
        descriptor: &Arc<Descriptor>,
        report: &Arc<Report>,
    ) -> Result<Self> {
        let fail = |error| {
            let what = format!("the database {} cannot be opened for writing", database.path.display());
            sqlite(descriptor, "open", &what, error)
        };
        let connection = database.connect(Role::Writer).map_err(fail)?;
        // The log beside the path would be that of another file.
        if database.was_replaced() {
            let message = "the database was replaced by a restore while it was opened; open it again";
            return Err(descriptor.error(ErrorKind::Locked, "open", message));
        }
        database.check(&connection, descriptor)?;
        // The rights to the file were looked at before, so that only its header can say so.
        if connection.is_readonly(MAIN_DB).map_err(fail)? {
            return Err(database.forbids_writing(descriptor));
        }
        // That was the first read, which made the log. SQLite syncs its name too, but takes no notice if that fails.
        database.sync_folder().map_err(|error| system(descriptor, "open", "the folder of the log", error))?;
        connection.wal_hook(Some(note_log));
        let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(fail)?;
        // What a process left in the log when it died may not be on the disk. What is copied from there into the
        // database is, before anybody reads it.
        checkpoint(&connection, "passive").map_err(fail)?;
        // From here on this thread waits for other processes by itself; see `begin`.
        connection.busy_timeout(Duration::ZERO).map_err(fail)?;
        let log_limit = database.config().log_limit.0 / page.max(512);
        Ok(Self {
            connection,
            database: Arc::clone(database),
            descriptor: Arc::clone(descriptor),
            report: Arc::clone(report),
            log_limit,
            due_at: log_limit,
        })
    }

    /// A number that differs from the last one if somebody else has committed since.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn data_version(&self) -> Result<i64> {
        let what = "the database cannot be read";
        data_version(&self.connection).map_err(|error| sqlite(&self.descriptor, "watch", what, error))
    }

    /// Makes changes, all in one transaction if none of them fails, and answers each. Once the first ones are made,
    /// `more` is asked for others that may come along.
    pub(crate) fn commit(
        &mut self,
        changes: &mut Vec<Change>,
        more: &mut dyn FnMut() -> Option<Change>,
    ) -> Vec<Result<Answer>> {
        let made = self.together(changes, more);
        let changes = changes.as_slice();
        match made {
            Ok(answers) => answers,
            // One of them cannot be done: the others must not suffer from that.
            Err(Failure::Undone(error)) if changes.len() > 1 && !is_busy(&error) => {
                Report::count(&self.report.retried_batches, 1);
                changes.iter().map(|change| self.alone(change)).collect()
            }
            Err(Failure::Undone(error)) if is_splittable(changes) && !is_busy(&error) => {
                changes.iter().map(|change| self.alone(change)).collect()
            }
            Err(failure) => self.refuse(changes, failure),
        }
    }

    /// A change in a transaction of its own; if its steps do not belong together, each of them.
    fn alone(&mut self, change: &Change) -> Result<Answer> {
        if change.together || change.steps.len() < 2 {
            let answer = self.transaction(|transaction| transaction.apply(change));
            return answer.unwrap_or_else(|failure| Err(self.failed(change, failure)));
        }
        Ok((0..change.steps.len()).map(|at| self.step_alone(change, at)).collect())
    }

    fn step_alone(&mut self, change: &Change, at: usize) -> Result<persist_core::writing::Done> {
        let answer = self.transaction(|transaction| transaction.apply_step(change, at));
        answer.unwrap_or_else(|failure| Err(self.failed(change, failure)))
    }

    fn together(
        &mut self,
        changes: &mut Vec<Change>,
        more: &mut dyn FnMut() -> Option<Change>,
    ) -> std::result::Result<Vec<Result<Answer>>, Failure> {
        let answers = self.transaction(|transaction| {
            let mut answers = Vec::with_capacity(changes.len());
            loop {
                for change in &changes[answers.len()..] {
                    answers.push(transaction.apply(change)?);
                }
                match more() {
                    Some(change) => changes.push(change),
                    None => return Ok(answers),
                }
            }
        })?;
        let count = changes.len() as u64;
        Report::count(&self.report.changes, count);
        self.report.largest_batch.fetch_max(count, Ordering::Relaxed);
        Ok(answers)
    }

    /// Does some work in one transaction and commits it.
    pub(crate) fn transaction_of<T>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.report.poison.admit(&self.descriptor, operation)?;
        self.transaction(work).map_err(|failure| self.error(operation, failure))
    }

    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T>,
    ) -> std::result::Result<T, Failure> {
        self.begin().map_err(Failure::Undone)?;
        let done = Transaction::new(&self.connection, &self.descriptor).and_then(|mut transaction| {
            let done = work(&mut transaction)?;
            transaction.finish().map(|()| done)
        });
        let done = done.map_err(|error| self.undo(error))?;
        match self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(())) {
            Ok(_) => {
                Report::count(&self.report.commits, 1);
                Ok(done)
            }
            Err(error) => Err(self.judge(error)),
        }
    }

    /// Takes the right to write. SQLite's own way of waiting sleeps for up to 100 ms at a time, in which a busy process
    /// would let others starve.
    fn begin(&self) -> rusqlite::Result<()> {
        let deadline = Instant::now() + self.database.config().busy_timeout.0;
        let mut pause = Duration::from_micros(50);
        loop {
            let begun =
                self.connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute(()));
            match begun {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    Report::count(&self.report.busy_waits, 1);
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                result => return result.map(drop),
            }
        }
    }

    /// Rolls back after a statement that failed.
    fn undo(&self, error: rusqlite::Error) -> Failure {
        if !self.connection.is_autocommit()
            && let Err(worse) = self.connection.execute_batch("ROLLBACK")
        {
            self.report.poison.set(&worse);
        }
        Failure::Undone(error)
    }

    /// What a commit that failed means. A disk that is full refused the last page of the transaction, the one that
    /// makes it count. Any other error may have come after that page was written: then nobody knows, and since the
    /// kernel forgets what an fsync could not write, nothing that is written later could be trusted either.
    fn judge(&self, error: rusqlite::Error) -> Failure {
        let certain =
            matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy));
        if certain {
            return self.undo(error);
        }
        self.report.poison.set(&error);
        let (Failure::Undone(error) | Failure::Unknown(error)) = self.undo(error);
        Failure::Unknown(error)
    }

    fn refuse(&self, changes: &[Change], failure: Failure) -> Vec<Result<Answer>> {
        let Some((first, rest)) = changes.split_first() else { return Vec::new() };
        let error = self.failed(first, failure);
        let rest: Vec<_> = rest.iter().map(|change| Err(error.again(change.operation))).collect();
        std::iter::once(Err(error)).chain(rest).collect()
    }

    fn failed(&self, change: &Change, failure: Failure) -> StorageError {
        self.error(change.operation, failure)
    }

    fn error(&self, operation: &'static str, failure: Failure) -> StorageError {
        match failure {
            Failure::Undone(error) => sqlite(&self.descriptor, operation, "nothing was changed", error),
            Failure::Unknown(error) => {
                sqlite(&self.descriptor, operation, "the commit failed", error).with_outcome_unknown()
            }
        }
    }

    /// Copies the log into the database if it has grown long. The changes in it were acknowledged before.
    pub(crate) fn checkpoint_if_due(&mut self) {
        let pages = LOG_PAGES.get();
        if pages >= self.due_at && self.report.poison.why().is_none() {
            let complete = self.checkpoint("passive").unwrap_or(false);
            self.due_at = if complete { self.log_limit } else { pages + self.log_limit };
        }
    }

    /// Whether the log may hold something that is not in the database.
    pub(crate) fn has_log(&self) -> bool {
        LOG_PAGES.get() > 0
    }

    /// Copies the log into the database because there is nothing else to do.
    pub(crate) fn checkpoint_at_rest(&mut self) {
        if self.report.poison.why().is_none() && self.checkpoint("passive").unwrap_or(false) {
            LOG_PAGES.set(0);
            self.due_at = self.log_limit;
        }
    }

    /// Copies the log into the database as far as nobody reads older pages; with `truncate` the log is empty then,
    /// unless others hold it. True if all of it was copied.
    ///
    /// # Errors
    /// What the disk says; nothing is written after that.
    pub(crate) fn checkpoint(&mut self, mode: &str) -> Result<bool> {
        Report::count(&self.report.checkpoints, 1);
        match checkpoint(&self.connection, mode) {
            Ok(complete) => Ok(complete),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) => {
                if kind_of(&error) != ErrorKind::Capacity {
                    self.report.poison.set(&error);
                }
                Err(sqlite(&self.descriptor, "maintain", "the log cannot be copied into the database", error))
            }
        }
    }

    /// Does something with the connection that is no transaction of changes.
    ///
    /// # Errors
    /// `Unavailable` after a failure; what SQLite says.
    pub(crate) fn maintain<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.report.poison.admit(&self.descriptor, "maintain")?;
        work(&self.connection).map_err(|error| sqlite(&self.descriptor, "maintain", what, error))
    }

    /// Forces to the disk what a relaxed commit left to the operating system. The log is no file that SQLite holds a
    /// lock on, so that it may be opened and closed here.
    ///
    /// # Errors
    /// What the disk says; nothing is written after that.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.report.poison.admit(&self.descriptor, "flush")?;
        if self.database.config().durability == Durability::Strict {
            return Ok(());
        }
        match File::open(self.database.log()).and_then(|log| log.sync_all()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.report.poison.set(&error);
                Err(system(&self.descriptor, "flush", "the log", error))
            }
            _ => Ok(()),
        }
    }

    /// Ends the connection. After a failure the log is left as it is, for the next one to recover from.
    ///
    /// # Errors
    /// What could not be written.
    pub(crate) fn close(mut self) -> Result<()> {
        let copied = match self.report.poison.why() {
            None => self.checkpoint("truncate").map(drop),
            Some(_) => Ok(()),
        };
        if self.report.poison.why().is_some() {
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        let descriptor = self.descriptor;
        let closed = self
            .connection
            .close()
            .map_err(|(_, error)| sqlite(&descriptor, "close", "the database cannot be closed", error));
        // A full disk keeps the log from being copied, and nothing is lost by that: it stays.
        match copied {
            Err(error) if error.kind() != ErrorKind::Capacity => Err(error.with_operation("close")),
            _ => closed,
        }
    }
}

fn is_splittable(changes: &[Change]) -> bool {
    changes.iter().any(|change| !change.together && change.steps.len() > 1)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    kind_of(error) == ErrorKind::Locked
}

fn note_log(_: &Wal, pages: std::os::raw::c_int) -> rusqlite::Result<()> {
    LOG_PAGES.set(u64::try_from(pages).unwrap_or(0));
    Ok(())
}

/// True if nothing was left in the log that is not in the database.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<bool> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| {
        let (busy, logged, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && logged == copied)
    })
}
