//! What the trait provides: watching by looking again and again, following, and reading everything in bearable pieces.
#![allow(clippy::unwrap_used)] // A panic here is the report.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, Event, Key, ListOptions, Metadata, Page,
    Result, StorageExt, StoreOptions, Value, Watch, async_trait, verify_values, watch_by_polling,
};
use persist_testkit::TestSnapshot;
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use tokio::time::timeout;

const INTERVAL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn next(watch: &mut Watch<'_>) -> Result<Event> {
    timeout(PATIENCE, watch.next()).await.expect("nothing is told").expect("the watch ended")
}

fn deleted(text: &str) -> Event {
    Event::Deleted { key: key(text) }
}

#[tokio::test]
async fn looking_again_and_again_tells_what_is_different() {
    let storage = MemoryStorage::new("m");
    for name in ["a/kept", "a/gone", "b"] {
        storage.put(name, &1).await.unwrap();
    }
    let mut watch = watch_by_polling(&storage, "a/", INTERVAL).await.unwrap();
    storage.remove("a/gone").await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), deleted("a/gone"));
    storage.remove("b").await.unwrap();
    let metadata = storage.put("a/kept", &2).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), Event::Stored { key: key("a/kept"), metadata });
    storage.close().await.unwrap();
    assert!(timeout(PATIENCE, watch.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_a_lifetime_is_not_told() {
    let storage = MemoryStorage::new("m");
    let mut watch = watch_by_polling(&storage, "", INTERVAL).await.unwrap();
    storage.put_with("k", &1, StoreOptions::new().ttl(Duration::from_millis(200))).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().key(), Some(&key("k")));
    assert!(timeout(Duration::from_millis(600), watch.next()).await.is_err());
    storage.put("k", &2).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().key(), Some(&key("k")));
}

#[tokio::test]
async fn a_storage_that_is_down_is_an_error_once_and_nothing_is_lost() {
    let place = MemoryPlace::new();
    let storage = MemoryStorage::builder("m").open(&place);
    let mut watch = watch_by_polling(&storage, "", INTERVAL).await.unwrap();
    storage.put("k", &1).await.unwrap();
    place.set_down(true);
    // It may have looked before that.
    let error = match next(&mut watch).await {
        Ok(_) => next(&mut watch).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!((error.kind(), error.storage()), (ErrorKind::Unavailable, Some("m")));
    assert!(timeout(4 * INTERVAL, watch.next()).await.is_err(), "the same error is told again");
    place.set_down(false);
    storage.put("l", &1).await.unwrap();
    while next(&mut watch).await.unwrap().key() != Some(&key("l")) {}
}

#[tokio::test]
async fn a_damaged_value_does_not_end_a_watch() {
    let place = MemoryPlace::new();
    let storage = Plain(MemoryStorage::builder("m").open(&place), Mutex::default());
    storage.put("a", &1).await.unwrap();
    let mut watch = watch_by_polling(&storage, "", INTERVAL).await.unwrap();
    assert!(place.corrupt(&key("a")));
    let error = next(&mut watch).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Corruption, Some(&key("a"))));
    storage.put("b", &1).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().key(), Some(&key("b")), "the damage is told once");
    storage.put("a", &2).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().key(), Some(&key("a")));
}

#[tokio::test]
async fn following_ends_with_the_storage_and_outlives_its_troubles() {
    let place = MemoryPlace::new();
    let storage = Arc::new(MemoryStorage::builder("m").open(&place));
    storage.put("old", &1).await.unwrap();
    let mut watch = storage.follow("").await.unwrap();
    // More than a queue holds, so that it has to list, which it cannot at first.
    for number in 0..=persist_core::MAX_WAITING_EVENTS {
        storage.put(format!("k{number}"), &1).await.unwrap();
    }
    storage.remove("old").await.unwrap();
    place.set_down(true);
    assert_eq!(next(&mut watch).await.unwrap_err().kind(), ErrorKind::Unavailable);
    place.set_down(false);
    let mut told = Vec::new();
    while told.len() < persist_core::MAX_WAITING_EVENTS + 2 {
        told.push(next(&mut watch).await.unwrap());
    }
    assert!(told.contains(&deleted("old")) && !told.contains(&Event::Lost), "{told:?}");
    storage.close().await.unwrap();
    assert!(timeout(PATIENCE, watch.next()).await.unwrap().is_none());
}

/// The four verbs alone, with a note of how much was asked for at once: how many values, and how many bytes they had.
#[derive(Debug)]
struct Plain(MemoryStorage, Mutex<Vec<(usize, u64)>>);

#[async_trait]
impl BaseStorage for Plain {
    fn describe(&self) -> &Descriptor {
        self.0.describe()
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.0.store(key, value, options).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.retrieve(key).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.0.delete(key, options).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.0.list_keys(prefix, options).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let found = self.0.retrieve_many(keys).await;
        let sizes = found.iter().filter_map(|found| Some(found.as_ref().ok()?.as_ref()?.metadata.size));
        self.1.lock().push((keys.len(), sizes.sum()));
        found
    }
}

#[tokio::test]
async fn everything_is_read_in_bearable_pieces() {
    let storage = Plain(MemoryStorage::new("m"), Mutex::default());
    let mebibyte = Value::bytes(vec![7; 1 << 20]);
    for number in 0..1500 {
        storage.put_bytes(format!("a{number:04}"), vec![1; 10].into()).await.unwrap();
    }
    for number in 0..100 {
        storage.store(&key(&format!("b{number:04}")), mebibyte.clone(), StoreOptions::new()).await.unwrap();
    }
    let checked = verify_values(&storage).await.unwrap();
    assert_eq!((checked.checked, checked.bytes), (1600, 15_000 + (100 << 20)));
    let mut snapshot = TestSnapshot::default();
    storage.snapshot(&mut snapshot).await.unwrap();
    assert_eq!(snapshot.entries.len(), 1600);
    let asked = storage.1.lock().clone();
    assert!(asked.iter().all(|(count, _)| *count <= 64), "{asked:?}");
    // Once it is known how large they are; the values before did not tell.
    let large = asked.iter().filter(|(_, bytes)| *bytes > 4 << 20).count();
    assert!(large <= 2, "{large} times more than 4 MiB were asked for at once: {asked:?}");
    let calls = asked.iter().filter(|(_, bytes)| *bytes <= 640).count();
    assert!(calls <= 2 * 32, "small values are asked for one by one: {calls} calls for 1500");
}
