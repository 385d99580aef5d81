//! The conformance suite: one check for each clause of `docs/contract.md`, for every storage.
//!
//! # How a backend runs it
//!
//! Write a [`Harness`] that opens the storage in a fresh place, and a test binary with its own `main`:
//!
//! ```toml
//! [dev-dependencies]
//! persist-testkit = { path = "../persist-testkit" }
//!
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! ```
//! use std::sync::Arc;
//!
//! use persist_core::{BaseStorage, ManualClock, Result, async_trait};
//! use persist_testkit::Harness;
//! use persist_testkit::memory::{MemoryPlace, MemoryStorage};
//!
//! #[derive(Default)]
//! struct Mine {
//!     place: MemoryPlace,
//!     clock: Arc<ManualClock>,
//! }
//!
//! #[async_trait]
//! impl Harness for Mine {
//!     async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
//!         Ok(Arc::new(MemoryStorage::builder("mine").clock(self.clock.clone()).open(&self.place)))
//!     }
//!
//!     fn clock(&self) -> Option<Arc<ManualClock>> {
//!         Some(Arc::clone(&self.clock))
//!     }
//! }
//!
//! // One line for each configuration; this is the whole of tests/conformance.rs.
//! persist_testkit::conformance! {
//!     "mine" => Mine::default,
//! }
//! ```
//!
//! `cargo test --test conformance` then shows every clause as a test of its own: `mine::C001_what_is_stored…`. A filter
//! picks clauses as usual (`cargo test --test conformance C05`). A clause that does not apply is shown as ignored, with
//! its reason. Clauses run in parallel, each in a place and a runtime of its own and with a time limit, so that a
//! storage that hangs fails.
//!
//! Give the harness a [`ManualClock`](persist_core::ManualClock) wherever the storage can take one: clauses about time
//! are exact and quick then.

#[macro_use]
pub(crate) mod kit;

mod arrays;
mod basics;
mod batches;
mod cancellation;
mod capabilities;
mod clause;
mod conditions;
mod conveniences;
mod durability;
mod errors;
mod expiry;
mod keys;
mod lifecycle;
mod listing;
mod metadata;
mod ranges;
mod runner;
mod snapshots;
mod transactions;
mod values;
mod watching;

pub use clause::{Check, Clause, Group, Stop, Verdict, clauses};
pub use runner::{TIME_LIMIT, check, main, trials};

use crate::Harness;

/// A test binary's `main` that runs the suite for one or more configurations: `"name" => factory,` each, where the
/// factory is a closure that gives a fresh [`Harness`].
#[macro_export]
macro_rules! conformance {
    ($($name:literal => $factory:expr),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            let mut trials = ::std::vec::Vec::new();
            $(trials.extend($crate::conformance::trials($name, $factory));)+
            $crate::conformance::main(trials)
        }
    };
}

/// The clauses by group, in the order of the document.
pub const GROUPS: &[Group] = &[
    basics::GROUP,
    values::GROUP,
    keys::GROUP,
    arrays::GROUP,
    ranges::GROUP,
    listing::GROUP,
    batches::GROUP,
    transactions::GROUP,
    conditions::GROUP,
    expiry::GROUP,
    metadata::GROUP,
    lifecycle::GROUP,
    errors::GROUP,
    conveniences::GROUP,
    cancellation::GROUP,
    durability::GROUP,
    capabilities::GROUP,
    snapshots::GROUP,
    watching::GROUP,
];
