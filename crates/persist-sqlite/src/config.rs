use std::path::PathBuf;
use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest value that SQLite takes: a row has at most 1,000,000,000 bytes, of which the metadata may take some.
pub const MAX_VALUE: u64 = 999_000_000;

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

/// What becomes of pages that are no longer used; fixed when the database is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AutoVacuum {
    /// They are kept and used again.
    None,
    /// `maintain` gives them back to the file system.
    #[default]
    Incremental,
    /// Every commit gives them back.
    Full,
}

/// The section of a `type: sqlite` storage.
///
/// ```yaml
/// main: { type: sqlite, path: data/persist.db, durability: strict }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file; made if it is missing, with its folder. Relative paths start at the configuration file.
    #[serde(alias = "db_path")]
    #[schemars(extend("x-aliases" = ["db_path"]))]
    pub path: PathBuf,
    /// What an acknowledged change survives.
    #[serde(default)]
    pub durability: Durability,
    /// How many connections read at once, 1 to 64; 8 unless set, of which two are opened at the start.
    #[serde(default = "default_pool_size")]
    #[schemars(range(min = 1, max = 64))]
    pub pool_size: u32,
    /// How long a read waits for a connection before it says `Timeout`; 30 s unless set.
    #[serde(default = "default_timeout")]
    pub acquire_timeout: HumanDuration,
    /// How long a change waits for another process that writes before it says `Locked`; 30 s unless set.
    #[serde(default = "default_timeout")]
    pub busy_timeout: HumanDuration,
    /// Memory for pages, at most: half for the writer, half shared by the readers; 64 MiB unless set.
    #[serde(default = "default_cache_size")]
    pub cache_size: ByteSize,
    /// How much of the file is read through a memory map; 256 MiB unless set, 0: nothing. Changes go without it.
    #[serde(default = "default_mmap_size")]
    pub mmap_size: ByteSize,
    /// How long the write-ahead log grows before it is copied into the database: longer makes that rarer, and the next
    /// opening after a crash slower; 16 MiB unless set.
    #[serde(default = "default_log_limit")]
    pub log_limit: ByteSize,
    /// The page size of a new database, a power of two from 512 to 65536; 4 KiB unless set.
    #[serde(default = "default_page_size")]
    pub page_size: ByteSize,
    /// What becomes of unused pages of a new database.
    #[serde(default)]
    pub auto_vacuum: AutoVacuum,
    /// The lifetime of values stored without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// The largest value accepted; 999,000,000 bytes unless set, which is also the most.
    #[serde(default = "default_max_value")]
    pub max_value: ByteSize,
    /// Refuse every change.
    #[serde(default)]
    pub read_only: bool,
    /// The file comes from somebody else: check all of it first, read it only, without a memory map, with a limit on
    /// the work that a query may cause, and without its write-ahead log.
    #[serde(default)]
    pub untrusted: bool,
}

fn default_pool_size() -> u32 {
    8
}

fn default_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn default_cache_size() -> ByteSize {
    ByteSize(64 << 20)
}

fn default_mmap_size() -> ByteSize {
    ByteSize(256 << 20)
}

fn default_log_limit() -> ByteSize {
    ByteSize(16 << 20)
}

fn default_page_size() -> ByteSize {
    ByteSize(4 << 10)
}

fn default_max_value() -> ByteSize {
    ByteSize(MAX_VALUE)
}

impl SqliteConfig {
    /// A database file with the defaults: strict, writable.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            pool_size: default_pool_size(),
            acquire_timeout: default_timeout(),
            busy_timeout: default_timeout(),
            cache_size: default_cache_size(),
            mmap_size: default_mmap_size(),
            log_limit: default_log_limit(),
            page_size: default_page_size(),
            auto_vacuum: AutoVacuum::default(),
            ttl: None,
            max_value: default_max_value(),
            read_only: false,
            untrusted: false,
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

    /// For reading a file that comes from somebody else.
    #[must_use]
    pub fn untrusted(mut self) -> Self {
        self.untrusted = true;
        self
    }

    /// What the types cannot say.
    ///
    /// # Errors
    /// What is wrong, in words, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        if self.path.as_os_str().is_empty() {
            return Err("path is empty; give it a file".to_owned());
        }
        if !(1..=64).contains(&self.pool_size) {
            return Err(format!("pool_size is {}; use 1 to 64, usually 2 to 8", self.pool_size));
        }
        let page = self.page_size.0;
        if !page.is_power_of_two() || !(512..=65536).contains(&page) {
            return Err(format!("page_size is {page} bytes; use a power of two from 512 to 65536"));
        }
        if self.max_value.0 > MAX_VALUE {
            return Err(format!(
                "max_value is {} bytes, and SQLite keeps rows of at most {MAX_VALUE}; use a file storage for \
                 larger values",
                self.max_value.0
            ));
        }
        Ok(())
    }
}
