//! Stacks of layers answer random operations as the model does, over memory, files and SQLite.
#![cfg(all(feature = "compress", feature = "encrypt", feature = "metrics"))]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    BaseStorage, ByteSize, HumanDuration, ManualClock, OpenContext, Result, Secret, async_trait,
};
use persist_file::{Durability as FileDurability, FileConfig, FileStorage};
use persist_layers::{
    CircuitBreakerConfig, Codec, Compress, CompressConfig, ConcurrencyConfig, Encrypt, EncryptConfig,
    EncryptKey, Fault, FaultConfig, Guarded, Layer, MetricsConfig, RateLimitConfig, Retry, RetryConfig,
    SizeLimit, SizeLimitConfig, TimeoutConfig, Trace, TraceConfig, TtlClamp, TtlClampConfig, Verify,
    VerifyConfig, check_order,
};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::Harness;
use persist_testkit::model::Model;
use support::{Layered, Storage};

/// All layers that change no answer (a namespace takes shorter keys), from the outside to the inside, in an order in which they may stand.
const LAYERS: [&str; 12] = [
    "metrics",
    "tracing",
    "size_limit",
    "ttl_clamp",
    "verify",
    "compress",
    "encrypt",
    "retry",
    "circuit_breaker",
    "concurrency",
    "rate_limit",
    "timeout",
];

fn wrap(name: &str, inner: Storage) -> Storage {
    let wrapped = match name {
        "metrics" => persist_layers::Metrics::wrap(inner, MetricsConfig {}),
        "tracing" => Trace::wrap(inner, TraceConfig { keys: true }),
        "size_limit" => SizeLimit::wrap(inner, SizeLimitConfig::new(16 << 20)),
        "ttl_clamp" => {
            let min = Some(HumanDuration(Duration::from_millis(1)));
            TtlClamp::wrap(inner, TtlClampConfig { min, ..TtlClampConfig::default() })
        }
        "verify" => Verify::wrap(inner, VerifyConfig { ranges: true }),
        "compress" => {
            let config =
                CompressConfig { codec: Codec::Lz4, threshold: ByteSize(1), ..CompressConfig::default() };
            Compress::wrap(inner, config)
        }
        "encrypt" => {
            let keys = vec![EncryptKey { id: "k".to_owned(), secret: Secret::new("c3".repeat(32)) }];
            Encrypt::wrap(inner, EncryptConfig { keys, ..EncryptConfig::default() })
        }
        // Hides that what lies below it fails every tenth time.
        "retry" => {
            let flaky: Storage = Arc::new(Guarded::new(inner, Fault::new(FaultConfig::new(0.1))));
            let backoff = HumanDuration(Duration::ZERO);
            Retry::wrap(flaky, RetryConfig { attempts: 20, backoff, fence: true, ..RetryConfig::default() })
        }
        "circuit_breaker" => persist_layers::CircuitBreaker::wrap(inner, CircuitBreakerConfig::default()),
        "concurrency" => persist_layers::Concurrency::wrap(inner, ConcurrencyConfig::new(1)),
        "rate_limit" => persist_layers::RateLimit::wrap(inner, RateLimitConfig::new(10_000_000)),
        "timeout" => persist_layers::Timeout::wrap(
            inner,
            TimeoutConfig { after: HumanDuration(Duration::from_secs(60)) },
        ),
        other => panic!("no layer {other}"),
    };
    wrapped.unwrap()
}

fn stack(names: &[&'static str], storage: Storage) -> Storage {
    names.iter().rev().fold(storage, |inner, name| wrap(name, inner))
}

/// Three different layers, chosen by a number, in an order in which they may stand.
fn three(mut number: usize) -> Vec<&'static str> {
    let mut left: Vec<usize> = (0..LAYERS.len()).collect();
    let mut chosen: Vec<usize> = (0..3)
        .map(|_| {
            let at = number % left.len();
            number /= left.len();
            left.remove(at)
        })
        .collect();
    chosen.sort_unstable();
    chosen.into_iter().map(|index| LAYERS[index]).collect()
}

#[test]
fn stacks_of_three_answer_as_the_model_does() {
    let stacks = std::env::var("PERSIST_STACKS").map_or(40, |count| count.parse().unwrap());
    for number in 0..stacks {
        // A step that shares no factor with the number of stacks goes through all of them.
        let names = three(number * 467 % 1320);
        assert_eq!(check_order(&names), Ok(()), "{names:?}");
        let answered = Model::new().cases(4).search(|| {
            let names = names.clone();
            Layered::new(move |storage| stack(&names, storage))
        });
        answered.unwrap_or_else(|what| panic!("{names:?}: {what}"));
    }
}

#[test]
fn all_of_them_together_answer_as_the_model_does() {
    Model::new().run(|| Layered::new(|storage| stack(&LAYERS, storage)));
}

/// What transforms values, over a real backend.
struct Disk {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    sqlite: bool,
}

impl Disk {
    fn new(sqlite: bool) -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default(), sqlite }
    }
}

#[async_trait]
impl Harness for Disk {
    async fn open(&self) -> Result<Storage> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        let storage: Arc<dyn BaseStorage> = if self.sqlite {
            let config = SqliteConfig::new("main.db").durability(Durability::Relaxed);
            Arc::new(SqliteStorage::open("main", config, &context).await?)
        } else {
            let config = FileConfig::new("files").durability(FileDurability::Relaxed);
            Arc::new(FileStorage::open("main", config, &context).await?)
        };
        Ok(stack(&["compress", "encrypt"], storage))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }
}

#[test]
fn encoded_values_over_files_answer_as_the_model_does() {
    Model::new().cases(24).run(|| Disk::new(false));
}

#[test]
fn encoded_values_over_sqlite_answer_as_the_model_does() {
    Model::new().cases(24).run(|| Disk::new(true));
}
