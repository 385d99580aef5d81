//! A bounded in-memory cache with expiry, tags and single flight.
//!
//! [`CacheStorage`] keeps the contract of [`BaseStorage`](persist_core::BaseStorage) in memory: what is stored is
//! there until it expires, is deleted, or has to make room. It never takes more entries or bytes than configured, a
//! read takes no lock that all readers share, and expired values leave memory by themselves.
//!
//! Beyond the contract it forgets by tag ([`CacheStorage::invalidate_tag`]) and by prefix
//! ([`CacheStorage::invalidate_prefix`]), and hands out a value that has just expired while one task computes the
//! next ([`CacheStorage::get_or_refresh`]).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> persist_core::Result<()> {
//! use persist_cache::{CacheConfig, CacheStorage};
//! use persist_core::{OpenContext, StorageExt, StoreOptions};
//!
//! let cache = CacheStorage::open("hot", &CacheConfig::default(), &OpenContext::default())?;
//! cache.put_with("users/ada", &1815, StoreOptions::new().tag("team", "engines")).await?;
//! assert_eq!(cache.get::<u32>("users/ada").await?, Some(1815));
//! assert_eq!(cache.invalidate_tag("team", "engines").await?, 1);
//! assert_eq!(cache.get::<u32>("users/ada").await?, None);
//! # Ok(()) }
//! ```

mod backend;
mod batch;
mod config;
mod engine;
mod index;
mod record;
mod revalidate;
mod shelf;
mod stats;
mod storage;
mod sweeper;
mod tag_index;

pub use backend::CacheBackend;
pub use config::CacheConfig;
pub use storage::CacheStorage;
