//! Crashes, power cuts and failing system calls, for any storage that lies in a folder (Linux).
//!
//! | tool | fault | finds | blind to |
//! |---|---|---|---|
//! | [`kill`] | SIGKILL at random moments under concurrent load | early acknowledgement, torn values, bad recovery, races | a missing fsync |
//! | [`sweep`] | SIGKILL before each single system call of a script | the same, deterministically, also in recovery | a missing fsync, races |
//! | [`replay`] | power cut at each point of a recorded run | a missing or late fsync of file, folder or parent; wrong order | damage inside of the device |
//! | [`inject`] | a system call that fails | false success, lost old values, work after a failed fsync | |
//! | [`mount`] | a disk that is full, out of inodes, read-only | | |
//!
//! All but `mount` start the test binary again as a worker, which drives the storage and tells each change before and
//! after it (see [`protocol`]); a [`history::History`] of these lines knows what a reopened storage may show. The
//! tools are Linux tools: `sweep`, `replay` and `inject` need `strace` 5.3 or newer (5.11 to see `openat2` and `syncfs`
//! flags by name) and the right to trace; where that is missing [`judge`] prints `SKIPPED: …`, and fails in CI.
//!
//! A harness that has never failed is no evidence: `tests/crash_calibration.rs` shows each tool bad storages that it
//! must catch and a good one that it must pass.
//!
//! A test binary with `harness = false` is a [`suite::Suite`].

mod disk;
mod inspection;
mod model;
mod process;
mod syscalls;
mod trace;
mod tree;
mod workload;

pub mod acks;
mod extent;
pub mod history;
pub mod inject;
pub mod kill;
pub mod mount;
pub mod plan;
pub mod protocol;
pub mod record;
pub mod replay;
pub mod report;
pub mod sample;
pub mod scratch;
pub mod strace;
pub mod subject;
pub mod suite;
pub mod sweep;
pub mod worker;

pub use extent::{if_long, scale, seed};
pub use model::Model;
pub use plan::{Step, Workload};
pub use report::{Report, Trouble, judge, skip};
pub use subject::Subject;
pub use worker::serve;
