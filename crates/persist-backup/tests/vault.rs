//! Snapshots taken, listed, verified, damaged, restored and removed.
#![allow(clippy::unwrap_used)] // A panic here is the report.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use persist_backup::{Form, Retention, Snapshot, Vault};
use persist_core::{
    BaseStorage, ErrorKind, Key, ManualClock, Result, SnapshotSource, StorageExt, StoreOptions, Timestamp,
    Value, restore_entries,
};
use persist_testkit::hostile;
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

const START: Timestamp = Timestamp::from_millis(1_700_000_000_123);

struct Scene {
    place: TempDir,
    memory: MemoryPlace,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(START));
        Self { place: TempDir::new().unwrap(), memory: MemoryPlace::new(), clock }
    }

    fn vault(&self) -> Vault {
        Vault::new(self.place.path().join("deep/backups"))
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage::builder("main").clock(self.clock.clone()).open(&self.memory)
    }

    async fn filled(&self) -> MemoryStorage {
        let storage = self.storage();
        for key in hostile::keys().into_iter().take(40) {
            storage.put(&key, &key.as_str()).await.unwrap();
        }
        let options = StoreOptions::new().ttl(DAY).tag("a", "b");
        storage.store(&Key::new("tagged").unwrap(), Value::bytes(vec![7; 100_000]), options).await.unwrap();
        storage
            .put_array("array", persist_core::ndarray::arr2(&[[1.5, f64::NAN], [0.0, -0.0]]))
            .await
            .unwrap();
        storage
    }

    async fn names(&self) -> Vec<String> {
        let (snapshots, _) = self.vault().list("main").await.unwrap();
        snapshots.iter().map(Snapshot::name).collect()
    }
}

async fn entries(storage: &MemoryStorage) -> Vec<(Key, persist_core::Entry)> {
    let mut taken = persist_testkit::TestSnapshot::default();
    storage.snapshot(&mut taken).await.unwrap();
    taken.entries.into()
}

async fn restore(snapshot: &Snapshot, into: &MemoryStorage) -> Result<persist_core::Restored> {
    restore_entries(into, &mut snapshot.source().await?).await
}

#[tokio::test]
async fn what_was_taken_is_read_back_with_all_metadata() {
    let scene = Scene::new();
    let storage = scene.filled().await;
    let snapshot = scene.vault().take(&storage).await.unwrap();
    snapshot.verify().await.unwrap();
    let manifest = snapshot.manifest();
    assert!(manifest.snapshot.starts_with("20231114T221320.123Z-"), "{}", manifest.snapshot);
    assert_eq!((manifest.keys, manifest.backend.as_str()), (42, "memory"));
    assert_eq!((manifest.form, manifest.files.len()), (Form::Entries, 1));
    let (mut source, mut found) = (snapshot.source().await.unwrap(), Vec::new());
    while let Some(entry) = source.next().await.unwrap() {
        found.push(entry);
    }
    // NaN is not equal to itself, its bits are.
    assert_eq!(format!("{found:?}"), format!("{:?}", entries(&storage).await));
    let hidden = std::fs::read_dir(scene.vault().path().join("main")).unwrap().count();
    assert_eq!(hidden, 1, "nothing is left of the making");
}

#[tokio::test]
async fn restored_into_an_empty_and_into_a_full_storage() {
    let scene = Scene::new();
    let storage = scene.filled().await;
    let snapshot = scene.vault().take(&storage).await.unwrap();
    let empty = MemoryStorage::builder("other").clock(scene.clock.clone()).open(&MemoryPlace::new());
    assert_eq!(restore(&snapshot, &empty).await.unwrap().keys, 42);
    for key in ["!", "tagged", "zzz"] {
        storage.put(key, &"overwritten").await.unwrap();
    }
    storage.delete(&Key::new("array").unwrap(), Default::default()).await.unwrap();
    restore(&snapshot, &storage).await.unwrap();
    for restored in [&empty, &storage] {
        let found = entries(restored).await;
        assert_eq!(found.len(), 42);
        let tagged = restored.metadata(&Key::new("tagged").unwrap()).await.unwrap().unwrap();
        assert_eq!(tagged.tags.get("a"), Some("b"));
        assert_eq!(tagged.expires_at, Some(START.saturating_add(DAY)));
    }
}

#[tokio::test]
async fn every_damage_is_found_before_anything_is_restored() {
    let scene = Scene::new();
    let storage = scene.filled().await;
    let snapshot = scene.vault().take(&storage).await.unwrap();
    let before = entries(&storage).await.len();
    let mut seed = 1_u64;
    for name in ["manifest.json", "entries"] {
        let path = snapshot.path().join(name);
        let good = std::fs::read(&path).unwrap();
        for _ in 0..60 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % good.len();
            let mut damaged = good.clone();
            damaged[at] ^= 1 << (seed >> 60 & 7);
            std::fs::write(&path, &damaged).unwrap();
            let error = reopened(&snapshot, &storage).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unsupported),
                "{name} at {at}: {error:?}"
            );
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert_eq!(reopened(&snapshot, &storage).await.unwrap_err().kind(), ErrorKind::Corruption);
        std::fs::remove_file(&path).unwrap();
        let error = reopened(&snapshot, &storage).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corruption | ErrorKind::NotFound), "{error:?}");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        reopened(&snapshot, &storage).await.unwrap_err();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &good).unwrap();
    }
    std::fs::write(snapshot.path().join("extra"), "x").unwrap();
    let error = reopened(&snapshot, &storage).await.unwrap_err();
    assert!(error.to_string().contains("\"extra\" lies in it"), "{error}");
    std::fs::remove_file(snapshot.path().join("extra")).unwrap();
    assert_eq!(entries(&storage).await.len(), before, "the live storage was not touched");
    reopened(&snapshot, &storage).await.unwrap();
}

async fn reopened(snapshot: &Snapshot, storage: &MemoryStorage) -> Result<()> {
    restore(&Snapshot::open(snapshot.path()).await?, storage).await.map(drop)
}

#[tokio::test]
async fn a_failed_snapshot_leaves_nothing() {
    let scene = Scene::new();
    let storage = scene.filled().await;
    assert!(scene.memory.corrupt(&Key::new("tagged").unwrap()));
    let error = scene.vault().take(&storage).await.unwrap_err();
    assert_eq!((error.kind(), error.key().unwrap().as_str()), (ErrorKind::Corruption, "tagged"));
    assert_eq!(std::fs::read_dir(scene.vault().path().join("main")).unwrap().count(), 0);
    let error = scene.vault().find("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // One that is dropped on the way.
    let (vault, storage) = (scene.vault(), MemoryStorage::new("main"));
    tokio::select! {
        biased;
        taken = vault.take(&storage) => panic!("it cannot be done at once: {taken:?}"),
        () = tokio::task::yield_now() => {}
    }
    for _ in 0..200 {
        if std::fs::read_dir(scene.vault().path().join("main")).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what was written of a dropped snapshot is still there");
}

#[tokio::test]
async fn names_do_not_collide_and_are_found() {
    let scene = Scene::new();
    let storage = scene.filled().await;
    let vault = scene.vault();
    for _ in 0..20 {
        vault.take(&storage).await.unwrap();
    }
    let names = scene.names().await;
    assert_eq!(names.len(), 20);
    scene.clock.advance(Duration::from_secs(1));
    let newest = vault.take(&storage).await.unwrap();
    assert_eq!(vault.find("main").await.unwrap().name(), newest.name());
    assert_eq!(vault.find(&names[3]).await.unwrap().name(), names[3]);
    assert_eq!(vault.storages().await.unwrap(), ["main"]);
    let error = vault.find("main/2020").await.unwrap_err();
    assert!(error.to_string().contains(&format!("its newest is `{}`", newest.name())), "{error}");
    for bad in ["", "..", "../main", ".", "a/../../etc"] {
        let kind = vault.find(bad).await.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::InvalidConfig | ErrorKind::NotFound), "{bad}: {kind}");
    }
    let copy = vault.path().join("main/copied");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(newest.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let (snapshots, unreadable) = vault.list("main").await.unwrap();
    assert_eq!((snapshots.len(), unreadable.len()), (21, 1));
    assert!(unreadable[0].message.contains("it was made as"), "{}", unreadable[0].message);
}

/// Ten snapshots, a day apart.
async fn ten(scene: &Scene) -> Vec<String> {
    let storage = scene.filled().await;
    for _ in 0..10 {
        scene.vault().take(&storage).await.unwrap();
        scene.clock.advance(DAY);
    }
    scene.names().await
}

async fn prune(scene: &Scene, retention: Retention) -> persist_backup::Pruned {
    use persist_core::Clock;
    scene.vault().prune("main", &retention, scene.clock.now()).await.unwrap()
}

#[tokio::test]
async fn the_old_are_removed_by_count_and_by_age() {
    let scene = Scene::new();
    let names = ten(&scene).await;
    assert_eq!(prune(&scene, Retention::count(10)).await.removed, Vec::<String>::new());
    assert_eq!(prune(&scene, Retention::count(8)).await.removed, names[..2]);
    assert_eq!(prune(&scene, Retention::age(DAY * 3)).await.removed, names[2..7]);
    assert_eq!(scene.names().await, names[7..]);
    let left = std::fs::read_dir(scene.vault().path().join("main")).unwrap().count();
    assert_eq!(left, 3, "nothing is left of what was removed");
}

#[tokio::test]
async fn a_wrong_clock_removes_nothing() {
    let scene = Scene::new();
    let names = ten(&scene).await;
    let keep = Retention { count: Some(1), age: Some(DAY) };
    for wrong in [Timestamp::from_millis(0), Timestamp::from_millis(4_000_000_000_000)] {
        scene.clock.set_wall(wrong);
        let pruned = prune(&scene, keep).await;
        assert_eq!(pruned.removed, Vec::<String>::new());
        assert!(pruned.notes[0].contains("clock"), "{:?}", pruned.notes);
    }
    assert_eq!(scene.names().await, names);
}

fn damage(snapshot: &Path) {
    let path = snapshot.join("entries");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn the_last_good_one_is_never_removed() {
    let scene = Scene::new();
    let names = ten(&scene).await;
    let path = |name: &str| scene.vault().path().join(name);
    damage(&path(&names[8]));
    damage(&path(&names[9]));
    let pruned = prune(&scene, Retention::count(2)).await;
    assert_eq!(pruned.removed, Vec::<String>::new());
    assert!(pruned.notes.last().unwrap().contains("none of the snapshots that would stay is good"));
    let pruned = prune(&scene, Retention::count(3)).await;
    assert_eq!(pruned.removed, names[..7]);
    assert_eq!(pruned.notes.len(), 2, "both damaged ones are named: {:?}", pruned.notes);
    scene.vault().find(&names[7]).await.unwrap().verify().await.unwrap();
}

#[tokio::test]
async fn what_is_read_or_not_ours_stays() {
    let scene = Scene::new();
    let names = ten(&scene).await;
    let source = scene.vault().find(&names[0]).await.unwrap().source().await.unwrap();
    let folder = scene.vault().path().join("main");
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(folder.join("20000101T000000.000Z-00000000")).unwrap();
    // A killed prune, with something in it that no manifest lists, and a killed snapshot.
    std::fs::rename(folder.join(&names[1][5..]), folder.join(format!(".old-{}", &names[1][5..]))).unwrap();
    std::fs::write(folder.join(format!(".old-{}/mine", &names[1][5..])), "mine").unwrap();
    std::fs::create_dir(folder.join(".new-x")).unwrap();
    std::fs::write(folder.join(".new-x/entries"), "half").unwrap();
    let pruned = prune(&scene, Retention::count(7)).await;
    assert_eq!(pruned.removed, names[2..3]);
    assert!(pruned.notes[0].contains("is being read"), "{:?}", pruned.notes);
    assert!(folder.join("notes.txt").exists() && folder.join("20000101T000000.000Z-00000000").exists());
    assert!(!folder.join(".new-x").exists());
    let old = std::fs::read_dir(folder.join(format!(".old-{}", &names[1][5..]))).unwrap().count();
    assert_eq!(old, 1, "only what the manifest lists is removed");
    drop(source);
    assert_eq!(prune(&scene, Retention::count(7)).await.removed, names[..1]);
}
