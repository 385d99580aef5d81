use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use persist_backup::{Retention, Vault};
use persist_core::HumanDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The section `backup`: which storages are copied where, how often, and for how long the copies are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupPlan {
    /// Whether the manager takes snapshots by itself; true unless set. The command line uses the section either way.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// How long after the last snapshot of a storage the next one is taken.
    #[serde(default)]
    pub schedule: Schedule,
    /// Which snapshots are kept.
    #[serde(default)]
    pub retention: Keep,
    /// The folder of the snapshots, made if it is missing; data/backups unless set. Relative paths start at the
    /// configuration file.
    #[serde(default = "default_path")]
    pub path: PathBuf,
    /// The storages that are copied; unless set, all that survive the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storages: Option<Vec<String>>,
}

fn enabled() -> bool {
    true
}

fn default_path() -> PathBuf {
    PathBuf::from("data/backups")
}

impl Default for BackupPlan {
    /// What an empty section says.
    fn default() -> Self {
        Self {
            enabled: true,
            schedule: Schedule::default(),
            retention: Keep::default(),
            path: default_path(),
            storages: None,
        }
    }
}

impl BackupPlan {
    /// The snapshots, in a folder below `base` unless its path is absolute.
    pub fn vault(&self, base: &Path) -> Vault {
        Vault::new(base.join(&self.path))
    }

    /// What the types cannot say.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.schedule.0 < Duration::from_secs(1) {
            return Err(("schedule", "the shortest schedule is one second"));
        }
        if self.path.as_os_str().is_empty() {
            return Err(("path", "it is empty; name a folder"));
        }
        if self.storages.as_ref().is_some_and(Vec::is_empty) {
            return Err(("storages", "the list is empty; name a storage, or leave it out for all"));
        }
        self.retention.check().map_err(|what| ("retention", what))
    }
}

/// How long after the last snapshot the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule(pub Duration);

const HOUR: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(86_400);

const SCHEDULE_HINT: &str = "a schedule: hourly, daily, or a duration such as 6h";

impl Default for Schedule {
    fn default() -> Self {
        Self(DAY)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hourly" => Ok(Self(HOUR)),
            "daily" => Ok(Self(DAY)),
            _ => text
                .parse()
                .map(|HumanDuration(duration)| Self(duration))
                .map_err(|_| format!("{} is not {SCHEDULE_HINT}", persist_core::escape(text))),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            HOUR => f.write_str("hourly"),
            DAY => f.write_str("daily"),
            other => HumanDuration(other).fmt(f),
        }
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScheduleVisitor)
    }
}

struct ScheduleVisitor;

impl Visitor<'_> for ScheduleVisitor {
    type Value = Schedule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEDULE_HINT)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Schedule, E> {
        Ok(Schedule(Duration::from_secs(seconds)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Schedule, E> {
        text.parse().map_err(E::custom)
    }
}

impl JsonSchema for Schedule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Schedule".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number"], "description": SCHEDULE_HINT, "default": "daily" })
    }
}

/// Which snapshots are kept: the newest, the young, or those that are both. The newest good one always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keep {
    /// At most so many of each storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// None that is older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<HumanDuration>,
}

const KEEP_HINT: &str = "how many snapshots are kept, or { count, age }";

impl Default for Keep {
    fn default() -> Self {
        Self { count: Some(30), age: None }
    }
}

impl Keep {
    /// As persist-backup has it.
    pub fn retention(&self) -> Retention {
        Retention { count: self.count, age: self.age.map(|age| age.0) }
    }

    fn check(&self) -> Result<(), &'static str> {
        match (self.count, self.age) {
            (None, None) => Err("it is empty; give count, age, or both"),
            (Some(0), _) => Err("at least one snapshot is kept; give 1 or more"),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepVisitor)
    }
}

/// `retention` in its long form.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeepRule {
    /// At most so many of each storage.
    #[serde(default)]
    #[schemars(range(min = 1))]
    count: Option<u32>,
    /// None that is older.
    #[serde(default)]
    age: Option<HumanDuration>,
}

struct KeepVisitor;

impl<'de> Visitor<'de> for KeepVisitor {
    type Value = Keep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KEEP_HINT)
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<Keep, E> {
        let count = u32::try_from(count).map_err(|_| E::custom(format!("{count} is not {KEEP_HINT}")))?;
        Ok(Keep { count: Some(count), age: None })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Keep, E> {
        let count = text.trim().parse();
        count
            .map_err(|_| E::custom(format!("{} is not {KEEP_HINT}", persist_core::escape(text))))
            .and_then(|count| self.visit_u64(count))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Keep, A::Error> {
        let KeepRule { count, age } = KeepRule::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Keep { count, age })
    }
}

impl JsonSchema for Keep {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Keep".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let count = generator.subschema_for::<u32>();
        let rule = KeepRule::json_schema(generator);
        json_schema!({ "anyOf": [count, rule], "description": KEEP_HINT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_words_or_durations() {
        for (text, seconds) in [("hourly", 3600), ("daily", 86_400), ("6h", 21_600), ("90", 90)] {
            assert_eq!(text.parse::<Schedule>().unwrap(), Schedule(Duration::from_secs(seconds)), "{text}");
        }
        assert!("weakly".parse::<Schedule>().unwrap_err().contains("hourly, daily, or a duration"));
        let shown: Vec<String> =
            [3600, 86_400, 5400].map(|seconds| Schedule(Duration::from_secs(seconds)).to_string()).into();
        assert_eq!(shown, ["hourly", "daily", "1h 30m"]);
    }
}
