use std::path::PathBuf;
use std::sync::Arc;

use persist_core::{Clock, SystemClock};

use crate::{Environment, Registry};

/// What a configuration is read with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub(crate) registry: Arc<Registry>,
    pub(crate) environment: Environment,
    pub(crate) profile: Option<String>,
    pub(crate) base: Option<PathBuf>,
    pub(crate) strict: bool,
    pub(crate) read_only: bool,
    pub(crate) clock: Arc<dyn Clock>,
}

impl LoadOptions {
    /// The compiled-in backends, the environment of the process, and the profile that its `PERSIST_PROFILE` names.
    pub fn new() -> Self {
        let environment = Environment::process();
        let profile = environment.get("PERSIST_PROFILE").filter(|name| !name.is_empty()).map(str::to_owned);
        Self {
            registry: Arc::new(Registry::default()),
            environment,
            profile,
            base: None,
            strict: false,
            read_only: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// Which types the configuration may name.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Arc::new(registry);
        self
    }

    /// Which variables it may read, in place of those of the process. The profile stays as it is.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Which of its profiles to apply; `None`: none, whatever the environment says.
    #[must_use]
    pub fn profile(mut self, name: Option<&str>) -> Self {
        self.profile = name.map(str::to_owned);
        self
    }

    /// Where relative paths start, in place of the folder of the file or the working folder.
    #[must_use]
    pub fn base(mut self, folder: impl Into<PathBuf>) -> Self {
        self.base = Some(folder.into());
        self
    }

    /// Refuses a secret that stands in the file itself, which otherwise is a warning.
    #[must_use]
    pub fn strict_secrets(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Opens every storage for reading only.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Where the storages take their time from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::new()
    }
}
