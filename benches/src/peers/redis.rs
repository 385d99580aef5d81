//! Redis without persist: bare clients that set and get strings, and the program that shows what the server can do.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_redis::{Config, Pool, PoolConfig, Runtime};
use fred::interfaces::{ClientLike, KeysInterface};
use futures_util::future::try_join_all;
use opendal::Operator;
use opendal::services::Redis;
use parking_lot::Mutex;
use persist_bench_work::{Contender, Job, Outcome, Runner, Sample, Work};
use persist_core::Key;
use persist_testkit::redis::Deployment;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline};
use tokio::process::Command;

use super::OpenDal;

/// How many connections the pool has.
const CONNECTIONS: usize = 16;

/// How many commands `redis-benchmark` sends in one piece where others store or retrieve a batch.
const BATCH: &str = "100";

/// The server that all contenders use, in a container or, with PERSIST_TEST_REDIS=local, a process.
pub(crate) fn server() -> Outcome<&'static Deployment> {
    static SERVER: OnceLock<Option<Deployment>> = OnceLock::new();
    let server = SERVER.get_or_init(Deployment::standalone).as_ref();
    server.ok_or_else(|| "there is no Redis server to measure; see PERSIST_TEST_REDIS".into())
}

/// What the names of a contender's keys begin with.
#[derive(Clone, Debug)]
struct Names(String);

impl Names {
    /// The names of a contender begin with that of its folder.
    fn new(folder: &Path) -> Self {
        Self(folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    fn of(&self, key: &Key) -> String {
        format!("{}:{key}", self.0)
    }
}

fn no_pages<T>() -> Outcome<T> {
    Err("strings in Redis cannot be listed in order".into())
}

/// The crate `redis` alone: one multiplexed connection.
pub(crate) struct Multiplexed {
    connection: MultiplexedConnection,
    names: Names,
}

impl Multiplexed {
    pub(crate) async fn new(folder: &Path) -> Outcome<Self> {
        let client = Client::open(server()?.url())?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, names: Names::new(folder) })
    }
}

impl Contender for Multiplexed {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        let mut set = redis::cmd("SET");
        set.arg(self.names.of(key)).arg(&value[..]);
        Ok(set.exec_async(&mut self.connection.clone()).await?)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        let mut get = redis::cmd("GET");
        let found: Option<Vec<u8>> =
            get.arg(self.names.of(key)).query_async(&mut self.connection.clone()).await?;
        Ok(found.map(Bytes::from))
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        let mut pipeline = Pipeline::with_capacity(items.len());
        for (key, value) in &items {
            pipeline.cmd("SET").arg(self.names.of(key)).arg(&value[..]).ignore();
        }
        Ok(pipeline.exec_async(&mut self.connection.clone()).await?)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("GET").arg(self.names.of(key));
        }
        let found: Vec<Option<Vec<u8>>> = pipeline.query_async(&mut self.connection.clone()).await?;
        Ok(found.into_iter().map(|found| found.map(Bytes::from)).collect())
    }

    async fn page(&self, _: Option<&Key>, _: usize) -> Outcome<Vec<String>> {
        no_pages()
    }
}

/// A pool of connections, each lent to one caller.
pub(crate) struct Deadpool {
    pool: Pool,
    names: Names,
}

impl Deadpool {
    pub(crate) fn new(folder: &Path) -> Outcome<Self> {
        let mut config = Config::from_url(server()?.url());
        config.pool = Some(PoolConfig::new(CONNECTIONS));
        Ok(Self { pool: config.create_pool(Some(Runtime::Tokio1))?, names: Names::new(folder) })
    }
}

impl Contender for Deadpool {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        let mut connection = self.pool.get().await?;
        let mut set = redis::cmd("SET");
        Ok(set.arg(self.names.of(key)).arg(&value[..]).exec_async(&mut connection).await?)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        let mut connection = self.pool.get().await?;
        let mut get = redis::cmd("GET");
        let found: Option<Vec<u8>> = get.arg(self.names.of(key)).query_async(&mut connection).await?;
        Ok(found.map(Bytes::from))
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        let mut connection = self.pool.get().await?;
        let mut pipeline = Pipeline::with_capacity(items.len());
        for (key, value) in &items {
            pipeline.cmd("SET").arg(self.names.of(key)).arg(&value[..]).ignore();
        }
        Ok(pipeline.exec_async(&mut connection).await?)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let mut connection = self.pool.get().await?;
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("GET").arg(self.names.of(key));
        }
        let found: Vec<Option<Vec<u8>>> = pipeline.query_async(&mut connection).await?;
        Ok(found.into_iter().map(|found| found.map(Bytes::from)).collect())
    }

    async fn page(&self, _: Option<&Key>, _: usize) -> Outcome<Vec<String>> {
        no_pages()
    }
}

/// The crate `fred`: one client.
pub(crate) struct Fred {
    client: fred::clients::Client,
    names: Names,
}

impl Fred {
    pub(crate) async fn new(folder: &Path) -> Outcome<Self> {
        let config = fred::types::config::Config::from_url(&server()?.url())?;
        let client = fred::types::Builder::from_config(config).build()?;
        client.init().await?;
        Ok(Self { client, names: Names::new(folder) })
    }
}

impl Contender for Fred {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        Ok(self.client.set(self.names.of(key), value.clone(), None, None, false).await?)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        Ok(self.client.get(self.names.of(key)).await?)
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        let pipeline = self.client.pipeline();
        for (key, value) in items {
            let () = pipeline.set(self.names.of(&key), value, None, None, false).await?;
        }
        let _: Vec<()> = pipeline.all().await?;
        Ok(())
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let pipeline = self.client.pipeline();
        for key in keys {
            let () = pipeline.get(self.names.of(key)).await?;
        }
        Ok(pipeline.all().await?)
    }

    async fn page(&self, _: Option<&Key>, _: usize) -> Outcome<Vec<String>> {
        no_pages()
    }
}

impl OpenDal {
    /// OpenDAL's `redis` service, which lists nothing.
    pub(crate) fn redis(folder: &Path) -> Outcome<Self> {
        let server = server()?;
        let endpoint = format!("tcp://127.0.0.1:{}", server.servers()[0].port());
        let service = Redis::default().endpoint(&endpoint).username("default").password(server.password());
        Ok(Self(Operator::new(service.root(&Names::new(folder).0))?))
    }
}

/// `redis-benchmark`: what the server can do for clients that do nothing with the answers. It has keys of its own, as many
/// as the others, and nobody checks what it reads. For batches it sends 100 commands in one piece.
#[derive(Debug, Default)]
pub(crate) struct RedisBenchmark {
    /// How many calls it makes in a second, as far as is known.
    rate: Mutex<f64>,
}

impl RedisBenchmark {
    async fn call(&self, job: &Job, work: Work, count: u64, tasks: usize) -> Outcome<String> {
        let server = server()?;
        let verb = if matches!(work, Work::Store | Work::StoreMany) { "set" } else { "get" };
        let batched = matches!(work, Work::StoreMany | Work::RetrieveMany);
        let numbers = [
            ("-p", server.servers()[0].port().to_string()),
            ("-c", tasks.to_string()),
            ("-n", count.to_string()),
            ("-d", job.data.value(0).len().to_string()),
            ("-r", job.data.count().to_string()),
            ("-P", if batched { BATCH.to_owned() } else { "1".to_owned() }),
        ];
        let mut command = Command::new("redis-benchmark");
        command.args(["--csv", "-h", "127.0.0.1", "-a", server.password(), "-t", verb]);
        numbers.iter().for_each(|(flag, number)| {
            command.args([flag, number.as_str()]);
        });
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().await?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().last().filter(|_| output.status.success());
        Ok(line.ok_or("redis-benchmark gave no figures; it is in the package redis-tools")?.to_owned())
    }
}

#[async_trait]
impl Runner for RedisBenchmark {
    async fn run(self: Arc<Self>, job: Arc<Job>) -> Outcome<Sample> {
        let known = *self.rate.lock();
        let count = if known > 0.0 { known * job.time.as_secs_f64() } else { 5000.0 };
        let line = self.call(&job, job.work, (count as u64).max(1000), job.tasks).await?;
        // "SET","rps","avg","min","p50","p95","p99","max", all times in milliseconds.
        let columns: Vec<&str> = line.split(',').map(|column| column.trim_matches('"')).collect();
        let column =
            |at: usize| -> Outcome<f64> { Ok(columns.get(at).ok_or("a figure is missing")?.parse()?) };
        *self.rate.lock() = column(1)?;
        let time = |at| {
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Duration::from_secs_f64(column(at)? / 1e3))
        };
        Ok(Sample { rate: column(1)?, p50: time(4)?, p99: time(6)? })
    }

    async fn fill(self: Arc<Self>, job: Arc<Job>) -> Outcome<()> {
        let count = 10 * job.data.count() as u64;
        self.call(&job, Work::StoreMany, count, 16).await.map(drop)
    }

    /// It reads without looking.
    async fn verify(self: Arc<Self>, _: Arc<Job>) -> Outcome<()> {
        Ok(())
    }
}

/// The commands of persist without persist: the field and the record of an entry, read in one pipeline from the names that
/// `docs/formats/redis.md` describes. Whoever stores is persist.
pub(crate) struct SameCommands {
    connection: MultiplexedConnection,
    namespace: String,
    stores: super::Persist,
}

impl SameCommands {
    pub(crate) async fn new(namespace: &str, stores: super::Persist) -> Outcome<Self> {
        let client = Client::open(server()?.url())?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, namespace: namespace.to_owned(), stores })
    }

    fn fetch(&self, pipeline: &mut Pipeline, key: &Key) {
        pipeline.cmd("HMGET").arg(format!("{}:{{0}}/{key}", self.namespace)).arg("m").arg("v");
    }
}

impl Contender for SameCommands {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.stores.store(key, value).await
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        Ok(self.retrieve_many(std::slice::from_ref(key)).await?.pop().flatten())
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        keys.iter().for_each(|key| self.fetch(&mut pipeline, key));
        // Record and value of each key.
        let found: Vec<[Option<Vec<u8>>; 2]> = pipeline.query_async(&mut self.connection.clone()).await?;
        Ok(found.into_iter().map(|[_, value]| value.map(Bytes::from)).collect())
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        try_join_all(items.iter().map(|(key, value)| self.store(key, value))).await.map(drop)
    }

    async fn page(&self, _: Option<&Key>, _: usize) -> Outcome<Vec<String>> {
        no_pages()
    }
}
