//! The section `backup`: snapshots on a schedule and on demand, and restoring them from a plan.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{ErrorKind, HealthStatus, ManualClock, StorageExt, Timestamp};
use persist_manager::{Keep, LoadOptions, Plan, Schedule, StorageManager};
use tempfile::TempDir;

use crate::support::{options, plan, problems};

const YAML: &str = "
default_storage: main
storages:
  main: { type: sqlite, path: main.db }
  docs: { type: file, base_path: docs }
  hot: { type: cache }
backup: { schedule: daily, retention: 2, path: backups }
";

/// The real backends, in a folder of its own.
fn real(place: &TempDir, clock: &Arc<ManualClock>, yaml: &str) -> Plan {
    let options = LoadOptions::new().profile(None).base(place.path()).clock(clock.clone());
    Plan::from_yaml(yaml, &options).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
}

/// Waits until the background has done something.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen in 20 s");
}

fn count(place: &TempDir, storage: &str) -> usize {
    let folder = std::fs::read_dir(place.path().join("backups").join(storage));
    let names = folder.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| !name.to_string_lossy().starts_with('.')).count()
}

#[test]
fn the_section_is_read_with_defaults() {
    let short = plan("storages: {a: {type: probe}}\nbackup: {}", &[]);
    let backup = short.backup().unwrap();
    assert!(backup.enabled);
    assert_eq!(backup.schedule, Schedule(Duration::from_secs(86_400)));
    assert_eq!((backup.retention.count, backup.path.as_path()), (Some(30), Path::new("data/backups")));
    assert!(short.to_yaml().contains("schedule: daily"), "{}", short.to_yaml());
    let yaml = "storages: {a: {type: probe}}
backup: {enabled: false, schedule: 6h, retention: {count: 5, age: 30days}, path: x, storages: [a]}";
    let long = plan(yaml, &[("PERSIST__BACKUP__SCHEDULE", "hourly")]);
    let backup = long.backup().unwrap();
    assert!(!backup.enabled);
    assert_eq!(backup.schedule.to_string(), "hourly");
    assert_eq!(backup.retention.count, Some(5));
    assert_eq!(backup.retention.age.unwrap().0, Duration::from_secs(30 * 86_400));
    assert_eq!(backup.storages.as_deref(), Some(&["a".to_owned()][..]));
    let again = Plan::from_yaml(&long.to_yaml(), &options(&[])).unwrap();
    assert_eq!(again.backup(), long.backup());
    let expanded = plan("storages: {a: {type: probe}}\nbackup: {retention: \"${N}\"}", &[("N", "7")]);
    assert_eq!(expanded.backup().unwrap().retention, Keep { count: Some(7), age: None });
}

#[test]
fn every_mistake_is_named_with_its_place() {
    for (section, wanted) in [
        (
            "{schedule: weakly}",
            "`backup.schedule`: \"weakly\" is not a schedule: hourly, daily, or a duration",
        ),
        ("{schedule: 10ms}", "`backup.schedule`: the shortest schedule is one second"),
        ("{retention: 0}", "`backup.retention`: at least one snapshot is kept"),
        ("{retention: {}}", "`backup.retention`: it is empty; give count, age, or both"),
        ("{retention: {cuont: 1}}", "`backup.retention`: unknown key `cuont`; did you mean `count`?"),
        ("{retention: many}", "`backup.retention`: \"many\" is not how many snapshots are kept"),
        ("{path: ''}", "`backup.path`: it is empty"),
        ("{storages: []}", "`backup.storages`: the list is empty"),
        ("{storages: [b]}", "there is no storage `b`"),
        ("{retain: 1}", "`backup`: unknown key `retain`; did you mean `retention`?"),
    ] {
        let lines = problems(&format!("storages: {{a: {{type: probe}}}}\nbackup: {section}"), &options(&[]));
        assert_eq!(lines.len(), 1, "{section}: {lines:?}");
        assert!(lines[0].starts_with("<yaml>:2:"), "{section}: {lines:?}");
        assert!(lines[0].contains(wanted), "{section}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_copied_when_it_is_due() {
    let (place, clock) = (TempDir::new().unwrap(), clock());
    let manager = StorageManager::open(real(&place, &clock, YAML)).await.unwrap();
    until(async || count(&place, "main") == 1 && count(&place, "docs") == 1).await;
    assert_eq!(count(&place, "hot"), 0);
    for _ in 0..3 {
        clock.advance(Duration::from_secs(60));
        manager.backup("main").await.unwrap();
    }
    assert_eq!(count(&place, "main"), 2, "the old ones are removed");
    assert_eq!(manager.backup("hot").await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    until(async || manager.stats().await["docs"].as_ref().unwrap().counters.contains_key("backup_last_at"))
        .await;
    let stats = manager.stats().await;
    let figures = &stats["main"].as_ref().unwrap().counters;
    assert_eq!((figures["backups_taken"], figures["backups_failed"]), (4, 0));
    assert!(!stats["hot"].as_ref().unwrap().counters.contains_key("backups_taken"));
    manager.close().await.unwrap();
    drop(manager);
    // Missed while nobody ran.
    clock.advance(Duration::from_secs(3 * 86_400));
    let manager = StorageManager::open(real(&place, &clock, YAML)).await.unwrap();
    until(async || manager.stats().await["docs"].as_ref().unwrap().counters["backups_taken"] == 1).await;
    assert_eq!(count(&place, "docs"), 2);
    manager.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_turned_off_is_only_done_when_asked_for() {
    let (place, clock) = (TempDir::new().unwrap(), clock());
    let yaml = YAML.replace("schedule: daily", "enabled: false, storages: [docs]");
    let manager = StorageManager::open(real(&place, &clock, &yaml)).await.unwrap();
    manager.backup("docs").await.unwrap();
    assert_eq!(manager.backup("main").await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    manager.close().await.unwrap();
    assert_eq!((count(&place, "docs"), count(&place, "main")), (1, 0));
    let without = yaml.split("backup:").next().unwrap();
    let manager = StorageManager::open(real(&place, &clock, without)).await.unwrap();
    let error = manager.backup("docs").await.unwrap_err();
    assert!(error.to_string().contains("no section `backup`"), "{error}");
    manager.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_shows_in_health_and_figures() {
    let (place, clock) = (TempDir::new().unwrap(), clock());
    std::fs::write(place.path().join("backups"), "a file").unwrap();
    let manager = StorageManager::open(real(&place, &clock, YAML)).await.unwrap();
    until(async || manager.health().await["docs"].status == HealthStatus::Degraded).await;
    let health = manager.health().await;
    assert!(health["docs"].detail.contains("its last backup failed"), "{:?}", health["docs"]);
    assert_eq!(health["hot"].status, HealthStatus::Healthy);
    assert_eq!(manager.stats().await["docs"].as_ref().unwrap().counters["backups_failed"], 1);
    std::fs::remove_file(place.path().join("backups")).unwrap();
    manager.backup("docs").await.unwrap();
    assert_eq!(manager.health().await["docs"].status, HealthStatus::Healthy);
    manager.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_restores_into_the_same_and_into_another_type() {
    let (place, clock) = (TempDir::new().unwrap(), clock());
    let yaml = YAML.replace("schedule: daily", "enabled: false");
    let manager = StorageManager::open(real(&place, &clock, &yaml)).await.unwrap();
    let (main, docs) = (manager.storage("main").unwrap(), manager.storage("docs").unwrap());
    main.put("from", &"main").await.unwrap();
    docs.put("from", &"docs").await.unwrap();
    let (of_main, of_docs) = (manager.backup("main").await.unwrap(), manager.backup("docs").await.unwrap());
    main.put("later", &1).await.unwrap();
    let open = real(&place, &clock, &yaml).restore("main", &of_main).await.unwrap_err();
    assert_eq!(open.kind(), ErrorKind::Locked, "{open}");
    manager.close().await.unwrap();
    drop((manager, main, docs));
    for (name, snapshot, from) in [
        ("main", &of_main, "main"),
        ("docs", &of_main, "main"),
        ("main", &of_docs, "docs"),
        ("docs", &of_docs, "docs"),
    ] {
        let mut target = real(&place, &clock, &yaml);
        assert_eq!(target.verify_snapshot(snapshot).await.unwrap().checked, 1);
        let restored = target.restore(name, snapshot).await.unwrap();
        assert_eq!(restored.keys, 1, "{name} from {from}");
        assert!(restored.kept.is_some());
        let again = target.restore(name, snapshot).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::InvalidConfig);
        let storage = real(&place, &clock, &yaml).open_storage(name).await.unwrap();
        assert_eq!(storage.get::<String>("from").await.unwrap().as_deref(), Some(from), "{name}");
        assert_eq!(storage.get::<u8>("later").await.unwrap(), None);
        storage.close().await.unwrap();
    }
    let unknown = real(&place, &clock, &yaml).restore("mian", &of_main).await.unwrap_err();
    assert!(unknown.to_string().contains("did you mean `main`"), "{unknown}");
}
