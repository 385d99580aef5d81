//! Watching: what this handle writes is told by the thread that writes; that others wrote is found by asking SQLite.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use parking_lot::Mutex;
use persist_core::{BaseStorage, ErrorKind, Event, Result, Watch, Watchers};
use rusqlite::Connection;
use tokio::time::{Instant, sleep_until};

use crate::SqliteStorage;
use crate::change::{Answer, Change, Done, Step};
use crate::database::Role;
use crate::error::sqlite;

/// How often a watcher asks whether somebody else has written. It costs a few microseconds.
const INTERVAL: Duration = Duration::from_millis(100);

/// Tells the watchers what became of changes, in their order, before they are acknowledged.
pub(crate) fn tell(watchers: &Watchers, changes: &[Change], answers: &[Result<Answer>]) {
    if !watchers.is_watched() {
        return;
    }
    for (change, answer) in changes.iter().zip(answers) {
        match answer {
            Ok(answer) => {
                for (step, done) in change.steps.iter().zip(answer) {
                    tell_step(watchers, step, done.as_ref().map_err(|error| error.outcome_unknown()));
                }
            }
            Err(error) if error.outcome_unknown() => watchers.lost(),
            Err(_) => {}
        }
    }
}

/// `done`: what the step did, or whether it is unknown if it did anything.
fn tell_step(watchers: &Watchers, step: &Step, done: std::result::Result<&Done, bool>) {
    match done {
        Ok(Done::Stored(metadata) | Done::Touched(Some(metadata))) => watchers.stored(step.key(), metadata),
        Ok(Done::Deleted(true)) => watchers.deleted(step.key()),
        Ok(Done::Deleted(false) | Done::Touched(None) | Done::Checked) | Err(false) => {}
        Err(true) => watchers.lost(),
    }
}

impl SqliteStorage {
    pub(crate) async fn watch_prefix(&self, prefix: &str) -> Result<Watch<'static>> {
        self.describe().admit_watch(prefix)?;
        let told = self.watchers().watch(prefix);
        let others = Others::new(self).await?;
        let looked = others.look(self).await?;
        let watching = Watching {
            storage: self.clone(),
            told,
            others,
            looked,
            look_at: Instant::now() + INTERVAL,
            failed: false,
        };
        let next =
            |mut watching: Watching| async move { watching.next().await.map(|event| (event, watching)) };
        Ok(Watch::new(stream::unfold(watching, next)))
    }
}

/// One watch.
struct Watching {
    storage: SqliteStorage,
    told: Watch<'static>,
    others: Others,
    /// What the last look found.
    looked: i64,
    look_at: Instant,
    /// The last look failed, and the watcher was told.
    failed: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            tokio::select! {
                event = self.told.next() => return event,
                () = sleep_until(self.look_at) => {}
            }
            self.look_at = Instant::now() + INTERVAL;
            match self.others.look(&self.storage).await {
                Ok(found) => {
                    self.failed = false;
                    if std::mem::replace(&mut self.looked, found) != found {
                        return Some(Ok(Event::Lost));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(error) if !std::mem::replace(&mut self.failed, true) => return Some(Err(error)),
                Err(_) => {}
            }
        }
    }
}

/// Where to ask whether others have written. SQLite's `data_version` changes with every commit but those of the
/// connection that asks.
enum Others {
    /// The connection that writes.
    Writer,
    /// One of its own, in a storage that only reads.
    Reader(Arc<Mutex<Connection>>),
}

impl Others {
    async fn new(storage: &SqliteStorage) -> Result<Self> {
        if storage.describe().capabilities().read_only {
            let connect = storage.look("watch", |inner| {
                let what = "no connection can be opened for the watch";
                inner
                    .database
                    .connect(Role::Reader)
                    .map_err(|error| sqlite(&inner.descriptor, "watch", what, error))
            });
            return Ok(Self::Reader(Arc::new(Mutex::new(connect.await?))));
        }
        Ok(Self::Writer)
    }

    async fn look(&self, storage: &SqliteStorage) -> Result<i64> {
        storage.describe().admit("watch")?;
        match self {
            Self::Writer => storage.writer("watch")?.task("watch", |engine| engine.data_version()).await,
            Self::Reader(connection) => {
                let connection = Arc::clone(connection);
                let look = move |inner: &crate::storage::Inner| {
                    let what = "the database cannot be read";
                    data_version(&connection.lock())
                        .map_err(|error| sqlite(&inner.descriptor, "watch", what, error))
                };
                storage.look("watch", look).await
            }
        }
    }
}

/// A number that differs from the last one if another connection has committed since.
///
/// # Errors
/// What SQLite says.
pub(crate) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row((), |row| row.get(0))
}
