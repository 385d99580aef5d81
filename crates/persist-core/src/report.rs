use std::collections::BTreeMap;

use serde::Serialize;

use crate::{ErrorKind, Key, StorageError};

/// How well a storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It works.
    Healthy,
    /// It works, but something needs attention.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// The answer to "does it work?"; asking never fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// What is wrong, and what to do; empty if nothing is.
    pub detail: String,
}

impl Health {
    /// All is well.
    pub fn healthy() -> Self {
        Self { status: HealthStatus::Healthy, detail: String::new() }
    }

    /// It does not work because of `error`.
    pub fn unhealthy(error: &StorageError) -> Self {
        Self { status: HealthStatus::Unhealthy, detail: error.to_string() }
    }
}

/// Figures about a storage. What a backend cannot tell cheaply is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// How many keys are stored.
    pub keys: Option<u64>,
    /// How many bytes of plain values are stored.
    pub bytes: Option<u64>,
    /// The backend's own counters and gauges by name; documented by the backend.
    pub counters: BTreeMap<&'static str, u64>,
}

/// What a `maintain` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Maintenance {
    /// How many expired values were removed.
    pub expired: u64,
    /// How many bytes were given back.
    pub freed_bytes: u64,
    /// What else was done, in words.
    pub notes: Vec<String>,
}

/// Something that a `verify` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key concerned; `None` where it is not about one key.
    pub key: Option<Key>,
    /// What kind of trouble.
    #[serde(serialize_with = "kind_name")]
    pub kind: ErrorKind,
    /// In words, with the cure.
    pub message: String,
}

fn kind_name<S: serde::Serializer>(kind: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        Self { key: error.key().cloned(), kind: error.kind(), message: error.to_string() }
    }
}

/// What a `verify` read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// How many values were read and checked.
    pub checked: u64,
    /// How many bytes of plain values were read.
    pub bytes: u64,
    /// What was wrong; empty if nothing was.
    pub problems: Vec<Problem>,
}

impl Verification {
    /// True if nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}
