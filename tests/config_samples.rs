//! The sample configurations, the examples of the documentation and the schema for editors are what the code accepts.
#![cfg(all(feature = "file", feature = "cache", feature = "sqlite", feature = "pack"))]
#![cfg(all(feature = "redis", feature = "hdf5"))]
#![cfg(all(feature = "compress", feature = "encrypt", feature = "metrics"))]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use persist::{Environment, HealthStatus, LoadOptions, Plan, Registry, StorageExt, StorageManager};
use persist_testkit::redis::Deployment;
use serde_json::Value;

/// The server that the samples find under `REDIS_URL`.
static REDIS: LazyLock<Option<Deployment>> = LazyLock::new(Deployment::standalone);

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn options(base: &Path) -> LoadOptions {
    let redis = REDIS.as_ref().map(|redis| ("REDIS_URL", redis.url()));
    let key = |digit: &str| digit.repeat(64);
    let variables = [
        ("REDIS_PASSWORD", "sesame".to_owned()),
        ("DATA", "data".to_owned()),
        ("STORAGE_KEY", key("5")),
        ("PRIVATE_KEY", key("6")),
        ("PRIVATE_KEY_2025", key("7")),
        ("WRAPPING_KEY", key("8")),
    ];
    let variables = variables.into_iter().chain(redis);
    LoadOptions::new().environment(Environment::from_iter(variables)).profile(None).base(base)
}

/// Opens a plan, keeps a value in every storage and by every route, and closes.
async fn use_all(plan: Plan) {
    if REDIS.is_none() && plan.names().any(|name| plan.backend(name) == Some("redis")) {
        return;
    }
    let routes: Vec<(String, String)> = plan.routes().map(|(p, s)| (p.to_owned(), s.to_owned())).collect();
    let manager = StorageManager::open(plan).await.unwrap();
    for storage in manager.storages().filter(|storage| !storage.describe().capabilities().read_only) {
        storage.put("sample", &1).await.unwrap();
        assert_eq!(storage.get::<u8>("sample").await.unwrap(), Some(1));
    }
    for (prefix, name) in routes {
        let key = format!("{prefix}sample");
        manager.router().put(key.as_str(), &2).await.unwrap();
        assert_eq!(manager.storage(&name).unwrap().get::<u8>(key.as_str()).await.unwrap(), Some(2));
    }
    for (name, health) in manager.health().await {
        assert_eq!(health.status, HealthStatus::Healthy, "{name}: {}", health.detail);
    }
    assert!(manager.verify().await.values().all(|found| found.as_ref().is_ok_and(|found| found.is_clean())));
    manager.close().await.unwrap();
}

#[tokio::test]
async fn every_sample_works_as_it_stands_and_with_each_profile() {
    let mut samples = 0;
    for entry in fs::read_dir(repository("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        samples += 1;
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::from_file(&path, &options(folder.path())).unwrap();
        assert!(plan.warnings().is_empty(), "{}: {:?}", path.display(), plan.warnings());
        let profiles = plan.profiles().to_vec();
        use_all(plan).await;
        for profile in profiles {
            let folder = tempfile::tempdir().unwrap();
            use_all(Plan::from_file(&path, &options(folder.path()).profile(Some(&profile))).unwrap()).await;
        }
    }
    assert!(samples >= 3, "{samples} samples");
}

/// The annotated sample shows every section, every type with all its names, and every key in a section of its type.
#[test]
fn the_annotated_sample_leaves_nothing_out() {
    let text = fs::read_to_string(repository("config/full.yaml")).unwrap();
    let schema = Registry::default().schema();
    assert_mentions(&text, &names(sections(&schema)), "config/full.yaml");
    for storage in storages(&schema) {
        let types = types(storage);
        let at =
            text.find(&format!("type: {}", types[0])).expect("each type has a section in config/full.yaml");
        let section = text[at..].split("\n\n").next().unwrap_or_default();
        assert_mentions(section, &own(&storage["properties"]), "config/full.yaml");
        assert_mentions(section, &types.into_iter().collect(), "config/full.yaml");
    }
}

/// The same of the documentation.
#[test]
fn the_documentation_names_every_key() {
    let text = fs::read_to_string(repository("docs/configuration.md")).unwrap();
    let schema = Registry::default().schema();
    assert_mentions(&text, &names(sections(&schema)), "docs/configuration.md");
    for storage in storages(&schema) {
        let types = types(storage);
        let at = text.find(&format!("### `{}`", types[0])).expect("each type has a chapter");
        let chapter = text[at + 3..].split("\n###").next().unwrap_or_default();
        let keys = own(&storage["properties"]).into_iter().filter(|name| *name != "type").collect();
        assert_mentions(chapter, &keys, "docs/configuration.md");
        assert_mentions(chapter, &types.into_iter().collect(), "docs/configuration.md");
    }
}

/// Every layer has a chapter that names each of its settings, and stands with each of them in the annotated sample.
#[test]
fn every_layer_is_described_and_shown() {
    let document = fs::read_to_string(repository("docs/layers.md")).unwrap();
    let sample = fs::read_to_string(repository("config/full.yaml")).unwrap();
    let schema = Registry::default().schema();
    let forms = schema["$defs"]["layers"]["items"]["oneOf"].as_array().unwrap();
    for form in &forms[1..] {
        let (name, settings) = form["properties"].as_object().unwrap().iter().next().unwrap();
        let settings = match settings.get("$ref").and_then(Value::as_str) {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => settings,
        };
        let keys = settings.get("properties").map(names).unwrap_or_default();
        let at = document.find(&format!("### `{name}`")).unwrap_or_else(|| panic!("no chapter about {name}"));
        let chapter = document[at + 3..].split("\n###").next().unwrap_or_default();
        assert_mentions(chapter, &keys, "docs/layers.md");
        assert_mentions(&sample, &keys, "config/full.yaml");
        assert_mentions(&sample, &BTreeSet::from([name.as_str()]), "config/full.yaml");
    }
}

fn assert_mentions(text: &str, wanted: &BTreeSet<&str>, place: &str) {
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = wanted.difference(&words).collect();
    assert!(missing.is_empty(), "{place} does not mention {missing:?} where it should");
}

fn sections(schema: &Value) -> &Value {
    &schema["$defs"]["sections"]["properties"]
}

fn storages(schema: &Value) -> &Vec<Value> {
    sections(schema)["storages"]["additionalProperties"]["oneOf"].as_array().unwrap()
}

/// The type of a section, then its aliases.
fn types(storage: &Value) -> Vec<&str> {
    storage["properties"]["type"]["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

/// The keys of a section that are its own: every type has `layers`.
fn own(properties: &Value) -> BTreeSet<&str> {
    names(properties).into_iter().filter(|name| *name != "layers").collect()
}

fn names(properties: &Value) -> BTreeSet<&str> {
    properties.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn every_yaml_example_of_the_documentation_works() {
    let documents = ["docs/configuration.md", "docs/layers.md"];
    let text: String =
        documents.iter().map(|path| fs::read_to_string(repository(path)).unwrap() + "\n").collect();
    let examples: Vec<&str> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 5, "{} examples", examples.len());
    for example in examples {
        let folder = tempfile::tempdir().unwrap();
        secret_file(&folder.path().join("password"));
        let plan = Plan::from_yaml(example, &options(folder.path()));
        use_all(plan.unwrap_or_else(|error| panic!("{error}\n{example}"))).await;
    }
}

fn secret_file(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, "hunter2\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// `UPDATE_SCHEMA=1 cargo test --test config_samples` writes the file anew.
#[test]
fn the_schema_file_is_what_the_registry_gives() {
    let path = repository("config/persist.schema.json");
    let wanted = serde_json::to_string_pretty(&Registry::default().schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "config/persist.schema.json is out of step; run UPDATE_SCHEMA=1 cargo test --test config_samples"
    );
}
