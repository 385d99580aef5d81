//! Storages that are made of others: what may name what, in which order they are opened, and how they are closed.

use persist_core::{ErrorKind, StorageExt};
use persist_manager::{LoadOptions, Plan, Registry, StorageManager};

use crate::support::{Probe, options, problems};

fn composed() -> LoadOptions {
    let mut registry = Registry::default();
    registry.register::<Probe>();
    options(&[]).registry(registry)
}

fn load(yaml: &str) -> Plan {
    Plan::from_yaml(yaml, &composed()).unwrap()
}

/// Named before its members, with a layer of its own, and made of another composite.
const NESTED: &str = "
default_storage: live
storages:
  live: { type: tiered, tiers: [hot, safe], layers: [{ size_limit: { max_value: 100 } }] }
  safe: { type: fallback, members: [main, copy] }
  hot: { type: probe }
  main: { type: probe }
  copy: { type: probe }
";

#[tokio::test]
async fn members_are_opened_first_and_are_the_same_storages() {
    let manager = StorageManager::open(load(NESTED)).await.unwrap();
    assert_eq!(manager.names().collect::<Vec<_>>(), ["live", "safe", "hot", "main", "copy"]);
    let [live, safe, hot, main] = ["live", "safe", "hot", "main"].map(|name| manager.storage(name).unwrap());
    assert_eq!((live.describe().backend(), live.describe().max_value_bytes()), ("tiered", 100));
    live.put("a", &1).await.unwrap();
    for storage in [&live, &safe, &hot, &main] {
        assert_eq!(storage.get("a").await.unwrap(), Some(1), "{}", storage.describe().name());
    }
    manager.close().await.unwrap();
    for storage in [live, safe, hot, main] {
        assert_eq!(storage.get::<u8>("a").await.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test]
async fn one_storage_is_opened_with_what_it_is_made_of() {
    let mut plan = load(NESTED);
    let live = plan.open_storage("live").await.unwrap();
    live.put("a", &1).await.unwrap();
    // A member that is open already is the same one.
    let main = plan.open_storage("main").await.unwrap();
    assert_eq!(main.get("a").await.unwrap(), Some(1));
    assert_eq!(plan.open_storage("live").await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    live.close().await.unwrap();
    assert_eq!(main.get::<u8>("a").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn what_cannot_be_made_is_told() {
    let cases = [
        (
            "a: { type: tiered, tiers: [b, c] }\n  b: { type: probe }",
            "storage \"a\": there is no storage `c`; known: `a`, `b`",
        ),
        (
            "a: { type: tiered, tiers: [b, b] }\n  b: { type: probe }",
            "storage \"a\": the storage `b` is named twice",
        ),
        (
            "a: { type: tiered, tiers: [b] }\n  b: { type: probe }",
            "storage \"a\": `tiers` needs at least two storages, the quickest first",
        ),
        (
            "a: { type: tiered, tiers: [p, b] }\n  b: { type: fallback, members: [p, c] }\n  c: { type: tiered, tiers: [p, a] }\n  p: { type: probe }",
            "storage \"a\": it is made of itself: a → b → c → a",
        ),
        (
            "a: { type: tiered, tiers: [p, a] }\n  p: { type: probe }",
            "storage \"a\": it is made of itself: a → a",
        ),
        (
            "a: { type: fallback, members: [p, q], on: [Conflict] }\n  p: { type: probe }\n  q: { type: probe }",
            "conflict",
        ),
    ];
    for (storages, wanted) in cases {
        let lines = problems(&format!("default_storage: a\nstorages:\n  {storages}\n"), &composed());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].to_lowercase().contains(&wanted.to_lowercase()), "{}", lines[0]);
    }
}

#[tokio::test]
async fn a_member_that_cannot_be_opened_closes_what_was_opened() {
    let yaml = NESTED.replace("main: { type: probe }", "main: { type: probe, fail_open: true }");
    let error = StorageManager::open(load(&yaml)).await.unwrap_err();
    assert_eq!((error.kind(), error.storage()), (ErrorKind::Unavailable, Some("main")));
}

/// What a composite holds lies in its members: those are copied and restored.
#[cfg(feature = "file")]
#[tokio::test]
async fn members_are_copied_and_restored_in_its_place() {
    const YAML: &str = "
default_storage: live
storages:
  live: { type: tiered, tiers: [hot, main] }
  hot: { type: probe }
  main: { type: file, path: data }
backup: { enabled: false, path: backups }
";
    let place = tempfile::tempdir().unwrap();
    let load = || Plan::from_yaml(YAML, &composed().base(place.path())).unwrap();
    let manager = StorageManager::open(load()).await.unwrap();
    manager.router().put("a", &1).await.unwrap();
    assert_eq!(manager.backup("live").await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    let snapshot = manager.backup("main").await.unwrap();
    manager.router().put("a", &2).await.unwrap();
    manager.close().await.unwrap();
    // A folder belongs to its storage as long as somebody holds one.
    drop(manager);
    let error = load().restore("live", &snapshot).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidConfig && error.message().contains("`hot`, `main`"), "{error}");
    load().restore("main", &snapshot).await.unwrap();
    let manager = StorageManager::open(load()).await.unwrap();
    assert_eq!(manager.router().get("a").await.unwrap(), Some(1));
    manager.close().await.unwrap();
}
