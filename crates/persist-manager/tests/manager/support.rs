//! A backend that has a setting of every sort, and shortcuts.

use std::sync::{Arc, Mutex};

use persist_core::{
    Backend, BaseStorage, ByteSize, DeleteOptions, Descriptor, Entry, ErrorKind, HumanDuration, Key,
    ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome, Page, Result, Secret, StorageError,
    StoreOptions, Value, async_trait,
};
use persist_manager::{Environment, LoadOptions, Plan, Registry, StorageManager};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of several ways.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    Strict,
    Relaxed,
}

/// A setting with parts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    pub(crate) size: u8,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
}

/// A section with a setting of every sort.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProbeConfig {
    #[serde(alias = "path")]
    #[schemars(extend("x-aliases" = ["path"]))]
    pub(crate) base_path: String,
    pub(crate) mode: Mode,
    pub(crate) port: Option<u16>,
    pub(crate) ratio: Option<f64>,
    pub(crate) read_only: bool,
    pub(crate) ttl: Option<HumanDuration>,
    pub(crate) max_bytes: Option<ByteSize>,
    pub(crate) password: Option<Secret>,
    /// What the password must be, so that a test sees what a reference was resolved to.
    #[serde(skip_serializing)]
    pub(crate) expected_password: Option<String>,
    pub(crate) url: Option<String>,
    pub(crate) pool: Option<Pool>,
    pub(crate) fail_open: bool,
    pub(crate) fail_close: bool,
}

/// What the storages of one test did and got, in order.
pub(crate) static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Storages in memory that note their opening and closing when their name begins with `noted`.
pub(crate) struct Probe;

#[async_trait]
impl Backend for Probe {
    const TYPE: &'static str = "probe";
    const ALIASES: &'static [&'static str] = &["probing"];

    type Config = ProbeConfig;

    fn check(config: &ProbeConfig) -> Result<(), String> {
        if config.port == Some(0) {
            return Err("port 0 is no port; write 1 to 65535".to_owned());
        }
        let password = config.password.as_ref().map(Secret::expose);
        match config.expected_password.as_deref() {
            Some(expected) if password != Some(expected) => Err("another password was expected".to_owned()),
            _ => Ok(()),
        }
    }

    async fn open(name: &str, config: ProbeConfig, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        note(name, "open");
        if config.fail_open {
            return Err(StorageError::new(ErrorKind::Unavailable, "told to fail"));
        }
        let mut builder = MemoryStorage::builder(name).clock(Arc::clone(&context.clock));
        if let Some(HumanDuration(ttl)) = config.ttl {
            builder = builder.default_ttl(ttl);
        }
        if config.read_only || context.read_only {
            builder = builder.read_only();
        }
        let storage = builder.open(&MemoryPlace::new());
        Ok(Arc::new(Noted { storage, fail_close: config.fail_close }))
    }
}

fn note(name: &str, what: &str) {
    if name.starts_with("noted") {
        LOG.lock().unwrap().push(format!("{what} {name}"));
    }
}

/// A storage that notes how it ends.
#[derive(Debug)]
struct Noted {
    storage: MemoryStorage,
    fail_close: bool,
}

#[async_trait]
impl BaseStorage for Noted {
    fn describe(&self) -> &Descriptor {
        self.storage.describe()
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.storage.store(key, value, options).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.storage.retrieve(key).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.storage.delete(key, options).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.storage.list_keys(prefix, options).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.storage.transact(operations).await
    }

    async fn maintain(&self) -> Result<Maintenance> {
        note(self.describe().name(), "maintain");
        self.storage.maintain().await
    }

    async fn flush(&self) -> Result<()> {
        note(self.describe().name(), "flush");
        self.fail("flush")
    }

    async fn close(&self) -> Result<()> {
        note(self.describe().name(), "close");
        self.storage.close().await?;
        self.fail("close")
    }
}

impl Noted {
    fn fail(&self, operation: &'static str) -> Result<()> {
        if !self.fail_close {
            return Ok(());
        }
        Err(self.describe().error(ErrorKind::Capacity, operation, "told to fail"))
    }
}

/// A registry with the probe alone.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<Probe>();
    registry
}

/// Options with the probe alone and with these variables alone.
pub(crate) fn options(variables: &[(&str, &str)]) -> LoadOptions {
    let environment = Environment::from_iter(variables.iter().copied());
    LoadOptions::new().registry(registry()).environment(environment).profile(None)
}

/// The plan of a text that must be right.
pub(crate) fn plan(yaml: &str, variables: &[(&str, &str)]) -> Plan {
    Plan::from_yaml(yaml, &options(variables)).unwrap()
}

/// The storages of a text that must be right.
pub(crate) async fn manager(yaml: &str) -> StorageManager {
    StorageManager::open(plan(yaml, &[])).await.unwrap()
}

/// The lines of the error of a text that must be wrong.
pub(crate) fn problems(yaml: &str, options: &LoadOptions) -> Vec<String> {
    let error = Plan::from_yaml(yaml, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    error.to_string().lines().map(str::to_owned).collect()
}

/// The one line of the error of a text that must be wrong in one way.
pub(crate) fn problem(yaml: &str) -> String {
    let mut lines = problems(yaml, &options(&[]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

/// What `show` gives, as JSON.
pub(crate) fn shown(plan: &Plan) -> serde_json::Value {
    serde_json::to_value(plan.show()).unwrap()
}
