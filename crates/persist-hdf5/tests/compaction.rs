//! Room that deleted values took is given back, and nothing else changes. `PERSIST_CRASH_SCALE=10` with 1 GiB in place of 64 MiB.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod h5py;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use persist_core::{BaseStorage, Key, ListOptions, OpenContext, StorageExt, StoreOptions, Value};
use persist_hdf5::{Hdf5Config, Hdf5Storage};
use persist_testkit::crash;

async fn open(path: &Path) -> Hdf5Storage {
    Hdf5Storage::open("main", Hdf5Config::new(path), &OpenContext::default()).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn large() -> bool {
    std::env::var("PERSIST_CRASH_SCALE").is_ok_and(|scale| scale != "1")
}

/// A value that differs from all others.
fn value(at: u32, len: usize) -> Value {
    Value::bytes(at.to_le_bytes().into_iter().cycle().take(len).collect::<Vec<u8>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_tenths_are_deleted_and_given_back_while_reads_go_on() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let (count, len) = if large() { (1024, 1 << 20) } else { (256, 256 << 10) };
    let storage = open(&path).await;
    for at in 0..count {
        let options = StoreOptions::new().tag("at", at.to_string());
        storage.store(&key(&format!("all/{at}")), value(at, len), options).await.unwrap();
    }
    let before = storage.metadata(&key("all/10")).await.unwrap();
    for at in (0..count).filter(|at| at % 10 != 0) {
        assert!(storage.remove(format!("all/{at}").as_str()).await.unwrap());
    }
    let full = storage.stats().await.unwrap().counters["file_bytes"];
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (storage, done) = (storage.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let at = (reads % count.div_ceil(10)) * 10;
                let found = storage.retrieve(&key(&format!("all/{at}"))).await.unwrap().unwrap();
                assert_eq!(found.value, value(at, len));
                let part = storage.retrieve_range(&key(&format!("all/{at}")), 4..8).await.unwrap().unwrap();
                assert_eq!(part[..], at.to_le_bytes());
                reads += 1;
            }
            reads
        })
    };
    // No word was said of compacting: much of the file holds nothing.
    let report = storage.maintain().await.unwrap();
    done.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
    let kept = u64::from(count.div_ceil(10)) * len as u64;
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(
        after < kept + kept / 20 + (1 << 20),
        "{full} bytes became {after}, and {kept} are needed: {report:?}"
    );
    assert!(report.freed_bytes > full * 8 / 10, "{report:?}");
    assert_eq!(storage.metadata(&key("all/10")).await.unwrap(), before);
    // It goes on as before, without doing it again.
    storage.put("more/new", &1).await.unwrap();
    storage.maintain().await.unwrap();
    assert_eq!(storage.stats().await.unwrap().counters["compactions"], 1);
    storage.close().await.unwrap();
    let storage = open(&path).await;
    assert!(storage.verify().await.unwrap().is_clean());
    let page = storage.list_keys("", ListOptions::new()).await.unwrap();
    assert_eq!(page.keys.len() as u32, count.div_ceil(10) + 1);
    storage.close().await.unwrap();
    let names: Vec<_> =
        std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["main.h5"]);
}

/// Groups, attributes and links that persist knows nothing of, and keys that are a group too.
#[tokio::test]
async fn what_others_put_into_the_file_stays() {
    if !h5py::is_there() {
        crash::skip("python3-h5py is not installed").unwrap();
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let make = "
with h5py.File(args[0], 'w') as f:
    f.attrs['title'] = 'grüß'
    f.attrs['n'] = np.arange(3)
    f.create_group('empty/inner').attrs['x'] = 1.5
    f['data'] = np.arange(4)
    f['data'].attrs['unit'] = 'V'
    f['soft'] = h5py.SoftLink('/data')
    f['outside'] = h5py.ExternalLink('other.h5', '/x')
    f['table'] = np.array([(1, 2.5)], dtype=[('id', 'i4'), ('x', 'f8')])
    f.create_dataset('packed', data=np.arange(1000), chunks=(100,), compression='gzip')
";
    h5py::run(make, &[path.to_str().unwrap()]).unwrap();
    let storage = open(&path).await;
    for name in ["a", "a/b", "x//y"] {
        storage.put(name, &name).await.unwrap();
    }
    let report = storage.compact().await.unwrap();
    assert!(report.notes[0].starts_with("the file was compacted from"), "{report:?}");
    storage.put("later", &1).await.unwrap();
    storage.close().await.unwrap();
    let look = "
with h5py.File(args[0], 'r') as f:
    print(f.attrs['title'], f.attrs['n'].tolist(), f['empty/inner'].attrs['x'], f['data'].attrs['unit'], f['soft'][3])
    print(f.get('outside', getlink=True).filename, f['table'][0], f['packed'][999], f['packed'].compression)
    print(f['a/%='][()], f['a/b'][()], f['later'][()])
";
    let answer = h5py::run(look, &[path.to_str().unwrap()]).unwrap();
    let expected = "grüß [0, 1, 2] 1.5 V 3\nother.h5 (1, 2.5) 999 gzip\nb'\"a\"' b'\"a/b\"' b'1'\n";
    assert_eq!(answer, expected);
    let storage = open(&path).await;
    for name in ["a", "a/b", "x//y"] {
        assert_eq!(storage.get::<String>(name).await.unwrap().as_deref(), Some(name));
    }
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_file_that_others_read_and_one_that_cannot_be_copied_stay_as_they_are() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let storage = open(&path).await;
    storage.put("k", &1).await.unwrap();
    let reader = std::fs::File::open(&path).unwrap();
    reader.lock_shared().unwrap();
    storage.put("k", &2).await.unwrap();
    let report = storage.compact().await.unwrap();
    assert!(report.notes[0].starts_with("another process reads the file"), "{report:?}");
    drop(reader);
    // Where the new file would be made there is somebody's folder.
    let in_the_way = place.path().join("main.h5-compacting");
    std::fs::create_dir(&in_the_way).unwrap();
    std::fs::write(in_the_way.join("notes"), "mine").unwrap();
    storage.compact().await.unwrap_err();
    assert!(in_the_way.join("notes").exists());
    std::fs::remove_dir_all(in_the_way).unwrap();
    assert_eq!(storage.get::<u8>("k").await.unwrap(), Some(2));
    storage.put("k", &3).await.unwrap();
    assert!(storage.compact().await.unwrap().notes[0].starts_with("the file was compacted"));
    storage.close().await.unwrap();
    // What a process left that died while it compacted.
    std::fs::write(place.path().join("main.h5-compacting"), "half").unwrap();
    let storage = open(&path).await;
    assert!(!place.path().join("main.h5-compacting").exists());
    assert_eq!(storage.get::<u8>("k").await.unwrap(), Some(3));
    storage.close().await.unwrap();
}
