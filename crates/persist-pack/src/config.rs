use std::path::PathBuf;
use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an acknowledged change survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Power loss: the log is forced to the disk before the change is acknowledged.
    #[default]
    Strict,
    /// The death of the process: the operating system writes it out when it likes.
    Relaxed,
}

/// How values are compressed; one that does not shrink by a sixteenth is kept as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// With deflate, which every ZIP tool reads.
    #[default]
    Deflate,
    /// With zstd: smaller and faster, read by few ZIP tools. Needs the cargo feature `zstd` of `persist-pack`.
    Zstd,
}

impl Compression {
    /// How the manifest is packed: by what other tools read, or not at all.
    pub(crate) fn of_manifest(self) -> Self {
        if self == Self::None { Self::None } else { Self::Deflate }
    }
}

/// The section of a `type: pack` storage.
///
/// ```yaml
/// packs: { type: pack, pack_path: data/packs, compression: deflate }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackConfig {
    /// The folder of the packs; made if it is missing. Relative paths start at the configuration file.
    #[serde(alias = "path")]
    #[schemars(extend("x-aliases" = ["path"]))]
    pub pack_path: PathBuf,
    /// What an acknowledged change survives.
    #[serde(default)]
    pub durability: Durability,
    /// How values are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Store identical values of 64 bytes and more once, over all packs of the folder; true unless set.
    #[serde(default = "default_deduplicate")]
    pub deduplicate: bool,
    /// A pack that has grown to this size is sealed and a new one begun; 256 MiB unless set.
    #[serde(default = "default_pack_size")]
    pub pack_size: ByteSize,
    /// The part of a sealed pack that may be dead before `maintain` compacts it, 0.05 to 0.95; 0.5 unless set.
    #[serde(default = "default_dead_share")]
    #[schemars(range(min = 0.05, max = 0.95))]
    pub dead_share: f64,
    /// How long an opening waits for another process that writes, before it says `Locked`; 5 s unless set.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: HumanDuration,
    /// The lifetime of values stored without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// The largest value accepted; 4 GiB unless set. What is larger in a file is not unpacked either.
    #[serde(default = "default_max_value")]
    pub max_value: ByteSize,
    /// Refuse every change and write nothing into the folder, not even a lock: any number of processes may do so while
    /// another one writes.
    #[serde(default)]
    pub read_only: bool,
}

fn default_deduplicate() -> bool {
    true
}

fn default_pack_size() -> ByteSize {
    ByteSize(256 << 20)
}

fn default_dead_share() -> f64 {
    0.5
}

fn default_lock_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}

fn default_max_value() -> ByteSize {
    ByteSize(4 << 30)
}

impl PackConfig {
    /// A folder with the defaults: strict, writable.
    pub fn new(pack_path: impl Into<PathBuf>) -> Self {
        Self {
            pack_path: pack_path.into(),
            durability: Durability::default(),
            compression: Compression::default(),
            deduplicate: default_deduplicate(),
            pack_size: default_pack_size(),
            dead_share: default_dead_share(),
            lock_timeout: default_lock_timeout(),
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

    /// With another compression.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// With packs of another size.
    #[must_use]
    pub fn pack_size(mut self, bytes: u64) -> Self {
        self.pack_size = ByteSize(bytes);
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
        if self.pack_path.as_os_str().is_empty() {
            return Err("pack_path is empty; give it a folder".to_owned());
        }
        if !(0.05..=0.95).contains(&self.dead_share) {
            return Err(format!("dead_share is {}; use 0.05 to 0.95, usually 0.5", self.dead_share));
        }
        if self.pack_size.0 < 1 << 10 {
            return Err(format!(
                "pack_size is {} bytes; use at least 1 KiB, usually 64 MiB or more",
                self.pack_size.0
            ));
        }
        if self.compression == Compression::Zstd && cfg!(not(feature = "zstd")) {
            return Err(
                "compression is zstd, which was not built in; use deflate, or build persist with the \
                        feature pack-zstd"
                    .to_owned(),
            );
        }
        Ok(())
    }
}
