use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of [`Dedup`](crate::Dedup).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    /// Smaller values stay as they are.
    pub min_size: ByteSize,
    /// How large chunks are on average; they are between a quarter and four times of it. Values that are stored from now on
    /// share nothing with those that were cut otherwise.
    pub chunk: ByteSize,
    /// How long a chunk stays that no value needs any more, and longer than any store takes. `maintain` removes it then.
    pub grace: HumanDuration,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            min_size: ByteSize(4096),
            chunk: ByteSize(64 << 10),
            grace: HumanDuration(Duration::from_secs(3600)),
        }
    }
}

impl DedupConfig {
    /// What is wrong with the settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        let chunk = self.chunk.0;
        if !(1024..=16 << 20).contains(&chunk) {
            return Err(format!("`chunk` is {chunk} bytes; it may be 1KiB to 16MiB"));
        }
        if self.min_size.0 < 256 {
            return Err(format!("`min_size` is {}; values under 256 bytes gain nothing", self.min_size.0));
        }
        if self.grace.0 < Duration::from_secs(1) {
            return Err("`grace` must be at least 1s: longer than any store takes".to_owned());
        }
        Ok(())
    }
}
