use std::time::Duration;

use persist_core::HumanDuration;
use persist_layers::{Route, check_prefix};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::BackupPlan;
use crate::config_error::ConfigError;
use crate::context::Context;
use crate::deserializer::read;
use crate::nearest::hint;
use crate::node::{Content, Name, Node, Place};

/// The keys under `persistence`.
pub(crate) const SECTIONS: [&str; 6] =
    ["default_storage", "storages", "routes", "maintenance", "backup", "profiles"];

/// The key that holds them all.
pub(crate) const ROOT: &str = "persistence";

/// What is done in the background.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Maintenance {
    /// How long to wait between two rounds in which every storage removes what has expired and tidies up.
    pub(crate) interval: HumanDuration,
}

/// The parts of a configuration, storages not yet read.
#[derive(Default)]
pub(crate) struct Sections {
    pub(crate) default_storage: Option<(String, Place)>,
    pub(crate) storages: Vec<(Name, Node)>,
    /// With the place of each.
    pub(crate) routes: Vec<(Route, Place)>,
    pub(crate) interval: Option<Duration>,
    pub(crate) backup: Option<(BackupPlan, Place)>,
}

/// The part of a document that is for persist: what stands under `persistence`, or all of it.
///
/// # Errors
/// If storages stand beside `persistence`, or nothing in it looks like a configuration.
pub(crate) fn root(mut document: Node, context: &Context<'_>) -> Result<Node, ConfigError> {
    let Content::Map(entries) = &document.content else {
        let message =
            format!("{} was given where a mapping with `{ROOT}` or `storages` is wanted", document.noun());
        return Err(ConfigError::new(&document.place, message));
    };
    if document.get(ROOT).is_none() {
        return Ok(document);
    }
    for (name, _) in entries {
        check_neighbour(name, context)?;
    }
    match document.remove(ROOT) {
        Some(root) if root.entries().is_none() => {
            let message = format!("{} was given where a mapping with `storages` is wanted", root.noun());
            Err(ConfigError::new(&root.place, message).under(ROOT))
        }
        Some(root) => Ok(root),
        None => Ok(document),
    }
}

/// What stands beside `persistence` belongs to the program. It is refused if it can only be ours and noted if it may be.
fn check_neighbour(name: &Name, context: &Context<'_>) -> Result<(), ConfigError> {
    let written = name.text.as_str();
    match written {
        "storages" | "default_storage" => {
            let message = format!("`{written}` stands beside `{ROOT}`; write it below");
            return Err(ConfigError::new(&name.place, message));
        }
        _ if SECTIONS.contains(&written) => {
            let message =
                format!("`{written}` stands beside `{ROOT}` and is not read; write it below if it is meant");
            context.warn(ConfigError::new(&name.place, message));
        }
        _ => {}
    }
    Ok(())
}

impl Sections {
    /// Takes a configuration apart. Every section that is wrong is reported.
    pub(crate) fn read(root: Node, context: &Context<'_>, errors: &mut Vec<ConfigError>) -> Self {
        let mut sections = Self::default();
        let Content::Map(entries) = root.content else { return sections };
        for (name, node) in entries {
            let result = match name.text.as_str() {
                "default_storage" => read(&node, context).map(|text| {
                    sections.default_storage = Some((text, node.place.clone()));
                }),
                "storages" => storages(node).map(|storages| sections.storages = storages),
                "routes" => sections.read_routes(&node, context, errors),
                "maintenance" => interval(&node, context).map(|interval| sections.interval = Some(interval)),
                "backup" => backup(&node, context).map(|plan| {
                    sections.backup = Some((plan, node.place.clone()));
                }),
                unknown => {
                    let known = SECTIONS.into_iter().chain([ROOT]);
                    errors.push(ConfigError::unknown_key(&name.place, unknown, known));
                    continue;
                }
            };
            errors.extend(result.err().map(|error| error.under(&name.text)));
        }
        if sections.storages.is_empty() && errors.is_empty() {
            let message = "no storage is configured; name at least one under `storages`";
            errors.push(ConfigError::new(&root.place, message));
        }
        sections
    }

    fn read_routes(
        &mut self,
        node: &Node,
        context: &Context<'_>,
        errors: &mut Vec<ConfigError>,
    ) -> Result<(), ConfigError> {
        if node.is_null() {
            return Ok(());
        }
        let Content::List(items) = &node.content else {
            let message =
                format!("{} was given where a list of {{ prefix, storage }} is wanted", node.noun());
            return Err(ConfigError::new(&node.place, message));
        };
        for (index, item) in items.iter().enumerate() {
            match read::<Route>(item, context) {
                Ok(route) => self.routes.push((route, item.place.clone())),
                Err(error) => errors.push(error.under(&format!("[{index}]")).under("routes")),
            }
        }
        Ok(())
    }

    /// Checks what the sections say of each other.
    pub(crate) fn check(&self, errors: &mut Vec<ConfigError>) {
        let known = || self.storages.iter().map(|(name, _)| name.text.as_str());
        let mut check_name = |name: &str, place: &Place| {
            if !known().any(|storage| storage == name) {
                errors.push(ConfigError::new(
                    place,
                    format!("there is no storage `{name}`{}", hint(name, known())),
                ));
            }
        };
        if let Some((name, place)) = &self.default_storage {
            check_name(name, place);
        }
        for (route, place) in &self.routes {
            check_name(&route.storage, place);
        }
        for (name, place) in self
            .backup
            .iter()
            .flat_map(|(plan, place)| plan.storages.iter().flatten().map(move |name| (name.as_str(), place)))
        {
            check_name(name, place);
        }
        if self.default_storage.is_none() && self.storages.len() > 1 {
            let message = format!(
                "there are several storages; say with `default_storage` which one takes what no route claims{}",
                hint("", known())
            );
            errors.push(ConfigError::new(&self.storages[0].0.place, message));
        }
        self.check_prefixes(errors);
    }

    fn check_prefixes(&self, errors: &mut Vec<ConfigError>) {
        for (index, (route, place)) in self.routes.iter().enumerate() {
            let before = self.routes[..index].iter().map(|(earlier, _)| earlier.prefix.as_str());
            if let Err(message) = check_prefix(&route.prefix, before) {
                errors.push(ConfigError::new(place, message).under(&format!("[{index}]")).under("routes"));
            }
        }
    }

    /// The storage that takes what no route claims: the one named so, or the only one.
    pub(crate) fn default_name(&self) -> String {
        let only = || self.storages.first().map(|(name, _)| name.text.clone());
        self.default_storage.as_ref().map(|(name, _)| name.clone()).or_else(only).unwrap_or_default()
    }
}

fn storages(node: Node) -> Result<Vec<(Name, Node)>, ConfigError> {
    match node.content {
        Content::Map(storages) => Ok(storages),
        _ if node.is_null() => Ok(Vec::new()),
        _ => {
            let message =
                format!("{} was given where a mapping from names to storages is wanted", node.noun());
            Err(ConfigError::new(&node.place, message))
        }
    }
}

fn interval(node: &Node, context: &Context<'_>) -> Result<Duration, ConfigError> {
    let HumanDuration(interval) = read::<Maintenance>(node, context)?.interval;
    if interval < Duration::from_secs(1) {
        return Err(ConfigError::new(&node.place, "the shortest interval is one second").under("interval"));
    }
    Ok(interval)
}

fn backup(node: &Node, context: &Context<'_>) -> Result<BackupPlan, ConfigError> {
    let plan = read::<BackupPlan>(node, context)?;
    match plan.check() {
        Ok(()) => Ok(plan),
        Err((key, message)) => Err(ConfigError::new(&node.place, message).under(key)),
    }
}

/// Checks the name of a storage: it must fit into `NAME:KEY` and into the name of a variable.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let fits =
        name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(good);
    if fits && !name.contains("__") {
        return Ok(());
    }
    Err(format!(
        "{} cannot name a storage: write 1 to 64 letters, digits, `_` and `-`, a letter first and no `__`",
        persist_core::escape(name)
    ))
}
