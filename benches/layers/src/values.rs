//! Values that a layer encodes, beside the bare codec or cipher followed by the bare storage: what a program without the layer would do.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use persist_core::{ByteSize, Key, Secret, StoreOptions, Value};
use persist_layers::{Codec, Compress, CompressConfig, Encrypt, EncryptConfig, EncryptKey};
use tokio::runtime::Handle;

use crate::bare::{Bare, Gcm, Gzip, Lz4, Zstd};
use crate::{Outcome, ROUNDS, Storage, cache, median};

/// How large the values are.
const SIZES: [usize; 3] = [16 << 10, 1 << 20, 8 << 20];

/// About how many bytes one sample goes through.
const SAMPLE: usize = 16 << 20;

struct Contender {
    name: &'static str,
    layer: Storage,
    bare: Box<dyn Bare>,
    /// Where the bare one stores what it encoded.
    below: Storage,
}

pub(crate) fn run() -> Outcome<()> {
    println!();
    println!(
        "| values, MB/s of plain bytes | size | layer, store | bare | share | layer, retrieve | bare | share |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    tokio::task::block_in_place(|| {
        for size in SIZES {
            let plain = records(size);
            for contender in contenders()? {
                row(&contender, &plain)?;
            }
        }
        Ok(())
    })
}

fn contenders() -> Outcome<Vec<Contender>> {
    let compress = |name, codec, bare: Box<dyn Bare>| -> Outcome<Contender> {
        let config = CompressConfig { codec, threshold: ByteSize(1), ..CompressConfig::default() };
        Ok(Contender { name, layer: Arc::new(Compress::new(cache()?, config)), bare, below: cache()? })
    };
    let keys = vec![EncryptKey { id: "k".to_owned(), secret: Secret::new("c3".repeat(32)) }];
    let encrypt = Encrypt::new(cache()?, EncryptConfig { keys, ..EncryptConfig::default() })?;
    Ok(vec![
        compress("zstd", Codec::Zstd, Box::new(Zstd))?,
        compress("lz4", Codec::Lz4, Box::new(Lz4))?,
        compress("gzip", Codec::Gzip, Box::new(Gzip))?,
        Contender { name: "encrypt", layer: Arc::new(encrypt), bare: Box::new(Gcm::new()?), below: cache()? },
    ])
}

fn row(contender: &Contender, plain: &Bytes) -> Outcome<()> {
    let (key, handle) = (Key::new("k")?, Handle::current());
    let times = (SAMPLE / plain.len()).max(1);
    let mut samples: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let store = |storage: &Storage, value: Bytes| -> Outcome<()> {
            handle.block_on(storage.store(&key, Value::Bytes(value), StoreOptions::new()))?;
            Ok(())
        };
        let retrieve = |storage: &Storage| -> Outcome<Bytes> {
            let found = handle.block_on(storage.retrieve(&key))?;
            found.map(|entry| entry.value.buffer().clone()).ok_or_else(|| "it is gone".into())
        };
        samples[0].push(rate(times, plain.len(), || store(&contender.layer, plain.clone()))?);
        samples[2].push(rate(times, plain.len(), || retrieve(&contender.layer).map(drop))?);
        let bare = &contender.bare;
        samples[1].push(rate(times, plain.len(), || store(&contender.below, bare.encode(plain)?))?);
        samples[3].push(rate(times, plain.len(), || {
            bare.decode(&retrieve(&contender.below)?, plain.len()).map(drop)
        })?);
        assert_eq!(retrieve(&contender.layer)?, *plain);
    }
    let [layer_store, bare_store, layer_retrieve, bare_retrieve] = samples.map(median);
    println!(
        "| {} | {} | {layer_store:.0} | {bare_store:.0} | {:.2} | {layer_retrieve:.0} | {bare_retrieve:.0} | {:.2} |",
        contender.name,
        ByteSize(plain.len() as u64),
        layer_store / bare_store,
        layer_retrieve / bare_retrieve
    );
    Ok(())
}

/// Megabytes a second.
fn rate(times: usize, bytes: usize, mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let begun = Instant::now();
    for _ in 0..times {
        work()?;
    }
    Ok((times * bytes) as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

/// JSON records that compress about as real ones do.
fn records(bytes: usize) -> Bytes {
    let mut text = Vec::with_capacity(bytes + 100);
    let mut n = 1_u64;
    while text.len() < bytes {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend(format!("{{\"id\":{},\"name\":\"user{}\",\"on\":true}},", n >> 40, n >> 52).bytes());
    }
    text.truncate(bytes);
    text.into()
}
