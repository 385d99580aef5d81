//! A disk that is full, a medium that is read-only: the right kind of error, old values stay, and it works again.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::Failed;
use persist_core::{
    BaseStorage, ErrorKind, HealthStatus, Key, OpenContext, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_pack::{Compression, PackConfig, PackStorage};
use persist_testkit::adverse::{self, Test, block_on, fill, keys, store, tmpfs};

fn main() -> ExitCode {
    let tests: [(&str, Test); 5] = [
        ("a_full_disk_keeps_old_values_and_works_again", full_disk),
        ("a_disk_that_is_full_at_the_opening", full_at_opening),
        ("a_pack_that_has_no_room_to_be_sealed_goes_on", no_room_to_seal),
        ("a_compaction_without_room_leaves_everything", no_room_to_compact),
        ("a_read_only_medium_can_be_read", read_only_medium),
    ];
    adverse::main(|job, _| format!("there is no job {job}"), &tests)
}

async fn open(config: PackConfig) -> persist_core::Result<PackStorage> {
    PackStorage::open("packs", config, &OpenContext::default()).await
}

fn config(folder: &Path) -> PackConfig {
    PackConfig::new(folder).compression(Compression::None)
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Bytes that are no other value's.
fn value(seed: u64, len: usize) -> Value {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    Value::bytes(bytes)
}

async fn holds(storage: &PackStorage, name: &str, value: Value) -> bool {
    storage.retrieve(&key(name)).await.unwrap().is_some_and(|entry| entry.value == value)
}

fn full_disk() -> Result<(), Failed> {
    let Some(disk) = tmpfs(2 << 20, 0)? else { return Ok(()) };
    let folder = disk.path().join("packs");
    block_on(async {
        let storage = open(config(&folder)).await.unwrap();
        store(&storage, "kept", value(1, 400_000)).await.unwrap();
        assert_eq!(store(&storage, "kept", value(2, 4 << 20)).await, Err(ErrorKind::Capacity));
        assert!(holds(&storage, "kept", value(1, 400_000)).await, "the old value stays");
        // What failed left nothing behind that takes room.
        let length = std::fs::metadata(folder.join("00000001.pack")).unwrap().len();
        assert_eq!(length, storage.stats().await.unwrap().counters["log_bytes"]);
        store(&storage, "fits", value(3, 1 << 20)).await.unwrap();
        let (small, large) =
            tokio::join!(store(&storage, "small", value(4, 10)), store(&storage, "large", value(5, 8 << 20)));
        assert_eq!((small, large), (Ok(()), Err(ErrorKind::Capacity)), "a neighbour is not harmed");
        let sizes = [100, 3 << 20, 100];
        let items =
            (0..).zip(sizes).map(|(at, size)| StoreItem::new(key(&format!("many/{at}")), value(at, size)));
        let stored = storage.store_many(items.collect()).await;
        let kinds: Vec<_> = stored.iter().map(|done| done.as_ref().err().map(|error| error.kind())).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::Capacity), None], "nor within a call");
        assert!(storage.remove("small").await.unwrap(), "deleting works on a disk that is nearly full");
        assert_eq!(storage.health().await.status, HealthStatus::Healthy);
        assert_eq!(keys(&storage).await, ["fits", "kept", "many/0", "many/2"]);
        storage.close().await.unwrap();
    });
    disk.resize(16 << 20).unwrap();
    block_on(async {
        let storage = open(config(&folder)).await.unwrap();
        assert_eq!(keys(&storage).await, ["fits", "kept", "many/0", "many/2"]);
        store(&storage, "kept", value(6, 4 << 20)).await.unwrap();
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    });
    Ok(())
}

fn full_at_opening() -> Result<(), Failed> {
    let Some(disk) = tmpfs(1 << 20, 0)? else { return Ok(()) };
    let (folder, filler) = (disk.path().join("packs"), disk.path().join("filler"));
    block_on(async {
        let storage = open(config(&folder)).await.unwrap();
        store(&storage, "k", value(1, 100)).await.unwrap();
        storage.close().await.unwrap();
        fill(&filler);
        // Reading needs no room, and writing says what is missing.
        let storage = open(config(&folder)).await.unwrap();
        assert!(holds(&storage, "k", value(1, 100)).await);
        assert_eq!(store(&storage, "l", value(2, 200_000)).await, Err(ErrorKind::Capacity));
        storage.close().await.unwrap();
        std::fs::remove_file(&filler).unwrap();
        let storage = open(config(&folder)).await.unwrap();
        store(&storage, "l", value(2, 200_000)).await.unwrap();
        assert_eq!(keys(&storage).await, ["k", "l"]);
        storage.close().await.unwrap();
        // No pack can be begun.
        fill(&filler);
        let other = disk.path().join("others");
        let begun = async {
            let storage = open(config(&other)).await?;
            let done = storage.store(&key("k"), value(1, 100_000), StoreOptions::new()).await;
            storage.close().await?;
            done
        };
        let error = begun.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Capacity, "{error}");
        assert!(error.message().contains("free some space"), "{error}");
    });
    Ok(())
}

/// The index of many small values does not fit: the log goes on, and is sealed when there is room.
fn no_room_to_seal() -> Result<(), Failed> {
    let Some(disk) = tmpfs(1 << 20, 0)? else { return Ok(()) };
    let folder = disk.path().join("packs");
    let config = || config(&folder).pack_size(600 << 10);
    block_on(async {
        let storage = open(config()).await.unwrap();
        let items = (0..4500).map(|at| StoreItem::new(key(&format!("key/{at:05}")), value(at, 20)));
        assert!(storage.store_many(items.collect()).await.iter().all(Result::is_ok));
        let stats = storage.stats().await.unwrap().counters;
        assert!(stats["log_bytes"] > 600 << 10, "the test is about a log that is full: {stats:?}");
        assert_eq!(stats["packs_sealed"], 0);
        store(&storage, "more", value(1, 10)).await.unwrap();
        assert_eq!(storage.health().await.status, HealthStatus::Healthy);
        storage.close().await.unwrap();
    });
    disk.resize(16 << 20).unwrap();
    block_on(async {
        let storage = open(config()).await.unwrap();
        assert_eq!(storage.stats().await.unwrap().counters["sealed_packs"], 1);
        assert!(holds(&storage, "more", value(1, 10)).await);
        assert!(holds(&storage, "key/04499", value(4499, 20)).await);
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    });
    Ok(())
}

fn no_room_to_compact() -> Result<(), Failed> {
    // More than what is stored and its copy: the kernel gives room in large pieces.
    let Some(disk) = tmpfs(6 << 20, 0)? else { return Ok(()) };
    let folder = disk.path().join("packs");
    block_on(async {
        let storage = open(config(&folder).pack_size(1 << 20)).await.unwrap();
        for at in 0..10 {
            store(&storage, &format!("{at}"), value(at, 300_000)).await.unwrap();
        }
        for at in [0, 1, 2, 4, 5, 8] {
            assert!(storage.remove(format!("{at}")).await.unwrap());
        }
        let filler = disk.path().join("filler");
        fill(&filler);
        for _ in 0..3 {
            assert_eq!(storage.maintain().await.unwrap_err().kind(), ErrorKind::Capacity);
        }
        for at in [3, 6, 7, 9] {
            assert!(holds(&storage, &format!("{at}"), value(at, 300_000)).await, "{at}");
        }
        let left = std::fs::read_dir(&folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "tmp"));
        assert_eq!(left.count(), 0, "the part that was written is removed");
        std::fs::remove_file(&filler).unwrap();
        let report = storage.maintain().await.unwrap();
        assert!(report.freed_bytes > 500_000, "{report:?}");
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    });
    Ok(())
}

fn read_only_medium() -> Result<(), Failed> {
    let Some(disk) = tmpfs(4 << 20, 0)? else { return Ok(()) };
    let folder = disk.path().join("packs");
    block_on(async {
        let storage = open(config(&folder).pack_size(64 << 10)).await.unwrap();
        for at in 0..10 {
            store(&storage, &format!("{at}"), value(at, 20_000)).await.unwrap();
        }
        storage.close().await.unwrap();
        // It holds files that were opened to be written.
        drop(storage);
        disk.set_read_only(true).unwrap();
        let error = open(config(&folder)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
        let storage = open(config(&folder).read_only()).await.unwrap();
        for at in 0..10 {
            assert!(holds(&storage, &format!("{at}"), value(at, 20_000)).await, "{at}");
        }
        assert!(storage.verify().await.unwrap().is_clean());
        assert_eq!(store(&storage, "new", value(1, 1)).await, Err(ErrorKind::ReadOnly));
        storage.close().await.unwrap();
        drop(storage);
        disk.set_read_only(false).unwrap();
    });
    Ok(())
}
