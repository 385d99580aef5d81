//! Places in real Redis servers, for the suite and the model test.

// Every test binary uses a part of it; a panic here is a report.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use persist_core::{Array, Backend, BaseStorage, Key, ManualClock, OpenContext, Result, Secret, async_trait};
use persist_redis::{Address, ClusterConfig, RedisBackend, RedisConfig, SentinelConfig, TlsConfig};
use persist_testkit::redis::{Deployment, Kind, Reply, Server};
use persist_testkit::{Harness, Variant};

static STANDALONE: LazyLock<Option<Deployment>> = LazyLock::new(Deployment::standalone);
static CLUSTER: LazyLock<Option<Deployment>> = LazyLock::new(Deployment::cluster);
static SENTINEL: LazyLock<Option<Deployment>> = LazyLock::new(Deployment::sentinel);

/// True if there are servers to test with; says so if not.
pub(crate) fn is_there() -> bool {
    STANDALONE.is_some()
}

/// A name that no other test uses.
pub(crate) fn namespace() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// How a storage reaches a deployment.
pub(crate) fn config(redis: &Deployment, tls: bool, tags: u16) -> RedisConfig {
    let address = |server: &Server| Address::new("127.0.0.1", server.port());
    let password = Secret::new(redis.password());
    let config = match redis.kind() {
        Kind::Standalone if tls => {
            let (user, password) = redis.user();
            let tls = TlsConfig { ca: Some(redis.authority()), ..TlsConfig::default() };
            RedisConfig::url(redis.tls_url()).tls(tls).credentials(user, Secret::new(password))
        }
        Kind::Standalone => RedisConfig::url(redis.url()),
        Kind::Cluster => {
            let nodes = redis.servers()[..2].iter().map(address).collect();
            let config =
                RedisConfig { cluster: Some(ClusterConfig { nodes, tags }), ..RedisConfig::default() };
            config.credentials("default", password)
        }
        Kind::Sentinel => {
            let sentinel = SentinelConfig {
                nodes: redis.sentinels().iter().map(address).collect(),
                master: redis.master().to_owned(),
                username: None,
                password: Some(password.clone()),
            };
            RedisConfig { sentinel: Some(sentinel), ..RedisConfig::default() }
                .credentials("default", password)
        }
    };
    config.namespace(namespace())
}

/// A namespace of its own on servers that all places share, or, for the clauses that break the server, on its own one.
pub(crate) struct Place {
    redis: &'static Deployment,
    /// For a clause about an unavailable storage.
    own: OnceLock<Deployment>,
    config: RedisConfig,
    clock: Arc<ManualClock>,
    /// Clauses that need a transaction over several slots do not apply.
    many_slots: bool,
}

impl Place {
    /// One server, with TLS and as a user with the rights that a storage needs and no others.
    pub(crate) fn standalone() -> Self {
        Self::new(STANDALONE.as_ref().unwrap(), true, 1)
    }

    /// A cluster, over many of its slots.
    pub(crate) fn cluster() -> Self {
        Self::new(CLUSTER.as_ref().unwrap(), false, 16)
    }

    /// A cluster, but all on one slot.
    pub(crate) fn one_slot() -> Self {
        Self::new(CLUSTER.as_ref().unwrap(), false, 1)
    }

    /// The primary that sentinels name.
    pub(crate) fn sentinel() -> Self {
        Self::new(SENTINEL.as_ref().unwrap(), false, 1)
    }

    fn new(redis: &'static Deployment, tls: bool, tags: u16) -> Self {
        let config = config(redis, tls, tags);
        Self { redis, own: OnceLock::new(), config, clock: Arc::default(), many_slots: tags > 1 }
    }

    fn config(&self) -> RedisConfig {
        match self.own.get() {
            Some(own) => {
                let namespace = self.config.namespace.clone();
                let (call, attempt) = (Duration::from_millis(600), Duration::from_millis(300));
                config(own, false, 1).namespace(namespace).timeouts(call, attempt, attempt)
            }
            None => self.config.clone(),
        }
    }

    async fn open_with(&self, config: RedisConfig) -> Result<Arc<dyn BaseStorage>> {
        let context = OpenContext { clock: self.clock.clone(), ..OpenContext::default() };
        RedisBackend::open("hot", config, &context).await
    }

    fn entry(&self, key: &Key) -> Vec<String> {
        let tags = self.config.cluster.as_ref().map_or(1, |cluster| cluster.tags);
        (0..tags).map(|tag| format!("{}:{{{tag}}}/{key}", self.config.namespace)).collect()
    }

    /// The answer of whichever server and tag has the key.
    fn ask(&self, key: &Key, command: &[&str], arguments: &[&str]) -> Option<Reply> {
        let redis = self.own.get().unwrap_or(self.redis);
        for server in redis.servers() {
            for name in self.entry(key) {
                let there = server.command(&["EXISTS", &name]);
                let primary = server.command(&["ROLE"]);
                let primary = matches!(primary, Reply::Array(parts) if parts[0].text() == "master");
                if there == Reply::Integer(1) && primary {
                    return Some(server.command(&[command, &[&name], arguments].concat()));
                }
            }
        }
        None
    }
}

/// Flips a bit at the end of the value, or of its first part.
const FLIP: &str = "local field = redis.call('HEXISTS', KEYS[1], 'v') == 1 and 'v' or '0'
    local value = redis.call('HGET', KEYS[1], field)
    if #value == 0 then redis.call('HSET', KEYS[1], field, 'x') return 1 end
    local last = bit.bxor(string.byte(value, -1), 1)
    redis.call('HSET', KEYS[1], field, string.sub(value, 1, -2) .. string.char(last))
    return 1";

#[async_trait]
impl Harness for Place {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.open_with(self.config()).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let mut config = self.config();
        if !variant.settle(&mut config.ttl, &mut config.max_value, &mut config.read_only) {
            return Ok(None);
        }
        self.open_with(config).await.map(Some)
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.open().await.map(Some)
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    async fn break_down(&self) -> bool {
        let Some(own) = self.own.get() else { return false };
        own.servers()[0].kill();
        true
    }

    async fn mend(&self) -> bool {
        let Some(own) = self.own.get() else { return false };
        own.servers()[0].start();
        true
    }

    async fn corrupt(&self, key: &Key) -> bool {
        self.ask(key, &["EVAL", FLIP, "1"], &[]) == Some(Reply::Integer(1))
    }

    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        match self.ask(key, &["HGET"], &["v"]) {
            Some(Reply::Bulk(Some(npy))) => Ok(Array::from_npy(&npy.into()).ok()),
            _ => Ok(None),
        }
    }

    fn skips(&self, clause: &str) -> Option<&'static str> {
        if self.redis.kind() == Kind::Standalone && ["C142", "C143", "C144"].contains(&clause) {
            self.own.get_or_init(|| Deployment::standalone().unwrap());
        }
        let over_slots = ["C066", "C076", "C077", "C078", "C080", "C081", "C114", "C160", "C170", "C177"];
        (self.many_slots && over_slots.contains(&clause)).then_some(
            "its transaction is over several slots of a cluster, which is refused; see cluster_on_one_slot",
        )
    }
}
