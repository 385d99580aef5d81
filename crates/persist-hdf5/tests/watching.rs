//! What the suite does not do: the ways into the file that only this storage has are told too.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    Array, BaseStorage, ByteSize, Event, HumanDuration, Key, ManualClock, OpenContext, StorageExt,
    StoreOptions, Value, Watch,
};
use persist_hdf5::{Hdf5Config, Hdf5Storage, Retention};

/// The next event as `+key version` or `-key`.
async fn next(watch: &mut Watch<'_>) -> String {
    let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
    match event.expect("nothing is told").expect("the watch has ended").unwrap() {
        Event::Stored { key, metadata } => format!("+{key} {}", metadata.version.as_u64()),
        Event::Deleted { key } => format!("-{key}"),
        Event::Lost => "lost".to_owned(),
    }
}

fn rows(count: usize) -> Array {
    Array::from_vec(vec![count, 4], vec![1.5; count * 4]).unwrap()
}

async fn open(place: &tempfile::TempDir, clock: &Arc<ManualClock>) -> Hdf5Storage {
    let mut config = Hdf5Config::new("main.h5");
    config.piece = ByteSize(64 << 10);
    config.retention =
        vec![Retention { prefix: "old/".to_owned(), max_age: HumanDuration(Duration::from_secs(60)) }];
    let mut context = OpenContext::new(place.path());
    context.clock = clock.clone();
    Hdf5Storage::open("main", config, &context).await.unwrap()
}

#[tokio::test]
async fn rows_and_values_in_pieces_are_told() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place, &Arc::default()).await;
    let key = Key::new("a").unwrap();
    let mut watch = storage.watch("").await.unwrap();
    for count in [3, 2] {
        let version = storage.append(&key, &rows(count)).await.unwrap().version.as_u64();
        assert_eq!(next(&mut watch).await, format!("+a {version}"));
    }
    let large = Value::Array(rows(100_000));
    let stored = storage.store(&key, large, StoreOptions::new()).await.unwrap();
    assert_eq!(next(&mut watch).await, format!("+a {}", stored.version.as_u64()));
    drop(watch);
    storage.close().await.unwrap();
}

/// Unlike what has expired, it was there until then.
#[tokio::test]
async fn what_is_removed_because_it_is_old_is_told() {
    let place = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let storage = open(&place, &clock).await;
    storage.put("old/1", &1).await.unwrap();
    clock.advance(Duration::from_secs(30));
    let mut watch = storage.watch("old/").await.unwrap();
    let version = storage.put("old/2", &2).await.unwrap().version.as_u64();
    clock.advance(Duration::from_secs(31));
    storage.maintain().await.unwrap();
    assert_eq!(next(&mut watch).await, format!("+old/2 {version}"));
    assert_eq!(next(&mut watch).await, "-old/1");
    drop(watch);
    storage.close().await.unwrap();
}
