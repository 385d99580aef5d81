use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::writing::{Done, delete_in_batches, store_in_batches};
use persist_core::{
    Backend, BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health,
    HealthStatus, Key, ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome, Page, Result,
    Stats, StorageError, StoreItem, StoreOptions, Value, Watch,
};

use crate::bulk::Bulk;
use crate::change::{Change, Draft, Step};
use crate::config::{Durability, Hdf5Config};
use crate::engine::Engine;
use crate::error::{damage, damaged_chunk};
use crate::fetch::Fetched;
use crate::filter::Choice;
use crate::growth::Hashed;
use crate::hashing::checksum_of;
use crate::maintenance;
use crate::record::{Record, State, foreign_metadata};
use crate::retention::Rules;
use crate::site::Site;
use crate::state::{Attempt, Plan, Shared};
use crate::worker::Worker;

/// Values up to this size are hashed and read on the caller's thread.
const INLINE_BYTES: u64 = 64 << 10;

/// The longest JSON text: HDF5 keeps the length of a string in 32 bits.
const LONGEST_JSON: u64 = u32::MAX as u64;

/// An HDF5 file as a storage. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct Hdf5Storage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    choice: Choice,
    retention: Rules,
    hashed: Hashed,
    strict: bool,
    piece: usize,
    worker: Worker,
}

impl Hdf5Storage {
    /// Opens the file; makes it unless it is opened for reading only. All keys are read, which takes about 30 ms for a
    /// thousand.
    ///
    /// # Errors
    /// `InvalidConfig` if it is to be read and is not there; `Locked` if somebody else writes to it; `Unsupported` if a newer
    /// persist wrote it; `Corruption`, `AccessDenied`, and what the disk says.
    pub async fn open(name: &str, config: Hdf5Config, context: &OpenContext) -> Result<Self> {
        let (name, context) = (name.to_owned(), context.clone());
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&name, config, &context));
        opened.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation("open")))
    }

    fn open_blocking(name: &str, mut config: Hdf5Config, context: &OpenContext) -> Result<Self> {
        config.read_only |= context.read_only;
        let descriptor = Arc::new(describe(name, &config, context));
        config.check().map_err(|message| descriptor.error(ErrorKind::InvalidConfig, "open", message))?;
        let path = context.resolve(&config.path);
        let site = match config.read_only {
            true => Site::open_to_read(&descriptor, path)?,
            false => {
                let limit = config.max_file_size.map(|size| size.0);
                Site::open(&descriptor, path, limit, config.durability == Durability::Strict)?
            }
        };
        let engine = Engine::open(&descriptor, site, &config)?;
        let shared = Arc::clone(engine.shared());
        let worker = Worker::start(engine, config.checkpoint_after.0)?;
        let strict = config.durability == Durability::Strict;
        let piece = usize::try_from(config.piece.0).unwrap_or(usize::MAX);
        let choice = Choice::new(config.filters, config.filter_rules);
        let retention = Rules::new(config.retention);
        let hashed = Hashed::default();
        Ok(Self { inner: Arc::new(Inner { shared, choice, retention, hashed, strict, piece, worker }) })
    }

    /// Gives back the room that deleted and replaced values took: writes everything into a new file, which then takes the
    /// place of the old one. Reads go on meanwhile, changes wait. `maintain` does that by itself when much of the file
    /// holds nothing (`compact_at`).
    ///
    /// # Errors
    /// `Capacity` if there is no room for the new file beside the old one; what the library and the disk say. The old file
    /// stays then.
    pub async fn compact(&self) -> Result<Maintenance> {
        maintenance::compact(self.worker("maintain")?).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn choice(&self) -> &Choice {
        &self.inner.choice
    }

    /// How many bytes of a large value are moved in one go.
    pub(crate) fn piece(&self) -> usize {
        self.inner.piece
    }

    /// True if what is acknowledged survives a power cut.
    pub(crate) fn is_strict(&self) -> bool {
        self.inner.strict
    }

    /// Lets go of what was written of a value.
    pub(crate) fn end_transfer(&self, number: u64) {
        self.inner.worker.later(move |engine| engine.end_transfer(number));
    }

    pub(crate) fn hashed(&self) -> &Hashed {
        &self.inner.hashed
    }

    pub(crate) fn worker(&self, operation: &'static str) -> Result<&Worker> {
        self.describe().admit_change(operation)?;
        Ok(&self.inner.worker)
    }

    /// Runs something on a thread that may be held up.
    pub(crate) async fn patient<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(self.shared());
        let task = tokio::task::spawn_blocking(move || work(&shared));
        task.await.map_err(|error| StorageError::broken_task(error).with_operation(operation))
    }

    /// Prepares steps: on this thread if there is little to hash.
    pub(crate) async fn prepare(
        &self,
        operation: &'static str,
        bytes: u64,
        prepare: impl FnOnce(&Descriptor, &Choice) -> Vec<Step> + Send + 'static,
    ) -> Result<Vec<Step>> {
        if bytes <= INLINE_BYTES {
            return Ok(prepare(self.describe(), &self.inner.choice));
        }
        let inner = Arc::clone(&self.inner);
        self.patient(operation, move |shared| prepare(&shared.descriptor, &inner.choice)).await
    }

    pub(crate) fn admit(&self, key: &Key, value: &Value, options: &StoreOptions) -> Result<()> {
        self.describe().admit_store(key, value, options)?;
        self.check_json(key, value)
    }

    fn check_json(&self, key: &Key, value: &Value) -> Result<()> {
        if matches!(value, Value::Json(_)) && value.size() > LONGEST_JSON {
            let message = format!(
                "the JSON text has {} bytes, and HDF5 keeps strings of at most {LONGEST_JSON}; split it",
                value.size()
            );
            return Err(self.describe().error(ErrorKind::TooLarge, "store", message).with_key(key));
        }
        Ok(())
    }

    /// Reads what only the library finds: it gives the chunks as they stand in the file, and they are decoded on other threads.
    /// `None`: the value was replaced meanwhile.
    async fn look_up(
        &self,
        operation: &'static str,
        key: &Key,
        record: Arc<Record>,
    ) -> Result<Option<Entry>> {
        let large = record.size() > self.piece() as u64;
        let value = match if large { self.read_chunks_of(operation, key, &record).await? } else { None } {
            Some(value) => value,
            None => match self.read_at_once(operation, key, &record).await? {
                Some(value) => value,
                None => return Ok(None),
            },
        };
        let metadata = match &record.state {
            State::Sound(metadata, _) => Metadata::clone(metadata),
            State::Foreign | State::Damaged(_) => foreign_metadata(&value),
        };
        Ok(Some(Entry::new(value, metadata)))
    }

    /// Reads all of a value in one go. `None`: it was replaced meanwhile.
    async fn read_at_once(
        &self,
        operation: &'static str,
        key: &Key,
        record: &Arc<Record>,
    ) -> Result<Option<Value>> {
        let Some(fetched) = self.fetch(operation, key, record, None).await? else { return Ok(None) };
        let (name, of) = (key.clone(), Arc::clone(record));
        let decode = move |shared: &Shared| match (fetched, &of.state) {
            (Fetched::Value(value), _) => Ok(value),
            (fetched, State::Sound(metadata, form)) => {
                let damaged = || damaged_chunk(&shared.descriptor, operation, &name);
                let bytes = fetched.bytes(&[]).ok_or_else(damaged)?;
                let checksum = checksum_of(form, &bytes);
                shared.matching(&name, metadata, form, bytes, checksum)
            }
            _ => Err(damaged_chunk(&shared.descriptor, operation, &name)),
        };
        self.patient(operation, decode).await?.map(Some)
    }

    /// Has the library read a value, or a part of an array. `None`: the value was replaced meanwhile.
    pub(crate) async fn fetch(
        &self,
        operation: &'static str,
        key: &Key,
        record: &Arc<Record>,
        part: Option<Vec<Range<usize>>>,
    ) -> Result<Option<Fetched>> {
        let (name, wanted) = (key.clone(), Arc::clone(record));
        let read = self.inner.worker.task(operation, move |engine| {
            // The thread does one thing at a time, so what it finds now is what is there now.
            let current =
                engine.shared().index.read().get(&name).is_some_and(|now| Arc::ptr_eq(now, &wanted));
            if !current {
                return Ok(None);
            }
            if let State::Damaged(what) = &wanted.state {
                return Err(damage(&engine.shared().descriptor, operation, &name, what));
            }
            engine.fetch(operation, &wanted, part.as_deref()).map(Some)
        });
        read.await.map_err(|error| error.with_key(key))
    }
}

fn describe(name: &str, config: &Hdf5Config, context: &OpenContext) -> Descriptor {
    let capabilities = Capabilities {
        durable: true,
        atomic_transact: true,
        native_ranges: true,
        native_arrays: true,
        native_watch: !config.read_only,
        read_only: config.read_only,
        ..Capabilities::NONE
    };
    Descriptor::new(name, Hdf5Backend::TYPE)
        .with_capabilities(capabilities)
        .with_max_value_bytes(config.max_value.0)
        .with_default_ttl(config.ttl.map(|ttl| ttl.0))
        .with_clock(Arc::clone(&context.clock))
}

#[async_trait]
impl BaseStorage for Hdf5Storage {
    fn describe(&self) -> &Descriptor {
        &self.inner.shared.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.admit(key, &value, &options)?;
        let bytes = value.size();
        let item = StoreItem { key: key.clone(), value, options };
        if bytes > self.piece() as u64 && !matches!(&item.value, Value::Json(_)) {
            return self.store_large(item, self.choice().of(key)).await;
        }
        let draft = |descriptor: &Descriptor, choice: &Choice| {
            vec![Step::Put(Box::new(Draft::new(descriptor, choice, item)))]
        };
        let steps = self.prepare("store", bytes, draft).await?;
        let change = Change::all("store", steps);
        let done = self.worker("store")?.one(change).await;
        done.and_then(Done::stored).map_err(|error| error.with_key(key))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        loop {
            self.describe().admit("retrieve")?;
            let record = match self.shared().plan(key, None) {
                Plan::Absent => return Ok(None),
                Plan::Direct(record, view) if record.size() <= INLINE_BYTES => {
                    match self.shared().value(key, &record, &view, false)? {
                        Attempt::Done((value, metadata)) => return Ok(Some(Entry::new(value, metadata))),
                        Attempt::Slow => None,
                        Attempt::Again => continue,
                    }
                }
                Plan::Direct(..) => None,
                Plan::Library(record) => Some(record),
            };
            if let Some(record) = record {
                match self.look_up("retrieve", key, record).await? {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            let wanted = key.clone();
            let read = self.patient("retrieve", move |shared| match shared.plan(&wanted, None) {
                Plan::Direct(record, view) => shared.value(&wanted, &record, &view, true),
                Plan::Absent | Plan::Library(_) => Ok(Attempt::Again),
            });
            if let Attempt::Done((value, metadata)) = read.await?.map_err(|error| error.with_key(key))? {
                return Ok(Some(Entry::new(value, metadata)));
            }
        }
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let step = Step::Delete { key: key.clone(), condition: options.condition };
        let done = self.worker("delete")?.one(Change::one("delete", step)).await;
        done.and_then(Done::deleted).map_err(|error| error.with_key(key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.describe().admit_list(prefix, &options)?;
        let now = self.describe().now();
        Ok(self.shared().index.read().page(prefix, &options, limit, now))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.describe().admit("metadata")?;
        let Some(record) = self.shared().find(key) else { return Ok(None) };
        match &record.state {
            State::Sound(metadata, _) => Ok(Some(Metadata::clone(metadata))),
            State::Damaged(what) => Err(damage(self.describe(), "metadata", key, what)),
            State::Foreign => Ok(self.retrieve(key).await?.map(|entry| entry.metadata)),
        }
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.describe().admit("contains")?;
        match self.shared().find(key).map(|record| record.state.clone()) {
            None => Ok(false),
            Some(State::Sound(..) | State::Foreign) => Ok(true),
            Some(State::Damaged(what)) => Err(damage(self.describe(), "contains", key, &what)),
        }
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let step = Step::Touch { key: key.clone(), expiry };
        let done = self.worker("touch")?.one(Change::one("touch", step)).await;
        done.and_then(Done::touched).map_err(|error| error.with_key(key))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.describe().admit("retrieve_range")?;
        loop {
            match self.shared().plan(key, Some(&range)) {
                Plan::Absent => return Ok(None),
                Plan::Library(_) => {
                    return Ok(self.retrieve(key).await?.map(|entry| entry.value.range(range)));
                }
                Plan::Direct(record, view) => {
                    match self.shared().part(key, &record, &view, &range, false)? {
                        Attempt::Done(bytes) => return Ok(Some(bytes.into())),
                        Attempt::Again => continue,
                        Attempt::Slow => {}
                    }
                }
            }
            let (wanted, part) = (key.clone(), range.clone());
            let read =
                self.patient("retrieve_range", move |shared| match shared.plan(&wanted, Some(&part)) {
                    Plan::Direct(record, view) => shared.part(&wanted, &record, &view, &part, true),
                    Plan::Absent | Plan::Library(_) => Ok(Attempt::Again),
                });
            if let Attempt::Done(bytes) = read.await?.map_err(|error| error.with_key(key))? {
                return Ok(Some(bytes.into()));
            }
        }
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        store_in_batches(&Bulk(self), items).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        delete_in_batches(&Bulk(self), keys).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let worker = self.worker("transact")?;
        let bytes = self.describe().admit_transact(&operations)?;
        for operation in &operations {
            if let Operation::Put(item) = operation {
                self.check_json(&item.key, &item.value)?;
            }
        }
        let draft = |descriptor: &Descriptor, choice: &Choice| {
            operations.into_iter().map(|operation| Step::of(descriptor, choice, operation)).collect()
        };
        let steps = self.prepare("transact", bytes, draft).await?;
        let answer = worker.change(Change::all("transact", steps)).await?;
        answer.into_iter().map(|done| done.and_then(Done::outcome)).collect()
    }

    /// With `relaxed` durability this forces everything acknowledged before to the disk.
    async fn flush(&self) -> Result<()> {
        self.describe().admit("flush")?;
        self.inner.worker.task("flush", |engine| engine.force()).await
    }

    async fn health(&self) -> Health {
        if let Err(error) = self.describe().admit("health") {
            return Health::unhealthy(&error);
        }
        let report = &self.shared().report;
        let detail = match (report.failure(), report.trouble.lock().clone()) {
            (Some(why), _) => {
                format!(
                    "a commit or sync failed ({why}): it can be read, not written; check the disk, then reopen"
                )
            }
            (None, Some(why)) => format!(
                "the log cannot be copied into the file ({why}): nothing is lost, but other programs do not see what is \
                 new, and the log grows; check the disk"
            ),
            (None, None) => return Health::healthy(),
        };
        Health { status: HealthStatus::Degraded, detail }
    }

    /// Gauges: `expired_keys`, `file_bytes`, `files` (into which it is cut), `log_bytes`, `pages_in_memory` (committed, not yet in the file),
    /// `hdf5_version` (1010008 is 1.10.8). Counters since it was opened: `commits`, `changes` (made by them),
    /// `largest_batch` (changes of one commit), `retried_batches` (taken apart because one change failed), `checkpoints`,
    /// `delayed_checkpoints` (put off because another process was reading), `compactions`, `arrays_hashed` (read as a
    /// whole so that rows could be appended), `largest_step` (the most bytes moved while others waited).
    async fn stats(&self) -> Result<Stats> {
        self.describe().admit("stats")?;
        Ok(maintenance::stats(self.shared()))
    }

    async fn maintain(&self) -> Result<Maintenance> {
        maintenance::maintain(self.shared(), &self.inner.retention, self.worker("maintain")?).await
    }

    /// A storage that only reads shows one moment, so its watches tell nothing until they end with it.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.describe().admit_watch(prefix)?;
        Ok(self.shared().watchers.watch(prefix))
    }

    async fn close(&self) -> Result<()> {
        if !self.describe().close() {
            return Ok(());
        }
        let closed = self.inner.worker.close().await;
        self.shared().watchers.close();
        closed
    }
}

/// The `hdf5` type of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Hdf5Backend;

#[async_trait]
impl Backend for Hdf5Backend {
    const TYPE: &'static str = "hdf5";
    const ALIASES: &'static [&'static str] = &["h5"];

    type Config = Hdf5Config;

    fn check(config: &Hdf5Config) -> Result<(), String> {
        config.check()
    }

    async fn open(name: &str, config: Hdf5Config, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Hdf5Storage::open(name, config, context).await?))
    }
}
