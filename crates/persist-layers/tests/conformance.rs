//! Every layer keeps the whole contract over memory.

mod support;

use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    BaseStorage, ByteSize, DeleteOptions, HumanDuration, Key, ManualClock, Result, async_trait,
};
use persist_layers::{
    CircuitBreaker, CircuitBreakerConfig, Concurrency, ConcurrencyConfig, Dedup, DedupConfig, Evict,
    EvictConfig, Fallback, FallbackOn, Fault, FaultConfig, Guarded, Namespace, NamespaceConfig, RateLimit,
    RateLimitConfig, ReadOnly, Retry, RetryConfig, SizeLimit, SizeLimitConfig, Tiered, TieredCoherence,
    TieredConfig, TieredWrite, Timeout, Trace, TraceConfig, TtlClamp, TtlClampConfig, Verify, VerifyConfig,
    WriteBehind, WriteBehindConfig,
};
use persist_testkit::conformance::{main as run, trials};
use persist_testkit::memory::{MemoryBuilder, MemoryPlace, MemoryStorage};
use persist_testkit::{Harness, Variant};
use support::{Layered, Storage};

#[cfg(feature = "encrypt")]
const LONGER_BELOW: &str = "a key of 1024 bytes is too long when it is encrypted";

const SHORTER_KEYS: &str = "a key may have 1024 bytes less the namespace";

fn namespace() -> Layered {
    let wrap = |storage: Storage| -> Storage {
        Arc::new(Namespace::new(storage, NamespaceConfig::new("tenant-7/%_")).expect("a namespace"))
    };
    Layered::new(wrap).prefixed("tenant-7/%_").skipping(&[
        ("C032", SHORTER_KEYS),
        ("C033", SHORTER_KEYS),
        ("C034", SHORTER_KEYS),
        ("C035", SHORTER_KEYS),
        ("C165", SHORTER_KEYS),
        ("C184", SHORTER_KEYS),
        ("C189", SHORTER_KEYS),
        ("C190", SHORTER_KEYS),
    ])
}

fn read_only() -> Layered {
    Layered::variants(
        |variant| matches!(variant, Variant::ReadOnly),
        |storage, variant| match variant {
            Some(Variant::ReadOnly) => Arc::new(ReadOnly::new(storage)),
            _ => storage,
        },
    )
}

fn size_limit() -> Layered {
    Layered::variants(
        |variant| matches!(variant, Variant::MaxValueBytes(_)),
        |storage, variant| {
            let bytes = match variant {
                Some(Variant::MaxValueBytes(bytes)) => bytes,
                _ => 16 << 20,
            };
            Arc::new(SizeLimit::new(storage, &SizeLimitConfig { max_value: ByteSize(bytes) }))
        },
    )
}

fn ttl_clamp() -> Layered {
    Layered::variants(
        |variant| matches!(variant, Variant::DefaultTtl(_)),
        |storage, variant| {
            let default = match variant {
                Some(Variant::DefaultTtl(lifetime)) => Some(HumanDuration(lifetime)),
                _ => None,
            };
            let min = Some(HumanDuration(Duration::from_millis(1)));
            Arc::new(TtlClamp::new(storage, &TtlClampConfig { min, max: None, default }))
        },
    )
}

fn verify(ranges: bool) -> Layered {
    Layered::new(move |storage| Arc::new(Verify::new(storage, &VerifyConfig { ranges })))
}

fn timeout() -> Layered {
    Layered::new(|storage| Arc::new(Guarded::new(storage, Timeout::new(Duration::from_secs(30)))))
}

fn circuit_breaker() -> Layered {
    // It is never open for long, so that what the storage itself says is seen.
    let config = || CircuitBreakerConfig { failures: 1, open_for: HumanDuration(Duration::ZERO) };
    Layered::new(move |storage| Arc::new(Guarded::new(storage, CircuitBreaker::new(&config()))))
}

fn concurrency() -> Layered {
    Layered::new(|storage| Arc::new(Guarded::new(storage, Concurrency::new(ConcurrencyConfig::new(2)))))
}

fn rate_limit() -> Layered {
    let config = || RateLimitConfig { burst: Some(10), ..RateLimitConfig::new(1_000_000) };
    Layered::new(move |storage| Arc::new(Guarded::new(storage, RateLimit::new(&config()))))
}

fn tracing() -> Layered {
    Layered::new(|storage| Arc::new(Guarded::new(storage, Trace::new(&TraceConfig { keys: true }))))
}

#[cfg(feature = "metrics")]
fn metrics() -> Layered {
    Layered::new(|storage| Arc::new(Guarded::new(storage, persist_layers::Metrics::default())))
}

#[cfg(any(feature = "compress", feature = "encrypt"))]
const BELOW: &[(&str, &str)] = &[
    ("C184", "a snapshot holds what lies below the layer"),
    ("C186", "a snapshot holds what lies below the layer"),
    ("C187", "a snapshot holds what lies below the layer"),
    ("C189", "a snapshot holds what lies below the layer"),
];

#[cfg(feature = "compress")]
fn compress(codec: persist_layers::Codec) -> Layered {
    use persist_layers::{Compress, CompressConfig};
    let config = move || CompressConfig { codec, threshold: ByteSize(1), ..CompressConfig::default() };
    Layered::new(move |storage| Arc::new(Compress::new(storage, config()))).skipping(BELOW)
}

#[cfg(feature = "encrypt")]
fn encrypt() -> Layered {
    use persist_layers::{Encrypt, EncryptConfig, EncryptKey};
    let config = || EncryptConfig {
        keys: vec![EncryptKey { id: "k".to_owned(), secret: persist_core::Secret::new("0b".repeat(32)) }],
        ..EncryptConfig::default()
    };
    Layered::new(move |storage| Arc::new(Encrypt::new(storage, config()).expect("a key"))).skipping(BELOW)
}

/// Keys are encrypted too, so they are longer below.
#[cfg(feature = "encrypt")]
fn encrypt_names() -> Layered {
    use persist_layers::{Encrypt, EncryptConfig, EncryptKey};
    let config = || EncryptConfig {
        keys: vec![EncryptKey { id: "k".to_owned(), secret: persist_core::Secret::new("0b".repeat(32)) }],
        key_names: Some("k".to_owned()),
        ..EncryptConfig::default()
    };
    Layered::new(move |storage| Arc::new(Encrypt::new(storage, config()).expect("a key"))).skipping(&[
        ("C032", LONGER_BELOW),
        ("C033", LONGER_BELOW),
        ("C034", LONGER_BELOW),
        ("C035", LONGER_BELOW),
        ("C165", LONGER_BELOW),
        ("C145", "what lies below is not called as it is here"),
        ("C146", "what lies below is not called as it is here"),
        ("C147", "what lies below is not called as it is here"),
        ("C184", "a snapshot holds what lies below the layer"),
        ("C186", "a snapshot holds what lies below the layer"),
        ("C187", "a snapshot holds what lies below the layer"),
        ("C188", "what lies below is not called as it is here"),
        ("C189", "a snapshot holds what lies below the layer"),
        ("C190", LONGER_BELOW),
    ])
}

/// A storage that fails every fifth time, and a layer that hides it.
fn retry() -> Layered {
    let config = || RetryConfig {
        attempts: 25,
        backoff: HumanDuration(Duration::ZERO),
        fence: true,
        ..RetryConfig::default()
    };
    Layered::new(move |storage| {
        let fault = Fault::new(FaultConfig { seed: Some(5), ..FaultConfig::new(0.2) });
        Arc::new(Retry::new(Arc::new(Guarded::new(storage, fault)), config()))
    })
}

/// Every value lies in chunks that may.
fn dedup() -> Layered {
    let grace = HumanDuration(Duration::from_secs(60));
    let config = move || DedupConfig { min_size: ByteSize(256), chunk: ByteSize(1024), grace };
    Layered::new(move |storage| Arc::new(Dedup::new(storage, &config()).expect("good settings"))).skipping(&[
        ("C184", "a snapshot holds what lies below the layer"),
        ("C186", "a snapshot holds what lies below the layer"),
        ("C187", "a snapshot holds what lies below the layer"),
        ("C189", "a snapshot holds what lies below the layer"),
        ("C190", "a snapshot holds what lies below the layer"),
    ])
}

fn evict() -> Layered {
    Layered::variants(
        |variant| matches!(variant, Variant::Small),
        |storage, variant| {
            let bytes = if variant == Some(Variant::Small) { 110 * 1024 } else { 1 << 30 };
            Arc::new(Evict::new(storage, EvictConfig::new(bytes)).expect("a budget"))
        },
    )
}

/// Changes wait a moment. What is down or damaged below is seen when nothing waits.
fn write_behind() -> Layered {
    let config = || WriteBehindConfig {
        delay: HumanDuration(Duration::from_millis(2)),
        ..WriteBehindConfig::default()
    };
    Layered::new(move |storage| Arc::new(WriteBehind::new(storage, config()).expect("good settings")))
        .alone()
        .flushed()
        .skipping(&[
            ("C142", "changes are taken while the storage below is away, which is what the layer is for"),
            ("C179", "what waits is in memory, the whole of it as quickly as a part"),
            ("C171", "what was written below stays there, whatever became of the rest"),
            ("C184", "a snapshot holds what lies below the layer"),
            ("C186", "a snapshot holds what lies below the layer"),
            ("C187", "a snapshot holds what lies below the layer"),
            ("C189", "a snapshot holds what lies below the layer"),
        ])
}

/// Memory over memory: a copy above, everything below.
struct Composed {
    upper: MemoryPlace,
    lower: MemoryPlace,
    clock: Arc<ManualClock>,
    shared: bool,
    compose: Arc<dyn Fn(Storage, Storage) -> Storage + Send + Sync>,
}

impl Composed {
    fn new(compose: impl Fn(Storage, Storage) -> Storage + Send + Sync + 'static) -> Self {
        let compose = Arc::new(compose);
        Self {
            upper: MemoryPlace::new(),
            lower: MemoryPlace::new(),
            clock: Arc::default(),
            shared: false,
            compose,
        }
    }

    fn open_with(&self, adjust: impl Fn(MemoryBuilder) -> MemoryBuilder) -> Storage {
        // An error names the member it comes from, and the suite looks for the name of the storage it was given.
        let builder = || MemoryStorage::builder("whole").clock(self.clock.clone());
        let lower = Arc::new(adjust(builder().as_disk()).open(&self.lower));
        (self.compose)(Arc::new(builder().open(&self.upper)), lower)
    }
}

#[async_trait]
impl Harness for Composed {
    async fn open(&self) -> Result<Storage> {
        Ok(self.open_with(|builder| builder))
    }

    async fn open_another(&self) -> Result<Option<Storage>> {
        if self.shared { self.open().await.map(Some) } else { Ok(None) }
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Storage>> {
        let adjust = |builder: MemoryBuilder| builder.variant(variant).expect("not the small one");
        Ok((variant != Variant::Small).then(|| self.open_with(adjust)))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    async fn break_down(&self) -> bool {
        self.upper.set_down(true);
        self.lower.set_down(true);
        true
    }

    async fn mend(&self) -> bool {
        self.upper.set_down(false);
        self.lower.set_down(false);
        true
    }

    async fn corrupt(&self, key: &Key) -> bool {
        // A good copy above would hide the damage below, which is what it is for.
        let upper = MemoryStorage::builder("whole").clock(self.clock.clone()).open(&self.upper);
        let removed = upper.delete(key, DeleteOptions::new()).await;
        removed.is_ok() && self.lower.corrupt(key)
    }
}

fn tiered(write: TieredWrite, negative_ttl: Option<HumanDuration>) -> Composed {
    let config = TieredConfig { write, negative_ttl, ..TieredConfig::new(Vec::new()) };
    Composed::new(move |upper, lower| {
        Arc::new(Tiered::new("whole", vec![upper, lower], &config).expect("two tiers"))
    })
}

/// The first member counts, so it is the lower one.
fn fallback() -> Composed {
    let composed = Composed::new(|upper, lower| {
        let on = [FallbackOn::Unavailable, FallbackOn::Timeout];
        Arc::new(Fallback::new("whole", vec![lower, upper], &on).expect("two members"))
    });
    Composed { shared: true, ..composed }
}

fn main() -> std::process::ExitCode {
    let mut all = trials("namespace", namespace);
    all.extend(trials("read_only", read_only).into_iter().filter(|trial| trial.name().contains("C183")));
    all.extend(trials("size_limit", size_limit));
    all.extend(trials("ttl_clamp", ttl_clamp));
    all.extend(trials("verify", || verify(false)));
    all.extend(trials("verify_ranges", || verify(true)));
    all.extend(trials("timeout", timeout));
    all.extend(trials("circuit_breaker", circuit_breaker));
    all.extend(trials("concurrency", concurrency));
    all.extend(trials("rate_limit", rate_limit));
    all.extend(trials("tracing", tracing));
    #[cfg(feature = "metrics")]
    all.extend(trials("metrics", metrics));
    all.extend(trials("retry", retry));
    #[cfg(feature = "compress")]
    {
        all.extend(trials("zstd", || compress(persist_layers::Codec::Zstd)));
        all.extend(trials("gzip", || compress(persist_layers::Codec::Gzip)));
        all.extend(trials("lz4", || compress(persist_layers::Codec::Lz4)));
    }
    #[cfg(feature = "encrypt")]
    {
        all.extend(trials("encrypt", encrypt));
        all.extend(trials("encrypt_names", encrypt_names));
    }
    all.extend(trials("dedup", dedup));
    all.extend(trials("evict", evict));
    all.extend(trials("write_behind", write_behind));
    all.extend(trials("tiered", || tiered(TieredWrite::Through, None)));
    all.extend(trials("tiered_around", || {
        tiered(TieredWrite::Around, Some(HumanDuration(Duration::from_secs(3600))))
    }));
    all.extend(trials("tiered_watch", || {
        let coherence = TieredCoherence::Watch;
        let config = TieredConfig { coherence, ..TieredConfig::new(Vec::new()) };
        Composed::new(move |upper, lower| {
            Arc::new(Tiered::new("whole", vec![upper, lower], &config).expect("two tiers"))
        })
    }));
    all.extend(trials("fallback", fallback));
    run(all)
}
