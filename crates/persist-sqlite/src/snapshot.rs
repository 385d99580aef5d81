//! Copies of the whole database, made by SQLite's backup API while others write.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use persist_core::{
    BaseStorage, Consistency, Descriptor, OpenContext, Problem, Result, SnapshotSink, SnapshotSource,
    SnapshotSummary, StorageError, Verification,
};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteConfig;
use crate::database::{Database, Role, uri};
use crate::error::sqlite;
use crate::storage::SqliteStorage;

/// The database in a snapshot.
pub(crate) const FILE: &str = "persist.db";

/// How many pages are copied between two looks at whether the copy is still wanted.
const STEP: i32 = 1000;

/// How long to wait if the copy cannot go on, which nobody but a virus scanner should cause.
const PAUSE: Duration = Duration::from_millis(5);

impl SqliteStorage {
    /// Copies the database as it is at one moment, and reads the whole copy back.
    pub(crate) async fn copy_into(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.describe().admit("snapshot")?;
        let path = sink.file(FILE)?;
        // It lives as long as somebody waits for the copy.
        let wanted = Arc::new(());
        let (asked, to) = (Arc::downgrade(&wanted), path.clone());
        self.look("snapshot", move |inner| {
            copy(&inner.database, &inner.descriptor, &to, &asked).map_err(|error| match error {
                CopyError::Sqlite(error) => {
                    sqlite(&inner.descriptor, "snapshot", "the database cannot be copied", error)
                }
                CopyError::Ended(error) => error,
            })
        })
        .await?;
        let context = OpenContext { clock: Arc::clone(self.describe().clock()), ..OpenContext::default() };
        let report = check_copy(self.describe().name(), path, &context, "snapshot").await?.0;
        Ok(SnapshotSummary {
            keys: report.checked,
            bytes: report.bytes,
            consistency: Consistency::PointInTime,
        })
    }
}

/// Why there is no copy.
enum CopyError {
    Sqlite(rusqlite::Error),
    /// The storage was closed.
    Ended(StorageError),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn copy(
    database: &Database,
    descriptor: &Descriptor,
    to: &Path,
    wanted: &Weak<()>,
) -> std::result::Result<(), CopyError> {
    let source = database.connect(Role::Reader)?;
    // One view for the whole copy: it is of one moment, and changes meanwhile do not make it begin anew.
    let view = source.unchecked_transaction()?;
    view.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
    let mut target = new_file(to)?;
    let backup = Backup::new(&view, &mut target)?;
    loop {
        match backup.step(STEP)? {
            StepResult::Done => break,
            StepResult::More => {}
            _ => std::thread::sleep(PAUSE),
        }
        descriptor.admit("snapshot").map_err(CopyError::Ended)?;
        if wanted.strong_count() == 0 {
            return Ok(());
        }
    }
    drop(backup);
    Ok(target.close().map_err(|(_, error)| error)?)
}

/// An empty database without a journal: what is half done is thrown away, and who keeps the snapshot syncs it.
fn new_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags(uri(path, ""), flags)?;
    connection.execute_batch(
        "PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA locking_mode = exclusive",
    )?;
    Ok(connection)
}

/// Opens a copy that nobody changes: all of it is checked before anything else.
pub(crate) async fn open_copy(name: &str, path: PathBuf, context: &OpenContext) -> Result<SqliteStorage> {
    let context = OpenContext { base: PathBuf::new(), read_only: true, clock: Arc::clone(&context.clock) };
    SqliteStorage::open(name, SqliteConfig::new(path).untrusted(), &context).await
}

/// Checks the schema of a copy, SQLite's structures, and every value; says what was read, and how many values in it
/// have expired.
pub(crate) async fn check_copy(
    name: &str,
    path: PathBuf,
    context: &OpenContext,
    operation: &'static str,
) -> Result<(Verification, u64)> {
    let storage = open_copy(name, path, context).await?;
    let checked = async { Ok((storage.verify().await?, storage.stats().await?)) }.await;
    storage.close().await?;
    let (mut report, stats) = checked?;
    if !report.problems.is_empty() {
        return Err(error_of(storage.describe(), operation, report.problems.swap_remove(0)));
    }
    Ok((report, stats.counters.get("expired_keys").copied().unwrap_or_default()))
}

fn error_of(descriptor: &Descriptor, operation: &'static str, problem: Problem) -> StorageError {
    let error = descriptor.error(problem.kind, operation, problem.message);
    match problem.key {
        Some(key) => error.with_key(&key),
        None => error,
    }
}

/// Opens the database in a snapshot, if there is one.
pub(crate) async fn open_snapshot(
    name: &str,
    source: &dyn SnapshotSource,
    context: &OpenContext,
) -> Result<Option<SqliteStorage>> {
    match source.file(FILE) {
        Some(path) => open_copy(name, path, context).await.map(Some),
        None => Ok(None),
    }
}
