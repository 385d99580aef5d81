//! Readers beside a writer: they see what was acknowledged, through new packs, sealing and compaction, and hold nobody up.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::Path;

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, HumanDuration, Key, OpenContext, StorageExt, StoreOptions, Value,
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
