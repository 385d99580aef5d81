//! Values that are older than `retention` allows go with `maintain`, and no others.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod h5py;

use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    BaseStorage, Expiry, HumanDuration, Key, ListOptions, ManualClock, OpenContext, StorageExt,
};
use persist_hdf5::{Hdf5Config, Hdf5Storage, Retention};
use persist_testkit::crash;

fn rule(prefix: &str, seconds: u64) -> Retention {
    Retention { prefix: prefix.to_owned(), max_age: HumanDuration(Duration::from_secs(seconds)) }
}

async fn keys(storage: &Hdf5Storage) -> Vec<String> {
    let page = storage.list_keys("", ListOptions::new()).await.unwrap();
    page.keys.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_is_too_old_goes_by_prefix() {
    let place = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let mut context = OpenContext::new(place.path());
    context.clock = clock.clone();
    let mut config = Hdf5Config::new("main.h5");
    config.retention = vec![rule("frames/", 60), rule("frames/kept/", 600)];
    let storage = Hdf5Storage::open("main", config, &context).await.unwrap();
    for key in ["frames/1", "frames/2", "frames/kept/1", "framesets", "other"] {
        storage.put(key, &1).await.unwrap();
    }
    clock.advance(Duration::from_secs(50));
    storage.put("frames/2", &2).await.unwrap();
    storage.put("frames/3", &3).await.unwrap();
    assert_eq!(storage.maintain().await.unwrap().notes[0], "0 values were older than `retention` allows");
    clock.advance(Duration::from_secs(11));
    let report = storage.maintain().await.unwrap();
    assert_eq!(report.notes[0], "1 values were older than `retention` allows");
    assert_eq!((report.expired, report.freed_bytes), (0, 1));
    assert_eq!(keys(&storage).await, ["frames/2", "frames/3", "frames/kept/1", "framesets", "other"]);
    // A value is as old as its last change.
    clock.advance(Duration::from_secs(45));
    storage.touch(&Key::new("frames/3").unwrap(), Expiry::Never).await.unwrap();
    clock.advance(Duration::from_secs(20));
    storage.maintain().await.unwrap();
    assert_eq!(keys(&storage).await, ["frames/3", "frames/kept/1", "framesets", "other"]);
    clock.advance(Duration::from_secs(1000));
    storage.maintain().await.unwrap();
    assert_eq!(keys(&storage).await, ["framesets", "other"]);
    storage.close().await.unwrap();
}

/// More than are looked at in one go.
#[tokio::test]
async fn thousands_go_at_once_and_what_others_wrote_stays() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let foreign = h5py::is_there();
    match foreign {
        true => {
            let script = "
with h5py.File(args[0], 'w') as f:
    f['foreign'] = np.arange(3)
";
            h5py::run(script, &[path.to_str().unwrap()]).unwrap();
        }
        false => crash::skip("python3-h5py is not installed").unwrap(),
    }
    let mut config = Hdf5Config::new(&path);
    config.retention = vec![rule("", 0)];
    let storage = Hdf5Storage::open("main", config, &OpenContext::default()).await.unwrap();
    let item = |number: usize| {
        let key = Key::new(format!("all/{number}")).unwrap();
        persist_core::StoreItem::new(key, persist_core::Value::bytes(vec![0; 10]))
    };
    assert!(storage.store_many((0..10_000).map(item).collect()).await.iter().all(Result::is_ok));
    tokio::time::sleep(Duration::from_millis(2)).await;
    let report = storage.maintain().await.unwrap();
    assert_eq!(report.notes[0], "10000 values were older than `retention` allows");
    assert_eq!(keys(&storage).await, if foreign { vec!["foreign"] } else { vec![] });
    storage.close().await.unwrap();
}
