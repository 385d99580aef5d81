//! Equal contents lie there once, a delete harms nobody else, and what nobody needs goes.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use persist_core::{
    Array, BaseStorage, ByteSize, Capabilities, DeleteOptions, ErrorKind, Event, HumanDuration, Key, Kind,
    ListOptions, ManualClock, Operation, StorageExt, StoreItem, StoreOptions, Value,
};
use persist_layers::{Dedup, DedupConfig, Evict, EvictConfig};
use persist_testkit::fault::{Fault, FaultStorage};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{Storage, key, millis};

const GRACE: Duration = Duration::from_secs(60);

struct Place {
    place: MemoryPlace,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        Self { place: MemoryPlace::new(), clock: Arc::default() }
    }

    fn below(&self) -> Storage {
        Arc::new(MemoryStorage::builder("below").as_disk().clock(self.clock.clone()).open(&self.place))
    }

    fn over(below: Storage) -> Dedup {
        let config =
            DedupConfig { min_size: ByteSize(1024), chunk: ByteSize(4096), grace: HumanDuration(GRACE) };
        Dedup::new(below, &config).unwrap()
    }

    fn open(&self) -> Dedup {
        Self::over(self.below())
    }

    fn chunks(&self) -> Vec<Key> {
        self.place.keys().into_iter().filter(|key| key.starts_with("\u{1}\u{1}persist/\u{1}dedup/")).collect()
    }

    /// Removes what nobody needs.
    async fn collect(&self, storage: &Dedup) -> u64 {
        self.clock.advance(GRACE + millis(1));
        storage.maintain().await.unwrap().freed_bytes
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn put(storage: &dyn BaseStorage, name: &str, bytes: &[u8]) {
    storage.store(&key(name), Value::bytes(bytes.to_vec()), StoreOptions::new()).await.unwrap();
}

async fn get(storage: &dyn BaseStorage, name: &str) -> Bytes {
    storage.retrieve(&key(name)).await.unwrap().unwrap().value.buffer().clone()
}

#[tokio::test]
async fn equal_values_take_the_room_of_one_and_none_harms_another() {
    let place = Place::new();
    let storage = place.open();
    let data = noise(100_000, 1);
    for name in ["a", "b", "c"] {
        put(&storage, name, &data).await;
    }
    let usage = storage.usage().await.unwrap();
    assert_eq!((usage.values, usage.value_bytes, usage.chunk_bytes), (3, 300_000, 100_000));
    assert_eq!((usage.references, usage.unneeded, usage.missing), (usage.chunks * 3, 0, 0));
    for (name, left) in [("a", 100_000), ("b", 100_000), ("c", 0)] {
        assert!(storage.delete(&key(name), DeleteOptions::new()).await.unwrap());
        place.collect(&storage).await;
        assert_eq!(storage.usage().await.unwrap().chunk_bytes, left, "{name}");
        if left > 0 {
            assert_eq!(get(&storage, "c").await, data);
        }
    }
    assert!(place.place.keys().is_empty());
}

#[tokio::test]
async fn a_change_in_the_middle_stores_what_is_new_alone() {
    let place = Place::new();
    let storage = place.open();
    let mut data = noise(1 << 20, 2);
    put(&storage, "first", &data).await;
    data.splice(500_000..500_003, *b"something else");
    put(&storage, "second", &data).await;
    let usage = storage.usage().await.unwrap();
    assert!(usage.chunk_bytes < (1 << 20) + 60_000, "{usage:?}");
    assert_eq!(get(&storage, "second").await, data);
    let stats = storage.stats().await.unwrap();
    assert!(stats.counters["dedup_found_bytes"] > 1_000_000 && stats.keys.is_none(), "{stats:?}");
}

#[tokio::test]
async fn every_kind_comes_back_and_small_values_stay_as_they_are() {
    let place = Place::new();
    let storage = place.open();
    let array = Array::from_vec(vec![30, 40], (0..1200).map(f64::from).collect::<Vec<_>>()).unwrap();
    let values = [Value::json(&vec![7; 2000]).unwrap(), Value::bytes(noise(5000, 3)), Value::Array(array)];
    for (number, value) in values.into_iter().enumerate() {
        let (name, options) = (format!("k{number}"), StoreOptions::new().tag("t", "x"));
        let options = StoreOptions { encodings: vec!["above".to_owned()], ..options };
        let stored = storage.store(&key(&name), value.clone(), options).await.unwrap();
        assert_eq!(
            (stored.kind, stored.size, stored.checksum),
            (value.kind(), value.size(), value.checksum())
        );
        let found = storage.retrieve(&key(&name)).await.unwrap().unwrap();
        assert_eq!((found.value, &found.metadata), (value, &stored));
        assert_eq!(storage.metadata(&key(&name)).await.unwrap().unwrap(), stored);
        assert_eq!(place.place.peek(&key(&name)).unwrap().metadata.kind, Kind::Bytes);
    }
    let before = place.chunks().len();
    put(&storage, "small", &noise(1023, 4)).await;
    assert_eq!(place.chunks().len(), before);
    assert!(place.place.peek(&key("small")).unwrap().metadata.encodings.is_empty());
}

/// A program may use every key, also those that look like the layer's own.
#[tokio::test]
async fn keys_that_look_like_its_own_are_the_programs() {
    let place = Place::new();
    let storage = place.open();
    let names = ["\u{1}\u{1}persist/\u{1}dedup/00", "\u{1}", "\u{1}\u{1}persist/", "a", "\u{2}"];
    for (number, name) in names.iter().enumerate() {
        put(&storage, name, &noise(3000, number as u64)).await;
    }
    let mut sorted = names.map(key).to_vec();
    sorted.sort();
    assert_eq!(storage.list_keys("", ListOptions::new()).await.unwrap().keys, sorted);
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = storage.list_keys("", ListOptions::new().limit(2).after(after)).await.unwrap();
        paged.extend(page.keys);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, sorted);
    let under = storage.list_keys("\u{1}\u{1}persist/\u{1}", ListOptions::new()).await.unwrap().keys;
    assert_eq!(under, [key("\u{1}\u{1}persist/\u{1}dedup/00")]);
    for (number, name) in names.iter().enumerate() {
        assert_eq!(get(&storage, name).await, noise(3000, number as u64));
    }
    assert_eq!(storage.verify().await.unwrap().checked, 5);
}

#[tokio::test]
async fn a_range_reads_the_chunks_that_it_needs() {
    let place = Place::new();
    let counted = Arc::new(FaultStorage::new(place.below()));
    let storage = Place::over(counted.clone());
    let data = noise(200_000, 5);
    put(&storage, "a", &data).await;
    for (start, end) in
        [(0, 10), (99_990, 100_010), (199_999, 300_000), (200_000, 200_001), (50, 40), (0, u64::MAX)]
    {
        let found = storage.retrieve_range(&key("a"), start..end).await.unwrap().unwrap();
        let end = usize::try_from(end.min(200_000)).unwrap();
        assert_eq!(found, data.get(start as usize..end).unwrap_or_default(), "{start}..{end}");
    }
    // One of the chunks away from the range is damaged, which nobody notices who does not read it.
    let last = storage.retrieve_range(&key("a"), 190_000..200_000).await.unwrap().unwrap();
    let doomed = place.chunks().into_iter().find(|chunk| {
        let bytes = place.place.peek(chunk).unwrap().value;
        data[..9000].windows(bytes.buffer().len()).next().is_some_and(|start| start == bytes.buffer())
    });
    assert!(place.place.corrupt(&doomed.unwrap()));
    assert_eq!(storage.retrieve_range(&key("a"), 190_000..200_000).await.unwrap().unwrap(), last);
    assert_eq!(storage.retrieve(&key("a")).await.unwrap_err().kind(), ErrorKind::Corruption);
}

#[tokio::test]
async fn a_damaged_or_missing_chunk_is_corruption_of_each_value_and_is_mended_by_storing_anew() {
    let place = Place::new();
    let storage = place.open();
    let data = noise(1024, 6);
    put(&storage, "a", &data).await;
    put(&storage, "b", &data).await;
    put(&storage, "other", &noise(2000, 7)).await;
    let ours = |chunk: &Key| *place.place.peek(chunk).unwrap().value.buffer() == data;
    let chunk = place.chunks().into_iter().find(ours).unwrap();
    assert!(place.place.corrupt(&chunk));
    for name in ["a", "b"] {
        let error = storage.retrieve(&key(name)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.key(), error.storage()),
            (ErrorKind::Corruption, Some(&key(name)), Some("below"))
        );
    }
    let report = storage.verify().await.unwrap();
    let mut problems: Vec<Key> = report.problems.iter().filter_map(|problem| problem.key.clone()).collect();
    problems.sort();
    assert_eq!((report.checked, problems), (3, vec![key("a"), key("b")]));
    put(&storage, "a", &data).await;
    assert_eq!(
        (get(&storage, "a").await, get(&storage, "b").await),
        (data.clone().into(), data.clone().into())
    );
    // Somebody removes it.
    place.below().delete(&chunk, DeleteOptions::new()).await.unwrap();
    let error = storage.retrieve(&key("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert_eq!(storage.usage().await.unwrap().missing, 1);
    put(&storage, "b", &data).await;
    assert!(storage.verify().await.unwrap().is_clean());
}

#[tokio::test]
async fn what_lies_in_the_place_of_a_chunk_and_is_another_is_put_right() {
    let place = Place::new();
    let storage = place.open();
    let data = noise(2000, 12);
    put(&storage, "a", &data).await;
    for chunk in place.chunks() {
        place.below().store(&chunk, Value::bytes(noise(2000, 13)), StoreOptions::new()).await.unwrap();
    }
    assert_eq!(storage.retrieve(&key("a")).await.unwrap_err().kind(), ErrorKind::Corruption);
    // One who has not read it, and does not know of the damage.
    put(&place.open(), "b", &data).await;
    assert_eq!(get(&storage, "a").await, data);
}

/// What one layer keeps of a long value is a short one with its mark, which the other must not take for its own.
#[tokio::test]
async fn it_works_over_itself() {
    let place = Place::new();
    let storage = Place::over(Arc::new(place.open()));
    let data = noise(50_000, 14);
    put(&storage, "long", &data).await;
    put(&storage, "short", b"short").await;
    assert_eq!((get(&storage, "long").await, get(&storage, "short").await), (data.into(), "short".into()));
}

/// The value is replaced and its chunks are swept between the read of what it consists of and that of its chunks.
#[tokio::test]
async fn a_read_that_is_overtaken_gives_the_new_value() {
    let place = Place::new();
    let slow = Arc::new(FaultStorage::new(place.below()));
    let reader = Place::over(slow.clone());
    let (old, new) = (noise(50_000, 15), noise(50_000, 16));
    put(&place.open(), "a", &old).await;
    slow.arm(Fault::delay(millis(500)).on("retrieve_many").nth(1));
    let overtake = async {
        tokio::time::sleep(millis(100)).await;
        put(&place.open(), "a", &new).await;
        assert!(place.collect(&place.open()).await > 0);
    };
    let (found, ()) = tokio::join!(get(&reader, "a"), overtake);
    assert_eq!(found, new);
    assert_eq!(slow.calls("retrieve_many"), 2);
}

#[tokio::test]
async fn what_was_begun_and_never_ended_goes_after_the_grace_period_and_not_before() {
    let place = Place::new();
    let faulty = Arc::new(FaultStorage::new(place.below()));
    let storage = Place::over(faulty.clone());
    faulty.arm(Fault::fail(ErrorKind::Unavailable).on("store"));
    let data = noise(50_000, 8);
    let failed = storage.store(&key("a"), Value::bytes(data.clone()), StoreOptions::new()).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);
    faulty.disarm();
    assert!(storage.usage().await.unwrap().unneeded > 3);
    place.clock.advance(GRACE - millis(1));
    assert_eq!(storage.maintain().await.unwrap().freed_bytes, 0);
    assert_eq!(place.collect(&storage).await, 50_000);
    assert!(place.chunks().is_empty());
}

/// A value is stored that needs old chunks nobody needs, while these are being removed.
#[tokio::test]
async fn a_store_renews_what_is_old_so_that_no_sweep_takes_it_away() {
    let place = Place::new();
    let storage = place.open();
    let data = noise(50_000, 9);
    put(&storage, "a", &data).await;
    storage.delete(&key("a"), DeleteOptions::new()).await.unwrap();
    place.clock.advance(GRACE - millis(1));
    // The chunks are there, and older than half of the grace period.
    put(&storage, "b", &data).await;
    storage.delete(&key("b"), DeleteOptions::new()).await.unwrap();
    place.clock.advance(GRACE / 2);
    assert_eq!(storage.maintain().await.unwrap().freed_bytes, 0, "they were renewed half a grace period ago");
    put(&storage, "c", &data).await;
    assert_eq!(place.collect(&storage).await, 0, "a value needs them");
    assert_eq!(get(&storage, "c").await, data);
}

/// The store of the value takes so long that its chunks are swept meanwhile: they are stored again.
#[tokio::test]
async fn a_store_that_takes_too_long_stores_its_chunks_again() {
    let place = Place::new();
    let slow = Arc::new(FaultStorage::new(place.below()));
    let storage = Arc::new(Place::over(slow.clone()));
    slow.arm(Fault::delay(millis(300)).on("store"));
    let (data, other) = (noise(50_000, 10), Arc::clone(&storage));
    let stored = data.clone();
    let storing = tokio::spawn(async move { put(other.as_ref(), "late", &stored).await });
    while place.chunks().len() < 5 {
        tokio::time::sleep(millis(5)).await;
    }
    assert!(place.collect(&place.open()).await > 0, "they were not old enough to go");
    storing.await.unwrap();
    assert_eq!(get(storage.as_ref(), "late").await, data);
}

/// Many tasks store, overwrite and delete a few contents while others sweep: nothing that is there is ever damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sweeps_among_stores_and_deletes_take_nothing_that_is_needed() {
    let place = Arc::new(Place::new());
    let contents: Arc<Vec<Vec<u8>>> = Arc::new((0..6).map(|seed| noise(20_000, seed)).collect());
    let swept = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..4_usize)
        .map(|task| {
            let (place, contents, swept) = (Arc::clone(&place), Arc::clone(&contents), Arc::clone(&swept));
            tokio::spawn(async move {
                // Each one as another process would.
                let storage = place.open();
                for round in (0..100_000_usize).take_while(|_| !swept.load(Ordering::Relaxed)) {
                    let name = format!("k{}", (task + round) % 5);
                    let data = &contents[(task * 7 + round) % contents.len()];
                    match round % 4 {
                        3 => drop(storage.delete(&key(&name), DeleteOptions::new()).await.unwrap()),
                        // What nobody will need again, so that sweeps have something to take.
                        2 => put(&storage, &format!("own{task}"), &noise(5_000, round as u64)).await,
                        _ => put(&storage, &name, data).await,
                    }
                    if let Some(found) = storage.retrieve(&key(&format!("k{}", round % 5))).await.unwrap() {
                        assert!(contents.iter().any(|data| found.value.buffer() == data));
                    }
                }
            })
        })
        .collect();
    let sweeper = tokio::spawn({
        let place = Arc::clone(&place);
        async move {
            let (mut freed, mut sweeps) = (0, 0);
            while sweeps < 250 || (freed == 0 && sweeps < 10_000) {
                sweeps += 1;
                // Chunks grow old, but not while a store is on its way, which would need 25 rounds.
                place.clock.advance(GRACE / 50);
                freed += place.open().maintain().await.unwrap().freed_bytes;
                tokio::time::sleep(millis(4)).await;
            }
            swept.store(true, Ordering::Relaxed);
            freed
        }
    });
    let freed = sweeper.await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(freed > 0, "no sweep ever removed anything");
    let storage = place.open();
    assert!(storage.verify().await.unwrap().is_clean());
    place.collect(&storage).await;
    let usage = storage.usage().await.unwrap();
    assert_eq!((usage.unneeded, usage.missing), (0, 0));
}

#[tokio::test]
async fn batches_and_transactions_bring_their_chunks() {
    let place = Place::new();
    let storage = place.open();
    let data = noise(10_000, 11);
    let item = |name: &str| StoreItem::new(key(name), Value::bytes(data.clone()));
    let answers = storage.store_many(vec![item("a"), item("b")]).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|metadata| metadata.size == 10_000)));
    let refused = StoreOptions::new().if_absent();
    let batch = |options| vec![Operation::put(key("a"), Value::bytes(data.clone()), options)];
    assert_eq!(storage.transact(batch(refused)).await.unwrap_err().kind(), ErrorKind::Conflict);
    storage.transact(batch(StoreOptions::new())).await.unwrap();
    let found = storage.retrieve_many(&[key("a"), key("none"), key("b")]).await;
    let sizes: Vec<_> =
        found.into_iter().map(|found| found.unwrap().map(|entry| entry.value.size())).collect();
    assert_eq!(sizes, [Some(10_000), None, Some(10_000)]);
    assert_eq!(storage.usage().await.unwrap().chunk_bytes, 10_000);
}

#[tokio::test]
async fn nobody_is_told_of_chunks() {
    let place = Place::new();
    let storage = place.open();
    let mut watch = storage.watch("").await.unwrap();
    put(&storage, "a", &noise(9_000, 12)).await;
    let Event::Stored { key: told, metadata } = watch.next().await.unwrap().unwrap() else {
        panic!("no store")
    };
    assert_eq!((told, metadata.size), (key("a"), 9_000));
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_stops_a_sweep() {
    let place = Place::new();
    let storage = place.open();
    put(&storage, "a", &noise(9_000, 13)).await;
    put(&storage, "b", &noise(9_000, 14)).await;
    assert!(place.place.corrupt(&key("a")));
    storage.delete(&key("b"), DeleteOptions::new()).await.unwrap();
    place.clock.advance(GRACE * 2);
    let error = storage.maintain().await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Corruption, Some(&key("a"))));
    assert!(error.message().contains("none is removed"), "{error}");
    storage.put("a", &1).await.unwrap();
    assert!(place.collect(&storage).await > 0);
}

#[tokio::test]
async fn settings_and_storages_that_cannot_work_are_refused() {
    let memory = || Arc::new(MemoryStorage::new("m"));
    for config in [
        DedupConfig { chunk: ByteSize(100), ..DedupConfig::default() },
        DedupConfig { min_size: ByteSize(10), ..DedupConfig::default() },
        DedupConfig { grace: HumanDuration(Duration::ZERO), ..DedupConfig::default() },
    ] {
        assert_eq!(Dedup::new(memory(), &config).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    let evicting = Evict::new(memory(), EvictConfig::new(1000)).unwrap();
    let error = Dedup::new(Arc::new(evicting), &DedupConfig::default()).unwrap_err();
    assert!(error.message().contains("evicts"), "{error}");
    let claims = Dedup::new(memory(), &DedupConfig::default()).unwrap().describe().capabilities();
    assert_eq!(claims, Capabilities { native_ranges: true, ..memory().describe().capabilities() });
}
