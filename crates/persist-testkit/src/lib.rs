//! The conformance suite, the model test and the fault and crash tools of persist.
//!
//! For the author of a backend, a layer or a composite, in the order in which they pay:
//!
//! 1. [`mod@conformance`]: one check for every clause of `docs/contract.md`. Write a [`Harness`] that opens your storage in a
//!    fresh place, and list your configurations in [`conformance!`]; a layer takes [`Wrapped`] over
//!    [`memory::MemoryHarness`]. What the harness does not provide is skipped, each time with a reason.
//! 2. [`model`]: random sequences of operations, with reopening and clock steps, against a `BTreeMap`; the same harness.
//! 3. [`crash`], if the storage is durable: a worker that is killed at random, killed before every system call that changes
//!    a file, and power cuts replayed from recorded system calls; [`adverse`] for full disks and missing rights.
//!
//! For the author of a program that uses storages: [`fault::FaultStorage`] fails when a test wants it to,
//! [`memory::MemoryStorage`] keeps the whole contract without a disk, and [`strategies`] and [`hostile`] have the keys and
//! values that storages get wrong. [`redis`] starts real Redis servers that belong to one test binary.
//!
//! [`broken`] holds storages with one bug each. The suite is itself tested with them: each must be reported by the
//! right clauses, and each clause must be seen to fail.

pub mod adverse;
pub mod broken;
#[macro_use]
pub mod conformance;
pub mod crash;
pub mod fault;
mod harness;
pub mod hostile;
pub mod memory;
pub mod model;
pub mod redis;
mod snapshot;
pub mod strategies;

pub use harness::{Harness, Variant, Wrapped};
pub use snapshot::{FailingSource, HeldSource, TestSnapshot};
