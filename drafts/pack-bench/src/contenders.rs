//! Packs of persist: as a storage, and as one file.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use persist_core::{BaseStorage, Key, ListOptions, OpenContext, StoreItem, Tags, Value};
use persist_pack::{Archive, Compression, Durability, PackBuilder, PackConfig, PackStorage};

use crate::{Figures, Outcome, Records, time};

/// How many records are stored with one call.
const BATCH: u64 = 4096;

/// Each change is on the disk before the next batch begins.
pub(crate) fn strict(records: Records, place: &Path) -> Outcome<Figures> {
    storage(records, place, Durability::Strict)
}

/// All changes are on the disk when the storage is closed, as with the others.
pub(crate) fn relaxed(records: Records, place: &Path) -> Outcome<Figures> {
    storage(records, place, Durability::Relaxed)
}

fn storage(records: Records, place: &Path, durability: Durability) -> Outcome<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = PackConfig::new(place.join("packs")).durability(durability).compression(Compression::None);
    let open = || PackStorage::open("packs", config.clone(), &OpenContext::default());
    let (ingest, ()) = time(|| {
        runtime.block_on(async {
            let storage = open().await?;
            let mut at = 0;
            while at < records.count {
                let end = (at + BATCH).min(records.count);
                let item = |at| Ok(StoreItem::new(Key::new(records.key(at))?, Value::bytes(records.value(at))));
                let items = (at..end).map(item).collect::<persist_core::Result<Vec<_>>>()?;
                storage.store_many(items).await.into_iter().collect::<persist_core::Result<Vec<_>>>()?;
                at = end;
            }
            storage.close().await
        })?;
        Ok(())
    })?;
    runtime.block_on(async {
        let start = Instant::now();
        let storage = open().await?;
        let first = storage.retrieve(&Key::new(records.key(records.count / 2))?).await?;
        let open = start.elapsed();
        assert!(first.is_some());
        let start = Instant::now();
        for at in records.wanted() {
            let found = storage.retrieve(&Key::new(records.key(at))?).await?;
            assert_eq!(found.map(|entry| entry.metadata.size), Some(records.size as u64));
        }
        let lookup = (records.lookups, start.elapsed());
        let start = Instant::now();
        let mut seen = 0;
        let mut after = None;
        loop {
            let page = storage.list_keys("", ListOptions::new().limit(10_000).after(after)).await?;
            seen += page.keys.len() as u64;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let list = start.elapsed();
        assert_eq!(seen, records.count);
        let start = Instant::now();
        let report = storage.verify().await?;
        let verify = start.elapsed();
        assert!(report.is_clean() && report.checked == records.count);
        storage.close().await?;
        let (ingest, open, lookup) = (Some(ingest), Some(open), Some(lookup));
        Ok(Figures { ingest, open, lookup, list: Some(list), verify: Some(verify) })
    })
}

/// Keys come in order, as `PackBuilder` wants them.
pub(crate) fn built(records: Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("x.pack");
    let mut order: Vec<(String, u64)> = (0..records.count).map(|at| (records.key(at), at)).collect();
    order.sort_unstable();
    let (ingest, _) = time(|| {
        let mut builder = PackBuilder::create(&path, Compression::None)?;
        for (key, at) in &order {
            let value = Value::bytes(records.value(*at));
            builder.add_value(&Key::new(key.as_str())?, &value, None, Tags::new(), Vec::new())?;
        }
        Ok(builder.finish(None)?)
    })?;
    let (open, archive) = time(|| {
        let archive = Archive::open(&path)?;
        assert!(archive.read(&Key::new(records.key(records.count / 2))?)?.is_some());
        Ok(archive)
    })?;
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            assert!(archive.read(&Key::new(records.key(at))?)?.is_some());
        }
        Ok(())
    })?;
    let (list, seen) = time(|| Ok(archive.items()?.len() as u64))?;
    assert_eq!(seen, records.count);
    let (verify, found) = time(|| Ok(archive.verify(None, |_| ())?))?;
    assert!(found.problems.is_empty());
    let lookup = Some((records.lookups, lookup));
    Ok(Figures { ingest: Some(ingest), open: Some(open), lookup, list: Some(list), verify: Some(verify) })
}

/// What a verification costs at least.
pub(crate) fn hashing(records: Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("values");
    let values: Vec<u8> = (0..records.count).flat_map(|at| records.value(at)).collect();
    std::fs::write(&path, &values)?;
    drop(values);
    let bytes = std::fs::read(&path)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let portions: Vec<&[u8]> = bytes.chunks(records.size * 4096).collect();
    let (next, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    let (verify, ()) = time(|| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(portion) = portions.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                        for value in portion.chunks(records.size) {
                            sum.fetch_add(u64::from(blake3::hash(value).as_bytes()[0]), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        Ok(())
    })?;
    assert!(sum.into_inner() > 0);
    Ok(Figures { verify: Some(verify), ..Figures::default() })
}
