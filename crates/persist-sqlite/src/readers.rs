//! The connections that read: a pool, from which a call on a worker thread takes one only if it is free.

use std::sync::Arc;

use parking_lot::RwLock;
use persist_core::{Descriptor, ErrorKind, Result, StorageError};
use r2d2::{Pool, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use scheduled_thread_pool::ScheduledThreadPool;

use crate::database::{Database, Role};

/// How many connections are opened at the start and kept at hand.
const AT_HAND: u32 = 2;

/// A connection on loan.
pub(crate) type Reader = PooledConnection<SqliteConnectionManager>;

/// The pool of connections that read.
#[derive(Debug)]
pub(crate) struct Readers {
    /// `None` once it was closed.
    pool: RwLock<Option<Pool<SqliteConnectionManager>>>,
    database: Arc<Database>,
    descriptor: Arc<Descriptor>,
}

impl Readers {
    /// Opens the first connections.
    ///
    /// # Errors
    /// Why they cannot be opened.
    pub(crate) fn open(database: &Arc<Database>, descriptor: &Arc<Descriptor>) -> Result<Self> {
        let config = database.config();
        let (uri, flags) = database.address(Role::Reader);
        let for_init = Arc::clone(database);
        let manager = SqliteConnectionManager::file(uri)
            .with_flags(flags)
            .with_init(move |connection| for_init.set_up(connection, Role::Reader));
        let threads =
            ScheduledThreadPool::builder().num_threads(1).thread_name_pattern("persist-sqlite").build();
        let pool = Pool::builder()
            .max_size(config.pool_size)
            .min_idle(Some(AT_HAND.min(config.pool_size)))
            .test_on_check_out(false)
            .max_lifetime(None)
            .connection_timeout(config.acquire_timeout.0)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .thread_pool(Arc::new(threads))
            .build(manager)
            .map_err(|error| {
                let message = format!("the connections that read cannot be opened: {error}");
                descriptor.error(ErrorKind::Unavailable, "open", message).with_source(error)
            })?;
        Ok(Self {
            pool: RwLock::new(Some(pool)),
            database: Arc::clone(database),
            descriptor: Arc::clone(descriptor),
        })
    }

    /// A connection, if one is free this moment.
    pub(crate) fn try_get(&self) -> Option<Reader> {
        let reader = self.pool.read().as_ref()?.try_get()?;
        self.database.budget(&reader).is_ok().then_some(reader)
    }

    /// A connection; waits for one.
    ///
    /// # Errors
    /// `Timeout` if none came free in time, `Closed`.
    pub(crate) fn get(&self, operation: &'static str) -> Result<Reader> {
        let pool = self.pool.read().clone();
        let Some(pool) = pool else { return Err(self.closed(operation)) };
        let reader = pool.get().map_err(|error| self.timeout(operation, error))?;
        self.database.budget(&reader).map_err(|error| {
            crate::error::sqlite(&self.descriptor, operation, "a connection cannot be set up", error)
        })?;
        Ok(reader)
    }

    /// Connections that are open, and those of them that are free.
    pub(crate) fn usage(&self) -> (u32, u32) {
        self.pool.read().as_ref().map_or((0, 0), |pool| {
            let state = pool.state();
            (state.connections, state.idle_connections)
        })
    }

    /// Closes all that are free now and the others as soon as they come back.
    pub(crate) fn close(&self) {
        drop(self.pool.write().take());
    }

    fn closed(&self, operation: &'static str) -> StorageError {
        match self.descriptor.admit(operation) {
            Err(error) => error,
            Ok(()) => self.descriptor.error(ErrorKind::Closed, operation, "the storage was closed"),
        }
    }

    fn timeout(&self, operation: &'static str, error: r2d2::Error) -> StorageError {
        let config = self.database.config();
        let message = format!(
            "none of {} connections came free in {} ({error}); raise pool_size or acquire_timeout, or read less at once",
            config.pool_size, config.acquire_timeout
        );
        self.descriptor.error(ErrorKind::Timeout, operation, message).with_source(error)
    }
}
