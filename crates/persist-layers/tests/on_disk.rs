//! Layers keep the whole contract over files and over SQLite, composites over both together, and both answer as the model does.
#![cfg(all(feature = "compress", feature = "encrypt"))]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use persist_core::{ByteSize, HumanDuration, ManualClock, OpenContext, Result, Secret, async_trait};
use persist_file::{Durability as FileDurability, FileConfig, FileStorage};
use persist_layers::{
    CircuitBreakerConfig, Compress, CompressConfig, ConcurrencyConfig, Dedup, DedupConfig, Encrypt,
    EncryptConfig, EncryptKey, Evict, EvictConfig, Fallback, FallbackOn, JournalConfig, Layer, Namespace,
    NamespaceConfig, RateLimitConfig, Replicated, ReplicatedConfig, Retry, RetryConfig, Router, Sharded,
    ShardedConfig, SizeLimit, SizeLimitConfig, Tiered, TieredConfig, Timeout, TimeoutConfig, Trace,
    TraceConfig, TtlClamp, TtlClampConfig, Verify, VerifyConfig, WriteBehind, WriteBehindConfig,
};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::conformance::{main as run, trials};
use persist_testkit::model::Model;
use persist_testkit::{Harness, Variant};
use support::{SPANNING, SPANS, Storage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Files,
    Sqlite,
    /// Members of both kinds, for a composite.
    Both,
}

/// The layers, each alone; `guards` are those that only look at calls or refuse them, all together.
const LAYERS: [&str; 7] = ["guards", "namespace", "compress", "encrypt", "dedup", "evict", "write_behind"];

/// The composites.
const COMPOSITES: [&str; 5] = ["tiered", "fallback", "replicated", "sharded", "router"];

struct Disk {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    below: Below,
    layer: &'static str,
}

impl Disk {
    fn new(below: Below, layer: &'static str) -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default(), below, layer }
    }

    fn context(&self) -> OpenContext {
        OpenContext { clock: self.clock.clone(), ..OpenContext::new(self.place.path()) }
    }

    async fn open_files(&self, place: &str, variant: Option<Variant>) -> Result<Storage> {
        let mut config = FileConfig::new(place).durability(FileDurability::Relaxed);
        config.ttl = ttl_of(variant);
        config.read_only = variant == Some(Variant::ReadOnly);
        config.max_value = limit_of(variant).unwrap_or(config.max_value);
        Ok(Arc::new(FileStorage::open("main", config, &self.context()).await?))
    }

    async fn open_sqlite(&self, place: &str, variant: Option<Variant>) -> Result<Storage> {
        let mut config = SqliteConfig::new(place).durability(Durability::Relaxed);
        config.ttl = ttl_of(variant);
        config.read_only = variant == Some(Variant::ReadOnly);
        config.max_value = limit_of(variant).unwrap_or(config.max_value);
        Ok(Arc::new(SqliteStorage::open("main", config, &self.context()).await?))
    }

    async fn open_with(&self, variant: Option<Variant>) -> Result<Storage> {
        let below = match self.below {
            Below::Files => self.open_files("files", variant).await?,
            Below::Sqlite => self.open_sqlite("main.db", variant).await?,
            Below::Both => {
                // Who stores in SQLite first sets the pace; errors are of a member that has the name of the whole.
                let members = vec![
                    self.open_sqlite("first.db", variant).await?,
                    self.open_files("second", variant).await?,
                    self.open_sqlite("third.db", variant).await?,
                ];
                return compose(self.layer, members);
            }
        };
        self.wrap(below, variant == Some(Variant::Small)).await
    }

    async fn wrap(&self, below: Storage, small: bool) -> Result<Storage> {
        match self.layer {
            "guards" => guards(below),
            "namespace" => Namespace::wrap(below, NamespaceConfig::new("tenant/")),
            "compress" => {
                Compress::wrap(below, CompressConfig { threshold: ByteSize(1), ..CompressConfig::default() })
            }
            "encrypt" => {
                let keys = vec![EncryptKey { id: "k".to_owned(), secret: Secret::new("c3".repeat(32)) }];
                Encrypt::wrap(below, EncryptConfig { keys, ..EncryptConfig::default() })
            }
            "dedup" => {
                let grace = HumanDuration(Duration::from_secs(60));
                Dedup::wrap(below, DedupConfig { min_size: ByteSize(256), chunk: ByteSize(1024), grace })
            }
            "evict" => Evict::wrap(below, EvictConfig::new(if small { 110 << 10 } else { 1 << 30 })),
            "write_behind" => {
                let journal = Some(JournalConfig::new(PathBuf::from("journal")));
                let delay = HumanDuration(Duration::from_millis(2));
                let config = WriteBehindConfig { delay, journal, ..WriteBehindConfig::default() };
                <WriteBehind as Layer>::open(below, config, &self.context()).await
            }
            other => panic!("no layer {other}"),
        }
    }
}

fn ttl_of(variant: Option<Variant>) -> Option<HumanDuration> {
    match variant {
        Some(Variant::DefaultTtl(ttl)) => Some(HumanDuration(ttl)),
        _ => None,
    }
}

fn limit_of(variant: Option<Variant>) -> Option<ByteSize> {
    match variant {
        Some(Variant::MaxValueBytes(bytes)) => Some(ByteSize(bytes)),
        _ => None,
    }
}

fn compose(composite: &str, members: Vec<Storage>) -> Result<Storage> {
    let names = || (0..members.len()).map(|number| number.to_string());
    Ok(match composite {
        "tiered" => Arc::new(Tiered::new("main", members, &TieredConfig::new(Vec::new()))?),
        "fallback" => {
            let on = [FallbackOn::Unavailable, FallbackOn::Timeout];
            Arc::new(Fallback::new("main", members, &on)?)
        }
        "replicated" => {
            let config = ReplicatedConfig::new(names());
            Arc::new(Replicated::new("main", &config, members)?)
        }
        "sharded" => {
            let config = ShardedConfig::new(names());
            Arc::new(Sharded::new("main", &config, members)?)
        }
        "router" => {
            let routes =
                [("users/", 1), ("b/", 2)].map(|(prefix, at)| (prefix.to_owned(), Arc::clone(&members[at])));
            Arc::new(Router::new("main", Arc::clone(&members[0]), routes)?)
        }
        other => panic!("no composite {other}"),
    })
}

/// From the inside to the outside.
fn guards(below: Storage) -> Result<Storage> {
    let storage = Timeout::wrap(below, TimeoutConfig { after: HumanDuration(Duration::from_secs(60)) })?;
    let storage = persist_layers::RateLimit::wrap(storage, RateLimitConfig::new(10_000_000))?;
    let storage = persist_layers::Concurrency::wrap(storage, ConcurrencyConfig::new(64))?;
    let storage = persist_layers::CircuitBreaker::wrap(storage, CircuitBreakerConfig::default())?;
    let storage = Retry::wrap(storage, RetryConfig { fence: true, ..RetryConfig::default() })?;
    let storage = Verify::wrap(storage, VerifyConfig { ranges: false })?;
    let min = Some(HumanDuration(Duration::from_millis(1)));
    let storage = TtlClamp::wrap(storage, TtlClampConfig { min, ..TtlClampConfig::default() })?;
    let storage = SizeLimit::wrap(storage, SizeLimitConfig::new(16 << 20))?;
    Trace::wrap(storage, TraceConfig { keys: true })
}

#[async_trait]
impl Harness for Disk {
    async fn open(&self) -> Result<Storage> {
        self.open_with(None).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Storage>> {
        if variant == Variant::Small && self.layer != "evict" {
            return Ok(None);
        }
        self.open_with(Some(variant)).await.map(Some)
    }

    async fn open_another(&self) -> Result<Option<Storage>> {
        let storage = self.open().await?;
        Ok(storage.describe().capabilities().shared.then_some(storage))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    fn skips(&self, clause: &str) -> Option<&'static str> {
        let long = matches!(clause, "C032" | "C033" | "C034" | "C035" | "C165" | "C184" | "C189" | "C190");
        if self.layer == "namespace" && long {
            return Some("a key may have 1024 bytes less the namespace");
        }
        if self.layer == "sharded" && SPANNING.contains(&clause) {
            return Some(SPANS);
        }
        if self.layer == "write_behind" && clause == "C179" {
            return Some("what waits is in memory, the whole of it as quickly as a part");
        }
        let encodes = matches!(self.layer, "compress" | "encrypt" | "dedup" | "write_behind");
        let of_snapshots = matches!(clause, "C184" | "C185" | "C186" | "C187" | "C188" | "C189" | "C190");
        // SQLite writes a file of its own, which holds what lies below.
        let native = self.below == Below::Sqlite && self.layer != "namespace";
        (of_snapshots && (encodes || native)).then_some("a snapshot holds what lies below the layer")
    }
}

fn model(below: Below, layer: &'static str) -> Trial {
    Trial::test(format!("model::{below:?}::{layer}").to_lowercase(), move || {
        Model::new().cases(12).run(|| Disk::new(below, layer));
        Ok(())
    })
}

fn main() -> std::process::ExitCode {
    let mut all = Vec::new();
    for below in [Below::Files, Below::Sqlite] {
        for layer in LAYERS {
            all.extend(trials(&format!("{below:?}::{layer}").to_lowercase(), move || {
                Disk::new(below, layer)
            }));
            // A model knows no evictions, and keys of every length.
            if layer != "namespace" {
                all.push(model(below, layer));
            }
        }
    }
    for composite in COMPOSITES {
        all.extend(trials(&format!("both::{composite}"), move || Disk::new(Below::Both, composite)));
        // The transactions of the model are of keys in several shards.
        if composite != "sharded" {
            all.push(model(Below::Both, composite));
        }
    }
    run(all)
}
