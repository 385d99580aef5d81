//! Arrays that come and go in pieces: what is stored is whole or not there, and others do not wait for more than a piece.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use persist_core::{
    Array, BaseStorage, ByteSize, DType, ErrorKind, Key, OpenContext, StorageExt, StoreOptions, Value,
};
use persist_hdf5::{Codec, FilterRule, Filters, Hdf5Config, Hdf5Storage};

/// What moves in one go, at most: 4 MiB and what belongs to the same rows of chunks.
const STEP: u64 = (4 << 20) + (64 << 10);

/// Keys below `gzip/` are compressed, all others lie in one piece.
async fn open(place: &tempfile::TempDir) -> Hdf5Storage {
    let mut config = Hdf5Config::new(place.path().join("main.h5"));
    let gzip = Filters { codec: Codec::Gzip, level: 1, chunk: ByteSize(256 << 10), ..Filters::default() };
    config.filter_rules = vec![FilterRule { prefix: "gzip/".to_owned(), filters: gzip }];
    Hdf5Storage::open("main", config, &OpenContext::default()).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// `rows` rows of 1000 numbers that do not compress to nothing.
fn array(rows: usize) -> Array {
    let number = |at: usize| (at as u32).wrapping_mul(2_654_435_761) >> (at % 24);
    Array::from_vec(vec![rows, 1000], (0..rows * 1000).map(number).collect()).unwrap()
}

async fn written(storage: &Hdf5Storage, name: &str, array: &Array, piece: usize) -> persist_core::Result<()> {
    let options = StoreOptions::new().tag("unit", "V");
    let mut writer = storage.write_array(&key(name), array.dtype(), array.shape(), options).await?;
    for piece in array.data().chunks(piece) {
        writer.write(piece).await?;
    }
    writer.finish().await.map(drop)
}

async fn read(storage: &Hdf5Storage, name: &str) -> persist_core::Result<Array> {
    let mut reader = storage.read_array(&key(name)).await?.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await? {
        assert!(piece.len() as u64 <= STEP, "{}", piece.len());
        all.extend_from_slice(&piece);
    }
    Array::new(reader.dtype(), reader.shape().to_vec(), all.into())
}

#[tokio::test]
async fn pieces_make_the_array_and_the_array_comes_in_pieces() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place).await;
    let large = array(4500);
    for name in ["plain/a", "gzip/a"] {
        for piece in [1_000_003, 18_000_000] {
            written(&storage, name, &large, piece).await.unwrap();
            let entry = storage.retrieve(&key(name)).await.unwrap().unwrap();
            assert_eq!(entry.value, Value::Array(large.clone()), "{name}");
            assert_eq!(entry.metadata.tags.get("unit"), Some("V"));
            assert_eq!(entry.metadata.checksum, entry.value.checksum());
            assert_eq!(read(&storage, name).await.unwrap(), large, "{name}");
        }
        let small = array(3);
        written(&storage, name, &small, 7).await.unwrap();
        assert_eq!(read(&storage, name).await.unwrap(), small);
    }
    storage.close().await.unwrap();
    let storage = open(&place).await;
    assert!(storage.verify().await.unwrap().is_clean());
    assert!(storage.read_array(&key("absent")).await.unwrap().is_none());
    storage.put("doc", &1).await.unwrap();
    assert_eq!(storage.read_array(&key("doc")).await.unwrap_err().kind(), ErrorKind::InvalidValue);
    storage.close().await.unwrap();
}

/// A compressed value is read in many pieces, between which others may replace it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replaced_while_it_is_read_is_the_one_or_the_other() {
    let place = tempfile::tempdir().unwrap();
    let mut config = Hdf5Config::new(place.path().join("main.h5"));
    config.filters =
        Filters { codec: Codec::Gzip, level: 1, chunk: ByteSize(16 << 10), ..Filters::default() };
    config.piece = ByteSize(64 << 10);
    let storage = Hdf5Storage::open("main", config, &OpenContext::default()).await.unwrap();
    let values = [array(300), array(310)].map(Value::Array);
    storage.store(&key("a"), values[0].clone(), StoreOptions::new()).await.unwrap();
    let writer = tokio::spawn({
        let (storage, values) = (storage.clone(), values.clone());
        async move {
            for round in 1..=60 {
                storage.store(&key("a"), values[round % 2].clone(), StoreOptions::new()).await.unwrap();
            }
        }
    });
    let mut reads = 0;
    while !writer.is_finished() || reads < 2 {
        let found = storage.retrieve(&key("a")).await.unwrap().unwrap();
        assert!(values.contains(&found.value), "after {reads} reads");
        reads += 1;
    }
    writer.await.unwrap();
    storage.close().await.unwrap();
}

#[tokio::test]
async fn what_is_not_finished_is_not_stored_and_takes_no_room() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place).await;
    let large = array(4500);
    for name in ["plain/a", "gzip/a"] {
        let mut writer =
            storage.write_array(&key(name), large.dtype(), large.shape(), StoreOptions::new()).await.unwrap();
        writer.write(&large.data()[..12_000_000]).await.unwrap();
        // Others go on, and what they commit stays when it is given up.
        storage.put("other", &name).await.unwrap();
        storage.maintain().await.unwrap();
        assert_eq!(storage.retrieve(&key(name)).await.unwrap(), None);
        assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::InvalidValue);
        assert_eq!(storage.retrieve(&key(name)).await.unwrap(), None);
        // The same after more has come in between.
        let mut writer =
            storage.write_array(&key(name), large.dtype(), large.shape(), StoreOptions::new()).await.unwrap();
        for piece in large.data().chunks(5_000_000) {
            writer.write(piece).await.unwrap();
            storage.put("between", &piece.len()).await.unwrap();
            storage.maintain().await.unwrap();
        }
        assert_eq!(writer.write(&[0]).await.unwrap_err().kind(), ErrorKind::InvalidValue);
        writer.finish().await.unwrap();
        assert_eq!(read(&storage, name).await.unwrap(), large);
        storage.remove(name).await.unwrap();
    }
    let report = storage.compact().await.unwrap();
    storage.close().await.unwrap();
    let left = std::fs::metadata(place.path().join("main.h5")).unwrap().len();
    assert!(left < 100_000, "{left} {report:?}");
}

#[tokio::test]
async fn conditions_hold_when_it_is_finished() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place).await;
    let large = array(2500);
    let absent = StoreOptions::new().if_absent();
    let mut writer =
        storage.write_array(&key("a"), large.dtype(), large.shape(), absent.clone()).await.unwrap();
    writer.write(large.data()).await.unwrap();
    storage.put("a", &"first").await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(storage.get::<String>("a").await.unwrap().as_deref(), Some("first"));
    let refused = storage.store(&key("a"), Value::Array(large.clone()), absent).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let wrong = storage
        .write_array(&key("b"), DType::Bool, &[4], StoreOptions::new())
        .await
        .unwrap()
        .write(&[2])
        .await;
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidValue);
    // An array that is replaced while it is read is not mixed with the other.
    storage.store(&key("a"), Value::Array(large.clone()), StoreOptions::new()).await.unwrap();
    let mut reader = storage.read_array(&key("a")).await.unwrap().unwrap();
    reader.next().await.unwrap().unwrap();
    storage.compact().await.unwrap();
    reader.next().await.unwrap().unwrap();
    storage.put("a", &"second").await.unwrap();
    assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::Conflict);
    storage.close().await.unwrap();
}

/// Counts what is moved in one go, which is what others wait for.
#[tokio::test]
async fn nobody_waits_for_more_than_a_piece() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(&place).await;
    let large = array(10_000);
    for name in ["plain/a", "gzip/a"] {
        storage.store(&key(name), Value::Array(large.clone()), StoreOptions::new()).await.unwrap();
        assert_eq!(storage.retrieve(&key(name)).await.unwrap().unwrap().value, Value::Array(large.clone()));
        assert_eq!(read(&storage, name).await.unwrap(), large);
    }
    let step = storage.stats().await.unwrap().counters["largest_step"];
    assert!(step > 1 << 20 && step <= STEP, "{step}");
    storage.close().await.unwrap();
}
