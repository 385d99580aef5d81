//! Which types there are.

use persist_core::{Backend, BaseStorage, ErrorKind, OpenContext, Result, async_trait};
use persist_manager::{Plan, Registry, StorageManager};
use persist_testkit::memory::MemoryStorage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::support::{Probe, options, plan, problem, registry};

#[test]
fn an_unknown_type_is_named_with_the_nearest() {
    assert_eq!(
        problem("storages:\n  a:\n    type: prob\n"),
        "<yaml>:3:11: storage \"a\": unknown type `prob`; did you mean `probe`?"
    );
    let line = problem("storages:\n  a:\n    type: unheard\n");
    assert_eq!(line, "<yaml>:3:11: storage \"a\": unknown type `unheard`; known: `probe`, `probing`");
}

#[test]
fn an_alias_means_the_type() {
    let plan = plan("storages: {a: {type: probing}}", &[]);
    assert_eq!(plan.backend("a"), Some("probe"));
    assert!(plan.to_yaml().contains("type: probe\n"), "{}", plan.to_yaml());
    assert_eq!(plan.backend("b"), None);
    assert_eq!(registry().types().collect::<Vec<_>>(), ["probe"]);
}

/// The types that come with persist, and whether they are compiled in.
const BUILT_IN: [(&str, bool); 5] = [
    ("file", cfg!(feature = "file")),
    ("cache", cfg!(feature = "cache")),
    ("pack", cfg!(feature = "pack")),
    ("redis", cfg!(feature = "redis")),
    ("sqlite", cfg!(feature = "sqlite")),
];

/// A type that comes with persist but was not compiled in says which cargo feature brings it.
#[test]
fn a_type_that_is_missing_says_how_to_get_it() {
    for (name, compiled) in BUILT_IN {
        let line = problem(&format!("storages:\n  a:\n    type: {name}\n"));
        let cure = if compiled {
            "is not registered by this program; it should begin with `Registry::default()`".to_owned()
        } else {
            format!("is not compiled into this program; build it with the cargo feature `{name}`")
        };
        assert_eq!(line, format!("<yaml>:3:11: storage \"a\": the type `{name}` {cure}"));
    }
}

#[test]
fn the_default_registry_has_what_is_compiled_in() {
    let types: Vec<&str> = Registry::default().types().collect();
    for (name, compiled) in BUILT_IN {
        assert_eq!(types.contains(&name), compiled, "{name} among {types:?}");
    }
    assert_eq!(format!("{:?}", registry()), r#"Registry { types: ["probe"], layers: [] }"#);
}

/// A backend that gives its storage a name of its own.
struct Renaming;

#[async_trait]
impl Backend for Renaming {
    const TYPE: &'static str = "renaming";
    type Config = crate::support::ProbeConfig;

    async fn open(_: &str, _: Self::Config, _: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(MemoryStorage::new("another")))
    }
}

/// A section that forgot to refuse unknown keys.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Forgetful {
    #[serde(default)]
    path: String,
}

struct Loose;

#[async_trait]
impl Backend for Loose {
    const TYPE: &'static str = "loose";
    type Config = Forgetful;

    async fn open(name: &str, _: Forgetful, _: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(MemoryStorage::new(name)))
    }
}

#[test]
fn no_key_is_ignored_although_the_backend_would() {
    let mut registry = Registry::new();
    registry.register::<Loose>();
    let options = options(&[]).registry(registry);
    assert!(Plan::from_yaml("storages: {a: {type: loose, path: x}}", &options).is_ok());
    let error = Plan::from_yaml("storages:\n  a: {type: loose, pth: x}", &options).unwrap_err();
    assert_eq!(error.message(), "<yaml>:2:25: storage \"a\": `pth`: unknown key; nothing reads it");
}

#[tokio::test]
async fn a_storage_keeps_the_name_of_the_configuration() {
    let mut registry = Registry::new();
    registry.register::<Probe>().register::<Renaming>();
    let plan = Plan::from_yaml("storages: {a: {type: renaming}}", &options(&[]).registry(registry)).unwrap();
    let error = StorageManager::open(plan).await.unwrap_err();
    assert_eq!((error.kind(), error.storage()), (ErrorKind::InvalidConfig, Some("a")));
}

#[tokio::test]
async fn one_storage_can_be_opened_alone_and_once() {
    let mut plan =
        plan("storages: {a: {type: probe}, b: {type: probe, fail_open: true}}\ndefault_storage: a", &[]);
    let storage = plan.open_storage("a").await.unwrap();
    assert_eq!(storage.describe().name(), "a");
    assert_eq!(plan.open_storage("a").await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    assert_eq!(plan.open_storage("b").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = plan.open_storage("c").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.message(), "no storage named \"c\" is configured (there are: `a`, `b`)");
}
