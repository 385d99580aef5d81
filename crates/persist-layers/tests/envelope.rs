//! Data keys that lie in the storage, wrapped with keys that do not.
#![cfg(feature = "encrypt")]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, ListOptions, Result, Secret, StorageExt, StoreOptions, Value,
    async_trait,
};
use persist_layers::{Encrypt, EncryptConfig, EncryptKey, EncryptRule, KeyWrapper, Layer};
use persist_testkit::memory::{MemoryPlace, MemoryStorage};
use support::{Storage, key};

const RECORD: &str = "\u{1}\u{1}persist/\u{1}encrypt/keyring";

fn memory(place: &MemoryPlace) -> Storage {
    Arc::new(MemoryStorage::builder("m").open(place))
}

fn envelope(ids: &[&str]) -> EncryptConfig {
    let wrapping =
        |id: &&str| EncryptKey { id: (*id).to_owned(), secret: Secret::new(format!("{:0>64}", hex(id))) };
    EncryptConfig { envelope: ids.iter().map(wrapping).collect(), ..EncryptConfig::default() }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

async fn open(place: &MemoryPlace, config: EncryptConfig) -> Result<Encrypt> {
    Encrypt::open(memory(place), config).await
}

#[tokio::test]
async fn a_new_wrapping_key_costs_one_record_and_not_every_value() {
    let place = MemoryPlace::new();
    let storage = open(&place, envelope(&["2025"])).await.unwrap();
    storage.put("a", &"secret").await.unwrap();
    let before = place.peek(&key("a")).unwrap();
    let record = place.peek(&key(RECORD)).unwrap();
    drop(storage);
    // The new one wraps what the old one did; then nobody needs the old one.
    let both = open(&place, envelope(&["2026", "2025"])).await.unwrap();
    assert_eq!(both.get::<String>("a").await.unwrap().unwrap(), "secret");
    assert_ne!(place.peek(&key(RECORD)).unwrap().value, record.value);
    let storage = open(&place, envelope(&["2026"])).await.unwrap();
    assert_eq!(storage.get::<String>("a").await.unwrap().unwrap(), "secret");
    assert_eq!(place.peek(&key("a")).unwrap(), before, "no value was touched");
    let error = open(&place, envelope(&["2025"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(error.message().contains("2026"), "{error}");
}

#[tokio::test]
async fn nobody_sees_the_keyring_and_nothing_in_it_is_plain() {
    let place = MemoryPlace::new();
    let storage = open(&place, envelope(&["k"])).await.unwrap();
    storage.put("a", &1).await.unwrap();
    assert_eq!(storage.list_keys("", ListOptions::new()).await.unwrap().keys, [key("a")]);
    assert_eq!(storage.retrieve(&key(RECORD)).await.unwrap(), None);
    // The name is the program's to use.
    storage.put(RECORD, &2).await.unwrap();
    assert_eq!(storage.get::<u8>(RECORD).await.unwrap(), Some(2));
    let record: serde_json::Value = place.peek(&key(RECORD)).unwrap().to().unwrap();
    assert_eq!(
        (record["format"].as_str(), record["keys"][0]["by"].as_str()),
        (Some("persist-keyring/1"), Some("k"))
    );
    assert_eq!(record["keys"].as_array().unwrap().len(), 1);
    assert_eq!(storage.verify().await.unwrap().checked, 2);
}

#[tokio::test]
async fn a_new_data_key_encrypts_what_comes_and_a_rotation_the_rest() {
    let place = MemoryPlace::new();
    let storage = open(&place, envelope(&["k"])).await.unwrap();
    storage.put("old", &1).await.unwrap();
    let added = Encrypt::add_data_key_of(&memory(&place), &envelope(&["k"])).await.unwrap();
    assert_eq!(added, "data-2");
    let storage = open(&place, EncryptConfig { rotate: true, ..envelope(&["k"]) }).await.unwrap();
    storage.put("new", &2).await.unwrap();
    let by = |name: &str| {
        place.peek(&key(name)).unwrap().metadata.encodings[0].split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!((by("old"), by("new")), ("data-1".to_owned(), "data-2".to_owned()));
    assert_eq!(storage.maintain().await.unwrap().notes, ["1 values encrypted anew"]);
    assert_eq!((by("old"), storage.get::<u8>("old").await.unwrap()), ("data-2".to_owned(), Some(1)));
}

#[tokio::test]
async fn rules_name_data_keys_which_are_made() {
    let place = MemoryPlace::new();
    let rule = EncryptRule { prefix: "hr/".to_owned(), key: "hr".to_owned() };
    let config = || EncryptConfig { rules: vec![rule.clone()], ..envelope(&["k"]) };
    open(&place, envelope(&["k"])).await.unwrap().put("before", &1).await.unwrap();
    let storage = open(&place, config()).await.unwrap();
    storage.put("hr/a", &1).await.unwrap();
    storage.put("b", &1).await.unwrap();
    let by = |name: &str| {
        place.peek(&key(name)).unwrap().metadata.encodings[0].split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!((by("hr/a"), by("b")), ("hr".to_owned(), "data-1".to_owned()));
    assert_eq!(open(&place, config()).await.unwrap().get::<u8>("hr/a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn what_was_changed_or_moved_is_not_unwrapped() {
    let place = MemoryPlace::new();
    open(&place, envelope(&["k"])).await.unwrap();
    // The keyring of one storage in another one of another name.
    let record = place.peek(&key(RECORD)).unwrap().value;
    let other: Storage = Arc::new(MemoryStorage::new("other"));
    other.store(&key(RECORD), record.clone(), StoreOptions::new()).await.unwrap();
    let error = Encrypt::open(other, envelope(&["k"])).await.unwrap_err();
    assert_eq!((error.kind(), error.storage()), (ErrorKind::Corruption, Some("other")));
    let text = String::from_utf8(record.buffer().to_vec()).unwrap();
    let renamed = text.replace("data-1", "data-9");
    let flipped = if text.contains("wrapped\":\"A") {
        text.replace("wrapped\":\"A", "wrapped\":\"B")
    } else {
        text.replacen("wrapped\":\"", "wrapped\":\"A", 1)
    };
    for damaged in
        [renamed, flipped, "{}".to_owned(), "{\"format\":\"persist-keyring/1\",\"keys\":[]}".to_owned()]
    {
        let value = Value::Json(persist_core::Json::parse(damaged.clone()).unwrap());
        memory(&place).store(&key(RECORD), value, StoreOptions::new()).await.unwrap();
        assert_eq!(
            open(&place, envelope(&["k"])).await.unwrap_err().kind(),
            ErrorKind::Corruption,
            "{damaged}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_open_it_at_once_agree_on_one_key() {
    let place = MemoryPlace::new();
    let opened: Vec<_> = (0..8)
        .map(|number: u8| {
            let place = place.clone();
            tokio::spawn(async move {
                let storage = open(&place, envelope(&["k"])).await.unwrap();
                storage.put(format!("{number}"), &number).await.unwrap();
            })
        })
        .collect();
    for task in opened {
        task.await.unwrap();
    }
    let storage = open(&place, envelope(&["k"])).await.unwrap();
    assert!(storage.verify().await.unwrap().is_clean());
}

/// What a key management service does, but for keeping anything secret.
#[derive(Debug, Default)]
struct Service(AtomicUsize);

#[async_trait]
impl KeyWrapper for Service {
    fn id(&self) -> &str {
        "service"
    }

    async fn wrap(&self, key: &[u8; 32], context: &str) -> Result<Vec<u8>> {
        Ok([context.as_bytes(), &key[..]].concat())
    }

    async fn unwrap(&self, _: &str, wrapped: &[u8], context: &str) -> Result<zeroize::Zeroizing<[u8; 32]>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(&wrapped[..context.len()], context.as_bytes());
        Ok(zeroize::Zeroizing::new(wrapped[context.len()..].try_into().unwrap()))
    }
}

#[tokio::test]
async fn a_service_wraps_what_never_leaves_it() {
    let (place, service) = (MemoryPlace::new(), Service::default());
    for opened in 1..=2 {
        let storage = Encrypt::open_with(memory(&place), EncryptConfig::default(), &service).await.unwrap();
        storage.put("a", &1).await.unwrap();
        assert_eq!(storage.get::<u8>("a").await.unwrap(), Some(1));
        assert_eq!(service.0.load(Ordering::Relaxed), opened, "asked once an opening");
    }
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let both = EncryptConfig { keys: envelope(&["a"]).envelope, ..envelope(&["b"]) };
    let twice = EncryptConfig {
        envelope: [envelope(&["a"]).envelope, envelope(&["a"]).envelope].concat(),
        ..EncryptConfig::default()
    };
    for (config, why) in
        [(both, "both given"), (twice, "two keys"), (EncryptConfig::default(), "`keys` is empty")]
    {
        assert!(Encrypt::check(&config).unwrap_err().contains(why), "{why}");
        assert_eq!(open(&MemoryPlace::new(), config).await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    let closed = Encrypt::new(memory(&MemoryPlace::new()), envelope(&["k"])).unwrap_err();
    assert!(closed.message().contains("Encrypt::open"), "{closed}");
}

#[tokio::test]
async fn names_are_sealed_with_a_key_of_their_own_and_listed_in_their_order() {
    let place = MemoryPlace::new();
    let config = || EncryptConfig { key_names: Some("names".to_owned()), ..envelope(&["k"]) };
    let storage = open(&place, config()).await.unwrap();
    let mut names = ["a/1", "a/2", "a/10", "b", "a", "c/d/e", "a//"].map(key).to_vec();
    for name in &names {
        storage.put(name, &name.as_str()).await.unwrap();
    }
    names.sort();
    for below in place.keys().iter().filter(|below| below.as_str() != RECORD) {
        assert!(below.split('/').all(|level| level.len() >= 22), "{below}");
    }
    let mut watch = storage.watch("a/1").await.unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list_keys("", ListOptions::new().limit(3).after(after)).await.unwrap();
        listed.extend(page.keys);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, names);
    let under = storage.list_keys("a/1", ListOptions::new()).await.unwrap().keys;
    assert_eq!(under, ["a/1", "a/10"].map(key));
    storage.put("a/2", &0).await.unwrap();
    storage.put("a/10", &0).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().key(), Some(&key("a/10")));
    // The data key is another one by now; the names stay as they are.
    Encrypt::add_data_key_of(&memory(&place), &config()).await.unwrap();
    let storage = open(&place, EncryptConfig { rotate: true, ..config() }).await.unwrap();
    storage.maintain().await.unwrap();
    assert_eq!(storage.get::<String>("c/d/e").await.unwrap().unwrap(), "c/d/e");
    assert!(storage.delete(&key("c/d/e"), DeleteOptions::new()).await.unwrap());
    let error =
        storage.store(&key(&"x".repeat(900)), Value::bytes(""), StoreOptions::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.storage()), (ErrorKind::InvalidKey, Some("m")));
    // What somebody puts there by another name is not passed over.
    memory(&place).put("plain", &1).await.unwrap();
    assert_eq!(storage.list_keys("", ListOptions::new()).await.unwrap_err().kind(), ErrorKind::Corruption);
}
