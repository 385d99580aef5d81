use std::path::PathBuf;
use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an acknowledged change survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Power loss: file and folder are forced to the disk before the change is acknowledged.
    #[default]
    Strict,
    /// The death of the process: the operating system writes it out when it likes.
    Relaxed,
}

/// Where metadata is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetadataMode {
    /// In an extended attribute; in an envelope where the file system has none or it does not fit.
    #[default]
    Auto,
    /// Always in an envelope: one `.pval` file with a head, which other tools do not read.
    Envelope,
}

/// The section of a `type: file` storage.
///
/// ```yaml
/// docs: { type: file, base_path: data/storage, durability: strict }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The folder; made if it is missing. Relative paths start at the configuration file.
    #[serde(alias = "path")]
    #[schemars(extend("x-aliases" = ["path"]))]
    pub base_path: PathBuf,
    /// What an acknowledged change survives.
    #[serde(default)]
    pub durability: Durability,
    /// Where metadata is kept.
    #[serde(default)]
    pub metadata: MetadataMode,
    /// The lifetime of values stored without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// The largest value accepted; 4 GiB unless set.
    #[serde(default = "default_max_value")]
    pub max_value: ByteSize,
    /// Refuse every change, and write nothing into the folder, not even a lock.
    #[serde(default)]
    pub read_only: bool,
    /// Let the owner's group read (files 0640, folders 0750) instead of the owner alone (0600, 0700).
    #[serde(default)]
    pub group_readable: bool,
    /// How long a change waits for another process that holds the lock, before it says `Locked`.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: HumanDuration,
}

fn default_max_value() -> ByteSize {
    ByteSize(4 << 30)
}

fn default_lock_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

impl FileConfig {
    /// A folder with the defaults: strict, writable.
    pub fn new(base_path: impl Into<PathBuf>) -> Self {
        Self {
            base_path: base_path.into(),
            durability: Durability::default(),
            metadata: MetadataMode::default(),
            ttl: None,
            max_value: default_max_value(),
            read_only: false,
            group_readable: false,
            lock_timeout: default_lock_timeout(),
        }
    }

    /// With another durability.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// With metadata kept elsewhere.
    #[must_use]
    pub fn metadata(mut self, metadata: MetadataMode) -> Self {
        self.metadata = metadata;
        self
    }

    /// For reading only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}
