use std::path::{Path, PathBuf};

use persist_manager::{LoadOptions, Plan};

use crate::args::Global;
use crate::exit::{Failure, Result};

/// The configuration used where none is named and there is none in the working folder.
const DEFAULT_CONFIG: &str = include_str!("default.yaml");

/// The configuration that is looked for in the working folder.
const USUAL_CONFIG: &str = "persist.yaml";

/// Where the configuration comes from: the file that was named, the one in the working folder, or the built-in one.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSource {
    named: Option<PathBuf>,
    profile: Option<String>,
}

impl ConfigSource {
    /// As the flags say.
    pub(crate) fn new(global: &Global) -> Self {
        Self { named: global.config.clone(), profile: global.profile.clone() }
    }

    /// The file; `None`: the built-in configuration.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let usual = || Path::new(USUAL_CONFIG).exists().then(|| USUAL_CONFIG.into());
        self.named.clone().or_else(usual)
    }

    /// The options to read it with.
    pub(crate) fn options(&self) -> LoadOptions {
        let options = LoadOptions::new();
        match &self.profile {
            Some(profile) => options.profile(Some(profile)),
            None => options,
        }
    }

    /// Reads and checks it with the usual options.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn plan(&self) -> Result<Plan> {
        self.plan_with(&self.options())
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn plan_with(&self, options: &LoadOptions) -> Result<Plan> {
        let plan = match self.file() {
            Some(file) => Plan::from_file(file, options),
            None => Plan::from_yaml(DEFAULT_CONFIG, options),
        };
        plan.map_err(Failure::config)
    }

    /// The paths in the section of one storage, or of all.
    pub(crate) fn paths(&self, plan: &Plan, name: Option<&str>) -> Vec<PathBuf> {
        let shown = serde_json::to_value(plan.show()).unwrap_or_default();
        let base = self.file().and_then(|file| file.parent().map(Path::to_owned)).unwrap_or_default();
        let storages = shown.pointer("/persistence/storages").and_then(|storages| storages.as_object());
        let sections =
            storages.into_iter().flatten().filter(|(known, _)| name.is_none_or(|name| name == *known));
        let settings = sections.filter_map(|(_, section)| section.as_object()).flatten();
        let paths = settings.filter(|(key, _)| *key == "path" || key.ends_with("_path"));
        paths.filter_map(|(_, path)| Some(base.join(path.as_str()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_is_sound_and_its_paths_are_found() {
        let source = ConfigSource { named: None, profile: None };
        let plan = Plan::from_yaml(DEFAULT_CONFIG, &LoadOptions::new()).unwrap();
        assert_eq!(plan.default_storage(), "main");
        assert_eq!(source.paths(&plan, Some("main")), [Path::new("data/persist.db")]);
        assert_eq!(source.paths(&plan, None).len(), 1);
        assert!(source.paths(&plan, Some("other")).is_empty());
    }
}
