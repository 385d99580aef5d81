//! SQLite without persist: what a service author writes by hand, from a bare connection to a thread that commits for all.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use parking_lot::Mutex;
use persist_bench_work::{Contender, Outcome};
use persist_core::Key;
use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Sync;

/// How many connections read beside the one that writes: what persist has unless told otherwise.
const READERS: usize = 8;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL)";
const STORE: &str = "INSERT INTO entries (key, value) VALUES (?1, ?2) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const RETRIEVE: &str = "SELECT value FROM entries WHERE key = ?1";
const PAGE: &str = "SELECT key FROM entries WHERE key > ?1 ORDER BY key LIMIT ?2";

/// How much is asked of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tuning {
    /// What most programs set: the write-ahead log, and to wait for a lock.
    Plain,
    /// Also a large cache, the file in memory and rarer checkpoints, as persist has them.
    Full,
}

fn set_up(connection: &Connection, sync: Sync, tuning: Tuning) -> rusqlite::Result<()> {
    let synchronous = match sync {
        Sync::Yes => "full",
        Sync::No => "normal",
    };
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "busy_timeout", 30_000)?;
    if tuning == Tuning::Full {
        connection.pragma_update(None, "cache_size", -32_000)?;
        connection.pragma_update(None, "mmap_size", 256 << 20)?;
        connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    }
    connection.execute_batch(TABLE)
}

fn open(folder: &Path, sync: Sync, tuning: Tuning) -> Outcome<Connection> {
    let connection = Connection::open(folder.join("entries.db"))?;
    set_up(&connection, sync, tuning)?;
    Ok(connection)
}

/// Copies the log into the database, so that reads find it at rest.
fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(truncate)", (), |_| Ok(()))
}

fn store(connection: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    connection.prepare_cached(STORE)?.execute((key, value)).map(drop)
}

fn store_all(connection: &mut Connection, items: &[(Key, Bytes)]) -> rusqlite::Result<()> {
    let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
    for (key, value) in items {
        store(&transaction, key, value)?;
    }
    transaction.commit()
}

fn retrieve(connection: &Connection, key: &str) -> rusqlite::Result<Option<Bytes>> {
    let mut statement = connection.prepare_cached(RETRIEVE)?;
    let found: Option<Vec<u8>> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(found.map(Bytes::from))
}

fn retrieve_all(connection: &Connection, keys: &[Key]) -> rusqlite::Result<Vec<Option<Bytes>>> {
    keys.iter().map(|key| retrieve(connection, key)).collect()
}

fn page(connection: &Connection, after: &str, limit: usize) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(PAGE)?;
    statement.query_map((after, limit), |row| row.get(0))?.collect()
}

/// Bare rusqlite on the caller's thread: prepared statements, each store a transaction of its own.
#[derive(Debug)]
pub(crate) struct Bare {
    writer: Mutex<Connection>,
    readers: Readers,
}

/// Connections of which a caller takes the first that is free.
#[derive(Debug)]
struct Readers(Vec<Mutex<Connection>>);

impl Readers {
    fn open(folder: &Path, sync: Sync) -> Outcome<Self> {
        let readers = (0..READERS).map(|_| Ok(Mutex::new(open(folder, sync, Tuning::Full)?)));
        readers.collect::<Outcome<_>>().map(Self)
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Outcome<T> {
        let free = self.0.iter().find_map(Mutex::try_lock);
        Ok(work(&free.unwrap_or_else(|| self.0[0].lock()))?)
    }
}

impl Bare {
    pub(crate) fn new(folder: &Path, sync: Sync) -> Outcome<Self> {
        let writer = Mutex::new(open(folder, sync, Tuning::Full)?);
        Ok(Self { writer, readers: Readers::open(folder, sync)? })
    }
}

impl Contender for Bare {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        Ok(store(&self.writer.lock(), key, value)?)
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        Ok(store_all(&mut self.writer.lock(), &items)?)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        self.readers.with(|connection| retrieve(connection, key))
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        self.readers.with(|connection| retrieve_all(connection, keys))
    }

    async fn settle(&self) -> Outcome<()> {
        Ok(settle(&self.readers.0[0].lock())?)
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        self.readers.with(|connection| page(connection, after.map_or("", Key::as_str), limit))
    }
}

type Stored = oneshot::Sender<Result<(), Arc<rusqlite::Error>>>;
type Waiting = (Vec<(Key, Bytes)>, Stored);

/// A bare loop that commits for all: one thread takes what has gathered, stores it in one transaction, answers.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    queue: Sender<Waiting>,
    readers: Readers,
}

impl GroupCommit {
    pub(crate) fn new(folder: &Path, sync: Sync) -> Outcome<Self> {
        let connection = open(folder, sync, Tuning::Full)?;
        let (queue, waiting) = channel();
        std::thread::spawn(move || commit_for_all(connection, &waiting));
        Ok(Self { queue, readers: Readers::open(folder, sync)? })
    }
}

fn commit_for_all(mut connection: Connection, queue: &Receiver<Waiting>) {
    while let Ok(first) = queue.recv() {
        let (items, replies): (Vec<_>, Vec<_>) = std::iter::once(first).chain(queue.try_iter()).unzip();
        let stored = store_all(&mut connection, &items.concat()).map_err(Arc::new);
        for reply in replies {
            let _ = reply.send(stored.clone());
        }
    }
}

impl Contender for GroupCommit {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.store_many(vec![(key.clone(), value.clone())]).await
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        let (reply, stored) = oneshot::channel();
        self.queue.send((items, reply)).map_err(|_| "the thread that writes ended")?;
        Ok(stored.await??)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        self.readers.with(|connection| retrieve(connection, key))
    }

    async fn settle(&self) -> Outcome<()> {
        Ok(settle(&self.readers.0[0].lock())?)
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        self.readers.with(|connection| page(connection, after.map_or("", Key::as_str), limit))
    }
}

/// A pool and `spawn_blocking` around each call: what most services have.
#[derive(Debug)]
pub(crate) struct Pooled(Pool<SqliteConnectionManager>);

impl Pooled {
    pub(crate) fn new(folder: &Path, sync: Sync) -> Outcome<Self> {
        drop(open(folder, sync, Tuning::Plain)?);
        let manager = SqliteConnectionManager::file(folder.join("entries.db"))
            .with_init(move |connection| set_up(connection, sync, Tuning::Plain));
        Ok(Self(Pool::builder().max_size(READERS as u32).build(manager)?))
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Outcome<T> {
        let pool = self.0.clone();
        spawn_blocking(move || Ok(work(&mut *pool.get()?)?)).await?
    }
}

impl Contender for Pooled {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        let (key, value) = (key.clone(), value.clone());
        self.with(move |connection| store(connection, &key, &value)).await
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        self.with(move |connection| store_all(connection, &items)).await
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        let key = key.clone();
        self.with(move |connection| retrieve(connection, &key)).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let keys = keys.to_vec();
        self.with(move |connection| retrieve_all(connection, &keys)).await
    }

    async fn settle(&self) -> Outcome<()> {
        self.with(|connection| settle(connection)).await
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let after = after.map_or("", Key::as_str).to_owned();
        self.with(move |connection| page(connection, &after, limit)).await
    }
}

/// tokio-rusqlite: one connection on a thread of its own.
#[derive(Debug)]
pub(crate) struct TokioRusqlite(tokio_rusqlite::Connection);

impl TokioRusqlite {
    pub(crate) async fn new(folder: &Path, sync: Sync) -> Outcome<Self> {
        let connection = tokio_rusqlite::Connection::open(folder.join("entries.db")).await?;
        connection.call(move |connection| set_up(connection, sync, Tuning::Plain)).await?;
        Ok(Self(connection))
    }
}

impl Contender for TokioRusqlite {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        let (key, value) = (key.clone(), value.clone());
        Ok(self.0.call(move |connection| store(connection, &key, &value)).await?)
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        Ok(self.0.call(move |connection| store_all(connection, &items)).await?)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        let key = key.clone();
        Ok(self.0.call(move |connection| retrieve(connection, &key)).await?)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let keys = keys.to_vec();
        Ok(self.0.call(move |connection| retrieve_all(connection, &keys)).await?)
    }

    async fn settle(&self) -> Outcome<()> {
        Ok(self.0.call(|connection| settle(connection)).await?)
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let after = after.map_or("", Key::as_str).to_owned();
        Ok(self.0.call(move |connection| page(connection, &after, limit)).await?)
    }
}
