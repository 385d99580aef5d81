use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use persist_core::writing::{Done, delete_in_batches, store_in_batches};
use persist_core::{
    Backend, BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, Key,
    ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome, Page, Result, Stats, StorageError,
    StoreItem, StoreOptions, Value, Verification, Watch, Watchers,
};

use crate::bulk::Bulk;
use crate::change::{Change, Draft, Step};
use crate::config::PackConfig;
use crate::core::{Core, Report};
use crate::fault::system;
use crate::folder::{Folder, Lock};
use crate::maintenance::{self, blocking};
use crate::reading::value;
use crate::state::State;
use crate::watching::watch;
use crate::writer::{self, Writer};

/// Values up to this size are hashed, packed and read on the caller's thread.
const INLINE_BYTES: u64 = 256 << 10;

/// So many keys are listed on the caller's thread.
const INLINE_KEYS: usize = 128;

/// How many values of a batch share a sync or a thread.
pub(crate) const BATCH: usize = 4096;

/// A folder of packs as a storage. Cloning gives another handle on the same one.
#[derive(Clone)]
pub struct PackStorage {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    /// `None`: open for reading only.
    writer: Option<Writer>,
}

/// The index of the log has metadata in it, which must not be shown.
impl fmt::Debug for PackStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core();
        f.debug_struct("PackStorage")
            .field("name", &core.descriptor.name())
            .field("config", &core.config)
            .finish_non_exhaustive()
    }
}

impl PackStorage {
    /// Opens the folder; makes it unless it is opened for reading only.
    ///
    /// # Errors
    /// `Locked` if another process writes; `InvalidConfig` if it is to be read and is not there; `Corruption` if a pack is
    /// missing or damaged as a whole; `AccessDenied`, and what the disk says.
    pub async fn open(name: &str, config: PackConfig, context: &OpenContext) -> Result<Self> {
        let (name, context) = (name.to_owned(), context.clone());
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&name, config, &context));
        opened.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation("open")))
    }

    fn open_blocking(name: &str, mut config: PackConfig, context: &OpenContext) -> Result<Self> {
        config.read_only |= context.read_only;
        let descriptor = Arc::new(describe(name, &config, context));
        config.check().map_err(|message| descriptor.error(ErrorKind::InvalidConfig, "open", message))?;
        let path = context.resolve(&config.pack_path);
        let shown = path.display().to_string();
        let fail = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                let message =
                    format!("there is no folder {shown}; correct pack_path, or open it without read_only");
                return descriptor.error(ErrorKind::InvalidConfig, "open", message).with_source(error);
            }
            system(&descriptor, "open", &format!("the folder {shown}"), error)
        };
        let (folder, lock) = if config.read_only {
            (Folder::existing(path).map_err(fail)?, None)
        } else {
            let folder = Folder::make(path).map_err(fail)?;
            let lock = folder.lock(config.lock_timeout.0).map_err(fail)?;
            (folder, Some(lock.ok_or_else(|| locked(&descriptor, &shown))?))
        };
        Self::begin(descriptor, config, folder, lock)
    }

    fn begin(
        descriptor: Arc<Descriptor>,
        config: PackConfig,
        folder: Folder,
        lock: Option<Lock>,
    ) -> Result<Self> {
        let state = State::open(&folder, lock.is_some())
            .map_err(|fault| fault.into_error(&descriptor, "open", None))?;
        let state = RwLock::new(state);
        let core = Arc::new(Core {
            descriptor,
            config,
            folder,
            state,
            report: Report::default(),
            watchers: Watchers::new(),
            maintaining: Default::default(),
        });
        let writer = lock.map(|lock| writer::start(&core, lock)).transpose()?;
        Ok(Self { inner: Arc::new(Inner { core, writer }) })
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    pub(crate) fn writer(&self, operation: &'static str) -> Result<&Writer> {
        self.describe().admit_change(operation)?;
        self.inner.writer.as_ref().ok_or_else(|| {
            self.describe().error(ErrorKind::Internal, operation, "there is no thread that writes")
        })
    }

    /// Prepares steps: on this thread if there is little to hash and pack.
    pub(crate) async fn prepare(
        &self,
        operation: &'static str,
        bytes: u64,
        prepare: impl FnOnce(&Core) -> Vec<Step> + Send + 'static,
    ) -> Result<Vec<Step>> {
        if bytes <= INLINE_BYTES {
            return Ok(prepare(self.core()));
        }
        blocking(self.core(), operation, move |core| Ok(prepare(core))).await
    }
}

fn locked(descriptor: &Descriptor, path: &str) -> StorageError {
    let message = format!(
        "another process has {path} open for writing; end it, wait for it (lock_timeout), or open the packs with \
         read_only, which any number of processes may"
    );
    descriptor.error(ErrorKind::Locked, "open", message)
}

fn describe(name: &str, config: &PackConfig, context: &OpenContext) -> Descriptor {
    let capabilities = Capabilities {
        durable: true,
        atomic_transact: true,
        native_ranges: true,
        native_arrays: true,
        native_watch: !config.read_only,
        read_only: config.read_only,
        ..Capabilities::NONE
    };
    Descriptor::new(name, PackBackend::TYPE)
        .with_capabilities(capabilities)
        .with_max_value_bytes(config.max_value.0)
        .with_default_ttl(config.ttl.map(|ttl| ttl.0))
        .with_clock(Arc::clone(&context.clock))
}

#[async_trait]
impl BaseStorage for PackStorage {
    fn describe(&self) -> &Descriptor {
        &self.core().descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.describe().admit_store(key, &value, &options)?;
        let bytes = value.size();
        let item = StoreItem { key: key.clone(), value, options };
        let draft = |core: &Core| {
            vec![Step::Put(Box::new(Draft::new(&core.descriptor, core.config.compression, item)))]
        };
        let steps = self.prepare("store", bytes, draft).await?;
        let done = self.writer("store")?.one(Change::all("store", steps)).await;
        done.and_then(Done::stored).map_err(|error| error.with_key(key))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.describe().admit("retrieve")?;
        let Some(located) = self.core().locate("retrieve", key)? else { return Ok(None) };
        if located.metadata.size <= INLINE_BYTES {
            return self.core().read("retrieve", key, located).map(Some);
        }
        let key = key.clone();
        blocking(self.core(), "retrieve", move |core| core.read("retrieve", &key, located).map(Some)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let step = Step::Delete { key: key.clone(), condition: options.condition };
        let done = self.writer("delete")?.one(Change::one("delete", step)).await;
        done.and_then(Done::deleted).map_err(|error| error.with_key(key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.describe().admit_list(prefix, &options)?;
        if limit <= INLINE_KEYS {
            return self.core().page(prefix, &options, limit);
        }
        let prefix = prefix.to_owned();
        blocking(self.core(), "list_keys", move |core| core.page(&prefix, &options, limit)).await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.describe().admit("metadata")?;
        self.core().metadata("metadata", key)
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let step = Step::Touch { key: key.clone(), expiry };
        let done = self.writer("touch")?.one(Change::one("touch", step)).await;
        done.and_then(Done::touched).map_err(|error| error.with_key(key))
    }

    /// Only the chunks of 256 KiB around the range are read, unpacked and checked.
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.describe().admit("retrieve_range")?;
        let Some(located) = self.core().locate("retrieve_range", key)? else { return Ok(None) };
        if range.end.saturating_sub(range.start).min(located.metadata.size) <= INLINE_BYTES {
            return self.core().range("retrieve_range", key, &located, range).map(Some);
        }
        let key = key.clone();
        let read = move |core: &Core| core.range("retrieve_range", &key, &located, range).map(Some);
        blocking(self.core(), "retrieve_range", read).await
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
                Ok(()) => {
                    let read = move |core: &Core| {
                        Ok(wanted.iter().map(|key| value(core, "retrieve", key)).collect::<Vec<_>>())
                    };
                    blocking(self.core(), "retrieve", read).await
                }
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
        let draft = |core: &Core| {
            let step = |operation| Step::of(&core.descriptor, core.config.compression, operation);
            operations.into_iter().map(step).collect()
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
        self.core().report.poison.health()
    }

    /// All keys are counted anew, so it costs what a listing of all keys costs. Gauges: `sealed_packs`, `rebuilt_indexes` (damaged, made anew
    /// in memory), `file_bytes`, `log_bytes`, `dead_bytes`, `expired_keys`. Counters since it was opened: `commits`,
    /// `changes` (made by them), `largest_batch` (changes of one commit), `shared_values` (were in a pack already),
    /// `packs_sealed`, `compactions`.
    async fn stats(&self) -> Result<Stats> {
        self.describe().admit("stats")?;
        blocking(self.core(), "stats", maintenance::stats).await
    }

    async fn maintain(&self) -> Result<Maintenance> {
        maintenance::maintain(self.core(), self.writer("maintain")?).await
    }

    /// Also compares each sealed pack with what follows from its records, and checks records that are dead.
    async fn verify(&self) -> Result<Verification> {
        self.describe().admit("verify")?;
        blocking(self.core(), "verify", maintenance::verify).await
    }

    /// What this process changes is told as it is committed. A storage that only reads looks at the log every tenth of a
    /// second; `Lost` is told when a pack was sealed or compacted meanwhile.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        watch(self.core(), prefix)
    }

    async fn close(&self) -> Result<()> {
        if !self.describe().close() {
            return Ok(());
        }
        self.core().watchers.close();
        match &self.inner.writer {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }
}

/// The `pack` type of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct PackBackend;

#[async_trait]
impl Backend for PackBackend {
    const TYPE: &'static str = "pack";
    const ALIASES: &'static [&'static str] = &["packs"];

    type Config = PackConfig;

    fn check(config: &PackConfig) -> Result<(), String> {
        config.check()
    }

    async fn open(name: &str, config: PackConfig, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(PackStorage::open(name, config, context).await?))
    }
}
