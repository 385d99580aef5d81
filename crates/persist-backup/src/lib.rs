//! Snapshots of storages in folders: made while others write, verified, kept for a while, restored.
//!
//! ```
//! # async fn example(storage: std::sync::Arc<dyn persist_core::BaseStorage>) -> persist_core::Result<()> {
//! use persist_backup::{Retention, Vault};
//!
//! let vault = Vault::new("data/backups");
//! let snapshot = vault.take(storage.as_ref()).await?; // data/backups/main/20261121T120301.123Z-5f3a9c2e
//! println!("{} keys in {}", snapshot.manifest().keys, snapshot.path().display());
//! snapshot.verify().await?;
//! vault.prune("main", &Retention::count(30), storage.describe().now()).await?;
//! # Ok(()) }
//! ```
//!
//! - [`Vault`]: a folder of snapshots, by storage and time; takes new ones and removes old ones.
//! - [`Snapshot`]: one of them, complete as it exists: its folder gets its name when everything in it is on the disk.
//! - [`Manifest`]: what a snapshot holds, with the size and the BLAKE3 hash of every file.
//! - [`Retention`]: which snapshots are kept.
//!
//! The format is described byte by byte in `docs/formats/snapshot.md`, the reasons are in `docs/decisions/0005-backup.md`.

mod disk;
mod entries;
mod error;
mod manifest;
mod retention;
mod snapshot;
mod source;
mod vault;
mod writer;

pub use manifest::{FORMAT, Form, Manifest, Member};
pub use retention::Retention;
pub use snapshot::Snapshot;
pub use vault::{Pruned, Unreadable, Vault};
