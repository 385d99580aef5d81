use std::path::PathBuf;
use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::filter::{FilterRule, Filters};
use crate::retention::Retention;

/// The largest value that is accepted unless a limit is set: it is held in memory as a whole.
pub const DEFAULT_MAX_VALUE: u64 = 16 << 30;

/// The smallest limit of a file.
const SMALLEST_PART: u64 = 64 << 10;

/// What an acknowledged change survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Power loss: the write-ahead log is forced to the disk before the change is acknowledged.
    #[default]
    Strict,
    /// The death of the process: the operating system writes it out when it likes. Never torn.
    Relaxed,
}

/// The section of a `type: hdf5` storage.
///
/// ```yaml
/// arrays: { type: hdf5, path: data/arrays.h5 }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hdf5Config {
    /// The HDF5 file; made if it is missing, with its folder. Relative paths start at the configuration file.
    #[serde(alias = "file_path")]
    #[schemars(extend("x-aliases" = ["file_path"]))]
    pub path: PathBuf,
    /// What an acknowledged change survives.
    #[serde(default)]
    pub durability: Durability,
    /// How long the write-ahead log grows before it is copied into the file although there is no pause in the work;
    /// 16 MiB unless set.
    #[serde(default = "default_log_limit")]
    pub log_limit: ByteSize,
    /// How long there must be nothing to do before the log is copied into the file, so that other programs see what is new;
    /// 50 ms unless set.
    #[serde(default = "default_checkpoint_after")]
    pub checkpoint_after: HumanDuration,
    /// The largest file. With it the path is a folder, in which the HDF5 file lies cut into parts of so many bytes, for HDF5's family
    /// driver. A multiple of 4 KiB, 64 KiB at least. What is there already is cut, or put together, when it is compacted the next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_size: Option<ByteSize>,
    /// How arrays and bytes are kept: chunked and compressed, or (unless set) in one piece.
    #[serde(default)]
    pub filters: Filters,
    /// Other filters for the keys that begin with a prefix; the longest prefix counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter_rules: Vec<FilterRule>,
    /// How long values are kept at most, by prefix; `maintain` removes what is older.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retention: Vec<Retention>,
    /// How many bytes of a larger value are read or written before other operations get their turn; 4 MiB unless set, 4 KiB at least.
    #[serde(default = "default_piece")]
    pub piece: ByteSize,
    /// How much of the file may hold nothing before `maintain` compacts it, in per cent of the file; 50 unless set. 100: never;
    /// 0: each time. Files under 16 MiB are left as they are, except with 0.
    #[serde(default = "default_compact_at")]
    #[schemars(range(max = 100))]
    pub compact_at: u8,
    /// The lifetime of values stored without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// The largest value accepted; 16 GiB unless set. JSON may have 4 GiB at most.
    #[serde(default = "default_max_value")]
    pub max_value: ByteSize,
    /// Refuse every change.
    #[serde(default)]
    pub read_only: bool,
}

fn default_log_limit() -> ByteSize {
    ByteSize(16 << 20)
}

fn default_checkpoint_after() -> HumanDuration {
    HumanDuration(Duration::from_millis(50))
}

fn default_piece() -> ByteSize {
    ByteSize(4 << 20)
}

fn default_compact_at() -> u8 {
    50
}

fn default_max_value() -> ByteSize {
    ByteSize(DEFAULT_MAX_VALUE)
}

impl Hdf5Config {
    /// A file with the defaults: strict, writable.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            log_limit: default_log_limit(),
            checkpoint_after: default_checkpoint_after(),
            max_file_size: None,
            filters: Filters::default(),
            filter_rules: Vec::new(),
            retention: Vec::new(),
            piece: default_piece(),
            compact_at: default_compact_at(),
            ttl: None,
            max_value: default_max_value(),
            read_only: false,
        }
    }

    /// With another durability.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// For reading only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// What the types cannot say.
    ///
    /// # Errors
    /// What is wrong, in words, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        if self.compact_at > 100 {
            return Err(format!("compact_at is {}; use 0 to 100 per cent", self.compact_at));
        }
        if let Some(size) = self.max_file_size
            && (size.0 < SMALLEST_PART || size.0 % 4096 > 0)
        {
            return Err(format!(
                "max_file_size is {} bytes; use a multiple of 4 KiB, {SMALLEST_PART} at least, such as 1GiB",
                size.0
            ));
        }
        if self.piece.0 < 4096 {
            return Err(format!("piece is {} bytes; use 4KiB at least, usually 4MiB", self.piece.0));
        }
        self.filters.check().map_err(|message| format!("filters: {message}"))?;
        for rule in &self.filter_rules {
            rule.filters.check().map_err(|message| format!("filter_rules: {:?}: {message}", rule.prefix))?;
        }
        match self.path.file_name() {
            Some(_) => Ok(()),
            None => Err("path names no file; give it a file, such as data/arrays.h5".to_owned()),
        }
    }
}
