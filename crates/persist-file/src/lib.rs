//! One file a key, in the form other tools read: `.json` that jq reads, `.npy` that numpy loads, `.bin` as it is.
//!
//! A change is atomic and, unless configured otherwise, on the disk before it is acknowledged: temp file, fsync,
//! rename, fsync of the folder, with the last one shared by all who wait for the same folder. Metadata travels with
//! the file in an extended attribute. Keys become paths that are safe on every platform and never leave the folder.
//! Several processes may use one folder at once, and conditions hold across them. The format is described byte by
//! byte in `docs/formats/file.md`.
//!
//! ```
//! # async fn example() -> persist_core::Result<()> {
//! use persist_core::{BaseStorage, OpenContext, StorageExt};
//! use persist_file::{FileConfig, FileStorage};
//!
//! let storage = FileStorage::open("docs", FileConfig::new("data/docs"), &OpenContext::default()).await?;
//! storage.put("users/alice", &serde_json::json!({ "age": 36 })).await?; // data/docs/users/alice.json
//! storage.close().await?;
//! # Ok(()) }
//! ```
//!
//! Limits: Linux only (it is built on `openat2`, `flock` and extended attributes, and refuses to compile elsewhere);
//! a folder on a network file system is not supported.

#[cfg(not(target_os = "linux"))]
compile_error!("persist-file is built on Linux system calls and is not ported to other systems yet");

mod commit;
mod config;
mod error;
mod form;
mod gate;
mod index;
mod journal;
mod lock;
mod maintenance;
mod name;
mod place;
mod pool;
mod probe;
mod reader;
mod record;
mod restore;
mod root;
mod session;
mod stage;
mod storage;
mod watching;
mod writer;

pub use config::{Durability, FileConfig, MetadataMode};
pub use storage::{FileBackend, FileStorage};
