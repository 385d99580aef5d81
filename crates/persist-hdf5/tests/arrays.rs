//! Parts of arrays, and arrays that grow, in one piece and in chunks.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::ops::Range;

use persist_core::{Array, BaseStorage, ByteSize, ErrorKind, Key, OpenContext, StoreOptions, Value};
use persist_hdf5::{Codec, Filters, Hdf5Config, Hdf5Storage};

/// Keys below `plain/` lie in one piece, all others in small chunks.
async fn open(place: &tempfile::TempDir) -> Hdf5Storage {
    let mut config = Hdf5Config::new(place.path().join("main.h5"));
    config.filters =
        Filters { codec: Codec::Gzip, chunk: ByteSize(4096), at_least: ByteSize(1), ..Filters::default() };
    config.filter_rules =
        vec![persist_hdf5::FilterRule { prefix: "plain/".to_owned(), filters: Filters::default() }];
    Hdf5Storage::open("main", config, &OpenContext::default()).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn numbers(shape: &[usize], from: u32) -> Array {
    let count = u32::try_from(shape.iter().product::<usize>()).unwrap();
    Array::from_vec(shape.to_vec(), (from..from + count).collect()).unwrap()
}

/// The same part by ndarray.
fn expected(array: &Array, part: &[Range<usize>]) -> Array {
    let whole = array.to_ndarray::<u32>().unwrap();
    let mut cut = whole.view();
    for (axis, range) in part.iter().enumerate() {
        let len = cut.shape()[axis];
        let start = range.start.min(len);
        let end = range.end.clamp(start, len);
        cut.slice_axis_inplace(ndarray::Axis(axis), ndarray::Slice::from(start..end));
    }
    Array::from_ndarray(cut.to_owned())
}

#[tokio::test]
async fn parts_are_those_of_the_whole() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place).await;
    let array = numbers(&[60, 7, 11], 0);
    let scalar = Array::from_vec(vec![], vec![7_u32]).unwrap();
    for prefix in ["plain/", "chunks/"] {
        let name = key(&format!("{prefix}a"));
        storage.store(&name, Value::Array(array.clone()), StoreOptions::new()).await.unwrap();
        let parts: [[Range<usize>; 3]; 6] = [
            [0..60, 0..7, 0..11],
            [3..4, 2..6, 10..11],
            [17..44, 0..7, 3..9],
            [59..100, 6..7, 0..usize::MAX],
            [5..5, 0..7, 0..11],
            [60..70, 9..12, 11..12],
        ];
        for part in parts {
            let found = storage.retrieve_slice(&name, &part).await.unwrap().unwrap();
            assert_eq!(found, expected(&array, &part), "{prefix} {part:?}");
        }
        let error = storage.retrieve_slice(&name, std::slice::from_ref(&(0..1))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue, "{error}");
        let name = key(&format!("{prefix}scalar"));
        storage.store(&name, Value::Array(scalar.clone()), StoreOptions::new()).await.unwrap();
        assert_eq!(storage.retrieve_slice(&name, &[]).await.unwrap().unwrap(), scalar);
    }
    storage.store(&key("bytes"), Value::bytes(vec![1; 9]), StoreOptions::new()).await.unwrap();
    assert_eq!(
        storage.retrieve_slice(&key("bytes"), std::slice::from_ref(&(0..1))).await.unwrap_err().kind(),
        ErrorKind::InvalidValue
    );
    assert_eq!(storage.retrieve_slice(&key("absent"), std::slice::from_ref(&(0..1))).await.unwrap(), None);
    storage.close().await.unwrap();
}

#[tokio::test]
async fn arrays_grow_row_by_row_and_keep_their_tags() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place).await;
    for prefix in ["plain/", "chunks/"] {
        let name = key(&format!("{prefix}series"));
        let options = StoreOptions::new().tag("unit", "V");
        let first = storage.store(&name, Value::Array(numbers(&[500, 3], 0)), options).await.unwrap();
        let mut version = first.version;
        for round in 0..20_u32 {
            let rows = numbers(&[7, 3], 1500 + round * 21);
            let metadata = storage.append(&name, &rows).await.unwrap();
            assert!(metadata.version > version && metadata.tags.get("unit") == Some("V"));
            version = metadata.version;
        }
        let found = storage.retrieve(&name).await.unwrap().unwrap();
        assert_eq!(found.value, Value::Array(numbers(&[640, 3], 0)), "{prefix}");
        assert_eq!((found.metadata.version, found.metadata.created_at), (version, first.created_at));
        for wrong in
            [numbers(&[7, 4], 0), numbers(&[7], 0), Array::from_vec(vec![1, 3], vec![1_i32; 3]).unwrap()]
        {
            assert_eq!(storage.append(&name, &wrong).await.unwrap_err().kind(), ErrorKind::InvalidValue);
        }
        // The first rows make a new array.
        let new = key(&format!("{prefix}new"));
        storage.append(&new, &numbers(&[2, 2], 0)).await.unwrap();
        storage.append(&new, &numbers(&[1, 2], 4)).await.unwrap();
        assert_eq!(storage.retrieve(&new).await.unwrap().unwrap().value, Value::Array(numbers(&[3, 2], 0)));
    }
    // Nobody's rows are lost.
    let shared = key("chunks/shared");
    let appending = (0..8).map(|task| {
        let (storage, shared) = (storage.clone(), shared.clone());
        tokio::spawn(async move { storage.append(&shared, &numbers(&[1], task)).await.unwrap() })
    });
    for task in appending.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let Value::Array(array) = storage.retrieve(&shared).await.unwrap().unwrap().value else {
        panic!("no array")
    };
    let mut rows: Vec<u32> = array.view::<u32>().unwrap().iter().copied().collect();
    rows.sort_unstable();
    assert_eq!(rows, (0..8).collect::<Vec<_>>());
    storage.close().await.unwrap();
    let storage = open(&place).await;
    assert!(storage.verify().await.unwrap().is_clean());
    storage.close().await.unwrap();
}
