//! What `docs/formats/redis.md` says is what lies in Redis, and what is opened wrongly is refused.
#![allow(clippy::unwrap_used)] // A panic here is the report.

#[path = "support/harness.rs"]
mod harness;

use harness::config;
use persist_core::{
    Array, BaseStorage, Entry, ErrorKind, Key, OpenContext, Operation, Secret, StorageExt, StoreOptions,
    Value,
};
use persist_redis::{Address, RedisConfig, RedisStorage};
use persist_testkit::redis::{Deployment, Reply};

async fn open(config: RedisConfig) -> persist_core::Result<RedisStorage> {
    RedisStorage::open("hot", config, &OpenContext::default()).await
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_readable_with_redis_cli() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let base = format!("{}:{{0}}", config.namespace);
    let storage = open(config).await.unwrap();
    let server = &redis.servers()[0];
    let text = r#"{"name": "Ada",  "born": 1815}"#;
    storage.store(&key("users/ada"), Value::json_text(text).unwrap(), StoreOptions::new()).await.unwrap();
    assert_eq!(server.command(&["HGET", &format!("{base}/users/ada"), "v"]).text(), text);
    let array = Array::from_vec(vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    storage.store(&key("w"), array.clone().into(), StoreOptions::new()).await.unwrap();
    let Reply::Bulk(Some(npy)) = server.command(&["HGET", &format!("{base}/w"), "v"]) else {
        panic!("no value")
    };
    assert_eq!(Array::from_npy(&npy.into()).unwrap(), array);
    storage.store(&key("large"), Value::bytes(vec![7; 600 << 10]), StoreOptions::new()).await.unwrap();
    let Reply::Array(fields) = server.command(&["HKEYS", &format!("{base}/large")]) else {
        panic!("no fields")
    };
    let mut fields: Vec<String> = fields.iter().map(Reply::text).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["0", "1", "2", "c", "m"]);
    let Reply::Array(members) = server.command(&["ZRANGE", &format!("{base}#index"), "0", "-1"]) else {
        panic!()
    };
    assert_eq!(members.iter().map(Reply::text).collect::<Vec<_>>(), ["large", "users/ada", "w"]);
}

/// A script that is denied a command in the middle is not undone by Redis, so a change is refused before it begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lacks_a_right_changes_nothing() {
    let Some(redis) = Deployment::standalone() else { return };
    let server = &redis.servers()[0];
    let usual = config(&redis, false, 1);
    let owner = open(usual.clone()).await.unwrap();
    owner.put("old", &vec![1; 100_000]).await.unwrap();
    for right in ["hset", "zadd", "zrem", "unlink", "hdel", "pexpire", "persist", "zrangebyscore"] {
        let acl = [
            "ACL",
            "SETUSER",
            "poor",
            "reset",
            "on",
            ">word",
            "~test-*",
            "&*",
            "+@all",
            &format!("-{right}"),
        ];
        assert_eq!(server.command(&acl), Reply::Status("OK".into()));
        let url = format!("redis://127.0.0.1:{}", server.port());
        let poor = RedisConfig::url(url).credentials("poor", Secret::new("word"));
        let poor = open(poor.namespace(usual.namespace.clone())).await.unwrap();
        let hour = std::time::Duration::from_secs(3600);
        for (name, options) in [("old", StoreOptions::new()), ("new", StoreOptions::new().ttl(hour))] {
            let error = poor.put_with(name, &2, options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AccessDenied, "{right}: {error}");
            assert!(error.message().contains(right) && !error.outcome_unknown(), "{error}");
        }
        assert_eq!(poor.remove("old").await.unwrap_err().kind(), ErrorKind::AccessDenied, "{right}");
        assert_eq!(poor.get::<Vec<i32>>("old").await.unwrap().unwrap().len(), 100_000, "{right}");
        // When he is given it he need not open the storage again: a refusal gives the connection up.
        server.command(&["ACL", "SETUSER", "poor", &format!("+{right}")]);
        drop(poor.put("given", &3).await);
        poor.put("given", &3).await.unwrap();
    }
    let names = owner.list_keys("", Default::default()).await.unwrap();
    assert_eq!(names.keys.iter().map(|key| key.as_str()).collect::<Vec<_>>(), ["given", "old"]);
    assert!(owner.verify().await.unwrap().is_clean());
    let Reply::Array(left) = server.command(&["KEYS", "*#rights"]) else { panic!("no list") };
    assert!(left.is_empty(), "{left:?}");
}

/// Nothing outside the namespace is touched, and two namespaces on a server do not see each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_apart() {
    let Some(redis) = Deployment::standalone() else { return };
    let server = &redis.servers()[0];
    server.command(&["SET", "other", "1"]);
    let first = open(config(&redis, true, 1)).await.unwrap();
    let second = open(config(&redis, true, 1)).await.unwrap();
    for storage in [&first, &second] {
        storage.put("k", &storage.describe().name()).await.unwrap();
        storage.put("}{/odd", &1).await.unwrap();
    }
    assert_eq!(first.clear("").await.unwrap(), 2);
    assert_eq!(second.list_keys("", persist_core::ListOptions::new()).await.unwrap().keys.len(), 2);
    assert_eq!(server.command(&["GET", "other"]).text(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_value_in_the_place_of_an_entry_is_damage() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let base = format!("{}:{{0}}", config.namespace);
    let storage = open(config).await.unwrap();
    let server = &redis.servers()[0];
    server.command(&["SET", &format!("{base}/string"), "1"]);
    server.command(&["HSET", &format!("{base}/hash"), "m", "junk", "v", "1"]);
    server.command(&["HSET", &format!("{base}/bare"), "v", "1"]);
    for name in ["string", "hash", "bare"] {
        let error = storage.retrieve(&key(name)).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::Corruption, Some(&key(name))), "{error:?}");
    }
    // There is nothing that a touch could keep.
    let touch = storage.touch(&key("hash"), persist_core::Expiry::Never).await;
    assert_eq!(touch.unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(server.command(&["HGET", &format!("{base}/hash"), "m"]).text(), "junk");
    // What is stored over it has nothing of it, not even how long it was to live.
    server.command(&["PEXPIRE", &format!("{base}/hash"), "3600000"]);
    server.command(&["ZADD", &format!("{base}#expiry"), "1", "hash"]);
    storage.put("hash", &2).await.unwrap();
    assert_eq!(storage.get::<u8>("hash").await.unwrap(), Some(2));
    assert_eq!(server.command(&["PTTL", &format!("{base}/hash")]).integer(), -1, "it never expires");
    assert_eq!(storage.maintain().await.unwrap().expired, 0);
}

/// The number of the database counts, from the URL and from `db`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_apart() {
    let Some(redis) = Deployment::standalone() else { return };
    let first = config(&redis, false, 1);
    let by_url = RedisConfig::url(format!("{}/1", redis.url())).namespace(first.namespace.clone());
    let by_db = RedisConfig { db: Some(1), ..first.clone() };
    let (first, by_url, by_db) =
        (open(first).await.unwrap(), open(by_url).await.unwrap(), open(by_db).await.unwrap());
    by_url.put("k", &1).await.unwrap();
    assert_eq!(by_db.get::<u8>("k").await.unwrap(), Some(1));
    assert_eq!(first.get::<u8>("k").await.unwrap(), None);
}

/// A part of a large value that was damaged is seen by whoever reads that part, and by nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_part_is_seen_in_a_range() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let place = format!("{}:{{0}}/k", config.namespace);
    let storage = open(config).await.unwrap();
    storage.store(&key("k"), Value::bytes(vec![7; 800 << 10]), StoreOptions::new()).await.unwrap();
    redis.servers()[0].command(&["HSET", &place, "1", &"x".repeat(256 << 10)]);
    let sound = storage.retrieve_range(&key("k"), 0..1000).await.unwrap().unwrap();
    assert_eq!(&sound[..], &[7; 1000]);
    let error = storage.retrieve_range(&key("k"), (256 << 10)..(257 << 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_says_why_and_shows_no_password() {
    let Some(redis) = Deployment::standalone() else { return };
    let right = || config(&redis, true, 1);
    let no_authority = RedisConfig { tls: None, ..right() };
    let wrong_password = right().credentials(redis.user().0, Secret::new("hunter2"));
    let nobody = RedisConfig::url("redis://u:hunter2@127.0.0.1:1");
    let brief = |config: RedisConfig| {
        let time = std::time::Duration::from_secs(3);
        config.timeouts(time, time, time)
    };
    for (config, kinds) in [
        (wrong_password, &[ErrorKind::AccessDenied][..]),
        (no_authority, &[ErrorKind::Unavailable]),
        (nobody, &[ErrorKind::Unavailable]),
        (RedisConfig { namespace: "a b".into(), ..right() }, &[ErrorKind::InvalidConfig]),
        (config(&redis, true, 1).namespace("forbidden"), &[ErrorKind::AccessDenied]),
        (RedisConfig::cluster(vec![Address::new("127.0.0.1", 1)]), &[ErrorKind::Unavailable]),
        (RedisConfig::sentinel(vec![Address::new("127.0.0.1", 1)], "main"), &[ErrorKind::Unavailable]),
    ] {
        let error = open(brief(config)).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{error:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2") && shown.contains("hot"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_spreads_keys_and_keeps_to_its_tags() {
    let Some(redis) = Deployment::cluster() else { return };
    let config = config(&redis, false, 32);
    let storage = open(config.clone()).await.unwrap();
    let keys: Vec<String> = (0..600).map(|i| format!("k{i:03}")).collect();
    for key in &keys {
        storage.put(key.as_str(), &1).await.unwrap();
    }
    for server in &redis.servers()[..3] {
        let names = server.command(&["DBSIZE"]).integer();
        assert!(names > 60, "{} holds {names} names of 600 entries", server.name());
    }
    let page = storage.list_keys("k1", persist_core::ListOptions::new().limit(30)).await.unwrap();
    assert_eq!(page.keys.iter().map(ToString::to_string).collect::<Vec<_>>(), keys[100..130]);
    let put = |name: &str| Operation::put(key(name), Value::bytes("x"), StoreOptions::new());
    let error = storage.transact(keys.iter().take(9).map(|name| put(name)).collect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("{part}"), "{error}");
    let done = storage.transact(vec![put("{ada}/name"), put("{ada}/born")]).await.unwrap();
    assert_eq!(done.len(), 2);
    let cluster = config.cluster.clone().map(|cluster| persist_redis::ClusterConfig { tags: 8, ..cluster });
    let error = open(RedisConfig { cluster, ..config }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    let found: Option<Entry> = storage.retrieve(&key("k000")).await.unwrap();
    assert!(found.is_some());
}
