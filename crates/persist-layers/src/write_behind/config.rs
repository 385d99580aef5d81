use std::path::PathBuf;
use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of [`WriteBehind`](crate::WriteBehind).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WriteBehindConfig {
    /// How many keys may have a change that waits. Whoever would make more waits himself.
    pub max_entries: usize,
    /// How many bytes of keys, values and tags may wait. A larger value waits alone.
    pub max_bytes: ByteSize,
    /// How long a change waits for room before it fails with `Timeout`; it was not made then.
    pub wait: HumanDuration,
    /// How long a change may wait for others to be written together with it. Of several changes of one key in that time the
    /// last alone is written.
    pub delay: HumanDuration,
    /// How many changes are written together at most.
    pub batch: usize,
    /// How long `flush` and `close` try to get everything written before they fail.
    pub flush_timeout: HumanDuration,
    /// Where changes that wait are kept on the disk. Left out: in memory alone, and what waits is lost with the process.
    pub journal: Option<JournalConfig>,
}

impl Default for WriteBehindConfig {
    fn default() -> Self {
        Self {
            max_entries: 10_000,
            max_bytes: ByteSize(64 << 20),
            wait: HumanDuration(Duration::from_secs(30)),
            delay: HumanDuration(Duration::from_millis(100)),
            batch: 256,
            flush_timeout: HumanDuration(Duration::from_secs(30)),
            journal: None,
        }
    }
}

impl WriteBehindConfig {
    /// What is wrong with the settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, none) in [("max_entries", self.max_entries == 0), ("batch", self.batch == 0)] {
            if none {
                return Err(format!("`{name}` is 0, so that nothing could ever be stored; write at least 1"));
            }
        }
        match &self.journal {
            Some(journal) if journal.path.as_os_str().is_empty() => {
                Err("`journal.path` is empty; name a folder that nothing else uses".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// A journal of the changes that wait.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JournalConfig {
    /// Its folder, which is made if it is missing, and which nothing else may use.
    pub path: PathBuf,
    /// What an acknowledged change survives.
    #[serde(default)]
    pub durability: JournalDurability,
    /// At which size a file of the journal is followed by the next one.
    #[serde(default = "segment")]
    pub segment: ByteSize,
    /// How long an opening waits for another process that uses the journal.
    #[serde(default = "lock_timeout")]
    pub lock_timeout: HumanDuration,
}

impl JournalConfig {
    /// A journal in a folder, with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let durability = JournalDurability::default();
        Self { path: path.into(), durability, segment: segment(), lock_timeout: lock_timeout() }
    }
}

fn segment() -> ByteSize {
    ByteSize(16 << 20)
}

fn lock_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}

/// What an acknowledged change survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JournalDurability {
    /// Power loss: the journal was synced, together with the changes of others who wait at the same time.
    #[default]
    Strict,
    /// The death of the process: the journal was written, and the system syncs it when it likes.
    Relaxed,
}
