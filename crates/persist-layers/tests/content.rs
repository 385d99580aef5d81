//! Contents under their hashes.
#![cfg(feature = "content")]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::sync::Arc;

use persist_core::{Array, BaseStorage, ErrorKind, Key, StorageExt, StoreOptions, Value};
use persist_layers::{ContentHash, ContentId, ContentStore};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use serde_json::json;

fn contents(place: &MemoryPlace) -> ContentStore {
    ContentStore::new(Arc::new(MemoryStorage::builder("m").open(place))).under("c/")
}

#[tokio::test]
async fn what_is_put_is_found_under_its_hash_and_lies_there_once() {
    let place = MemoryPlace::new();
    let contents = contents(&place);
    let id = contents.put(Value::bytes("abc")).await.unwrap();
    assert_eq!(id.to_string(), "blake3-6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
    assert_eq!(contents.put(Value::bytes("abc")).await.unwrap(), id);
    assert_eq!(place.keys().len(), 1);
    assert_eq!(contents.get_bytes(&id).await.unwrap().unwrap(), "abc");
    assert!(contents.contains(&id).await.unwrap() && contents.remove(&id).await.unwrap());
    assert_eq!(contents.get(&id).await.unwrap(), None);
    let old = contents.clone().hashed(ContentHash::Sha256).put(Value::bytes("abc")).await.unwrap();
    assert_eq!(old.to_string(), "sha256-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(contents.get_bytes(&old).await.unwrap().unwrap(), "abc", "any store finds both kinds of ids");
}

#[tokio::test]
async fn the_order_of_members_makes_no_difference() {
    let contents = contents(&MemoryPlace::new());
    let id = contents.put_json(&json!({ "b": [1, 2.0], "a": { "y": null, "x": "é" } })).await.unwrap();
    assert_eq!(contents.put_json(&json!({ "a": { "x": "é", "y": null }, "b": [1.0, 2] })).await.unwrap(), id);
    assert_eq!(contents.get_bytes(&id).await.unwrap().unwrap(), r#"{"a":{"x":"é","y":null},"b":[1,2]}"#);
    assert_eq!(contents.get_json::<serde_json::Value>(&id).await.unwrap().unwrap()["b"], json!([1, 2]));
    assert_ne!(contents.put_json(&json!({ "a": 1 })).await.unwrap(), id);
}

#[tokio::test]
async fn what_is_not_what_its_id_says_is_corruption_and_is_mended_by_putting_it_again() {
    let place = MemoryPlace::new();
    for hash in [ContentHash::Blake3, ContentHash::Sha256] {
        let contents = contents(&place).hashed(hash);
        let id = contents.put(Value::bytes("right")).await.unwrap();
        let key = Key::new(format!("c/{id}")).unwrap();
        // Whole, but another content.
        let storage = MemoryStorage::builder("m").open(&place);
        storage.store(&key, Value::bytes("wrong"), StoreOptions::new()).await.unwrap();
        let error = contents.get(&id).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::Corruption, Some(&key)));
        contents.put(Value::bytes("right")).await.unwrap();
        assert_eq!(contents.get_bytes(&id).await.unwrap().unwrap(), "right");
        assert!(place.corrupt(&key));
        assert_eq!(contents.get(&id).await.unwrap_err().kind(), ErrorKind::Corruption);
        contents.put(Value::bytes("right")).await.unwrap();
        assert_eq!(contents.get_bytes(&id).await.unwrap().unwrap(), "right");
    }
}

#[tokio::test]
async fn ids_are_listed_and_other_keys_are_not() {
    let place = MemoryPlace::new();
    let contents = contents(&place);
    MemoryStorage::builder("m").open(&place).put("other", &1).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..5_u8 {
        ids.push(contents.put(Value::bytes(vec![number])).await.unwrap());
    }
    ids.sort();
    let (first, next) = contents.list(None, 3).await.unwrap();
    let (rest, end) = contents.list(next.as_ref(), 3).await.unwrap();
    assert_eq!(([first, rest].concat(), end), (ids, None));
}

#[test]
fn an_id_has_one_spelling_and_covers_shape_and_type() {
    let array = |shape| Value::Array(Array::from_vec(shape, vec![1_u8, 2, 3, 4]).unwrap());
    for hash in [ContentHash::Blake3, ContentHash::Sha256] {
        let id = ContentId::of(&array(vec![4]), hash);
        assert_ne!(id, ContentId::of(&array(vec![2, 2]), hash));
        assert_eq!(id.to_string().parse(), Ok(id));
        let text = id.to_string();
        let (name, digits) = text.split_once('-').unwrap();
        for wrong in [
            digits.to_owned(),
            format!("{name}-{}", digits.to_uppercase()),
            format!("md5-{digits}"),
            format!("{name}-{}", &digits[1..]),
        ] {
            assert!(wrong.parse::<ContentId>().is_err(), "{wrong}");
        }
    }
}
