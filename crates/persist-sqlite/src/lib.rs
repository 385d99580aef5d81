//! A SQLite database: one group-committing writer, a pool of readers.
//!
//! One connection writes, on a thread of its own: it makes all changes that wait in one transaction and acknowledges
//! them after its commit, so that concurrent writers share one fsync. Reads take place on the caller's thread over a pool
//! of connections. JSON is kept as JSON text, so that `json_extract` works in the `sqlite3` shell; arrays have their
//! dtype and shape in columns. Several processes may use one database at once, and conditions hold across them. The
//! schema is described column by column in `docs/formats/sqlite.md`.
//!
//! ```
//! # async fn example() -> persist_core::Result<()> {
//! use persist_core::{BaseStorage, OpenContext, StorageExt};
//! use persist_sqlite::{SqliteConfig, SqliteStorage};
//!
//! let storage = SqliteStorage::open("main", SqliteConfig::new("data/persist.db"), &OpenContext::default()).await?;
//! storage.put("users/alice", &serde_json::json!({ "age": 36 })).await?;
//! storage.close().await?;
//! # Ok(()) }
//! ```
//!
//! Limits: values of up to 999,000,000 bytes; a database on a network file system is not supported; Unix only (new
//! databases are made with Unix calls).

mod apply;
mod bulk;
mod change;
mod config;
mod database;
mod engine;
mod error;
mod gathering;
mod maintenance;
pub mod migration;
mod query;
mod readers;
mod restore;
mod row;
mod schema;
mod snapshot;
mod storage;
mod watching;
mod writer;

pub use config::{AutoVacuum, Durability, MAX_VALUE, SqliteConfig};
pub use storage::{SqliteBackend, SqliteStorage};

/// The SQLite binding, in the version whose connections [`migration`] works on.
pub use rusqlite;
