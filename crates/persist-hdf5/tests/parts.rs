//! A storage whose files are bounded: cut into parts that HDF5's family driver reads, and cut anew or put together by compaction.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod h5py;

use std::path::Path;

use persist_core::{
    Array, BaseStorage, ByteSize, ErrorKind, Key, ListOptions, OpenContext, Operation, StorageExt, StoreItem,
    StoreOptions, Value,
};
use persist_hdf5::{Hdf5Config, Hdf5Storage};
use persist_testkit::crash;

const PART: u64 = 64 << 10;

fn config(path: &Path, cut: bool) -> Hdf5Config {
    let mut config = Hdf5Config::new(path);
    config.max_file_size = cut.then_some(ByteSize(PART));
    config
}

async fn open(path: &Path, cut: bool) -> Hdf5Storage {
    Hdf5Storage::open("main", config(path, cut), &OpenContext::default()).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A value that differs from all others.
fn value(at: u32, len: usize) -> Value {
    Value::bytes(at.to_le_bytes().into_iter().cycle().take(len).collect::<Vec<u8>>())
}

/// Name and length of all that a folder holds.
fn files(path: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let of = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
    };
    let mut files: Vec<_> = entries.map(of).collect();
    files.sort();
    files
}

/// Every file is as long as allowed but the last, and none is missing.
fn check_parts(path: &Path) -> usize {
    let files = files(path);
    for (at, (name, len)) in files.iter().enumerate() {
        assert_eq!(*name, format!("{at:05}.h5"));
        assert!(if at + 1 < files.len() { *len == PART } else { *len <= PART }, "{name}: {len}");
    }
    files.len()
}

#[tokio::test]
async fn files_are_bounded_and_no_key_is_lost() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let storage = open(&path, true).await;
    let count = 60;
    for at in 0..count {
        storage.store(&key(&format!("all/{at:03}")), value(at, 5000), StoreOptions::new()).await.unwrap();
    }
    // A value that is longer than a file may be lies in several.
    storage.store(&key("large"), value(77, 1_000_000), StoreOptions::new()).await.unwrap();
    // What belongs together is committed together, in whichever files it lies.
    let version = storage.metadata(&key("all/000")).await.unwrap().unwrap().version;
    let put = |name: &str, at| StoreItem::new(key(name), value(at, 5000));
    let stale = StoreItem { options: StoreOptions::new().if_absent(), ..put("large", 0) };
    let refused = vec![Operation::Put(put("all/001", 0)), Operation::Put(stale)];
    assert_eq!(storage.transact(refused).await.unwrap_err().kind(), ErrorKind::Conflict);
    let first = StoreItem { options: StoreOptions::new().if_version(version), ..put("all/000", 100) };
    storage.transact(vec![Operation::Put(first), Operation::Put(put("new", 101))]).await.unwrap();
    for reopened in [false, true] {
        let storage = if reopened { open(&path, true).await } else { storage.clone() };
        let page = storage.list_keys("all/", ListOptions::new()).await.unwrap();
        let expected: Vec<String> = (0..count).map(|at| format!("all/{at:03}")).collect();
        assert_eq!(page.keys.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        for at in 1..count {
            let found = storage.retrieve(&key(&format!("all/{at:03}"))).await.unwrap().unwrap();
            assert_eq!(found.value, value(at, 5000), "{at}");
        }
        let all = [("all/000", value(100, 5000)), ("new", value(101, 5000)), ("large", value(77, 1_000_000))];
        for (name, expected) in all {
            assert_eq!(storage.retrieve(&key(name)).await.unwrap().unwrap().value, expected, "{name}");
        }
        assert!(storage.verify().await.unwrap().is_clean());
        storage.maintain().await.unwrap();
        let parts = check_parts(&path);
        assert!(parts > 20, "{parts}");
        assert_eq!(storage.stats().await.unwrap().counters["files"], parts as u64);
        storage.close().await.unwrap();
    }
    assert_eq!(files(place.path()).len(), 1, "a log was left");
}

#[tokio::test]
async fn room_is_given_back_and_parts_go() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let storage = open(&path, true).await;
    for at in 0..20 {
        storage.store(&key(&format!("all/{at}")), value(at, 100_000), StoreOptions::new()).await.unwrap();
    }
    for at in (0..20).filter(|at| *at != 7) {
        storage.remove(format!("all/{at}").as_str()).await.unwrap();
    }
    storage.maintain().await.unwrap();
    let before = check_parts(&path);
    let report = storage.compact().await.unwrap();
    let after = check_parts(&path);
    assert!(before > 20 && after == 2, "{before} {after} {report:?}");
    assert_eq!(
        files(place.path()).iter().map(|file| &*file.0).collect::<Vec<_>>(),
        ["main.h5", "main.h5-log"]
    );
    assert_eq!(storage.retrieve(&key("all/7")).await.unwrap().unwrap().value, value(7, 100_000));
    storage.put("more", &1).await.unwrap();
    storage.close().await.unwrap();
    let storage = open(&path, true).await;
    assert!(storage.verify().await.unwrap().is_clean());
    assert_eq!(storage.get::<u8>("more").await.unwrap(), Some(1));
    storage.close().await.unwrap();
}

/// The limit may come, change and go; what is there is cut anew by `maintain`.
#[tokio::test]
async fn one_file_becomes_parts_and_parts_become_one_file() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    for (round, cut) in [false, true, true, false].into_iter().enumerate() {
        let storage = open(&path, cut).await;
        let name = format!("round/{round}");
        storage.store(&key(&name), value(round as u32, 200_000), StoreOptions::new()).await.unwrap();
        storage.maintain().await.unwrap();
        for before in 0..=round {
            let found = storage.retrieve(&key(&format!("round/{before}"))).await.unwrap().unwrap();
            assert_eq!(found.value, value(before as u32, 200_000), "{before} in {round}");
        }
        let reader =
            Hdf5Storage::open("main", config(&path, cut).read_only(), &OpenContext::default()).await.unwrap();
        assert!(reader.verify().await.unwrap().is_clean());
        reader.close().await.unwrap();
        storage.close().await.unwrap();
        assert_eq!(path.is_dir(), cut, "{round}");
        if cut {
            check_parts(&path);
        }
    }
}

#[tokio::test]
async fn what_is_no_folder_of_parts_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("data");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    let open = async |cut| Hdf5Storage::open("main", config(&path, cut), &OpenContext::default()).await;
    for cut in [true, false] {
        let refused = open(cut).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig, "{refused}");
        assert!(refused.to_string().contains("notes.txt"), "{refused}");
    }
    assert_eq!(files(&path), [("notes.txt".to_owned(), 4)]);
    std::fs::remove_file(path.join("notes.txt")).unwrap();
    let storage = open(true).await.unwrap();
    storage.store(&key("a"), value(1, 300_000), StoreOptions::new()).await.unwrap();
    storage.close().await.unwrap();
    std::fs::remove_file(path.join("00002.h5")).unwrap();
    let missing = open(true).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Corruption, "{missing}");
    assert!(missing.to_string().contains("00002.h5"), "{missing}");
    let mut wrong = config(&path, true);
    wrong.max_file_size = Some(ByteSize(PART + 1));
    assert!(wrong.check().unwrap_err().contains("multiple of 4 KiB"));
}

/// HDF5's own family driver reads the parts, while a storage writes and when it is closed.
#[tokio::test]
async fn h5py_reads_parts_with_the_family_driver() {
    if !h5py::is_there() {
        crash::skip("python3-h5py is not installed").unwrap();
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let storage = open(&path, true).await;
    let array = Array::from_vec(vec![100, 300], (0..30_000).map(f64::from).collect()).unwrap();
    storage.store(&key("weights/one"), Value::Array(array), StoreOptions::new()).await.unwrap();
    storage.put("doc", &"text").await.unwrap();
    h5py::settle(&path);
    let script = "
with h5py.File(args[0] + '/%05d.h5', 'r', driver='family', memb_size=int(args[1])) as f:
    print(f['weights/one'].shape, f['weights/one'][99, 298:].tolist(), float(f['weights/one'][()].sum()), f['doc'][()])
";
    for _ in 0..2 {
        let answer = h5py::run(script, &[path.to_str().unwrap(), &PART.to_string()]).unwrap();
        assert_eq!(answer, "(100, 300) [29998.0, 29999.0] 449985000.0 b'\"text\"'\n");
        assert!(check_parts(&path) > 3);
        storage.close().await.unwrap();
    }
}
