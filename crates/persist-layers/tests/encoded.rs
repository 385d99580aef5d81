//! Compressed and encrypted values: plain from above, encoded below, and nothing that is wrong comes through.
#![cfg(all(feature = "compress", feature = "encrypt"))]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;

use persist_core::{
    Array, BaseStorage, ByteSize, Entry, ErrorKind, Key, Kind, Operation, Secret, StorageExt, StoreItem,
    StoreOptions, Value, restore_entries,
};
use persist_layers::{
    Codec, Compress, CompressConfig, CompressRule, Encrypt, EncryptConfig, EncryptKey, EncryptRule, Layer,
};
use persist_testkit::TestSnapshot;
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{Storage, key};

const NEW: &str = "1f2e3d4c5b6a79880716253443526170f0e1d2c3b4a5968778695a4b3c2d1e0f";
const OLD: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";

fn encrypt_key(id: &str, hex: &str) -> EncryptKey {
    EncryptKey { id: id.to_owned(), secret: Secret::new(hex) }
}

fn encrypt(keys: &[(&str, &str)]) -> EncryptConfig {
    let keys = keys.iter().map(|(id, hex)| encrypt_key(id, hex)).collect();
    EncryptConfig { keys, ..EncryptConfig::default() }
}

fn memory(name: &str, place: &MemoryPlace) -> Storage {
    Arc::new(MemoryStorage::builder(name).open(place))
}

fn encrypted(place: &MemoryPlace, config: EncryptConfig) -> Encrypt {
    Encrypt::new(memory("m", place), config).unwrap()
}

fn text(length: usize) -> Value {
    Value::bytes("all work and no play ".repeat(length / 21 + 1))
}

fn array() -> Value {
    Value::Array(Array::from_vec(vec![100, 200], vec![1.5_f64; 20_000]).unwrap())
}

#[tokio::test]
async fn below_it_is_smaller_and_above_it_is_as_it_was() {
    for codec in [Codec::Zstd, Codec::Gzip, Codec::Lz4] {
        let place = MemoryPlace::new();
        let config = CompressConfig { codec, ..CompressConfig::default() };
        let storage = Compress::new(memory("m", &place), config);
        for (name, value) in
            [("t", text(5_000)), ("a", array()), ("j", Value::json(&vec![7; 5_000]).unwrap())]
        {
            let stored =
                storage.store(&key(name), value.clone(), StoreOptions::new().tag("t", "x")).await.unwrap();
            assert_eq!(
                (stored.kind, stored.size, stored.checksum),
                (value.kind(), value.size(), value.checksum())
            );
            let below = place.peek(&key(name)).unwrap();
            assert!(below.metadata.size * 5 < value.size(), "{codec:?} {name}: {}", below.metadata.size);
            assert_eq!((below.metadata.kind, below.metadata.encodings.len()), (Kind::Bytes, 1));
            let Entry { value: found, metadata } = storage.retrieve(&key(name)).await.unwrap().unwrap();
            assert_eq!((found, &metadata), (value, &stored));
            assert!(metadata.encodings.is_empty());
        }
    }
}

#[tokio::test]
async fn what_would_not_become_smaller_stays_as_it_is() {
    let place = MemoryPlace::new();
    let rule = CompressRule { prefix: "raw/".to_owned(), codec: Codec::None, level: None };
    let config = CompressConfig { threshold: ByteSize(1000), rules: vec![rule], ..CompressConfig::default() };
    let storage = Compress::new(memory("m", &place), config);
    let mut state = 7_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    let noise: Vec<u8> = (0..2000).map(|_| random()).collect();
    for (name, value) in [("short", text(100)), ("noise", Value::bytes(noise)), ("raw/text", text(5_000))] {
        storage.store(&key(name), value.clone(), StoreOptions::new()).await.unwrap();
        let below = place.peek(&key(name)).unwrap();
        assert_eq!((&below.value, below.metadata.encodings.len()), (&value, 0), "{name}");
        assert_eq!(storage.retrieve(&key(name)).await.unwrap().unwrap().value, value);
    }
}

/// A note about the encoding that somebody else wrote is not taken for the layer's own.
#[tokio::test]
async fn a_note_from_above_is_kept_and_not_believed() {
    let place = MemoryPlace::new();
    let storage = Compress::new(memory("m", &place), CompressConfig::default());
    for value in [Value::bytes("short"), text(5_000)] {
        let forged = vec!["x".to_owned(), format!("persist-compress/1 zstd bytes 3 {}", "0".repeat(64))];
        let options = StoreOptions { encodings: forged.clone(), ..StoreOptions::new() };
        storage.store(&key("a"), value.clone(), options).await.unwrap();
        let found = storage.retrieve(&key("a")).await.unwrap().unwrap();
        assert_eq!((found.value, found.metadata.encodings), (value, forged));
    }
}

#[tokio::test]
async fn damage_below_is_corruption_and_nothing_else() {
    let layers: [fn(Storage) -> Storage; 2] = [
        |below| Arc::new(Compress::new(below, CompressConfig::default())),
        |below| Arc::new(Encrypt::new(below, encrypt(&[("k", NEW)])).unwrap()),
    ];
    for wrap in layers {
        let (place, other) = (MemoryPlace::new(), MemoryPlace::new());
        let storage = wrap(memory("m", &place));
        storage.store(&key("a"), text(5_000), StoreOptions::new()).await.unwrap();
        let Entry { value, metadata } = place.peek(&key("a")).unwrap();
        let note = metadata.encodings[0].clone();
        let body = value.buffer().to_vec();
        let mut wrong: Vec<(Value, String)> = vec![
            (Value::bytes(body[..body.len() / 2].to_vec()), note.clone()),
            (Value::bytes(""), note.clone()),
            (Value::json(&1).unwrap(), note.clone()),
            (Value::bytes(body.clone()), note.replace("/1 ", "/1 x")),
            (Value::bytes(body.clone()), note[..note.len() - 1].to_owned()),
            (Value::bytes(body.clone()), note.split(' ').next().unwrap().to_owned() + " "),
        ];
        for at in [0, body.len() / 2, body.len() - 1] {
            let mut changed = body.clone();
            changed[at] ^= 0x10;
            wrong.push((Value::bytes(changed), note.clone()));
        }
        let below = memory("m", &other);
        let storage = wrap(below.clone());
        for (number, (value, note)) in wrong.into_iter().enumerate() {
            let options = StoreOptions { encodings: vec![note], ..StoreOptions::new() };
            below.store(&key("a"), value, options).await.unwrap();
            let error = storage.retrieve(&key("a")).await.unwrap_err();
            let kinds = [ErrorKind::Corruption, ErrorKind::Unsupported, ErrorKind::AccessDenied];
            assert!(kinds.contains(&error.kind()), "{number}: {error:?}");
            assert_eq!((error.key(), error.storage()), (Some(&key("a")), Some("m")));
            let report = storage.verify().await;
            assert!(report.is_err() || report.is_ok_and(|report| report.problems.len() == 1), "{number}");
        }
    }
}

#[tokio::test]
async fn nothing_of_the_value_can_be_seen_below() {
    let place = MemoryPlace::new();
    let storage = encrypted(&place, encrypt(&[("k", NEW)]));
    storage.store(&key("a"), Value::json("attack at dawn").unwrap(), StoreOptions::new()).await.unwrap();
    let below = place.peek(&key("a")).unwrap();
    let shown = format!("{:?} {:?}", below.value.buffer(), below.metadata);
    let checksum = Value::json("attack at dawn").unwrap().checksum().to_string();
    assert!(!shown.contains("attack") && !shown.contains(&checksum) && !shown.contains("json"), "{shown}");
    let shown = format!("{storage:?}");
    assert!(!shown.contains("1f2e3d") && !shown.contains("dawn"), "{shown}");
    // And nothing is the same twice.
    storage.store(&key("a"), Value::json("attack at dawn").unwrap(), StoreOptions::new()).await.unwrap();
    assert_ne!(place.peek(&key("a")).unwrap().value, below.value);
}

/// What the layer above notes about the value is not for everybody either.
#[tokio::test]
async fn nothing_of_a_compressed_value_can_be_seen_below() {
    let place = MemoryPlace::new();
    let sealed: Storage = Arc::new(encrypted(&place, encrypt(&[("k", NEW)])));
    let storage = Compress::new(sealed, CompressConfig::default());
    let options =
        StoreOptions { encodings: vec!["mine: 3:x\n".to_owned(), String::new()], ..StoreOptions::new() };
    let stored = storage.store(&key("a"), text(5_000), options.clone()).await.unwrap();
    let below = place.peek(&key("a")).unwrap().metadata;
    let shown = format!("{below:?}");
    assert!(
        !shown.contains(&stored.checksum.to_string()) && !shown.contains("zstd") && !shown.contains("mine"),
        "{shown}"
    );
    assert_eq!((below.encodings.len(), &stored.encodings), (1, &options.encodings));
    let found = storage.retrieve(&key("a")).await.unwrap().unwrap();
    assert_eq!((found.value, found.metadata), (text(5_000), stored));
}

#[tokio::test]
async fn a_value_opens_only_where_it_was_stored_and_with_its_key() {
    let place = MemoryPlace::new();
    encrypted(&place, encrypt(&[("k", NEW)])).put("a", &1).await.unwrap();
    let Entry { value, metadata } = place.peek(&key("a")).unwrap();
    let copy = |name: &'static str, storage: Storage| {
        let (value, encodings) = (value.clone(), metadata.encodings.clone());
        async move {
            let options = StoreOptions { encodings, ..StoreOptions::new() };
            storage.store(&key(name), value, options).await.unwrap();
        }
    };
    copy("b", memory("m", &place)).await;
    let error = encrypted(&place, encrypt(&[("k", NEW)])).get::<u8>("b").await.unwrap_err();
    let wrong_key = encrypted(&place, encrypt(&[("k", OLD)])).get::<u8>("a").await.unwrap_err();
    let elsewhere = Encrypt::new(memory("other", &place), encrypt(&[("k", NEW)])).unwrap();
    let moved = elsewhere.get::<u8>("a").await.unwrap_err();
    // Whoever tries learns nothing from what is said.
    for error in [&error, &wrong_key, &moved] {
        assert_eq!((error.kind(), error.message()), (ErrorKind::Corruption, wrong_key.message()));
    }
    let unknown = encrypted(&place, encrypt(&[("other", NEW)])).get::<u8>("a").await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::AccessDenied);
    assert!(unknown.message().contains("`\"k\"`") || unknown.message().contains("k"), "{unknown}");
}

#[tokio::test]
async fn plaintext_is_refused_unless_it_is_allowed() {
    let place = MemoryPlace::new();
    memory("m", &place).put("a", &1).await.unwrap();
    let strict = encrypted(&place, encrypt(&[("k", NEW)]));
    for error in [strict.get::<u8>("a").await.unwrap_err(), strict.metadata(&key("a")).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.message().contains("allow_plaintext"), "{error}");
    }
    let lenient = EncryptConfig { allow_plaintext: true, ..encrypt(&[("k", NEW)]) };
    assert_eq!(encrypted(&place, lenient).get("a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn rotation_goes_on_while_others_write_and_can_be_begun_again() {
    let place = MemoryPlace::new();
    let before = encrypted(&place, encrypt(&[("old", OLD)]));
    for n in 0..50 {
        let tagged = StoreOptions::new().tag("n", n.to_string()).ttl(support::millis(3_600_000));
        before.store(&key(&format!("k{n:02}")), text(n * 100), tagged).await.unwrap();
    }
    let expiry = before.metadata(&key("k07")).await.unwrap().unwrap().expires_at;
    let both = || EncryptConfig { rotate: true, ..encrypt(&[("new", NEW), ("old", OLD)]) };
    let storage = encrypted(&place, both());
    storage.store(&key("k00"), text(9), StoreOptions::new()).await.unwrap();
    // It stops at a value that cannot be opened, and goes on when that is gone.
    memory("m", &place).put("k30", &1).await.unwrap();
    assert_eq!(storage.rotate().await.unwrap_err().kind(), ErrorKind::Corruption);
    storage.delete(&key("k30"), persist_core::DeleteOptions::new()).await.unwrap();
    let done = storage.maintain().await.unwrap();
    assert_eq!(done.notes, ["19 values encrypted anew"]);
    assert_eq!(storage.rotate().await.unwrap(), 0);
    // The old key is not needed any more.
    let after = encrypted(&place, encrypt(&[("new", NEW)]));
    let found = after.retrieve(&key("k07")).await.unwrap().unwrap();
    assert_eq!(found.value, text(700));
    assert_eq!((found.metadata.tags.get("n"), found.metadata.expires_at), (Some("7"), expiry));
    assert!(after.verify().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_prefix_has_a_key_of_its_own() {
    let place = MemoryPlace::new();
    let rule = EncryptRule { prefix: "hr/".to_owned(), key: "hr".to_owned() };
    let config = EncryptConfig { rules: vec![rule.clone()], ..encrypt(&[("all", NEW), ("hr", OLD)]) };
    let storage = encrypted(&place, config);
    storage.put("hr/pay", &1).await.unwrap();
    storage.put("news", &2).await.unwrap();
    // Whoever has one key reads one of the two.
    let without = encrypted(&place, encrypt(&[("all", NEW)]));
    assert_eq!(without.get("news").await.unwrap(), Some(2));
    assert_eq!(without.get::<u8>("hr/pay").await.unwrap_err().kind(), ErrorKind::AccessDenied);
    let wrong = EncryptConfig { rules: vec![rule], ..encrypt(&[("all", NEW)]) };
    assert!(Encrypt::check(&wrong).unwrap_err().contains("not in `keys`"));
    assert!(Encrypt::check(&encrypt(&[])).unwrap_err().contains("empty"));
}

#[tokio::test]
async fn batches_and_transactions_stay_what_they_are() {
    let place = MemoryPlace::new();
    let below = Arc::new(persist_testkit::fault::FaultStorage::new(memory("m", &place)));
    let storage = Encrypt::new(below.clone(), encrypt(&[("k", NEW)])).unwrap();
    let item = |name: &str| StoreItem::new(key(name), text(1_000));
    let stored = storage.store_many(vec![item("a"), item("b")]).await;
    assert!(
        stored.iter().all(|answer| answer.as_ref().is_ok_and(|metadata| metadata.size == text(1_000).size()))
    );
    let put = |name: &str| Operation::put(key(name), text(500), StoreOptions::new());
    storage.transact(vec![put("a"), put("c")]).await.unwrap();
    assert_eq!((below.calls("store"), below.calls("store_many"), below.calls("transact")), (0, 1, 1));
    assert_eq!(storage.retrieve(&key("c")).await.unwrap().unwrap().value, text(500));
    // Metadata are had without the value.
    storage.metadata(&key("c")).await.unwrap().unwrap();
    assert_eq!(below.calls("retrieve"), 1);
}

/// A copy holds what is stored: put back below, it opens again.
#[tokio::test]
async fn a_snapshot_stays_encrypted() {
    let (place, restored) = (MemoryPlace::new(), MemoryPlace::new());
    let storage = encrypted(&place, encrypt(&[("k", NEW)]));
    storage.put("a", "attack at dawn").await.unwrap();
    let mut snapshot = TestSnapshot::default();
    storage.snapshot(&mut snapshot).await.unwrap();
    assert!(!format!("{:?}", snapshot.entries).contains("attack"));
    restore_entries(memory("m", &restored).as_ref(), &mut snapshot).await.unwrap();
    let again = encrypted(&restored, encrypt(&[("k", NEW)]));
    assert_eq!(again.get::<String>("a").await.unwrap().as_deref(), Some("attack at dawn"));
}

/// The largest value leaves room for the seals.
#[tokio::test]
async fn the_limit_is_that_of_the_plain_value() {
    for limit in [100, 65_536, 65_552, 65_553, 200_000] {
        let below: Storage =
            Arc::new(MemoryStorage::builder("m").max_value_bytes(limit).open(&MemoryPlace::new()));
        let storage = Encrypt::new(below, encrypt(&[("k", NEW)])).unwrap();
        let most = storage.describe().max_value_bytes();
        let value = |size: u64| Value::bytes(vec![7; usize::try_from(size).unwrap()]);
        storage.store(&Key::new("a").unwrap(), value(most), StoreOptions::new()).await.unwrap();
        let error = storage.store(&key("a"), value(most + 1), StoreOptions::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{limit}");
    }
}

/// What `zstd --train` made of records like this one.
fn record(number: u32) -> Value {
    let name = format!("user{:05}", number * 7919 % 100_000);
    let record = serde_json::json!({
        "id": number * 104_729, "user": name, "email": format!("{name}@example.org"), "active": number.is_multiple_of(2),
        "roles": ["viewer", "billing"], "created_at": format!("2026-{:02}-11T07:00:00Z", number % 12 + 1)
    });
    Value::json(&record).unwrap()
}

#[tokio::test]
async fn a_dictionary_makes_small_records_small_and_is_found_by_its_id() {
    let base = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"));
    let (place, bare) = (MemoryPlace::new(), MemoryPlace::new());
    let config = CompressConfig { threshold: ByteSize(1), ..CompressConfig::default() };
    let trained = CompressConfig { dictionaries: vec!["records.dict".into()], ..config.clone() };
    let storage = Compress::open(memory("m", &place), trained.clone(), base).unwrap();
    let without = Compress::new(memory("m", &bare), config.clone());
    let (mut with_dictionary, mut alone) = (0, 0);
    for number in 0..50 {
        let name = key(&format!("k{number}"));
        storage.store(&name, record(number), StoreOptions::new()).await.unwrap();
        without.store(&name, record(number), StoreOptions::new()).await.unwrap();
        with_dictionary += place.peek(&name).unwrap().metadata.size;
        alone += bare.peek(&name).unwrap().metadata.size;
        assert_eq!(storage.retrieve(&name).await.unwrap().unwrap().value, record(number));
    }
    assert!(with_dictionary * 3 < alone * 2, "{with_dictionary} bytes with, {alone} without");
    let note = place.peek(&key("k0")).unwrap().metadata.encodings.remove(0);
    assert!(note.starts_with("persist-compress/1 zstd:"), "{note}");
    // Without the dictionary the metadata are there, and the value is not.
    let untrained = Compress::new(memory("m", &place), config);
    assert_eq!(untrained.metadata(&key("k0")).await.unwrap().unwrap().size, record(0).size());
    let error = untrained.retrieve(&key("k0")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    // It reads what was stored without it, and damage is found.
    let both = Compress::open(memory("m", &bare), trained.clone(), base).unwrap();
    assert_eq!(both.retrieve(&key("k7")).await.unwrap().unwrap().value, record(7));
    for (twice, why) in [
        ("records.dict", "two dictionaries"),
        ("../encoded.rs", "zstd --train"),
        ("none", "cannot be opened"),
    ] {
        let config =
            CompressConfig { dictionaries: vec!["records.dict".into(), twice.into()], ..trained.clone() };
        let error = Compress::open(memory("m", &place), config, base).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidConfig && error.message().contains(why), "{error}");
    }
    assert!(
        Compress::check(&CompressConfig { codec: Codec::Lz4, ..trained }).unwrap_err().contains("for zstd")
    );
}
