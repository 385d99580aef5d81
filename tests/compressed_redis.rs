//! Redis under the layer that compresses, from YAML: what is small is readable with redis-cli, what is large is small there.
#![cfg(all(feature = "redis", feature = "compress"))]
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use persist::{Checksum, Key, Kind, LoadOptions, Plan, StorageManager, StoreOptions, Value};
use persist_testkit::redis::{Deployment, Reply};

/// The storage of `config/redis.yaml`, on a server of the test.
fn yaml(redis: &Deployment) -> String {
    format!(
        "
persistence:
  storages:
    hot:
      type: redis
      url: '{}'
      namespace: app
      layers: [ {{ compress: {{ threshold: 1KiB }} }} ]
",
        redis.url()
    )
}

/// A field of an entry, as redis-cli shows it.
fn field(redis: &Deployment, key: &str, name: &str) -> Vec<u8> {
    match redis.servers()[0].command(&["HGET", &format!("app:{{0}}/{key}"), name]) {
        Reply::Bulk(Some(bytes)) => bytes,
        other => panic!("{key} has no {name}: {other:?}"),
    }
}

fn record(redis: &Deployment, key: &str) -> String {
    String::from_utf8(field(redis, key, "m")).unwrap()
}

/// JSON text of some length that compresses well.
fn document(size: usize) -> String {
    format!("\"{}\"", "persist ".repeat(size / 8 + 1).get(..size - 2).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_the_threshold_is_compressed_and_the_rest_is_readable() {
    let Some(redis) = Deployment::standalone() else { return };
    let plan = Plan::from_yaml(&yaml(&redis), &LoadOptions::default()).unwrap();
    let manager = StorageManager::open(plan).await.unwrap();
    let hot = manager.storage("hot").unwrap();
    let (small, large) = (document(1023), document(1024));
    for (key, text) in [("small", &small), ("large", &large)] {
        let tags = StoreOptions::new().tag("owner", "ada");
        manager.store(key, Value::json_text(text.clone()).unwrap(), tags).await.unwrap();
    }

    assert_eq!(field(&redis, "small", "v"), small.as_bytes());
    let line = record(&redis, "small");
    assert!(line.contains(" json 1023 ") && !line.contains("persist-compress"), "{line}");

    // Below it is bytes: a frame of zstd (RFC 8878 gives the first four), much shorter, with a note of what it was.
    let body = field(&redis, "large", "v");
    assert_eq!(body.get(..4).unwrap(), [0x28, 0xB5, 0x2F, 0xFD]);
    assert!(body.len() < 200, "{} bytes", body.len());
    let line = record(&redis, "large");
    assert!(line.contains(&format!(" bytes {} 1 0 ", body.len())), "{line}");
    assert!(line.contains("\"persist-compress/1 zstd json 1024 "), "{line}");

    for (key, text) in [("small", &small), ("large", &large)] {
        let entry = hot.retrieve(&Key::new(key).unwrap()).await.unwrap().unwrap();
        let metadata = &entry.metadata;
        assert_eq!((metadata.kind, metadata.size), (Kind::Json, text.len() as u64));
        assert_eq!(metadata.tags.get("owner"), Some("ada"));
        assert_eq!(entry.value, Value::json_text(text.clone()).unwrap());
    }
    // What does not become smaller stays as it is.
    let noise: Vec<u8> = (0..64_u8).flat_map(|at| *Checksum::of(&[&[at]]).as_bytes()).collect();
    manager.store("noise", Value::bytes(noise.clone()), StoreOptions::new()).await.unwrap();
    assert_eq!(field(&redis, "noise", "v"), noise);
    assert!(hot.verify().await.unwrap().is_clean());
    manager.close().await.unwrap();
}
