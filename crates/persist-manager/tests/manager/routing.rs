//! Keys go where the routes say.

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, Expiry, HealthStatus, Key, ListOptions, Operation, Outcome,
    Result, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_manager::{Router, StorageManager};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::support::manager;

const YAML: &str = "
default_storage: main
storages:
  arrays: { type: probe }
  main: { type: probe }
  deep: { type: probe }
routes:
  - { prefix: weights/, storage: arrays }
  - { prefix: weights/old/, storage: deep }
  - { prefix: weights/old/keep, storage: arrays }
";

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn store(manager: &StorageManager, text: &str) {
    manager.store(text, Value::json(text).unwrap(), StoreOptions::new()).await.unwrap();
}

async fn listed(manager: &StorageManager, prefix: &str) -> Vec<String> {
    let page = manager.list_keys(prefix, ListOptions::new()).await.unwrap();
    page.keys.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn every_verb_goes_by_the_longest_route() {
    let manager = manager(YAML).await;
    for (text, name) in [
        ("a", "main"),
        ("weights", "main"),
        ("weights/a", "arrays"),
        ("weights/old/a", "deep"),
        ("weights/old/keep1", "arrays"),
    ] {
        store(&manager, text).await;
        assert_eq!(manager.route(&key(text)).describe().name(), name);
        assert!(manager.storage(name).unwrap().contains(&key(text)).await.unwrap());
        let entry = manager.retrieve(text).await.unwrap().unwrap();
        assert_eq!(entry.to::<String>().unwrap(), text);
        assert_eq!(manager.metadata(text).await.unwrap().unwrap(), entry.metadata);
        assert!(manager.touch(text, Expiry::Never).await.unwrap().unwrap().version > entry.metadata.version);
        let held =
            async |name| manager.list_keys_in(name, text, ListOptions::new()).await.unwrap().keys.len();
        let counts = [held("main").await, held("arrays").await, held("deep").await];
        assert_eq!(counts.iter().sum::<usize>(), 1, "{text}: {counts:?}");
        assert!(manager.delete(text, DeleteOptions::new()).await.unwrap());
        assert!(!manager.contains(text).await.unwrap());
    }
}

#[tokio::test]
async fn names_reach_past_the_routes() {
    let manager = manager(YAML).await;
    let value = Value::json(&1).unwrap();
    manager.store_in("main", "weights/hidden", value.clone(), StoreOptions::new()).await.unwrap();
    assert_eq!(manager.retrieve("weights/hidden").await.unwrap(), None);
    assert_eq!(manager.retrieve_from("main", "weights/hidden").await.unwrap().unwrap().value, value);
    assert_eq!(listed(&manager, "").await, Vec::<String>::new());
    assert!(manager.delete_from("main", "weights/hidden", DeleteOptions::new()).await.unwrap());
    let error = manager.store_in("mian", "k", value, StoreOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.message(),
        "no storage named \"mian\" is configured; did you mean `main`? (there are: `arrays`, `main`, `deep`)"
    );
    assert_eq!(manager.default_storage().describe().name(), "main");
    assert_eq!(manager.names().collect::<Vec<_>>(), ["arrays", "main", "deep"]);
}

#[tokio::test]
async fn batches_are_answered_in_the_order_asked() {
    let manager = manager(YAML).await;
    let keys: Vec<Key> = ["weights/old/1", "a", "weights/1", "b", "weights/old/keep", "a"].map(key).to_vec();
    let item = |(index, key): (usize, &Key)| StoreItem::new(key.clone(), Value::json(&index).unwrap());
    let stored = manager.store_many(keys.iter().enumerate().map(item).collect()).await;
    assert!(
        stored.iter().all(|result| result.as_ref().is_ok_and(|metadata| metadata.size == 1)),
        "{stored:?}"
    );
    let values: Vec<usize> =
        manager.retrieve_many(&keys).await.into_iter().map(|r| r.unwrap().unwrap().to().unwrap()).collect();
    assert_eq!(values, [0, 5, 2, 3, 4, 5]);
    let deleted: Vec<bool> = manager.delete_many(&keys).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(deleted, [true, true, true, true, true, false]);
    assert!(manager.store_many(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn a_transaction_stays_within_one_storage() {
    let manager = manager(YAML).await;
    let put = |text: &str| Operation::put(key(text), Value::json(&1).unwrap(), StoreOptions::new());
    let outcomes = manager.transact(vec![put("weights/1"), put("weights/old/keep")]).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Stored(_), Outcome::Stored(_)]), "{outcomes:?}");
    let error = manager.transact(vec![put("weights/2"), put("a")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("`arrays` and `main`"), "{error}");
    assert_eq!(listed(&manager, "").await, ["weights/1", "weights/old/keep"]);
    assert_eq!(manager.transact(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn a_page_costs_what_it_holds_although_much_is_hidden() {
    let manager = manager(YAML).await;
    let main = manager.storage("main").unwrap();
    let hidden = (0..2000).map(|n| StoreItem::new(key(&format!("weights/{n:04}")), Value::json(&n).unwrap()));
    assert!(main.store_many(hidden.collect()).await.iter().all(Result::is_ok));
    for text in ["a", "weights/b", "z"] {
        store(&manager, text).await;
    }
    assert_eq!(listed(&manager, "").await, ["a", "weights/b", "z"]);
    let page = manager.list_keys("", ListOptions::new().limit(2)).await.unwrap();
    assert_eq!((page.keys.len(), page.next), (2, Some(key("weights/b"))));
    let page =
        manager.list_keys("", ListOptions::new().limit(2).after(Some(key("weights/b")))).await.unwrap();
    assert_eq!((page.keys, page.next), (vec![key("z")], None));
}

#[tokio::test]
async fn the_router_is_well_when_all_are() {
    let places = [MemoryPlace::new(), MemoryPlace::new()];
    let storage =
        |name: &str, place| -> Arc<dyn BaseStorage> { Arc::new(MemoryStorage::builder(name).open(place)) };
    let routes = [("b/".to_owned(), storage("second", &places[1]))];
    let router = Router::new("both", storage("first", &places[0]), routes).unwrap();
    assert_eq!(router.health().await.status, HealthStatus::Healthy);
    places[1].set_down(true);
    let health = router.health().await;
    assert_eq!(health.status, HealthStatus::Unhealthy);
    assert!(health.detail.starts_with("second: "), "{health:?}");
    router.put("a", &1).await.unwrap();
    assert_eq!(router.put("b/1", &1).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(router.list_keys("", ListOptions::new()).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn capabilities_are_what_all_members_share() {
    let plain = || -> Arc<dyn BaseStorage> { Arc::new(MemoryStorage::new("plain")) };
    let disk = || -> Arc<dyn BaseStorage> {
        Arc::new(MemoryStorage::builder("disk").as_disk().max_value_bytes(10).open(&MemoryPlace::new()))
    };
    let router = |routed| Router::new("r", disk(), [("a".to_owned(), routed)]).unwrap();
    assert!(router(disk()).describe().capabilities().durable);
    assert!(!router(plain()).describe().capabilities().durable);
    assert!(router(plain()).describe().capabilities().atomic_transact);
    assert_eq!(router(plain()).describe().max_value_bytes(), 10);
    for bad in [vec![""], vec!["a", "a"], vec!["\0"]] {
        let routes = bad.iter().map(|prefix| ((*prefix).to_owned(), plain()));
        assert_eq!(
            Router::new("r", plain(), routes).unwrap_err().kind(),
            ErrorKind::InvalidConfig,
            "{bad:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Pages of any size over any routes give every key once, in order, and nothing that is hidden.
    #[test]
    fn pages_of_any_size_give_every_key_once(
        prefixes in prop::collection::btree_map("[ab/\u{10FFFF}]{1,3}", 0..3usize, 0..5),
        stored in prop::collection::vec(("[ab/\u{10FFFF}]{1,5}", 0..3usize), 0..40),
        prefix in "[ab/]{0,2}",
        limit in 1..5usize,
    ) {
        let members: Vec<Arc<dyn BaseStorage>> =
            (0..3).map(|n| Arc::new(MemoryStorage::new(format!("m{n}"))) as Arc<dyn BaseStorage>).collect();
        let routes = prefixes.into_iter().map(|(prefix, member)| (prefix, members[member].clone()));
        let router = Router::new("r", members[0].clone(), routes).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut wanted = BTreeSet::new();
            for (text, member) in stored {
                // Past the routes, so that some of it is hidden.
                members[member].put(text.as_str(), &1).await.unwrap();
                let shown = router.route(&key(&text)).describe().name() == format!("m{member}");
                if shown && text.starts_with(&prefix) {
                    wanted.insert(key(&text));
                }
            }
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = router.list_keys(&prefix, ListOptions::new().limit(limit).after(after)).await.unwrap();
                assert!(page.keys.len() <= limit);
                assert!(page.next.is_none() || page.keys.len() == limit, "a page that is not the last is full");
                found.extend(page.keys);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        });
    }
}
