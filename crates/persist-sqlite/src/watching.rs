//! Watching: what this handle writes is told by the thread that writes; that others wrote is found by asking SQLite.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use persist_core::{BaseStorage, Result, Watch, watch_and_look};
use rusqlite::Connection;

use crate::SqliteStorage;
use crate::database::Role;
use crate::error::sqlite;

/// How often a watcher asks whether somebody else has written. It costs a few microseconds.
const INTERVAL: Duration = Duration::from_millis(100);

impl SqliteStorage {
    pub(crate) async fn watch_prefix(&self, prefix: &str) -> Result<Watch<'static>> {
        self.describe().admit_watch(prefix)?;
        let told = self.watchers().watch(prefix);
        let others = Arc::new(Others::new(self).await?);
        let looked = Arc::new(AtomicI64::new(others.look(self).await?));
        let storage = self.clone();
        let look = move || {
            let (storage, others, looked) = (storage.clone(), Arc::clone(&others), Arc::clone(&looked));
            async move {
                let found = others.look(&storage).await?;
                Ok(looked.swap(found, Ordering::Relaxed) != found)
            }
            .boxed()
        };
        Ok(watch_and_look(told, INTERVAL, look))
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
