//! `layers:` of a storage: what may stand there, in which order, and that it is put over the storage.

use std::sync::Arc;

use persist_core::{BaseStorage, ErrorKind, Result, StorageExt, StoreOptions, Value};
use persist_layers::{Layer, SizeLimit, SizeLimitConfig};
use persist_manager::{LoadOptions, Plan, Registry, StorageManager};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{Probe, options, problems, shown};

fn layered() -> LoadOptions {
    let mut registry = Registry::default();
    registry.register::<Probe>();
    options(&[("SIZE", "1KiB")]).registry(registry)
}

fn load(layers: &str) -> Plan {
    Plan::from_yaml(&yaml(layers), &layered()).unwrap()
}

fn yaml(layers: &str) -> String {
    format!("storages:\n  a:\n    type: probe\n    layers: {layers}\n")
}

#[tokio::test]
async fn layers_stand_over_the_storage_in_their_order() {
    let plan =
        load("[read_only, { size_limit: { max_value: \"${SIZE}\" } }, { namespace: { prefix: \"t/\" } }]");
    let wanted = json!([
        { "read_only": {} }, { "size_limit": { "max_value": 1024 } }, { "namespace": { "prefix": "t/" } }
    ]);
    assert_eq!(shown(&plan)["persistence"]["storages"]["a"]["layers"], wanted);
    // What is shown can be read again.
    let again = Plan::from_yaml(&plan.to_yaml(), &layered()).unwrap();
    assert_eq!(shown(&again), shown(&plan));
    let manager = StorageManager::open(plan).await.unwrap();
    let a = manager.storage("a").unwrap();
    assert_eq!((a.describe().name(), a.describe().max_value_bytes()), ("a", 1024));
    assert!(a.describe().capabilities().read_only);
    assert_eq!(a.put("k", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    manager.close().await.unwrap();
}

#[tokio::test]
async fn no_layers_are_no_layers() {
    for none in ["[]", "~"] {
        let plan = load(none);
        assert!(shown(&plan)["persistence"]["storages"]["a"].get("layers").is_none(), "{none}");
        let manager = StorageManager::open(plan).await.unwrap();
        manager.store("k", Value::bytes("v"), StoreOptions::new()).await.unwrap();
        manager.close().await.unwrap();
    }
}

#[test]
fn what_cannot_stand_there_is_told_with_its_place() {
    let cases = [
        (
            "verify",
            "4:13: storage \"a\": `layers`: a single value was given where a list of layers is wanted",
        ),
        ("[verfy]", "4:14: storage \"a\": `layers[0]`: unknown layer `verfy`; did you mean `verify`?"),
        (
            "[{ size_limit: { max_size: 1 } }]",
            "4:30: storage \"a\": `layers[0].size_limit`: unknown key `max_size`; did you mean `max_value`?",
        ),
        ("[size_limit]", "4:14: storage \"a\": `layers[0].size_limit`: the key `max_value` is missing"),
        (
            "[{ retry: { attempts: 1 } }]",
            "4:23: storage \"a\": `layers[0].retry`: `attempts` must be at least 2; with 1 nothing is repeated, \
             so leave the layer out",
        ),
        (
            "[verify, { timeout: { after: 5s } }, retry]",
            "4:50: storage \"a\": `layers[2]`: `retry` must stand before `timeout`: a limit of time is for one \
             attempt; the `deadline` of `retry` is for all of them (layers are listed from the outside to the inside)",
        ),
        ("[verify, verify]", "4:22: storage \"a\": `layers[1]`: the layer `verify` is named twice; keep one"),
        (
            "[{ verify: {}, retry: {} }]",
            "4:14: storage \"a\": `layers[0]`: a layer is its name, or a mapping from its name to its settings",
        ),
    ];
    for (layers, wanted) in cases {
        let lines = problems(&yaml(layers), &layered());
        assert_eq!(lines, [format!("<yaml>:{wanted}")], "{layers}");
    }
}

#[test]
fn a_layer_that_is_not_there_says_how_to_get_it() {
    let lines = problems(&yaml("[verify]"), &options(&[]));
    let cure =
        "the layer `verify` is not registered by this program; it should begin with `Registry::default()`";
    assert_eq!(lines, [format!("<yaml>:4:14: storage \"a\": `layers[0]`: {cure}")]);
    if cfg!(not(feature = "metrics")) {
        let lines = problems(&yaml("[metrics]"), &layered());
        assert!(lines[0].ends_with("build it with the cargo feature `metrics`"), "{lines:?}");
    }
}

/// A layer of a program: it takes nothing that is empty.
struct NoEmpty;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct NoEmptyConfig {
    most: Option<u64>,
}

impl Layer for NoEmpty {
    const NAME: &'static str = "no_empty";
    type Config = NoEmptyConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, config: NoEmptyConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(SizeLimit::new(inner, &SizeLimitConfig::new(config.most.unwrap_or(7)))))
    }
}

#[tokio::test]
async fn a_program_can_register_its_own() {
    let mut registry = Registry::new();
    registry.register::<Probe>().register_layer::<NoEmpty>();
    assert_eq!(registry.layers().collect::<Vec<_>>(), ["no_empty"]);
    let schema = registry.schema();
    assert_eq!(schema["$defs"]["layers"]["items"]["oneOf"][0], json!({ "enum": ["no_empty"] }));
    let plan = Plan::from_yaml(&yaml("[no_empty]"), &options(&[]).registry(registry)).unwrap();
    let manager = StorageManager::open(plan).await.unwrap();
    assert_eq!(manager.storage("a").unwrap().describe().max_value_bytes(), 7);
    manager.close().await.unwrap();
}

/// Two storages in one folder, apart by their namespaces: a restore of one leaves the other as it is.
#[cfg(feature = "file")]
#[tokio::test]
async fn a_namespace_is_copied_and_restored_by_itself() {
    const YAML: &str = "
default_storage: a
storages:
  a: { type: file, path: data, layers: [{ namespace: { prefix: \"a/\" } }] }
  b: { type: file, path: data, layers: [{ namespace: { prefix: \"b/\" } }] }
backup: { enabled: false, path: backups }
";
    let place = tempfile::tempdir().unwrap();
    let load = || Plan::from_yaml(YAML, &layered().base(place.path())).unwrap();
    let manager = StorageManager::open(load()).await.unwrap();
    let [a, b] = ["a", "b"].map(|name| manager.storage(name).unwrap());
    a.put("k", &1).await.unwrap();
    b.put("k", &2).await.unwrap();
    let snapshot = manager.backup("a").await.unwrap();
    assert_eq!(snapshot.manifest().keys, 1);
    a.put("k", &3).await.unwrap();
    a.put("more", &4).await.unwrap();
    manager.close().await.unwrap();
    let restored = load().restore("a", &snapshot).await.unwrap();
    assert_eq!(restored.keys, 1);
    let manager = StorageManager::open(load()).await.unwrap();
    let [a, b] = ["a", "b"].map(|name| manager.storage(name).unwrap());
    assert_eq!((a.get("k").await.unwrap(), a.get::<u8>("more").await.unwrap()), (Some(1), None));
    assert_eq!(b.get("k").await.unwrap(), Some(2));
    manager.close().await.unwrap();
}
