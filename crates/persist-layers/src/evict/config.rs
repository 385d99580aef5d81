use persist_core::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of [`Evict`](crate::Evict).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvictConfig {
    /// How many bytes keys, values and tags may take together.
    pub max_bytes: ByteSize,
    /// Which value goes first.
    #[serde(default)]
    pub policy: EvictPolicy,
    /// The tag that says what it cost to compute a value: a number above 0, in whatever unit all values use. Without the tag a
    /// value costs 1.
    #[serde(default = "cost_tag")]
    pub cost_tag: String,
    /// The tag whose text `true` keeps a value.
    #[serde(default = "pin_tag")]
    pub pin_tag: String,
    /// Keys with one of these prefixes are kept.
    #[serde(default)]
    pub pinned: Vec<String>,
}

impl EvictConfig {
    /// A budget, with the defaults.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes: ByteSize(max_bytes),
            policy: EvictPolicy::default(),
            cost_tag: cost_tag(),
            pin_tag: pin_tag(),
            pinned: Vec::new(),
        }
    }

    /// What is wrong with the settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.max_bytes.0 == 0 {
            return Err("`max_bytes` is 0, so that nothing could ever be stored".to_owned());
        }
        Ok(())
    }
}

fn cost_tag() -> String {
    "cost".to_owned()
}

fn pin_tag() -> String {
    "pin".to_owned()
}

/// Which value goes first when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvictPolicy {
    /// The one that was cheapest to compute for its size, and has not been used for long.
    #[default]
    Cost,
    /// The one that has not been used for longest.
    Lru,
    /// The one that was used least often, of several the one that has not been used for longest.
    Lfu,
}
