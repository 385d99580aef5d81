//! The heart of `persist`: one small trait for every storage, and the types that carry its rules.
//!
//! This crate knows no backend and does no I/O. It defines
//!
//! - [`Key`], [`Value`], [`Metadata`], [`Entry`]: what is kept, valid because it exists;
//! - [`BaseStorage`]: the trait that every backend, layer and composite implements; four verbs are required,
//!   everything else has a default that is correct, merely slower;
//! - [`StorageExt`]: the typed conveniences on top of it, never implemented by hand;
//! - [`StorageError`]: one error with a kind, the storage, the key and the cure;
//! - [`Capabilities`]: what a storage promises beyond the contract;
//! - [`Backend`]: how a configuration section becomes a storage.
//!
//! The contract that all of these obey is written down clause by clause in `docs/contract.md`, and
//! `persist-testkit` checks every clause.

mod array;
mod backend;
mod batch;
mod block_sum;
mod blocking;
mod capabilities;
mod checksum;
mod clock;
mod descriptor;
mod entry;
mod error;
mod ext;
mod failures;
mod finite;
mod flight;
mod json;
mod key;
mod lookout;
mod metadata;
mod npy;
mod options;
mod page;
mod report;
mod secret;
mod series;
mod snapshot;
mod storage;
mod survey;
mod tags;
mod units;
mod value;
mod version;
mod walk;
mod watch;
mod watchers;
pub mod writing;

pub use array::{Array, DType, Element, MAX_RANK};
pub use backend::{Backend, OpenContext};
pub use batch::{Operation, Outcome, StoreItem, check_distinct};
pub use block_sum::{BlockSum, GrowingChecksum};
pub use blocking::{BlockingStorage, BlockingWatch};
pub use capabilities::Capabilities;
pub use checksum::{Checksum, ChecksumBuilder};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use descriptor::{Descriptor, MAX_TAG_BYTES};
pub use entry::Entry;
pub use error::{ErrorKind, Result, Retry, StorageError};
pub use ext::StorageExt;
pub use failures::Failures;
pub use flight::{Flight, SingleFlight};
pub use json::{Json, MAX_JSON_DEPTH};
pub use key::{IntoKey, Key, MAX_KEY_BYTES, escape};
pub use lookout::watch_and_look;
pub use metadata::Metadata;
pub use npy::{NpyError, NpyHeader};
pub use options::{Condition, DEFAULT_PAGE, DeleteOptions, Expiry, ListOptions, MAX_PAGE, StoreOptions};
pub use page::Page;
pub use report::{Health, HealthStatus, Maintenance, Problem, Stats, Verification};
pub use secret::Secret;
pub use series::Series;
pub use snapshot::{
    Consistency, Restored, SnapshotSink, SnapshotSource, SnapshotSummary, StorageSource, restore_entries,
    snapshot_entries,
};
pub use storage::{BaseStorage, verify_values};
pub use survey::{POLL_INTERVAL, watch_by_polling};
pub use tags::Tags;
pub use units::{ByteSize, HumanDuration};
pub use value::{Kind, Value};
pub use version::{Version, Versions};
pub use watch::{Event, Watch};
pub use watchers::{MAX_WAITING_EVENTS, Watchers};

/// What the macro on every implementation of [`BaseStorage`] is, so that a backend needs no further crate.
pub use async_trait::async_trait;

/// The array crate whose types go in and out, in the version used here.
pub use ndarray;
