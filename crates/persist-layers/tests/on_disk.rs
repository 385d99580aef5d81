//! The layers that change what is stored keep the whole contract over files and over SQLite, and answer as the model does.
#![cfg(all(feature = "compress", feature = "encrypt"))]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use persist_core::{
    BaseStorage, ByteSize, HumanDuration, ManualClock, OpenContext, Result, Secret, async_trait,
};
use persist_file::{Durability as FileDurability, FileConfig, FileStorage};
use persist_layers::{
    CircuitBreakerConfig, Compress, CompressConfig, ConcurrencyConfig, Dedup, DedupConfig, Encrypt,
    EncryptConfig, EncryptKey, Evict, EvictConfig, JournalConfig, Layer, Namespace, NamespaceConfig,
    RateLimitConfig, Retry, RetryConfig, SizeLimit, SizeLimitConfig, Timeout, TimeoutConfig, Trace,
    TraceConfig, TtlClamp, TtlClampConfig, Verify, VerifyConfig, WriteBehind, WriteBehindConfig,
};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::conformance::{main as run, trials};
use persist_testkit::model::Model;
use persist_testkit::{Harness, Variant};

type Storage = Arc<dyn BaseStorage>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Files,
    Sqlite,
}

/// The layers, each alone; `guards` are those that only look at calls or refuse them, all together.
const LAYERS: [&str; 7] = ["guards", "namespace", "compress", "encrypt", "dedup", "evict", "write_behind"];

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

    async fn open_below(&self, variant: Option<Variant>) -> Result<Storage> {
        let (ttl, max_value) = match variant {
            Some(Variant::DefaultTtl(ttl)) => (Some(HumanDuration(ttl)), None),
            Some(Variant::MaxValueBytes(bytes)) => (None, Some(ByteSize(bytes))),
            _ => (None, None),
        };
        let read_only = variant == Some(Variant::ReadOnly);
        Ok(match self.below {
            Below::Files => {
                let mut config = FileConfig::new("files").durability(FileDurability::Relaxed);
                (config.ttl, config.read_only) = (ttl, read_only);
                config.max_value = max_value.unwrap_or(config.max_value);
                Arc::new(FileStorage::open("main", config, &self.context()).await?)
            }
            Below::Sqlite => {
                let mut config = SqliteConfig::new("main.db").durability(Durability::Relaxed);
                (config.ttl, config.read_only) = (ttl, read_only);
                config.max_value = max_value.unwrap_or(config.max_value);
                Arc::new(SqliteStorage::open("main", config, &self.context()).await?)
            }
        })
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
        self.wrap(self.open_below(None).await?, false).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Storage>> {
        if variant == Variant::Small && self.layer != "evict" {
            return Ok(None);
        }
        let below = self.open_below(Some(variant)).await?;
        self.wrap(below, variant == Variant::Small).await.map(Some)
    }

    async fn open_another(&self) -> Result<Option<Storage>> {
        self.open().await.map(Some)
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    fn skips(&self, clause: &str) -> Option<&'static str> {
        let long = matches!(clause, "C032" | "C033" | "C034" | "C035" | "C165" | "C184" | "C189" | "C190");
        if self.layer == "namespace" && long {
            return Some("a key may have 1024 bytes less the namespace");
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
    run(all)
}
