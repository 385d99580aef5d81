//! Packs of persist: as a storage, and as one file.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use persist_core::{BaseStorage, Key, ListOptions, OpenContext, StoreItem, Tags, Value};
use persist_pack::{Archive, Compression, Durability, PackBuilder, PackConfig, PackStorage};
use tokio::runtime::Runtime;

use crate::figures::{Figures, PAGE, PAGES, rate, seconds};
use crate::records::Records;
use crate::{Outcome, time};

/// How many records are stored with one call.
const BATCH: u64 = 4096;

/// Each batch is on the disk before the next one begins.
pub(crate) fn strict(records: &Records, place: &Path) -> Outcome<Figures> {
    storage(records, place, Durability::Strict)
}

/// All changes are on the disk when the storage is closed, as with the others.
pub(crate) fn relaxed(records: &Records, place: &Path) -> Outcome<Figures> {
    storage(records, place, Durability::Relaxed)
}

fn storage(records: &Records, place: &Path, durability: Durability) -> Outcome<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = PackConfig::new(place.join("packs")).durability(durability);
    let open = || runtime.block_on(PackStorage::open("packs", config.clone(), &OpenContext::default()));
    let (ingest, ()) = time(|| {
        let storage = open()?;
        runtime.block_on(fill(&storage, records))?;
        Ok(runtime.block_on(storage.close())?)
    })?;
    let (open, storage) = time(|| {
        let storage = open()?;
        let found = runtime.block_on(storage.retrieve(&Key::new(records.key(records.count / 2))?))?;
        assert!(found.is_some(), "a record is missing");
        Ok(storage)
    })?;
    let mut figures = look(&runtime, &storage, records)?;
    let (verify, report) = time(|| Ok(runtime.block_on(storage.verify())?))?;
    assert!(report.is_clean() && report.checked == records.count, "not everything is there");
    runtime.block_on(storage.close())?;
    (figures.ingest, figures.open, figures.verify) =
        (rate(records.count, ingest), seconds(open), seconds(verify));
    Ok(figures)
}

async fn fill(storage: &PackStorage, records: &Records) -> persist_core::Result<()> {
    let mut at = 0;
    while at < records.count {
        let end = (at + BATCH).min(records.count);
        let item = |at| Ok(StoreItem::new(Key::new(records.key(at))?, Value::bytes(records.value(at))));
        let items = (at..end).map(item).collect::<persist_core::Result<Vec<_>>>()?;
        storage.store_many(items).await.into_iter().collect::<persist_core::Result<Vec<_>>>()?;
        at = end;
    }
    Ok(())
}

fn look(runtime: &Runtime, storage: &PackStorage, records: &Records) -> Outcome<Figures> {
    let (lookup, ()) = time(|| {
        runtime.block_on(async {
            for at in records.wanted() {
                let found = storage.retrieve(&Key::new(records.key(at))?).await?;
                assert_eq!(found.map(|entry| entry.metadata.size), Some(records.size as u64));
            }
            Ok(())
        })
    })?;
    let (paged, ()) = time(|| {
        runtime.block_on(async {
            for at in records.wanted().take(PAGES as usize) {
                let options = ListOptions::new().limit(PAGE).after(Some(Key::new(records.key(at))?));
                storage.list_keys("", options).await?;
            }
            Ok(())
        })
    })?;
    let (list, seen) = time(|| {
        runtime.block_on(async {
            let (mut seen, mut after) = (0, None);
            loop {
                let page = storage.list_keys("", ListOptions::new().limit(10_000).after(after)).await?;
                seen += page.keys.len() as u64;
                after = page.next;
                if after.is_none() {
                    return Ok(seen);
                }
            }
        })
    })?;
    assert_eq!(seen, records.count);
    Ok(Figures {
        lookup: rate(records.lookups, lookup),
        page: rate(PAGES.min(records.lookups), paged),
        list: seconds(list),
        ..Figures::default()
    })
}

/// Keys come in order, as `PackBuilder` wants them.
pub(crate) fn built(records: &Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("x.pack");
    let mut order: Vec<(String, u64)> = (0..records.count).map(|at| (records.key(at), at)).collect();
    order.sort_unstable();
    let (ingest, _) = time(|| {
        let mut builder = PackBuilder::create(&path, Compression::Deflate)?;
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
    Ok(Figures {
        ingest: rate(records.count, ingest),
        open: seconds(open),
        lookup: rate(records.lookups, lookup),
        list: seconds(list),
        verify: seconds(verify),
        ..Figures::default()
    })
}

/// What a verification costs at least: the values in a file that is in the page cache, each hashed.
pub(crate) fn hashing(records: &Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("values");
    let values: Vec<u8> = (0..records.count).flat_map(|at| records.value(at)).collect();
    std::fs::write(&path, &values)?;
    drop(values);
    let bytes = std::fs::read(&path)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let portions: Vec<&[u8]> = bytes.chunks(records.size * 4096).collect();
    let (next, sum) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(portion) = portions.get(next.fetch_add(1, Ordering::Relaxed)) {
            for value in portion.chunks(records.size) {
                sum.fetch_add(u64::from(blake3::hash(value).as_bytes()[0]), Ordering::Relaxed);
            }
        }
    };
    let (verify, ()) = time(|| {
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        Ok(())
    })?;
    assert!(sum.into_inner() > 0);
    Ok(Figures { verify: seconds(verify), ..Figures::default() })
}
