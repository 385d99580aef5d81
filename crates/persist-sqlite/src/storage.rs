use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::writing::{Done, delete_in_batches, store_in_batches};
use persist_core::{
    Backend, BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, Key,
    ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome, Page, Restored, Result,
    SnapshotSink, SnapshotSource, SnapshotSummary, Stats, StorageError, StoreItem, StoreOptions, Value,
    Verification, Watch, Watchers,
};
use rusqlite::Connection;

use crate::bulk::Bulk;
use crate::change::{Change, Draft, Step};
use crate::config::SqliteConfig;
use crate::database::Database;
use crate::error::{damage, sqlite};
use crate::maintenance;
use crate::query::{self, INLINE_BYTES, Listing, QueryError, Reach};
use crate::readers::Readers;
use crate::restore::restore;
use crate::row::RowError;
use crate::snapshot::open_snapshot;
use crate::writer::{self, Report, Writer};

/// How many keys of a `retrieve_many` share a thread.
const BATCH: usize = 4096;

/// A SQLite database as a storage. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct SqliteStorage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) database: Arc<Database>,
    readers: Readers,
    /// `None`: open for reading only.
    writer: Option<Writer>,
    report: Arc<Report>,
    watchers: Watchers,
}

impl SqliteStorage {
    /// Opens the database; makes it unless it is opened for reading only.
    ///
    /// # Errors
    /// `InvalidConfig` if it is to be read and is not there, or belongs to another program; `Unsupported` if a newer
    /// persist wrote it; `Corruption`, `AccessDenied`, `Locked`, and what the disk says.
    pub async fn open(name: &str, config: SqliteConfig, context: &OpenContext) -> Result<Self> {
        let (name, context) = (name.to_owned(), context.clone());
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&name, config, &context));
        opened.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation("open")))
    }

    fn open_blocking(name: &str, mut config: SqliteConfig, context: &OpenContext) -> Result<Self> {
        config.read_only |= context.read_only || config.untrusted;
        let descriptor = Arc::new(describe(name, &config, context));
        config.check().map_err(|message| descriptor.error(ErrorKind::InvalidConfig, "open", message))?;
        let path = context.resolve(&config.path);
        loop {
            let database = Arc::new(Database::find(path.clone(), config.clone(), &descriptor)?);
            let opened = Inner::open(Arc::clone(&descriptor), Arc::clone(&database));
            // A restore may have exchanged the file while this waited for its lock.
            if !database.was_replaced() {
                return opened.map(|inner| Self { inner: Arc::new(inner) });
            }
        }
    }

    pub(crate) fn watchers(&self) -> &Watchers {
        &self.inner.watchers
    }

    pub(crate) fn writer(&self, operation: &'static str) -> Result<&Writer> {
        self.describe().admit_change(operation)?;
        self.inner.writer.as_ref().ok_or_else(|| {
            self.describe().error(ErrorKind::Internal, operation, "there is no connection that writes")
        })
    }

    /// Reads: on this thread if a connection is free and the answer is quick, else where it may take its time.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: Option<&Key>,
        query: impl Fn(&Connection, Reach) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T> {
        if let Some(reader) = self.inner.readers.try_get() {
            match query(&reader, Reach::Inline) {
                Err(QueryError::TooLong) => {}
                result => {
                    self.inner.check_unchanged(operation)?;
                    return result.map_err(|error| self.inner.query_error(operation, key, error));
                }
            }
        }
        let key = key.cloned();
        self.look(operation, move |inner| {
            let reader = inner.readers.get(operation)?;
            query(&reader, Reach::Patient).map_err(|error| inner.query_error(operation, key.as_ref(), error))
        })
        .await
    }

    /// Reads on a thread that may be held up.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.patient(operation, move |inner| {
            let result = work(inner);
            inner.check_unchanged(operation)?;
            result
        })
        .await
    }

    /// Runs something on a thread that may be held up.
    async fn patient<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || work(&inner));
        task.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation(operation)))
    }

    /// Prepares steps: on this thread if there is little to hash.
    pub(crate) async fn prepare(
        &self,
        operation: &'static str,
        bytes: u64,
        prepare: impl FnOnce(&Descriptor) -> Vec<Step> + Send + 'static,
    ) -> Result<Vec<Step>> {
        if bytes <= INLINE_BYTES {
            return Ok(prepare(self.describe()));
        }
        self.patient(operation, move |inner| Ok(prepare(&inner.descriptor))).await
    }
}

impl Inner {
    fn open(descriptor: Arc<Descriptor>, database: Arc<Database>) -> Result<Self> {
        let (watchers, report) = (Watchers::new(), Arc::default());
        let writer = match database.config().read_only {
            true => None,
            false => Some(writer::start(&database, &descriptor, &report, &watchers)?),
        };
        let readers = Readers::open(&database, &descriptor)?;
        if writer.is_none() {
            database.check(&*readers.get("open")?, &descriptor)?;
        }
        Ok(Self { descriptor, database, readers, writer, report, watchers })
    }

    fn check_unchanged(&self, operation: &'static str) -> Result<()> {
        self.database.check_unchanged(&self.descriptor, operation)
    }

    fn query_error(&self, operation: &'static str, key: Option<&Key>, error: QueryError) -> StorageError {
        let error = match error {
            QueryError::Row(RowError::Sqlite(error)) => {
                sqlite(&self.descriptor, operation, "the database cannot be read", error)
            }
            QueryError::Row(RowError::Damage(what)) => return damage(&self.descriptor, operation, key, what),
            QueryError::Key(what) => self.descriptor.error(
                ErrorKind::Corruption,
                operation,
                format!("{what}; restore the database from a backup"),
            ),
            QueryError::TooLong => self.descriptor.error(ErrorKind::Internal, operation, "a query gave up"),
        };
        match key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }
}

pub(crate) fn describe(name: &str, config: &SqliteConfig, context: &OpenContext) -> Descriptor {
    let capabilities = Capabilities {
        durable: true,
        shared: true,
        atomic_transact: true,
        native_ranges: true,
        read_only: config.read_only,
        ..Capabilities::NONE
    };
    Descriptor::new(name, SqliteBackend::TYPE)
        .with_capabilities(capabilities)
        .with_max_value_bytes(config.max_value.0)
        .with_default_ttl(config.ttl.map(|ttl| ttl.0))
        .with_clock(Arc::clone(&context.clock))
}

#[async_trait]
impl BaseStorage for SqliteStorage {
    fn describe(&self) -> &Descriptor {
        &self.inner.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.describe().admit_store(key, &value, &options)?;
        let bytes = value.size();
        let item = StoreItem { key: key.clone(), value, options };
        let draft = |descriptor: &Descriptor| vec![Step::Put(Box::new(Draft::new(descriptor, item)))];
        let steps = self.prepare("store", bytes, draft).await?;
        let done = self.writer("store")?.one(Change::all("store", steps)).await;
        done.and_then(Done::stored).map_err(|error| error.with_key(key))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.describe().admit("retrieve")?;
        let (wanted, now) = (key.clone(), self.describe().now());
        self.read("retrieve", Some(key), move |connection, reach| {
            query::entry(connection, &wanted, now, reach)
        })
        .await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let step = Step::Delete { key: key.clone(), condition: options.condition };
        let done = self.writer("delete")?.one(Change::one("delete", step)).await;
        done.and_then(Done::deleted).map_err(|error| error.with_key(key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.describe().admit_list(prefix, &options)?;
        let now = self.describe().now();
        let listing = Listing { prefix: prefix.to_owned(), after: options.after, limit };
        self.read("list_keys", None, move |connection, reach| query::page(connection, &listing, now, reach))
            .await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.describe().admit("metadata")?;
        let (wanted, now) = (key.clone(), self.describe().now());
        self.read("metadata", Some(key), move |connection, _| query::metadata(connection, &wanted, now)).await
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let step = Step::Touch { key: key.clone(), expiry };
        let done = self.writer("touch")?.one(Change::one("touch", step)).await;
        done.and_then(Done::touched).map_err(|error| error.with_key(key))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.describe().admit("retrieve_range")?;
        let (wanted, now) = (key.clone(), self.describe().now());
        self.read("retrieve_range", Some(key), move |connection, reach| {
            query::range(connection, &wanted, now, range.clone(), reach)
        })
        .await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        store_in_batches(&Bulk(self), items).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut results = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let wanted = batch.to_vec();
            let found = match self.describe().admit("retrieve") {
                Err(error) => Err(error),
                Ok(()) => self.look("retrieve", move |inner| inner.entries(&wanted)).await,
            };
            results.extend(found.unwrap_or_else(|error| error.for_each("retrieve", batch)));
        }
        results
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        delete_in_batches(&Bulk(self), keys).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let writer = self.writer("transact")?;
        let bytes = self.describe().admit_transact(&operations)?;
        let draft = |descriptor: &Descriptor| {
            operations.into_iter().map(|operation| Step::of(descriptor, operation)).collect()
        };
        let steps = self.prepare("transact", bytes, draft).await?;
        let answer = writer.change(Change::all("transact", steps)).await?;
        answer.into_iter().map(|done| done.and_then(Done::outcome)).collect()
    }

    /// With `relaxed` durability this forces everything acknowledged before to the disk.
    async fn flush(&self) -> Result<()> {
        self.describe().admit("flush")?;
        match &self.inner.writer {
            Some(writer) => writer.task("flush", |engine| engine.flush()).await,
            None => Ok(()),
        }
    }

    async fn health(&self) -> Health {
        if let Err(error) = self.list_keys("", ListOptions::new().limit(1)).await {
            return Health::unhealthy(&error);
        }
        self.inner.report.poison.health()
    }

    /// `keys` is counted in the index. Gauges: `database_bytes`, `log_bytes`, `page_size`, `free_pages`,
    /// `expired_keys`, `readers` (open connections), `readers_in_use`, `sqlite_version`. Counters since it was opened:
    /// `commits`, `changes` (made by them), `largest_batch` (changes of one commit), `retried_batches` (taken apart
    /// because one change failed), `checkpoints`, `busy_waits` (pauses for another process).
    async fn stats(&self) -> Result<Stats> {
        self.describe().admit("stats")?;
        self.look("stats", |inner| {
            let reader = inner.readers.get("stats")?;
            let mut stats = maintenance::stats(&reader, &inner.database, &inner.descriptor)
                .map_err(|error| sqlite(&inner.descriptor, "stats", "the database cannot be read", error))?;
            drop(reader);
            maintenance::add_counters(&mut stats, &inner.readers, &inner.report);
            Ok(stats)
        })
        .await
    }

    async fn maintain(&self) -> Result<Maintenance> {
        maintenance::maintain(self.writer("maintain")?, self.describe()).await
    }

    /// Also runs SQLite's own check of the whole file.
    async fn verify(&self) -> Result<Verification> {
        self.describe().admit("verify")?;
        self.look("verify", |inner| maintenance::verify(&inner.readers, &inner.descriptor)).await
    }

    /// The database as it is at one moment, in a file that SQLite opens. Changes go on meanwhile; the log is not used
    /// anew before the copy is complete.
    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.copy_into(sink).await
    }

    /// What this handle changes is told as it is committed. That another handle or process changed something is noticed
    /// within a tenth of a second, but not what: `Lost` is told then.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.watch_prefix(prefix).await
    }

    async fn close(&self) -> Result<()> {
        if !self.describe().close() {
            return Ok(());
        }
        self.watchers().close();
        // The connection that writes is the last to be closed, so that it can remove the log.
        self.patient("close", |inner| {
            inner.readers.close();
            Ok(())
        })
        .await?;
        match &self.inner.writer {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }
}

impl Inner {
    /// Many values with one view of the database.
    fn entries(&self, keys: &[Key]) -> Result<Vec<Result<Option<Entry>>>> {
        let now = self.descriptor.now();
        let reader = self.readers.get("retrieve")?;
        let view = reader
            .unchecked_transaction()
            .map_err(|error| sqlite(&self.descriptor, "retrieve", "the database cannot be read", error))?;
        let found = |key: &Key| {
            let entry = query::entry(&view, key, now, Reach::Patient);
            entry.map_err(|error| self.query_error("retrieve", Some(key), error))
        };
        Ok(keys.iter().map(found).collect())
    }
}

/// The `sqlite` type of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct SqliteBackend;

#[async_trait]
impl Backend for SqliteBackend {
    const TYPE: &'static str = "sqlite";
    const ALIASES: &'static [&'static str] = &["database", "sqlite3"];

    type Config = SqliteConfig;

    fn check(config: &SqliteConfig) -> Result<(), String> {
        config.check()
    }

    async fn open(name: &str, config: SqliteConfig, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(SqliteStorage::open(name, config, context).await?))
    }

    async fn restore(
        name: &str,
        config: SqliteConfig,
        context: &OpenContext,
        source: &mut dyn SnapshotSource,
    ) -> Result<Restored> {
        restore(name, config, context, source).await
    }

    async fn open_snapshot(
        name: &str,
        source: &dyn SnapshotSource,
        context: &OpenContext,
    ) -> Result<Option<Arc<dyn BaseStorage>>> {
        let opened = open_snapshot(name, source, context).await?;
        Ok(opened.map(|storage| Arc::new(storage) as Arc<dyn BaseStorage>))
    }
}
