//! The connections that read: a pool, from which a call on a worker thread takes one only if it is free.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use persist_core::{Descriptor, ErrorKind, Result, StorageError};
use r2d2::{ManageConnection, Pool, PooledConnection};
use rusqlite::Connection;
use scheduled_thread_pool::{OnPoolDropBehavior, ScheduledThreadPool};

use crate::database::{Database, Role};

/// How many connections are opened at the start and kept at hand.
const AT_HAND: u32 = 2;

/// How long closing waits for connections that are on loan or just being opened.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection on loan.
pub(crate) type Reader = PooledConnection<Opener>;

/// The pool of connections that read.
#[derive(Debug)]
pub(crate) struct Readers {
    /// `None` once it was closed.
    pool: RwLock<Option<Pool<Opener>>>,
    open: Arc<Open>,
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
        // The pool would try again until its timeout, and say little of why.
        drop(database.connect(Role::Reader).map_err(|error| {
            let what = format!("the database {} cannot be opened for reading", database.path.display());
            crate::error::sqlite(descriptor, "open", &what, error)
        })?);
        let open = Arc::new(Open::default());
        let opener = Opener { database: Arc::clone(database), open: Arc::clone(&open) };
        // Without that its thread would outlive the pool by up to 30 s.
        let threads = ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("persist-sqlite")
            .on_drop_behavior(OnPoolDropBehavior::DiscardPendingScheduled)
            .build();
        let pool = Pool::builder()
            .max_size(config.pool_size)
            .min_idle(Some(AT_HAND.min(config.pool_size)))
            .test_on_check_out(false)
            .max_lifetime(None)
            .connection_timeout(config.acquire_timeout.0)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .thread_pool(Arc::new(threads))
            .build(opener)
            .map_err(|error| {
                let message = format!("the connections that read cannot be opened: {error}");
                descriptor.error(ErrorKind::Unavailable, "open", message).with_source(error)
            })?;
        Ok(Self {
            pool: RwLock::new(Some(pool)),
            open,
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

    /// Closes all that are free now and the others as soon as they come back, and waits a little for those: whoever
    /// closes the last connection removes the log, which only the one that writes can do.
    pub(crate) fn close(&self) {
        drop(self.pool.write().take());
        self.open.wait(PATIENCE);
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

/// Opens connections for the pool, which does so on a thread of its own.
#[derive(Debug)]
pub(crate) struct Opener {
    database: Arc<Database>,
    open: Arc<Open>,
}

impl ManageConnection for Opener {
    type Connection = Counted;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<Counted> {
        let token = Token::new(&self.open);
        let connection = self.database.connect(Role::Reader)?;
        Ok(Counted { connection, _token: token })
    }

    fn is_valid(&self, _: &mut Counted) -> rusqlite::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Counted) -> bool {
        false
    }
}

/// A connection that is counted as long as it is open.
#[derive(Debug)]
pub(crate) struct Counted {
    connection: Connection,
    /// The last field: what is dropped after the connection.
    _token: Token,
}

impl Deref for Counted {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// How many connections are open or being opened.
#[derive(Debug, Default)]
struct Open {
    count: Mutex<usize>,
    none: Condvar,
}

impl Open {
    /// Waits until there are none, at most so long.
    fn wait(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut count = self.count.lock();
        while *count > 0 && !self.none.wait_until(&mut count, end).timed_out() {}
    }
}

#[derive(Debug)]
struct Token(Arc<Open>);

impl Token {
    fn new(open: &Arc<Open>) -> Self {
        *open.count.lock() += 1;
        Self(Arc::clone(open))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.none.notify_all();
    }
}
