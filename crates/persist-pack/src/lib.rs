//! Many records in few append-only files that ordinary ZIP tools open.
//!
//! A folder holds packs. The last one is a log: changes are appended to it as records of a ZIP file, each with its key, its
//! metadata and a CRC in an extra field, and one thread makes all that wait durable with one sync. A log that has grown
//! to its size is sealed: an index, a manifest with hashes and a Merkle root, and the central directory of ZIP are
//! appended, and the file is never changed again; it is mapped into memory, and `unzip` and Python's `zipfile` read it.
//! Identical values are stored once over all packs of the folder. One process writes, any number read. The format is
//! described byte by byte in `docs/formats/pack.md`.
//!
//! ```
//! # async fn example() -> persist_core::Result<()> {
//! use persist_core::{BaseStorage, OpenContext, StorageExt};
//! use persist_pack::{PackConfig, PackStorage};
//!
//! let storage = PackStorage::open("packs", PackConfig::new("data/packs"), &OpenContext::default()).await?;
//! storage.put("results/1", &serde_json::json!({ "loss": 0.25 })).await?;
//! storage.close().await?;
//! # Ok(()) }
//! ```
//!
//! Limits: one process writes; network file systems are not supported; Unix only; whoever cuts a sealed pack while it is
//! read ends the process that reads it.

mod archive;
mod builder;
mod bulk;
mod change;
mod codec;
mod compaction;
mod config;
mod core;
mod directory;
mod engine;
mod fault;
mod folder;
mod guide;
mod head;
mod index;
mod log;
mod maintenance;
mod manifest;
mod map;
mod memory;
pub mod merkle;
mod name;
mod note;
mod parallel;
mod proof;
mod reading;
mod record;
mod rows;
mod seal;
mod sealed;
mod signature;
mod state;
mod storage;
mod stretch;
mod structure;
mod tail;
mod walk;
mod watching;
mod wire;
mod writer;

pub use archive::{Archive, Extracted, Selection, Verified, sign};
pub use builder::{Built, PackBuilder};
pub use config::{Compression, Durability, PackConfig};
pub use manifest::{Item, root_of};
pub use proof::Proof;
pub use signature::{PublicKey, Signature, SigningKey};
pub use storage::{PackBackend, PackStorage};
