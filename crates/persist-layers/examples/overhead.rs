//! What a layer costs that does nothing: `cargo run --release -p persist-layers --all-features --example overhead`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it prints what it measures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use persist_core::{BaseStorage, ByteSize, Key, Secret, StoreOptions, Value};
use persist_layers::{
    Codec, Compress, CompressConfig, Encrypt, EncryptConfig, EncryptKey, Guarded, SizeLimit, SizeLimitConfig,
    Timeout, Verify, VerifyConfig,
};
use persist_testkit::memory::MemoryStorage;

type Storage = Arc<dyn BaseStorage>;

const CALLS: u32 = 200_000;

/// Nanoseconds for one `contains`, the best of some rounds.
async fn contains(storage: &Storage, key: &Key) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..9 {
        let begun = Instant::now();
        for _ in 0..CALLS {
            storage.contains(key).await.unwrap();
        }
        best = best.min(begun.elapsed());
    }
    best.as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// Megabytes a second, the best of some rounds.
fn rate(bytes: usize, mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..9 {
        let begun = Instant::now();
        work();
        best = best.min(begun.elapsed());
    }
    bytes as f64 / best.as_secs_f64() / 1e6
}

fn records(bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 100);
    let mut n = 1_u64;
    while text.len() < bytes {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend(format!("{{\"id\":{},\"name\":\"user{}\",\"on\":true}},", n >> 40, n >> 52).bytes());
    }
    text.truncate(bytes);
    text
}

async fn store_and_retrieve(name: &str, layer: &Storage, plain: &[u8]) {
    let (key, value) = (Key::new("k").unwrap(), Value::bytes(plain.to_vec()));
    let runtime = tokio::runtime::Handle::current();
    let store = tokio::task::block_in_place(|| {
        rate(plain.len(), || {
            runtime.block_on(layer.store(&key, value.clone(), StoreOptions::new())).unwrap();
        })
    });
    let retrieve = tokio::task::block_in_place(|| {
        rate(plain.len(), || {
            runtime.block_on(layer.retrieve(&key)).unwrap();
        })
    });
    println!("{name}: store {store:.0} MB/s, retrieve {retrieve:.0} MB/s");
}

#[tokio::main]
async fn main() {
    let (memory, key): (Storage, Key) = (Arc::new(MemoryStorage::new("m")), Key::new("k").unwrap());
    memory.store(&key, Value::bytes("v"), StoreOptions::new()).await.unwrap();
    let forwarding: Storage = Arc::new(SizeLimit::new(memory.clone(), &SizeLimitConfig::new(1 << 20)));
    let checking: Storage = Arc::new(Verify::new(memory.clone(), &VerifyConfig { ranges: false }));
    let timed: Storage = Arc::new(Guarded::new(memory.clone(), Timeout::new(Duration::from_secs(1))));
    let bare = contains(&memory, &key).await;
    println!("contains: memory {bare:.0} ns");
    for (name, storage) in [("size_limit", &forwarding), ("verify", &checking), ("timeout", &timed)] {
        println!("contains: {name} +{:.0} ns", contains(storage, &key).await - bare);
    }
    let plain = records(8 << 20);
    store_and_retrieve("memory", &memory, &plain).await;
    for codec in [Codec::Zstd, Codec::Lz4, Codec::Gzip] {
        let config = CompressConfig { codec, threshold: ByteSize(1), ..CompressConfig::default() };
        let layer: Storage = Arc::new(Compress::new(Arc::new(MemoryStorage::new("m")), config));
        store_and_retrieve(&format!("{codec:?}"), &layer, &plain).await;
    }
    let keys = vec![EncryptKey { id: "k".to_owned(), secret: Secret::new("c3".repeat(32)) }];
    let config = EncryptConfig { keys, rules: Vec::new(), allow_plaintext: false, rotate: false };
    let layer: Storage = Arc::new(Encrypt::new(Arc::new(MemoryStorage::new("m")), config).unwrap());
    store_and_retrieve("encrypt", &layer, &plain).await;
}
