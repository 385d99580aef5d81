//! Opening, looking after, closing.

use std::sync::Arc;
use std::time::Duration;

use persist_core::{ErrorKind, HealthStatus, ListOptions, ManualClock, StorageExt, StoreOptions, Value};
use persist_manager::{Plan, StorageManager};

use crate::support::{LOG, manager, options, plan};

/// What was noted about storages whose names begin with `prefix`, in order.
fn noted(prefix: &str) -> Vec<String> {
    let log = LOG.lock().unwrap();
    log.iter()
        .filter(|line| line.split(' ').nth(1).is_some_and(|name| name.starts_with(prefix)))
        .cloned()
        .collect()
}

#[tokio::test]
async fn storages_are_opened_in_order_and_closed_in_reverse() {
    let manager = manager(
        "storages: {noted1-c: {type: probe}, noted1-a: {type: probe}, noted1-b: {type: probe}}\n\
         default_storage: noted1-a",
    )
    .await;
    manager.close().await.unwrap();
    let wanted = [
        "open noted1-c",
        "open noted1-a",
        "open noted1-b",
        "close noted1-b",
        "close noted1-a",
        "close noted1-c",
    ];
    assert_eq!(noted("noted1"), wanted);
    let error = manager.store("k", Value::json(&1).unwrap(), StoreOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    manager.close().await.unwrap();
}

#[tokio::test]
async fn every_storage_is_closed_and_every_error_told() {
    let manager = manager(
        "storages: {noted2-a: {type: probe, fail_close: true}, noted2-b: {type: probe}, \
         noted2-c: {type: probe, fail_close: true}}\ndefault_storage: noted2-a",
    )
    .await;
    let flushed = manager.flush().await.unwrap_err();
    assert_eq!(flushed.kind(), ErrorKind::Capacity);
    let error = manager.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Capacity);
    assert_eq!(
        error.message(),
        "2 storages failed: storage \"noted2-c\": close: told to fail; storage \"noted2-a\": close: told to fail"
    );
    assert_eq!(noted("noted2").iter().filter(|line| line.starts_with("close")).count(), 3);
    assert_eq!(noted("noted2").iter().filter(|line| line.starts_with("flush")).count(), 3);
}

#[tokio::test]
async fn the_router_closes_its_members_alike() {
    let manager = manager(
        "storages: {noted3-a: {type: probe, fail_close: true}, noted3-b: {type: probe}}\n\
         default_storage: noted3-a\nroutes: [{prefix: b, storage: noted3-b}]",
    )
    .await;
    let error = manager.router().close().await.unwrap_err();
    assert_eq!(error.storage(), Some("noted3-a"));
    assert_eq!(noted("noted3")[2..], ["close noted3-b", "close noted3-a"]);
}

#[tokio::test]
async fn what_was_opened_before_a_failure_is_closed_again() {
    let yaml = "storages: {noted4-a: {type: probe}, noted4-b: {type: probe}, noted4-c: {type: probe, fail_open: true}}\n\
                default_storage: noted4-a";
    let error = StorageManager::open(plan(yaml, &[])).await.unwrap_err();
    assert_eq!((error.kind(), error.storage()), (ErrorKind::Unavailable, Some("noted4-c")));
    assert_eq!(error.to_string(), "storage \"noted4-c\": open: told to fail");
    assert_eq!(noted("noted4")[3..], ["close noted4-b", "close noted4-a"]);
}

#[tokio::test]
async fn all_storages_are_asked() {
    let manager = manager("storages: {a: {type: probe}, b: {type: probe}}\ndefault_storage: a").await;
    manager.storage("a").unwrap().put("k", &1).await.unwrap();
    assert!(manager.health().await.values().all(|health| health.status == HealthStatus::Healthy));
    let verified = manager.verify().await;
    assert_eq!(verified["a"].as_ref().unwrap().checked, 1);
    assert_eq!(verified["b"].as_ref().unwrap().checked, 0);
    assert_eq!(manager.stats().await.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(manager.maintain().await.values().all(Result::is_ok));
    manager.storage("a").unwrap().close().await.unwrap();
    assert_eq!(manager.stats().await["a"].as_ref().unwrap_err().kind(), ErrorKind::Closed);
    assert!(manager.stats().await["b"].is_ok());
    assert_eq!(manager.health().await["a"].status, HealthStatus::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn maintenance_runs_until_the_end() {
    let yaml = "storages: {noted5: {type: probe}}\nmaintenance: {interval: 10m}";
    let maintained = || noted("noted5").iter().filter(|line| line.starts_with("maintain")).count();
    let manager = manager(yaml).await;
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(maintained(), 0);
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(maintained(), 3);
    manager.close().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(maintained(), 3);
}

#[tokio::test(start_paused = true)]
async fn maintenance_ends_with_a_manager_that_is_dropped() {
    let yaml = "storages: {noted6: {type: probe}}\nmaintenance: {interval: 1}";
    drop(manager(yaml).await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!noted("noted6").contains(&"maintain noted6".to_owned()));
}

#[tokio::test]
async fn everything_can_be_opened_for_reading_only_and_with_a_clock() {
    let clock = Arc::new(ManualClock::default());
    let options = options(&[]).read_only(true).clock(clock.clone());
    let plan = Plan::from_yaml("storages: {a: {type: probe}}", &options).unwrap();
    let storage = StorageManager::open(plan).await.unwrap().storage("a").unwrap();
    assert_eq!(storage.put("k", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(storage.describe().now(), persist_core::Clock::now(&*clock));
}

#[tokio::test]
async fn a_manager_can_be_shared_between_tasks() {
    let manager = Arc::new(manager("storages: {a: {type: probe}}").await);
    let tasks = (0..8u8).map(|n| {
        let manager = Arc::clone(&manager);
        tokio::spawn(async move {
            manager.store(format!("k{n}"), Value::json(&n)?, StoreOptions::new()).await?;
            manager.store_many(Vec::new()).await;
            manager.stats().await;
            manager.health().await;
            manager.flush().await
        })
    });
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(manager.list_keys("", ListOptions::new()).await.unwrap().keys.len(), 8);
    tokio::spawn(async move { manager.close().await }).await.unwrap().unwrap();
}

/// Without a runtime there is nobody to run the maintenance: an error, and what was opened is closed again.
#[test]
fn maintenance_without_a_runtime_is_refused() {
    let yaml = "storages: {noted7: {type: probe}}\nmaintenance: {interval: 1}";
    let error =
        futures_util::FutureExt::now_or_never(StorageManager::open(plan(yaml, &[]))).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(noted("noted7"), ["open noted7", "close noted7"]);
}
