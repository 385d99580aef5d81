//! Readers beside a writer: they see what was acknowledged, through new packs, sealing and compaction, and hold nobody up.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::Path;
use std::sync::Arc;

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, Event, Expiry, HumanDuration, Key, ManualClock, OpenContext,
    Operation, Outcome, StorageExt, StoreItem, StoreOptions, Value, Watch,
};
use persist_pack::{PackConfig, PackStorage};

async fn open(config: PackConfig) -> PackStorage {
    PackStorage::open("packs", config, &OpenContext::default()).await.unwrap()
}

fn config(folder: &Path) -> PackConfig {
    PackConfig::new(folder).pack_size(8 << 10)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn value(round: u32) -> Value {
    Value::bytes((0..200).map(|at| (round * 31 + at) as u8).collect::<Vec<u8>>())
}

#[tokio::test]
async fn a_reader_follows_a_writer() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let writer = open(config(&folder)).await;
    // Opened while there is nothing, and later ones in the middle.
    let mut readers = vec![open(config(&folder).read_only()).await];
    for round in 0..200_u32 {
        let name = key(&format!("key/{}", round % 23));
        let stored = writer
            .store(&name, value(round), StoreOptions::new().tag("round", round.to_string()))
            .await
            .unwrap();
        if round % 10 == 3 {
            writer.delete(&key("key/5"), DeleteOptions::new()).await.unwrap();
        }
        if round % 50 == 49 {
            writer.maintain().await.unwrap();
            readers.push(open(config(&folder).read_only()).await);
        }
        for reader in &readers {
            let found = reader.retrieve(&name).await.unwrap();
            if name.as_str() != "key/5" || round % 10 != 3 {
                let found = found.unwrap_or_else(|| panic!("round {round}: {name} is absent"));
                assert_eq!((found.value, found.metadata), (value(round), stored.clone()), "round {round}");
            }
            assert_eq!(
                reader.contains(&key("key/5")).await.unwrap(),
                writer.contains(&key("key/5")).await.unwrap()
            );
        }
    }
    let stats = writer.stats().await.unwrap();
    assert!(stats.counters["packs_sealed"] > 5 && stats.counters["compactions"] > 0, "{stats:?}");
    for reader in &readers {
        assert_eq!(
            reader.list_keys("", Default::default()).await.unwrap(),
            writer.list_keys("", Default::default()).await.unwrap()
        );
        assert!(reader.verify().await.unwrap().is_clean());
        assert_eq!(reader.put("x", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    writer.close().await.unwrap();
    for reader in &readers {
        assert_eq!(reader.get_bytes("key/7").await.unwrap().unwrap().len(), 200);
        reader.close().await.unwrap();
    }
}

/// What was appended, sealed and compacted while the reader did not look.
#[tokio::test]
async fn a_reader_that_slept_sees_everything() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let writer = open(config(&folder)).await;
    writer.put("first", &0).await.unwrap();
    writer.close().await.unwrap();
    let reader = open(config(&folder).read_only()).await;
    assert_eq!(reader.get::<u32>("first").await.unwrap(), Some(0));
    for round in 1..6_u32 {
        let writer = open(config(&folder)).await;
        for at in 0..100_u32 {
            writer
                .store(&key(&format!("{at}")), value(round * 1000 + at), StoreOptions::new())
                .await
                .unwrap();
        }
        writer.maintain().await.unwrap();
        writer.close().await.unwrap();
        let found = reader.retrieve(&key("99")).await.unwrap().unwrap();
        assert_eq!(found.value, value(round * 1000 + 99), "round {round}");
    }
}

/// Events until there is none for a while.
async fn told(watch: &mut Watch<'_>) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(event) = tokio::time::timeout(std::time::Duration::from_millis(500), watch.next()).await {
        told.push(match event.unwrap().unwrap() {
            Event::Stored { key, .. } => format!("+{key}"),
            Event::Deleted { key } => format!("-{key}"),
            Event::Lost => "lost".to_owned(),
        });
    }
    told
}

/// Another process is told what was stored and deleted, and that it lost sight when a pack was sealed.
#[tokio::test]
async fn a_reader_watches_a_writer() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let writer = open(config(&folder)).await;
    writer.put("old", &0).await.unwrap();
    let reader = open(config(&folder).read_only()).await;
    assert!(writer.describe().capabilities().native_watch);
    assert!(!reader.describe().capabilities().native_watch);
    let mut own = writer.watch("k/").await.unwrap();
    let mut watch = reader.watch("k/").await.unwrap();
    writer.put("k/a", &1).await.unwrap();
    writer.put("other", &1).await.unwrap();
    writer.delete(&key("k/a"), DeleteOptions::new()).await.unwrap();
    writer.touch(&key("k/none"), Expiry::Never).await.unwrap();
    assert_eq!(told(&mut watch).await, ["+k/a", "-k/a"]);
    for round in 0..60_u32 {
        writer.store(&key("fill"), value(round), StoreOptions::new()).await.unwrap();
    }
    let lost = told(&mut watch).await;
    assert!(!lost.is_empty() && lost.iter().all(|event| event == "lost"), "{lost:?}");
    assert!(writer.stats().await.unwrap().counters["packs_sealed"] > 0);
    writer.put("k/b", &1).await.unwrap();
    // A pack that is new is opened as a whole.
    let last = told(&mut watch).await;
    assert!(last == ["+k/b"] || last == ["lost"], "{last:?}");
    assert_eq!(told(&mut own).await, ["+k/a", "-k/a", "+k/b"]);
    writer.close().await.unwrap();
    assert!(own.next().await.is_none());
    reader.close().await.unwrap();
    assert!(watch.next().await.is_none());
}

/// A pack is sealed by the change that fills it: not a byte earlier, and whatever the size of the change.
#[tokio::test]
async fn a_log_is_sealed_when_it_has_its_size() {
    let place = tempfile::tempdir().unwrap();
    let sealed = async |folder: &Path, size: u64, values: &[usize]| {
        let mut config = PackConfig::new(folder).pack_size(size);
        config.deduplicate = false;
        let storage = open(config).await;
        for (at, len) in values.iter().enumerate() {
            let stored = storage.store(&key(&format!("{at:04}")), noise(at, *len), StoreOptions::new()).await;
            stored.unwrap();
        }
        let stats = storage.stats().await.unwrap().counters;
        storage.close().await.unwrap();
        for (at, len) in values.iter().enumerate() {
            let reader = open(PackConfig::new(folder).read_only()).await;
            let found = reader.retrieve(&key(&format!("{at:04}"))).await.unwrap().unwrap();
            assert_eq!(found.value, noise(at, *len), "value {at} with packs of {size}");
        }
        (stats["packs_sealed"], stats["log_bytes"])
    };
    let folder = |name: &str| place.path().join(name);
    let values = [300; 6];
    let (none, length) = sealed(&folder("one"), 1 << 20, &values).await;
    assert_eq!(none, 0);
    // The same changes make the same log, but for the salt and the time, which are short or long by a byte.
    let (count, log) = sealed(&folder("short"), length - 40, &values).await;
    assert_eq!((count, log), (1, 0), "full with the last change");
    let (count, log) = sealed(&folder("long"), length + 40, &values).await;
    assert_eq!(count, 0, "not full yet: {log}");
    // A value of several times the size goes into one pack, and the next change begins another.
    let (count, log) = sealed(&folder("large"), 1024, &[10, 10_000, 10, 10_000]).await;
    assert_eq!((count, log), (2, 0));
    // Each change fills a pack.
    assert_eq!(sealed(&folder("each"), 1024, &[2000; 5]).await, (5, 0));
}

/// What the log deletes and replaces is dead in the packs below it, whether the log is sealed or not.
#[tokio::test]
async fn what_the_log_replaces_is_compacted_away() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let config = || PackConfig::new(&folder).pack_size(64 << 10);
    let storage = open(config()).await;
    let name = |at: usize| key(&format!("key/{at:02}"));
    for at in 0..40 {
        storage.store(&name(at), noise(at, 3000), StoreOptions::new()).await.unwrap();
    }
    let sealed = storage.stats().await.unwrap().counters["sealed_packs"];
    assert!(sealed > 0);
    // The values of these stay where they are, and must.
    for at in 0..3 {
        storage.touch(&name(at), Expiry::Never).await.unwrap().unwrap();
    }
    storage.store(&name(3), noise(99, 100), StoreOptions::new()).await.unwrap();
    for at in 4..34 {
        assert!(storage.delete(&name(at), DeleteOptions::new()).await.unwrap());
    }
    assert_eq!(storage.stats().await.unwrap().counters["sealed_packs"], sealed, "all that is in the log");
    let (one, other) = tokio::join!(storage.maintain(), storage.maintain());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.freed_bytes + other.freed_bytes > 40_000, "{one:?} {other:?}");
    assert!(one.notes.len() + other.notes.len() <= sealed as usize, "{one:?} {other:?}");
    let check = async |storage: &PackStorage| {
        for at in 0..40 {
            let found = storage.retrieve(&name(at)).await.unwrap().map(|entry| entry.value);
            let wanted = match at {
                3 => Some(noise(99, 100)),
                4..34 => None,
                _ => Some(noise(at, 3000)),
            };
            assert_eq!(found, wanted, "{at}");
        }
        assert!(storage.verify().await.unwrap().is_clean());
    };
    check(&storage).await;
    storage.close().await.unwrap();
    drop(storage);
    let storage = open(config()).await;
    check(&storage).await;
    assert_eq!(storage.maintain().await.unwrap().notes, Vec::<String>::new(), "there is nothing left to do");
    storage.close().await.unwrap();
}

/// A pack between others is compacted alone: what later packs refer to stays, and its tombstones still hide what is older.
#[tokio::test]
async fn compacting_a_part_harms_neither_what_is_older_nor_what_is_newer() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let mut config = PackConfig::new(&folder).pack_size(64 << 10);
    config.dead_share = 0.3;
    let storage = open(config.clone()).await;
    let put = async |name: &str, value: Value| {
        storage.store(&key(name), value, StoreOptions::new()).await.unwrap();
    };
    // The first pack lives on, but for one value.
    for at in 0..21 {
        put(&format!("old/{at:02}"), noise(at, 3000)).await;
    }
    let sealed = async || storage.stats().await.unwrap().counters["sealed_packs"];
    while sealed().await < 1 {
        put("old/fill", noise(500, 3000)).await;
    }
    // The second one has the tombstone of that, a value that others will refer to, and a lot that dies.
    assert!(storage.delete(&key("old/00"), DeleteOptions::new()).await.unwrap());
    put("shared", noise(600, 3000)).await;
    let mut at = 0;
    while sealed().await < 2 {
        at += 1;
        put("dies", noise(700 + at, 3000)).await;
    }
    // The third one lives, and refers to the second.
    put("same", noise(600, 3000)).await;
    assert!(storage.delete(&key("shared"), DeleteOptions::new()).await.unwrap());
    let mut at = 0;
    while sealed().await < 3 {
        at += 1;
        put(&format!("new/{at:02}"), noise(800 + at, 3000)).await;
    }
    let report = storage.maintain().await.unwrap();
    assert_eq!(report.notes.len(), 1, "{report:?}");
    assert!(report.notes[0].starts_with("made 1 packs one"), "the second one alone: {report:?}");
    let check = async |storage: &PackStorage| {
        assert!(!storage.contains(&key("old/00")).await.unwrap(), "it does not come back");
        assert!(!storage.contains(&key("shared")).await.unwrap());
        let found = storage.retrieve(&key("same")).await.unwrap().unwrap();
        assert_eq!(found.value, noise(600, 3000));
        assert!(storage.verify().await.unwrap().is_clean());
    };
    check(&storage).await;
    storage.close().await.unwrap();
    drop(storage);
    check(&open(config).await).await;
}

/// What another process has written in part is not there yet.
#[tokio::test]
async fn a_reader_sees_a_batch_as_a_whole() {
    let place = tempfile::tempdir().unwrap();
    let (folder, copy) = (place.path().join("packs"), place.path().join("copy"));
    let writer = open(PackConfig::new(&folder)).await;
    writer.put("before", &0).await.unwrap();
    let name = "00000001.pack";
    let before = std::fs::read(folder.join(name)).unwrap();
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join(name), &before).unwrap();
    let put = |name: &str, seed| Operation::Put(StoreItem::new(key(name), noise(seed, 100)));
    writer.transact(vec![put("one", 1), put("two", 2)]).await.unwrap();
    let after = std::fs::read(folder.join(name)).unwrap();
    let second = after[before.len() + 4..].windows(4).position(|part| part == b"PK\x03\x04").unwrap();
    let middle = before.len() + 4 + second;
    let reader = open(PackConfig::new(&copy).read_only()).await;
    for (len, there) in [(middle - 1, false), (middle, false), (after.len() - 1, false), (after.len(), true)]
    {
        std::fs::write(copy.join(name), &after[..len]).unwrap();
        for name in ["one", "two"] {
            assert_eq!(reader.contains(&key(name)).await.unwrap(), there, "{name} of {len} bytes");
        }
        assert!(reader.contains(&key("before")).await.unwrap());
    }
}

/// Also when the last pack was sealed with the deletion in it and the clock stands still.
#[tokio::test]
async fn no_version_is_given_twice() {
    let place = tempfile::tempdir().unwrap();
    let mut context = OpenContext::new(place.path());
    context.clock = Arc::<ManualClock>::default();
    let open = async || {
        let config = PackConfig::new("packs").pack_size(1 << 10);
        PackStorage::open("packs", config, &context).await.unwrap()
    };
    let storage = open().await;
    storage.put("x", &1).await.unwrap();
    let put = Operation::Put(StoreItem::new(key("y"), noise(1, 2000)));
    let delete = Operation::Delete(key("x"), DeleteOptions::new());
    let done = storage.transact(vec![delete, put]).await.unwrap();
    let Outcome::Stored(last) = &done[1] else { panic!("{done:?}") };
    assert_eq!(storage.stats().await.unwrap().counters["log_bytes"], 0, "all is sealed");
    storage.close().await.unwrap();
    drop(storage);
    let storage = open().await;
    let again = storage.store(&key("x"), Value::bytes(&b"2"[..]), StoreOptions::new()).await.unwrap();
    assert!(again.version > last.version, "{} after {}", again.version.as_u64(), last.version.as_u64());
    storage.close().await.unwrap();
}

/// Bytes that do not shrink.
fn noise(seed: usize, len: usize) -> Value {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    Value::bytes(bytes)
}

#[tokio::test]
async fn a_second_writer_is_refused_and_a_reader_is_not() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let writer = open(config(&folder)).await;
    let mut second = config(&folder);
    second.lock_timeout = HumanDuration(std::time::Duration::from_millis(20));
    let error = PackStorage::open("packs", second.clone(), &OpenContext::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.message().contains("read_only"), "{error}");
    let reader = open(config(&folder).read_only()).await;
    writer.put("a", &1).await.unwrap();
    assert_eq!(reader.get::<u8>("a").await.unwrap(), Some(1));
    writer.close().await.unwrap();
    open(second).await.close().await.unwrap();
}

#[tokio::test]
async fn a_reader_of_nothing_says_what_is_missing() {
    let place = tempfile::tempdir().unwrap();
    let config = PackConfig::new(place.path().join("none")).read_only();
    let error = PackStorage::open("packs", config, &OpenContext::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("none") && !place.path().join("none").exists(), "{error}");
}

/// Identical values lie in one place, whichever pack they are in, and neither a delete nor a compaction harms another key.
#[tokio::test]
async fn identical_values_are_stored_once_and_outlive_one_another() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let storage = open(config(&folder)).await;
    let mut noise = vec![0; 3000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for round in 0..40_u32 {
        let options = StoreOptions::new().tag("round", round.to_string());
        storage.store(&key(&format!("copy/{round}")), Value::bytes(noise.clone()), options).await.unwrap();
        storage.store(&key(&format!("own/{round}")), value(round), StoreOptions::new()).await.unwrap();
    }
    let stats = storage.stats().await.unwrap();
    assert_eq!(stats.counters["shared_values"], 39);
    assert!(stats.counters["sealed_packs"] >= 2, "{stats:?}");
    let length: u64 =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(length < 40 * 3000, "{length} bytes");
    // The first one goes, with everything else in its pack.
    for round in 0..39_u32 {
        storage.delete(&key(&format!("copy/{round}")), DeleteOptions::new()).await.unwrap();
        storage.delete(&key(&format!("own/{round}")), DeleteOptions::new()).await.unwrap();
    }
    for _ in 0..3 {
        storage.maintain().await.unwrap();
        assert_eq!(storage.get_bytes("copy/39").await.unwrap().unwrap(), noise);
    }
    assert!(storage.stats().await.unwrap().counters["compactions"] > 0);
    assert!(storage.verify().await.unwrap().is_clean());
    storage.close().await.unwrap();
    let storage = open(config(&folder)).await;
    assert_eq!(storage.get_bytes("copy/39").await.unwrap().unwrap(), noise);
    assert_eq!(
        storage.retrieve(&key("copy/39")).await.unwrap().unwrap().metadata.tags.get("round"),
        Some("39")
    );
    storage.close().await.unwrap();
}
