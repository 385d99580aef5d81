use persist_core::HumanDuration;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::Plan;
use crate::plan::Planned;
use crate::redact::redact;
use crate::sections::ROOT;

/// A plan as it is shown: a configuration that can be read again, but for its secrets.
pub(crate) struct Shown<'a>(pub(crate) &'a Plan);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(ROOT, &ShownSections(self.0))?;
        map.end()
    }
}

struct ShownSections<'a>(&'a Plan);

impl Serialize for ShownSections<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(plan) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("default_storage", &plan.default)?;
        map.serialize_entry("storages", &ShownStorages(&plan.storages))?;
        if !plan.routes.is_empty() {
            let routes: Vec<_> = plan.routes.iter().map(ShownRoute::new).collect();
            map.serialize_entry("routes", &routes)?;
        }
        if let Some(interval) = plan.interval {
            let interval = HumanDuration(interval);
            map.serialize_entry("maintenance", &ShownMaintenance { interval })?;
        }
        if let Some(backup) = &plan.backup {
            map.serialize_entry("backup", backup)?;
        }
        map.end()
    }
}

struct ShownStorages<'a>(&'a [Planned]);

impl Serialize for ShownStorages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|storage| (&storage.name, ShownStorage(storage))))
    }
}

struct ShownStorage<'a>(&'a Planned);

impl Serialize for ShownStorage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.0.backend)?;
        for (name, value) in self.0.shown.as_object().into_iter().flatten() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ShownRoute<'a> {
    prefix: &'a str,
    storage: &'a str,
}

impl<'a> ShownRoute<'a> {
    fn new((prefix, storage): &'a (String, String)) -> Self {
        Self { prefix, storage }
    }
}

#[derive(Serialize)]
struct ShownMaintenance {
    interval: HumanDuration,
}

/// Takes the passwords out of all texts, and leaves out what is not set.
pub(crate) fn redacted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(redact(&text)),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        Value::Object(entries) => entries
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, redacted(value)))
            .collect(),
        other => other,
    }
}
