//! Series over storages of every kind: in the order of time, whoever appends, and exactly the range that was asked for.
#![cfg(all(feature = "file", feature = "sqlite", feature = "hdf5"))]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::TryStreamExt;
use persist::{Array, BaseStorage, ErrorKind, Key, Series, StorageExt, StorageManager, StoreOptions, Value};

/// So many nanoseconds into a certain day of 2026.
fn at(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_284_000) + Duration::from_nanos(nanos)
}

fn value(number: u64) -> Value {
    Value::Array(Array::from_vec(vec![2], vec![number, number + 1]).unwrap())
}

async fn each(test: impl AsyncFn(Arc<dyn BaseStorage>)) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().display();
    let yaml = format!(
        "
        persistence:
          default_storage: file
          storages:
            file: {{ type: file, path: '{root}/files' }}
            sqlite: {{ type: sqlite, path: '{root}/main.db' }}
            hdf5: {{ type: hdf5, path: '{root}/main.h5' }}
        "
    );
    let manager = StorageManager::from_yaml(&yaml).await.unwrap();
    for name in ["file", "sqlite", "hdf5"] {
        println!("{name}");
        test(manager.storage(name).unwrap()).await;
    }
    manager.close().await.unwrap();
}

/// The nanoseconds and the first number of each value of a range.
async fn found(series: &Series, range: impl RangeBounds<SystemTime>) -> Vec<(u64, u64)> {
    let entries: Vec<_> = series.range(range).try_collect().await.unwrap();
    let nanos = |moment: SystemTime| moment.duration_since(at(0)).unwrap().as_nanos();
    let first = |value: &Value| value.as_array().unwrap().view::<u64>().unwrap()[[0]];
    entries
        .iter()
        .map(|(moment, entry)| (u64::try_from(nanos(*moment)).unwrap(), first(&entry.value)))
        .collect()
}

#[tokio::test]
async fn a_range_is_exactly_what_was_asked_for_in_order() {
    each(async |storage| {
        let series = Series::new(Arc::clone(&storage), "sensors/kitchen").unwrap();
        // More than fit into one page of a listing, and in another order than that of time.
        let all: Vec<u64> = (0..150).map(|number| number * 10).collect();
        for number in all.iter().rev() {
            series.append_at(at(*number), value(*number)).await.unwrap();
        }
        let taken = series.append_at(at(10), value(1)).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Conflict);
        // Neighbours by name, and what is no moment.
        for other in ["sensors/kitchen", "sensors/kitchen0", "sensors/kitchen/readme", "sensors/kitchen/2026"]
        {
            storage.put(other, &1).await.unwrap();
        }
        let pairs = |numbers: std::ops::Range<usize>| -> Vec<(u64, u64)> {
            all[numbers].iter().map(|number| (*number, *number)).collect()
        };
        assert_eq!(found(&series, ..).await, pairs(0..150));
        assert_eq!(found(&series, at(20)..at(50)).await, pairs(2..5));
        assert_eq!(found(&series, at(20)..=at(50)).await, pairs(2..6));
        assert_eq!(found(&series, at(21)..at(50)).await, pairs(3..5));
        assert_eq!(found(&series, at(1480)..).await, pairs(148..150));
        assert_eq!(found(&series, ..at(11)).await, pairs(0..2));
        assert_eq!(found(&series, UNIX_EPOCH..at(1)).await, pairs(0..1));
        assert_eq!(found(&series, at(50)..at(50)).await, []);
        assert_eq!(found(&series, at(60)..at(50)).await, []);
        assert_eq!(found(&series, at(1491)..).await, []);
        assert_eq!(series.remove_before(at(1480)).await.unwrap(), 148);
        assert_eq!(found(&series, ..).await, pairs(148..150));
        assert!(storage.contains(&Key::new("sensors/kitchen/readme").unwrap()).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn what_is_appended_at_the_same_time_gets_moments_of_its_own() {
    each(async |storage| {
        let one = Arc::new(Series::new(Arc::clone(&storage), "s").unwrap());
        let before = SystemTime::now();
        let tasks = (0..20).map(|number| {
            let one = Arc::clone(&one);
            tokio::spawn(async move { one.append(value(number)).await.unwrap() })
        });
        let mut moments = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            moments.push(task.await.unwrap());
        }
        moments.sort();
        let listed: Vec<SystemTime> =
            one.range(before..).map_ok(|(moment, _)| moment).try_collect().await.unwrap();
        assert_eq!(listed, moments);
        moments.dedup();
        assert_eq!(moments.len(), 20);
        // What one series appends is in order, also after a moment that has not come yet.
        let key = one.key(moments[19] + Duration::from_nanos(1)).unwrap();
        storage.store(&key, value(0), StoreOptions::new()).await.unwrap();
        let (first, second) = (one.append(value(1)).await.unwrap(), one.append(value(2)).await.unwrap());
        assert!(first < second && first > moments[19]);
    })
    .await;
}

#[tokio::test]
async fn moments_without_a_key_and_keys_without_a_moment() {
    each(async |storage| {
        let series = Series::new(Arc::clone(&storage), "s").unwrap();
        let key = series.key(at(7)).unwrap();
        assert_eq!(&*key, "s/2026-11-21T18:00:00.000000007Z");
        assert_eq!(series.moment(&key), Some(at(7)));
        for other in [
            "s/2026-11-21T18:00:00Z",
            "s/2026-11-21 18:00:00.000000007Z",
            "s/x",
            "t/2026-11-21T18:00:00.000000007Z",
        ] {
            assert_eq!(series.moment(&Key::new(other).unwrap()), None, "{other}");
        }
        let early = series.append_at(UNIX_EPOCH - Duration::from_nanos(1), value(0)).await.unwrap_err();
        let late =
            series.append_at(UNIX_EPOCH + Duration::from_secs(253_402_300_800), value(0)).await.unwrap_err();
        assert_eq!((early.kind(), late.kind()), (ErrorKind::InvalidValue, ErrorKind::InvalidValue));
        let last = UNIX_EPOCH + Duration::new(253_402_300_799, 999_999_999);
        series.append_at(last, value(3)).await.unwrap();
        series.append_at(UNIX_EPOCH, value(1)).await.unwrap();
        let all: Vec<_> =
            series.range(UNIX_EPOCH..=last).map_ok(|(moment, _)| moment).try_collect().await.unwrap();
        assert_eq!(all, [UNIX_EPOCH, last]);
        let too_long = Series::new(storage, &"x".repeat(1000)).unwrap_err();
        assert_eq!(too_long.kind(), ErrorKind::InvalidKey);
    })
    .await;
}
