//! One trait, every store.
//!
//! `persist` keeps the state of a program (documents, bytes, n-dimensional arrays) behind one small trait,
//! [`BaseStorage`], in storages that a YAML file names. A [`StorageManager`] opens that file:
//!
//! ```
//! use persist::{Result, StorageExt, StorageManager, StoreOptions, Value};
//!
//! # #[cfg(feature = "cache")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let manager = StorageManager::from_yaml(
//!     "
//!     persistence:
//!       storages:
//!         hot: { type: cache, ttl: 1h }
//!     ",
//! )
//! .await?;
//!
//! // By name, by route or by default; here there is only one storage.
//! let hot = manager.storage("hot")?;
//! hot.put("users/alice", &["admin"]).await?;
//! let roles: Option<Vec<String>> = hot.get("users/alice").await?;
//! assert_eq!(roles, Some(vec!["admin".to_owned()]));
//!
//! manager.store("note", Value::bytes("raw"), StoreOptions::new()).await?;
//! manager.close().await?;
//! # Ok(()) }
//! # #[cfg(not(feature = "cache"))]
//! # fn main() {}
//! ```
//!
//! Features, one for each backend: `file`, `cache`, `sqlite` and `pack` (all on by default), `redis`, and `hdf5`, which
//! needs the HDF5 library (Debian: `libhdf5-dev`); `pack-zstd` and `hdf5-zstd` add zstd to packs and to HDF5 datasets; one for each layer
//! that brings other crates: `compress`, `content`, `encrypt` and `metrics`; `full` is all of them. `hdf5-static` builds the HDF5 library
//! from source instead of using the system's, which needs cmake 3.26.

pub use persist_core::*;
pub use persist_manager::{BackupPlan, Environment, LoadOptions, Plan, Registry, Router, StorageManager};

pub use persist_backup as backup;
pub use persist_layers as layers;

#[cfg(feature = "cache")]
pub use persist_cache as cache;
#[cfg(feature = "file")]
pub use persist_file as file;
#[cfg(feature = "hdf5")]
pub use persist_hdf5 as hdf5;
#[cfg(feature = "pack")]
pub use persist_pack as pack;
#[cfg(feature = "redis")]
pub use persist_redis as redis;
#[cfg(feature = "sqlite")]
pub use persist_sqlite as sqlite;

/// The examples in the documents are compiled, and run where they can be.
#[cfg(all(doctest, feature = "file", feature = "cache", feature = "sqlite"))]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/guide.md")]
    struct Guide;

    #[doc = include_str!("../docs/configuration.md")]
    struct Configuration;

    #[doc = include_str!("../docs/layers.md")]
    struct Layers;

    #[doc = include_str!("../docs/adding-a-backend.md")]
    struct AddingABackend;
}
