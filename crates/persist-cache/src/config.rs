use std::time::Duration;

use persist_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The least that `max_bytes` may be: room for any key with a small value.
const MIN_BYTES: u64 = 16 << 10;

/// The section of a `type: cache` storage. Every field has a default; unknown ones are refused.
///
/// ```yaml
/// cache: { type: cache, ttl: 1h, max_bytes: 64MiB, max_entries: 100000, stale_while_revalidate: 5m }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// The lifetime of values stored without one. Not set: they do not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// The most values it holds. Not set: `max_bytes` alone is the bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<u64>,
    /// The most memory it takes: keys, values, tags, and the bookkeeping: 640 bytes for each value, and
    /// some 1000 more for one with a tag. 64 MiB unless set,
    /// 16 KiB at least.
    pub max_bytes: ByteSize,
    /// The largest value accepted. Not set: whatever fits into the empty cache under the longest key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value: Option<ByteSize>,
    /// For how long after its expiry a value is still kept, so that `get_or_refresh` can hand it out while the next
    /// one is computed; every other read treats it as absent. Zero, the default, keeps nothing.
    pub stale_while_revalidate: HumanDuration,
    /// How often expired values are looked for in the background; they are gone from memory this long after their
    /// expiry at the latest. 1 s unless set, 10 ms at least.
    pub sweep_interval: HumanDuration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            ttl: None,
            max_entries: None,
            max_bytes: ByteSize(64 << 20),
            max_value: None,
            stale_while_revalidate: HumanDuration(Duration::ZERO),
            sweep_interval: HumanDuration(Duration::from_secs(1)),
        }
    }
}

impl CacheConfig {
    /// With a lifetime for values stored without one.
    #[must_use]
    pub fn ttl(mut self, lifetime: Duration) -> Self {
        self.ttl = Some(HumanDuration(lifetime));
        self
    }

    /// With room for this many values.
    #[must_use]
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = Some(entries);
        self
    }

    /// With room for this many bytes.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = ByteSize(bytes);
        self
    }

    /// With values of this many bytes at most.
    #[must_use]
    pub fn max_value(mut self, bytes: u64) -> Self {
        self.max_value = Some(ByteSize(bytes));
        self
    }

    /// Keeps expired values this long for `get_or_refresh`.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = HumanDuration(window);
        self
    }

    /// Looks for expired values this often.
    #[must_use]
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = HumanDuration(interval);
        self
    }

    /// Checks what the types of the fields cannot say.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let faults = [
            (
                self.ttl.is_some_and(|ttl| ttl.0.is_zero()),
                "ttl: 0 would drop every value as it is stored; leave ttl out for values that do not expire",
            ),
            (
                self.max_entries == Some(0),
                "max_entries: 0 leaves no room for any value; leave it out to bound the cache by max_bytes alone",
            ),
            (self.max_bytes.0 < MIN_BYTES, "max_bytes is below 16KiB; give the cache at least 16KiB"),
            (
                self.sweep_interval.0 < Duration::from_millis(10),
                "sweep_interval is below 10ms; write 10ms or more",
            ),
        ];
        faults.iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, message)| Err((*message).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<CacheConfig, String> {
        let config: CacheConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn every_field_is_read_and_has_a_default() {
        assert_eq!(parse("{}").unwrap(), CacheConfig::default());
        let full = r#"{"ttl": 3600, "max_entries": 5, "max_bytes": "1MiB", "max_value": 1000, "stale_while_revalidate": "5m",
            "sweep_interval": "100ms"}"#;
        let expected = CacheConfig::default()
            .ttl(Duration::from_secs(3600))
            .max_entries(5)
            .max_bytes(1 << 20)
            .max_value(1000)
            .stale_while_revalidate(Duration::from_secs(300))
            .sweep_interval(Duration::from_millis(100));
        assert_eq!(parse(full).unwrap(), expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_cure() {
        for (json, cure) in [
            (r#"{"ttl": 0}"#, "leave ttl out"),
            (r#"{"max_entries": 0}"#, "leave it out"),
            (r#"{"max_bytes": 100}"#, "at least 16KiB"),
            (r#"{"sweep_interval": 0}"#, "10ms or more"),
            (r#"{"max_byte": 100}"#, "unknown field `max_byte`"),
            (r#"{"max_entries": -1}"#, "invalid value"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(cure), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = CacheConfig::default().ttl(Duration::from_secs(90)).max_entries(7);
        assert_eq!(parse(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
}
