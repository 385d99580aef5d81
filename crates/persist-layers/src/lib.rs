//! Layers that stand over any storage, and composites that are made of several.
//!
//! A layer is a storage made of another one. It keeps the whole contract and passes on whatever it does not change, so that
//! layers can be stacked. In a configuration they are listed from the outside to the inside, in an order that
//! [`check_order`] understands:
//!
//! ```yaml
//! docs: { type: file, path: data, layers: [ metrics, { size_limit: { max_value: 1MiB } }, { timeout: { after: 5s } } ] }
//! ```
//!
//! In a program the innermost is made first:
//!
//! ```
//! # use std::sync::Arc;
//! # use persist_core::BaseStorage;
//! use std::time::Duration;
//!
//! use persist_layers::{Guarded, SizeLimit, SizeLimitConfig, Timeout};
//!
//! # fn example(storage: Arc<dyn BaseStorage>) {
//! let storage = Arc::new(Guarded::new(storage, Timeout::new(Duration::from_secs(5))));
//! let storage = Arc::new(SizeLimit::new(storage, &SizeLimitConfig::new(1 << 20)));
//! # }
//! ```
//!
//! `docs/layers.md` describes each of them.

#[macro_use]
mod forward;

mod batch;
mod circuit_breaker;
#[cfg(feature = "compress")]
mod codec;
mod coherence;
mod composite;
#[cfg(feature = "compress")]
mod compress;
mod concurrency;
#[cfg(feature = "content")]
mod content;
mod copy;
mod dedup;
mod derived;
#[cfg(feature = "compress")]
mod dictionary;
#[cfg(any(feature = "compress", feature = "encrypt"))]
mod encoded;
#[cfg(feature = "encrypt")]
mod encrypt;
#[cfg(feature = "encrypt")]
mod envelope;
mod evict;
mod fallback;
mod fault;
mod guard;
#[cfg(feature = "encrypt")]
mod key_names;
#[cfg(feature = "encrypt")]
mod keyring;
mod lanes;
mod layer;
#[cfg(feature = "metrics")]
mod measure;
mod members;
mod namespace;
mod order;
mod patience;
mod plain;
mod random;
mod rate_limit;
mod read_only;
#[cfg(feature = "encrypt")]
mod record;
#[cfg(feature = "encrypt")]
mod renamed;
mod repair;
mod replica_writes;
mod replicas;
mod replicated;
mod reserved;
mod retry;
mod router;
mod routes;
#[cfg(any(feature = "compress", feature = "encrypt"))]
mod rules;
mod sharded;
mod shards;
mod size_limit;
mod suspects;
mod tiered;
mod timeout;
mod tombstone;
mod trace;
mod ttl_clamp;
mod verify;
mod write_behind;

pub use circuit_breaker::{CircuitBreaker, CircuitBreakerConfig};
#[cfg(feature = "compress")]
pub use codec::Codec;
pub use composite::Composite;
#[cfg(feature = "compress")]
pub use compress::{Compress, CompressConfig, CompressRule};
pub use concurrency::{Concurrency, ConcurrencyConfig};
#[cfg(feature = "content")]
pub use content::{ContentHash, ContentId, ContentStore, NotAnId, canonical_json};
pub use dedup::{Dedup, DedupConfig, DedupUsage};
#[cfg(feature = "compress")]
pub use dictionary::train_dictionary;
#[cfg(feature = "encrypt")]
pub use encrypt::{Encrypt, EncryptConfig, EncryptKey, EncryptRule};
#[cfg(feature = "encrypt")]
pub use envelope::KeyWrapper;
pub use evict::{Evict, EvictConfig, EvictPolicy, Hold};
pub use fallback::{Fallback, FallbackConfig, FallbackOn};
pub use fault::{Fault, FaultConfig, FaultEffect};
pub use guard::{Answer, Call, Effect, Failure, Guard, Guarded};
pub use layer::Layer;
#[cfg(feature = "metrics")]
pub use measure::{Metrics, MetricsConfig};
pub use namespace::{Namespace, NamespaceConfig};
pub use order::{Misplaced, check_order};
pub use rate_limit::{RateLimit, RateLimitConfig};
pub use read_only::{ReadOnly, ReadOnlyConfig};
pub use repair::Repaired;
pub use replicated::{ReplicaRepair, Replicated, ReplicatedConfig};
pub use retry::{Retry, RetryConfig};
pub use router::{Route, Router, RouterConfig, check_prefix};
pub use sharded::{Sharded, ShardedConfig};
pub use size_limit::{SizeLimit, SizeLimitConfig};
pub use tiered::{Tiered, TieredCoherence, TieredConfig, TieredFailure, TieredWrite};
pub use timeout::{Timeout, TimeoutConfig};
pub use trace::{Trace, TraceConfig};
pub use ttl_clamp::{TtlClamp, TtlClampConfig};
pub use verify::{Verify, VerifyConfig};
pub use write_behind::{JournalConfig, JournalDurability, Pending, WriteBehind, WriteBehindConfig};
