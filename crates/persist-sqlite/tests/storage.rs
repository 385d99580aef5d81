//! What is particular to this storage: how large values are read, and what it does when nothing is asked of it.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::Path;
use std::time::{Duration, Instant};

use persist_core::{
    Array, BaseStorage, ErrorKind, Key, OpenContext, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_sqlite::rusqlite::{Connection, OpenFlags};
use persist_sqlite::{SqliteConfig, SqliteStorage};
use tempfile::TempDir;

/// Values up to this size are read with their row, larger ones piece by piece.
const BORDER: usize = 256 << 10;

async fn open(path: &Path) -> SqliteStorage {
    SqliteStorage::open("main", SqliteConfig::new(path), &OpenContext::default()).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test]
async fn values_of_every_kind_around_the_border_come_back() {
    let place = TempDir::new().unwrap();
    let storage = open(&place.path().join("main.db")).await;
    let values = [BORDER - 8, BORDER, BORDER + 8, 3 << 20].into_iter().flat_map(|size| {
        let text = Value::json(&"j".repeat(size - 2)).unwrap();
        let array = Array::from_vec(vec![size / 8], vec![1.5_f64; size / 8]).unwrap();
        [text, Value::Bytes(vec![7; size].into()), Value::Array(array)]
    });
    for value in values {
        storage.store(&key("large"), value.clone(), StoreOptions::new()).await.unwrap();
        let found = storage.retrieve(&key("large")).await.unwrap().unwrap();
        assert_eq!(found.metadata.size, value.size());
        assert!(found.value == value, "{} bytes of {:?}", value.size(), value.kind());
    }
}

#[tokio::test]
async fn a_large_value_is_verified() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let storage = open(&path).await;
    storage
        .store(&key("large"), Value::Bytes(vec![7; BORDER + 1].into()), StoreOptions::new())
        .await
        .unwrap();
    let changed = Connection::open(&path)
        .unwrap()
        .execute("UPDATE entries SET value = CAST(replace(value, x'07070707', x'07070807') AS BLOB)", ())
        .unwrap();
    assert_eq!(changed, 1);
    assert_eq!(storage.retrieve(&key("large")).await.unwrap_err().kind(), ErrorKind::Corruption);
}

/// How many keys are in the database file itself, without its log.
fn in_the_file(path: &Path) -> i64 {
    let uri = format!("file:{}?immutable=1", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags).unwrap();
    connection.query_row("SELECT count(*) FROM entries", (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn at_rest_the_log_is_copied_into_the_database() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("main.db");
    let storage = open(&path).await;
    for round in 1..=2 {
        storage.put(format!("key/{round}"), &round).await.unwrap();
        assert_eq!(in_the_file(&path), round - 1, "a change is in the log first");
        let end = Instant::now() + Duration::from_secs(20);
        while in_the_file(&path) < round && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(in_the_file(&path), round);
    }
}

#[tokio::test]
async fn each_of_many_is_answered_in_its_place() {
    let place = TempDir::new().unwrap();
    let config = SqliteConfig {
        max_value: persist_core::ByteSize(100),
        ..SqliteConfig::new(place.path().join("main.db"))
    };
    let storage = SqliteStorage::open("main", config, &OpenContext::default()).await.unwrap();
    // Three transactions; every thousandth value is too large.
    let size = |i: usize| if i.is_multiple_of(1000) { 101 } else { i % 100 };
    let item = |i: usize| StoreItem::new(key(&format!("{i:05}")), Value::Bytes(vec![0; size(i)].into()));
    let answers = storage.store_many((0..40_000).map(item).collect()).await;
    assert_eq!(answers.len(), 40_000);
    for (i, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(metadata) => assert_eq!(metadata.size, size(i) as u64),
            Err(error) => {
                assert_eq!((error.kind(), i % 1000), (ErrorKind::TooLarge, 0));
                assert_eq!(error.key().unwrap().as_str(), format!("{i:05}"));
            }
        }
    }
    assert_eq!(storage.stats().await.unwrap().keys, Some(39_960));
}
