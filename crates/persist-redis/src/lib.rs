//! Redis behind the trait of persist: standalone, Sentinel and Cluster.
//!
//! Every change is one atomic step on one slot: value, metadata, version, index entry and expiry together, in one Lua
//! call. Listing is ordered and paged, from an index that is swept as keys expire. Compare-and-swap is exact, and a
//! change whose answer was lost is read back, not repeated; a lost connection is `Unavailable` or `Timeout`, never
//! "absent" and never success. How it lies in Redis is described in `docs/formats/redis.md`.
//!
//! ```no_run
//! # async fn example() -> persist_core::Result<()> {
//! use persist_core::{BaseStorage, OpenContext, StorageExt};
//! use persist_redis::{RedisConfig, RedisStorage};
//!
//! let config = RedisConfig::url("redis://127.0.0.1:6379").namespace("app");
//! let hot = RedisStorage::open("hot", config, &OpenContext::default()).await?;
//! hot.put("users/ada", &serde_json::json!({ "born": 1815 })).await?; // HGET app:{0}/users/ada v
//! hot.close().await?;
//! # Ok(()) }
//! ```
//!
//! Needs Redis 6.2 or newer.

mod address;
mod answer;
mod batch;
mod change;
mod cluster;
mod config;
mod dialer;
mod engine;
mod fault;
mod keyspace;
mod layout;
mod link;
mod listener;
mod listing;
mod parts;
mod piece;
mod reading;
mod record;
mod recovery;
mod report;
mod route;
mod script;
mod sentinel;
mod storage;
mod sweeper;
mod turns;

pub use address::Address;
pub use config::{ClusterConfig, RedisConfig, RedisUrl, SentinelConfig, TlsConfig, TtlRule};
pub use storage::{RedisBackend, RedisStorage};
