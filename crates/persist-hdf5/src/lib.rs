//! An HDF5 file that h5py opens: changed by commits that survive a crash.
//!
//! The array under `a/b/c` is the native dataset `/a/b/c`, JSON is a string and bytes are a row of `uint8`; h5py, `h5ls` and
//! everything else that opens HDF5 reads them without knowing of persist. The library changes its file in place, and a
//! process that dies meanwhile leaves it broken; here it writes through a driver of our own, which keeps all changes in a
//! write-ahead log until they are committed and the file is not read by others. So an acknowledged change survives the death
//! of the process and, with strict durability, a power cut, and the file can always be opened.
//!
//! One thread uses the library. Values in one piece are read without it, on the caller's thread. One process writes;
//! others may read at the same time, with this crate or any other program. The layout is in `docs/formats/hdf5.md`, the
//! reasons in `docs/decisions/0007-hdf5.md`.
//!
//! ```
//! # async fn example() -> persist_core::Result<()> {
//! use persist_core::{BaseStorage, OpenContext, StorageExt};
//! use persist_hdf5::{Hdf5Config, Hdf5Storage};
//!
//! let storage = Hdf5Storage::open("main", Hdf5Config::new("data/arrays.h5"), &OpenContext::default()).await?;
//! storage.put("users/alice", &serde_json::json!({ "age": 36 })).await?;
//! storage.close().await?;
//! # Ok(()) }
//! ```
//!
//! Limits: a value is held in memory as a whole, but for arrays that are read and written in pieces ([`Hdf5Storage::read_array`]); the index of all keys is held in memory and made when the file is opened;
//! a file on a network file system is not supported; Linux only. Open files of other people with care: HDF5 1.10 is known to crash on
//! some that are made to do so.

mod apply;
mod assembly;
mod buffer;
mod bulk;
mod change;
mod chunk;
mod codec;
mod compaction;
mod config;
mod decoder;
mod engine;
mod error;
mod fetch;
mod ffi;
mod filter;
mod foreign;
mod growth;
mod hashing;
mod index;
mod log;
mod lzf;
mod maintenance;
mod medium;
mod name;
mod pages;
mod parallel;
mod parts;
mod record;
mod report;
mod retention;
mod scan;
mod shuffle;
mod site;
mod slices;
mod state;
mod storage;
mod stream;
mod transfer;
mod watching;
mod worker;

pub use config::{DEFAULT_MAX_VALUE, Durability, Hdf5Config};
pub use filter::{Codec, FilterRule, Filters, Shuffle};
pub use retention::Retention;
pub use storage::{Hdf5Backend, Hdf5Storage};
pub use stream::{ArrayReader, ArrayWriter};
