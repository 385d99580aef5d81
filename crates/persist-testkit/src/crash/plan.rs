//! What a worker process is told to do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment variable that makes a test binary a worker; its value is the plan as JSON.
pub const PLAN_VARIABLE: &str = "PERSIST_WORKER";

/// The orders of one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Which of the binary's subjects.
    pub subject: String,
    /// The folder of the storage; its parent exists, itself perhaps not.
    pub root: PathBuf,
    /// What to do.
    pub workload: Workload,
    /// Everything random follows from it.
    pub seed: u64,
    /// Generations start above this number.
    pub generation: u64,
    /// The longest body of a value in bytes.
    pub max_value: usize,
    /// How many threads may run blocking work; one makes the order of system calls the same in every run.
    pub blocking_threads: usize,
    /// Once open, wait for the end of standard input before going on.
    pub hold: bool,
    /// At the end, read every key back and tell what was found.
    pub read_back: bool,
}

impl Plan {
    /// A plan for a subject; the tools fill in where.
    pub fn new(subject: &str, workload: Workload) -> Self {
        Self {
            subject: subject.to_owned(),
            root: PathBuf::new(),
            workload,
            seed: 1,
            generation: 0,
            max_value: 16 * 1024,
            blocking_threads: 1,
            hold: false,
            read_back: false,
        }
    }

    /// The same on another folder.
    #[must_use]
    pub fn at(&self, root: PathBuf) -> Self {
        Self { root, ..self.clone() }
    }
}

/// What a worker does once its storage is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Workload {
    /// These steps, one after the other.
    Steps(Vec<Step>),
    /// Random changes from several tasks at once, each on keys of its own.
    Random {
        /// How many tasks.
        tasks: u64,
        /// How many keys each task owns.
        keys: u64,
        /// How many changes each task makes; `None`: until it is killed.
        changes: Option<u64>,
    },
}

impl Workload {
    /// Sixteen writers at once, who share their syncs, with a few changes each.
    pub fn crowd() -> Self {
        Self::Random { tasks: 16, keys: 4, changes: Some(4) }
    }
}

/// One scripted change; each is attempted and acknowledged by itself unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Store under a key that is absent, if absent.
    Create,
    /// Store again in the same kind, on the version read before.
    Replace,
    /// Store again as another kind.
    ChangeKind,
    /// Change the expiry alone.
    Touch,
    /// Store under a key that is another with `/` and a name behind it.
    Nested,
    /// Store under a key of nearly 1,000 bytes that are not ASCII, which no file name can hold.
    LongKey,
    /// `store_many` of four keys, acknowledged one by one.
    StoreMany,
    /// `transact` with two stores and a delete; all or none where the storage claims it, else the same one by one.
    Transact,
    /// `delete_many` of two keys.
    DeleteMany,
    /// Delete a key that is there.
    Delete,
    /// `flush`.
    Flush,
    /// `maintain`.
    Maintain,
    /// `close` and open again.
    Reopen,
}

impl Step {
    /// One of each, in an order in which each finds what it needs.
    pub const ALL: [Self; 13] = [
        Self::Create,
        Self::Replace,
        Self::ChangeKind,
        Self::Touch,
        Self::Nested,
        Self::LongKey,
        Self::StoreMany,
        Self::Transact,
        Self::DeleteMany,
        Self::Flush,
        Self::Delete,
        Self::Maintain,
        Self::Reopen,
    ];
}
