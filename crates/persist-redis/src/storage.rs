use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use persist_core::{
    Backend, BaseStorage, Capabilities, Condition, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry,
    Health, HealthStatus, Key, ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome,
    POLL_INTERVAL, Page, Result, Stats, StorageError, StoreItem, StoreOptions, Value, Watch, Watchers,
    async_trait, watch_by_polling,
};
use redis::Cmd;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::change::{Change, Step};
use crate::config::RedisConfig;
use crate::engine::{Body, Call, Engine};
use crate::fault::Fault;
use crate::keyspace::Tag;
use crate::listener::{self, Listener};
use crate::reading::{self, Look};
use crate::recovery::{Done, Made};
use crate::route::Route;
use crate::sweeper::{self, Swept};

/// Values in Redis: one server, the primary that sentinels name, or a cluster.
pub struct RedisStorage {
    pub(crate) inner: Arc<Inner>,
    /// Removes what has expired; ends with the storage.
    sweeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the sweeper shares with the storage.
pub(crate) struct Inner {
    pub(crate) descriptor: Descriptor,
    pub(crate) engine: Arc<Engine>,
    pub(crate) config: RedisConfig,
    pub(crate) watchers: Watchers,
    pub(crate) listener: Listener,
}

impl Swept for Inner {
    fn engine(&self) -> &Engine {
        &self.engine
    }

    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
}

impl RedisStorage {
    /// Connects and checks that the namespace is laid out as the configuration says.
    ///
    /// # Errors
    /// `InvalidConfig`; `Unavailable`, `Timeout` or `AccessDenied` if no server can be used; `Unsupported` for a
    /// server below 6.2.
    pub async fn open(name: &str, config: RedisConfig, context: &OpenContext) -> Result<Self> {
        let read_only = config.read_only || context.read_only;
        let descriptor = Descriptor::new(name, RedisBackend::TYPE)
            .with_capabilities(capabilities(read_only))
            .with_max_value_bytes(config.max_value.0)
            .with_default_ttl(config.ttl.map(|ttl| ttl.0))
            .with_clock(Arc::clone(&context.clock));
        let opened = async {
            config.check().map_err(|message| Fault::new(ErrorKind::InvalidConfig, message))?;
            let (route, dialer) = Route::new(&config, context)?;
            let engine = Arc::new(Engine::new(&config, route, dialer));
            engine.admit(read_only).await?;
            Ok(engine)
        };
        let engine = opened.await.map_err(|fault: Fault| fault.error(&descriptor, "open"))?;
        let interval = config.sweep_interval.0;
        let (watchers, listener) = (Watchers::new(), Listener::default());
        let inner = Arc::new(Inner { descriptor, engine, config, watchers, listener });
        let sweeper = (!read_only).then(|| sweeper::start(Arc::downgrade(&inner), interval));
        Ok(Self { inner, sweeper: Mutex::new(sweeper) })
    }

    /// A change that begins now.
    pub(crate) fn change(&self, tag: Tag, steps: Vec<Step>) -> Change {
        let Inner { descriptor, engine, .. } = &*self.inner;
        Change::new(tag, descriptor.now(), engine.dialer.nonce(), steps)
    }

    /// Makes a change of one step.
    async fn change_one(&self, operation: &'static str, step: Step) -> Result<Made> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        let (key, condition) = (step.key.clone(), step.condition);
        let change = self.change(engine.keyspace.tag(&key), vec![step]);
        let done = engine.make(change, engine.deadline()).await;
        self.made_one(
            operation,
            &key,
            condition,
            done.map_err(|fault| fault.error_at(descriptor, operation, &key))?,
        )
    }

    /// What became of the only step of a change.
    pub(crate) fn made_one(
        &self,
        operation: &'static str,
        key: &Key,
        condition: Condition,
        done: Done,
    ) -> Result<Made> {
        let descriptor = &self.inner.descriptor;
        match done {
            Done::Made(made) => {
                let nothing = || Fault::garbled("no answer to a step").error_at(descriptor, operation, key);
                made.into_iter().next().ok_or_else(nothing)
            }
            Done::Conflict(_, found) => {
                let conflict = condition.conflict(key, found);
                Err(conflict.with_operation(operation).with_storage(descriptor.name()))
            }
        }
    }

    /// Reads from the place of a key.
    pub(crate) async fn ask(&self, operation: &'static str, key: &Key, cmd: Cmd) -> Result<redis::Value> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        let call = Call { tag: engine.keyspace.tag(key), bytes: 0, body: Body::Read(cmd) };
        engine
            .run_one(call, engine.deadline())
            .await
            .map_err(|fault| fault.error_at(descriptor, operation, key))
    }

    /// An entry whose value lies in parts.
    pub(crate) async fn retrieve_long(&self, operation: &'static str, key: &Key) -> Result<Option<Entry>> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        let answer = self.ask(operation, key, reading::long(&engine.keyspace, key)).await?;
        reading::long_entry(descriptor, operation, key, answer)
    }

    fn fault(&self, operation: &'static str) -> impl Fn(Fault) -> StorageError {
        let inner = Arc::clone(&self.inner);
        move |fault| fault.error(&inner.descriptor, operation)
    }
}

fn capabilities(read_only: bool) -> Capabilities {
    Capabilities {
        durable: true,
        shared: true,
        atomic_transact: true,
        native_expiry: true,
        native_ranges: true,
        native_arrays: true,
        native_watch: true,
        evicts: false,
        read_only,
    }
}

#[async_trait]
impl BaseStorage for RedisStorage {
    fn describe(&self) -> &Descriptor {
        &self.inner.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let Inner { descriptor, config, .. } = &*self.inner;
        descriptor.admit_store(key, &value, &options)?;
        let step = Step::put(descriptor, config, key, &value, options);
        drop(value);
        self.change_one("store", step).await?.stored(descriptor, "store", key)
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        descriptor.admit("retrieve")?;
        let answer = self.ask("retrieve", key, reading::whole(&engine.keyspace, key)).await?;
        match reading::entry(descriptor, "retrieve", key, answer)? {
            Look::Whole(found) => Ok(found),
            Look::Long => self.retrieve_long("retrieve", key).await,
        }
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let descriptor = &self.inner.descriptor;
        descriptor.admit_change("delete")?;
        self.change_one("delete", Step::delete(descriptor, key, options))
            .await?
            .deleted(descriptor, "delete", key)
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        let limit = descriptor.admit_list(prefix, &options)?;
        let page = engine.page(prefix, &options, limit, descriptor.now(), engine.deadline()).await;
        page.map_err(self.fault("list_keys"))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        descriptor.admit("metadata")?;
        let answer = self.ask("metadata", key, reading::fields(&engine.keyspace, key, &["m"])).await?;
        reading::metadata(descriptor, "metadata", key, answer)
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let Inner { descriptor, config, .. } = &*self.inner;
        descriptor.admit_change("touch")?;
        match self.change_one("touch", Step::touch(descriptor, config, key, expiry)).await? {
            Made::Touched(metadata) => Ok(metadata),
            Made::Outcome(_) => {
                Err(Fault::garbled("no answer to a touch").error_at(descriptor, "touch", key))
            }
        }
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        descriptor.admit("retrieve_range")?;
        let deadline = engine.deadline();
        loop {
            match self.read_range(key, range.clone()).await? {
                reading::Part::Found(part) => return Ok(part),
                reading::Part::Changed if Instant::now() >= deadline => {
                    let message =
                        "the value was replaced again and again while a range of it was read; read it whole";
                    return Err(descriptor
                        .error(ErrorKind::Timeout, "retrieve_range", message)
                        .with_key(key));
                }
                reading::Part::Changed => {}
            }
        }
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        self.store_batch(items).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        self.retrieve_batch(keys).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        self.delete_batch(keys).await
    }

    /// Atomic where all keys share a tag: always but in a cluster, and there if their names hold the same `{part}`.
    ///
    /// # Errors
    /// `Unsupported` where they do not; else as the trait says.
    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.transact_batch(operations).await
    }

    async fn health(&self) -> Health {
        if let Err(error) = self.list_keys("", ListOptions::new().limit(1)).await {
            return Health::unhealthy(&error);
        }
        let Inner { descriptor, engine, .. } = &*self.inner;
        match engine.memory(engine.deadline()).await {
            Err(fault) => Health::unhealthy(&fault.error(descriptor, "health")),
            Ok(memory) => memory.and_then(|memory| memory.evicting).map_or_else(Health::healthy, evicting),
        }
    }

    async fn stats(&self) -> Result<Stats> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        descriptor.admit("stats")?;
        engine.stats(descriptor.now(), engine.deadline()).await.map_err(self.fault("stats"))
    }

    async fn maintain(&self) -> Result<Maintenance> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        descriptor.admit_change("maintain")?;
        let expired =
            engine.sweep(descriptor.now(), engine.deadline()).await.map_err(self.fault("maintain"))?;
        Ok(Maintenance { expired, ..Maintenance::default() })
    }

    /// Told by the servers, whoever makes the change. While a server cannot be reached nothing is told; `Lost` follows when
    /// it can. A user who may not write or subscribe looks again and again instead.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.inner.descriptor.admit_watch(prefix)?;
        let watch = self.inner.watchers.watch(prefix);
        match listener::start(&self.inner).await {
            Ok(()) => Ok(watch),
            Err(fault) if matches!(fault.kind, ErrorKind::AccessDenied | ErrorKind::ReadOnly) => {
                drop(watch);
                watch_by_polling(self, prefix, POLL_INTERVAL).await
            }
            Err(fault) => Err(fault.error(&self.inner.descriptor, "watch")),
        }
    }

    async fn close(&self) -> Result<()> {
        self.inner.descriptor.close();
        self.inner.watchers.close();
        self.inner.listener.stop();
        if let Some(sweeper) = self.sweeper.lock().take() {
            sweeper.abort();
        }
        self.inner.engine.close();
        Ok(())
    }
}

fn evicting(policy: String) -> Health {
    let detail = format!(
        "the server's maxmemory-policy is {policy}: it may drop values that have not expired; set it to noeviction, or \
         use this storage for what can be made again"
    );
    Health { status: HealthStatus::Degraded, detail }
}

impl Drop for RedisStorage {
    fn drop(&mut self) {
        self.inner.listener.stop();
        if let Some(sweeper) = self.sweeper.lock().take() {
            sweeper.abort();
        }
    }
}

/// What it says of itself; never a value or a password.
impl fmt::Debug for RedisStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStorage")
            .field("descriptor", &self.inner.descriptor)
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

/// `type: redis`, also written `valkey`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedisBackend;

#[async_trait]
impl Backend for RedisBackend {
    const TYPE: &'static str = "redis";
    const ALIASES: &'static [&'static str] = &["valkey"];

    type Config = RedisConfig;

    fn check(config: &RedisConfig) -> Result<(), String> {
        config.check()
    }

    async fn open(name: &str, config: RedisConfig, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(RedisStorage::open(name, config, context).await?))
    }
}
