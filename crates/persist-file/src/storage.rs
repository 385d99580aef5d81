use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use persist_core::{
    Backend, BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health,
    HealthStatus, Key, ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome, Page, Restored,
    Result, SnapshotSource, Stats, StorageError, StoreItem, StoreOptions, Value, Verification, Watch,
    Watchers, verify_values,
};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::config::FileConfig;
use crate::error::system;
use crate::index::{Index, Query};
use crate::maintenance::{is_live, maintain, strangers};
use crate::name::KeyPath;
use crate::place::Place;
use crate::reader::{ReadError, Reader, Wait};
use crate::restore::restore;
use crate::root::Root;
use crate::stage::Staged;
use crate::writer::{Answer, Caller, Done, Step, Writer, WriterError, lock_error};

/// How many changes are under way at once; the others wait for their turn.
const CHANGES: usize = 64;

/// How many reads that may wait for the disk are under way at once. With 64 readers of 1 MiB values, 16 at once measured
/// 1.25 times as fast as all of them, because their buffers stay in the processor's cache.
const READS: usize = 16;

/// How many values of a `store_many` or `delete_many` share a turn with the commit lock.
const BATCH: usize = 256;

/// How many of them are written side by side, or values of a `retrieve_many` read.
const SIDE_BY_SIDE: usize = 16;

/// A folder of files as a storage. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct FileStorage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    /// `None`: open for reading only.
    writer: Option<Writer>,
    turns: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Tells watches that the storage was closed; what has changed they hear from the kernel.
    ending: Watchers,
}

impl FileStorage {
    /// Opens the folder; makes it unless it is opened for reading only.
    ///
    /// # Errors
    /// `InvalidConfig` if it is to be read and is not there; `AccessDenied`, `Locked`, and what the disk says.
    pub async fn open(name: &str, config: FileConfig, context: &OpenContext) -> Result<Self> {
        let (name, context) = (name.to_owned(), context.clone());
        let opened = tokio::task::spawn_blocking(move || {
            loop {
                let storage = Self::open_blocking(&name, config.clone(), &context)?;
                // A restore may have exchanged the folder while this waited for its lock.
                if storage.inner.place.root.is_at(&context.resolve(&config.base_path)) {
                    return Ok(storage);
                }
            }
        });
        opened.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation("open")))
    }

    fn open_blocking(name: &str, mut config: FileConfig, context: &OpenContext) -> Result<Self> {
        config.read_only |= context.read_only;
        let descriptor = describe(name, &config, context);
        let path = context.resolve(&config.base_path);
        let root = match Root::open(&path, !config.read_only, config.group_readable) {
            Ok(root) => root,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let message =
                    format!("the folder {} does not exist; create it or correct base_path", path.display());
                return Err(descriptor.error(ErrorKind::InvalidConfig, "open", message));
            }
            Err(error) => {
                return Err(system(&descriptor, "open", &format!("the folder {}", path.display()), error));
            }
        };
        let place = Place { descriptor, root, reader: Reader::new(), index: Index::default() };
        let writer = match config.read_only {
            true => None,
            false => Some(Writer::open(&place.root, &config).map_err(|error| open_error(&place, error))?),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                place,
                writer,
                turns: Arc::new(Semaphore::new(CHANGES)),
                reads: Arc::new(Semaphore::new(READS)),
                ending: Watchers::new(),
            }),
        })
    }

    /// Runs a change where it may wait for the disk. It runs to its end even if the caller does not wait for it.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Place, &Writer, &Caller) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.describe().admit_change(operation)?;
        let inner = Arc::clone(&self.inner);
        let turn = Arc::clone(&inner.turns).acquire_owned().await;
        let turn = turn.map_err(|error| StorageError::broken_task(error).with_operation(operation))?;
        // It may have been closed while this call waited for its turn.
        self.describe().admit_change(operation)?;
        let caller = Caller::default();
        let _waiting = caller.waiting();
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match &inner.writer {
                Some(writer) => work(&inner.place, writer, &caller),
                None => inner.place.descriptor.admit_change(operation).and_then(|()| {
                    Err(inner.place.descriptor.error(ErrorKind::Internal, operation, "there is no writer"))
                }),
            }
        });
        task.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation(operation)))
    }

    pub(crate) fn ending(&self) -> &Watchers {
        &self.inner.ending
    }

    /// Runs something that reads where it may wait for the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Place) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let turn = Arc::clone(&inner.reads).acquire_owned().await;
        let turn = turn.map_err(|error| StorageError::broken_task(error).with_operation(operation))?;
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&inner.place)
        });
        task.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation(operation)))
    }

    /// Stages some values side by side, then gives all of them their names with one turn of the lock.
    async fn store_batch(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let count = items.len();
        let share = count.div_ceil(SIDE_BY_SIDE).max(1);
        let mut items = items.into_iter();
        let mut tasks = Vec::new();
        while items.len() > 0 {
            let part: Vec<StoreItem> = items.by_ref().take(share).collect();
            tasks.push(async move {
                let len = part.len();
                let staged =
                    self.change("store", move |place, writer, _| Ok(stage(place, writer, part))).await;
                staged.unwrap_or_else(|error| (0..len).map(|_| Err(error.again("store"))).collect())
            });
        }
        let staged: Vec<Result<Staged>> = join_all(tasks).await.into_iter().flatten().collect();
        let committed = self
            .change("store", move |place, writer, caller| Ok(commit_staged(place, writer, staged, caller)))
            .await;
        committed.unwrap_or_else(|error| (0..count).map(|_| Err(error.again("store"))).collect())
    }
}

fn stage(place: &Place, writer: &Writer, items: Vec<StoreItem>) -> Vec<Result<Staged>> {
    items.into_iter().map(|item| Staged::new(place, writer, item)).collect()
}

fn commit_staged(
    place: &Place,
    writer: &Writer,
    staged: Vec<Result<Staged>>,
    caller: &Caller,
) -> Vec<Result<Metadata>> {
    let mut results: Vec<Option<Result<Metadata>>> = Vec::with_capacity(staged.len());
    let (mut changes, mut keys) = (Vec::new(), Vec::new());
    for item in staged {
        results.push(match item {
            Ok(staged) => {
                keys.push(staged.key.clone());
                changes.push(vec![Step::Put(Box::new(staged))]);
                None
            }
            Err(error) => Some(Err(error)),
        });
    }
    let mut answers = keys.into_iter().zip(writer.commit(place, changes, "store", caller));
    let next = || answers.next().map(|(key, answer)| stored(place, answer).map_err(|e| e.with_key(&key)));
    let mut next = next;
    results
        .into_iter()
        .map(|result| result.or_else(&mut next).unwrap_or_else(|| Err(no_answer(place, "store"))))
        .collect()
}

fn stored(place: &Place, answer: Answer) -> Result<Metadata> {
    match answer?.pop() {
        Some(Done::Stored(metadata)) => Ok(metadata),
        _ => Err(no_answer(place, "store")),
    }
}

fn deleted(place: &Place, answer: Answer) -> Result<bool> {
    match answer?.pop() {
        Some(Done::Deleted(was_there)) => Ok(was_there),
        _ => Err(no_answer(place, "delete")),
    }
}

fn no_answer(place: &Place, operation: &'static str) -> StorageError {
    place.descriptor.error(ErrorKind::Internal, operation, "a change got no answer")
}

pub(crate) fn describe(name: &str, config: &FileConfig, context: &OpenContext) -> Descriptor {
    let capabilities = Capabilities {
        durable: true,
        shared: true,
        atomic_transact: true,
        native_ranges: true,
        native_arrays: true,
        native_watch: true,
        read_only: config.read_only,
        ..Capabilities::NONE
    };
    Descriptor::new(name, FileBackend::TYPE)
        .with_capabilities(capabilities)
        .with_max_value_bytes(config.max_value.0)
        .with_default_ttl(config.ttl.map(|ttl| ttl.0))
        .with_clock(Arc::clone(&context.clock))
}

fn open_error(place: &Place, error: WriterError) -> StorageError {
    match error {
        WriterError::System(errno) => {
            system(&place.descriptor, "open", "the folder cannot be prepared for writing", errno)
        }
        WriterError::Lock(error) => lock_error(place, "open", error),
    }
}

#[async_trait]
impl BaseStorage for FileStorage {
    fn describe(&self) -> &Descriptor {
        &self.inner.place.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.describe().admit_store(key, &value, &options)?;
        let item = StoreItem { key: key.clone(), value, options };
        let done = self.change("store", move |place, writer, caller| {
            let staged = Staged::new(place, writer, item)?.yielding();
            stored(place, writer.commit_one(place, vec![Step::Put(Box::new(staged))], "store", caller))
        });
        done.await.map_err(|error| error.with_key(key))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.describe().admit("retrieve")?;
        let place = &self.inner.place;
        let (path, now) = (KeyPath::of(key), place.descriptor.now());
        match place.reader.entry(&place.root, &path, now, Wait::No) {
            Err(ReadError::WouldBlock) => {}
            result => return result.map_err(|error| place.read_error("retrieve", key, error)),
        }
        let patient = key.clone();
        self.read("retrieve", move |place| {
            let found = place.reader.entry(&place.root, &path, now, Wait::Yes);
            found.map_err(|error| place.read_error("retrieve", &patient, error))
        })
        .await
    }

    /// Small values are read one after the other on the caller's thread, large ones side by side.
    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let reads: Vec<_> = keys.iter().map(|key| self.retrieve(key)).collect();
        stream::iter(reads).buffered(SIDE_BY_SIDE).collect().await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let step = Step::Delete { key: key.clone(), condition: options.condition };
        let done = self.change("delete", move |place, writer, caller| {
            deleted(place, writer.commit_one(place, vec![step], "delete", caller))
        });
        done.await.map_err(|error| error.with_key(key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.describe().admit_list(prefix, &options)?;
        let prefix = prefix.to_owned();
        self.read("list_keys", move |place| {
            let query = Query { prefix: &prefix, after: options.after.as_ref(), limit };
            let page = place.index.page::<Errno>(&place.root, &query, |key| Ok(is_live(place, key)));
            page.map_err(|errno| system(&place.descriptor, "list_keys", "a folder cannot be read", errno))
        })
        .await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.describe().admit("metadata")?;
        let place = &self.inner.place;
        let (path, now) = (KeyPath::of(key), place.descriptor.now());
        match place.reader.metadata(&place.root, &path, now, Wait::No) {
            Err(ReadError::WouldBlock) => {}
            result => return result.map_err(|error| place.read_error("metadata", key, error)),
        }
        let patient = key.clone();
        self.read("metadata", move |place| {
            let found = place.reader.metadata(&place.root, &path, now, Wait::Yes);
            found.map_err(|error| place.read_error("metadata", &patient, error))
        })
        .await
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let step = Step::Touch { key: key.clone(), expiry };
        let done = self.change("touch", move |place, writer, caller| {
            match writer.commit_one(place, vec![step], "touch", caller)?.pop() {
                Some(Done::Touched(metadata)) => Ok(metadata),
                _ => Err(no_answer(place, "touch")),
            }
        });
        done.await.map_err(|error| error.with_key(key))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.describe().admit("retrieve_range")?;
        let key = key.clone();
        self.read("retrieve_range", move |place| {
            let found = place.reader.range(&place.root, &KeyPath::of(&key), place.descriptor.now(), range);
            found.map_err(|error| place.read_error("retrieve_range", &key, error))
        })
        .await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let mut results = Vec::with_capacity(items.len());
        let mut items = items.into_iter();
        while items.len() > 0 {
            let (mut batch, mut refused) = (Vec::new(), Vec::new());
            for item in items.by_ref().take(BATCH) {
                match self.describe().admit_store(&item.key, &item.value, &item.options) {
                    Ok(()) => batch.push(item),
                    Err(error) => refused.push((results.len() + batch.len() + refused.len(), error)),
                }
            }
            results.extend(self.store_batch(batch).await);
            for (at, error) in refused {
                results.insert(at, Err(error));
            }
        }
        results
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let mut results = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let keys = batch.to_vec();
            let done = self.change("delete", move |place, writer, caller| {
                let step = |key: &Key| vec![Step::Delete { key: key.clone(), condition: Default::default() }];
                let answers = writer.commit(place, keys.iter().map(step).collect(), "delete", caller);
                let named = keys.iter().zip(answers);
                Ok(named.map(|(key, answer)| deleted(place, answer).map_err(|e| e.with_key(key))).collect())
            });
            let done: Result<Vec<_>> = done.await;
            results.extend(
                done.unwrap_or_else(|error| batch.iter().map(|_| Err(error.again("delete"))).collect()),
            );
        }
        results
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.describe().admit_change("transact")?;
        self.describe().admit_transact(&operations)?;
        self.change("transact", move |place, writer, caller| {
            let mut steps = Vec::with_capacity(operations.len());
            for operation in operations {
                steps.push(match operation {
                    Operation::Put(item) => Step::Put(Box::new(Staged::new(place, writer, item)?)),
                    Operation::Delete(key, options) => Step::Delete { key, condition: options.condition },
                    Operation::Check(key, condition) => Step::Check { key, condition },
                });
            }
            let done = writer.commit_one(place, steps, "transact", caller)?;
            Ok(done.into_iter().map(outcome).collect())
        })
        .await
    }

    /// With `relaxed` durability this forces everything acknowledged before to the disk.
    async fn flush(&self) -> Result<()> {
        self.describe().admit("flush")?;
        let relaxed = self.inner.writer.as_ref().is_some_and(|writer| !writer.strict);
        if !relaxed {
            return Ok(());
        }
        self.change("flush", |place, writer, _| {
            rustix::fs::syncfs(place.root.folder()).map_err(|errno| writer.fail(place, "flush", errno))
        })
        .await
    }

    async fn health(&self) -> Health {
        if let Err(error) = self.list_keys("", ListOptions::new().limit(1)).await {
            return Health::unhealthy(&error);
        }
        match self.inner.writer.as_ref().and_then(Writer::failure) {
            None => Health::healthy(),
            Some(why) => Health {
                status: HealthStatus::Degraded,
                detail: format!(
                    "a sync failed ({why}): it can be read, not written; check the disk, then reopen"
                ),
            },
        }
    }

    /// Counters since it was opened: `commits`, `folder_syncs` (run), `shared_folder_syncs` (saved by waiting for one
    /// of those), `journaled` (changes of more than one step).
    async fn stats(&self) -> Result<Stats> {
        self.describe().admit("stats")?;
        let mut stats = Stats::default();
        if let Some(writer) = &self.inner.writer {
            let counters = &writer.counters;
            stats.counters.extend([
                ("commits", counters.commits.load(Ordering::Relaxed)),
                ("folder_syncs", counters.folder_syncs.load(Ordering::Relaxed)),
                ("shared_folder_syncs", counters.shared_folder_syncs.load(Ordering::Relaxed)),
                ("journaled", counters.journaled.load(Ordering::Relaxed)),
            ]);
        }
        Ok(stats)
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.change("maintain", maintain).await
    }

    /// Also reports what lies in the folder and was not made by persist.
    async fn verify(&self) -> Result<Verification> {
        let mut report = verify_values(self).await?;
        report.problems.extend(self.read("verify", strangers).await?);
        Ok(report)
    }

    /// Changes of other programs are told too, by inotify: one watch of the kernel for each folder.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.watch_prefix(prefix).await
    }

    async fn close(&self) -> Result<()> {
        if self.describe().close() {
            self.inner.ending.close();
            // Whoever has a turn finishes; nobody gets another one.
            let all = u32::try_from(CHANGES).unwrap_or(u32::MAX);
            let ended = self.inner.turns.acquire_many(all).await;
            drop(ended.map_err(|error| StorageError::broken_task(error).with_operation("close"))?);
        }
        Ok(())
    }
}

fn outcome(done: Done) -> Outcome {
    match done {
        Done::Stored(metadata) => Outcome::Stored(metadata),
        Done::Deleted(was_there) => Outcome::Deleted(was_there),
        Done::Touched(_) | Done::Checked => Outcome::Checked,
    }
}

/// The `file` type of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct FileBackend;

#[async_trait]
impl Backend for FileBackend {
    const TYPE: &'static str = "file";
    const ALIASES: &'static [&'static str] = &["files", "fs"];

    type Config = FileConfig;

    fn check(config: &FileConfig) -> Result<(), String> {
        if config.base_path.as_os_str().is_empty() {
            return Err("base_path is empty; give it a folder".to_owned());
        }
        Ok(())
    }

    async fn open(name: &str, config: FileConfig, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(FileStorage::open(name, config, context).await?))
    }

    async fn restore(
        name: &str,
        config: FileConfig,
        context: &OpenContext,
        source: &mut dyn SnapshotSource,
    ) -> Result<Restored> {
        restore(name, config, context, source).await
    }
}
