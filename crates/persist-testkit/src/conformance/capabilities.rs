use std::sync::Arc;
use std::time::{Duration, Instant};

use persist_core::{
    Array, Capabilities, ErrorKind, Key, Operation, StorageExt, StoreItem, StoreOptions, Value,
};

use super::kit::{
    Storage, at_once, bytes, entry, expect_absent, expect_error, expect_value, get, key, keys, list, noise,
    numbered, put, remove,
};
use super::lifecycle::every_call;
use super::{Harness, Stop, Verdict};
use crate::Variant;

group! { "Capabilities":
    C171 "A storage that is not durable begins empty every time" not_durable,
    C172 "shared: what one handle changes the other sees" shared_sees,
    C173 "shared: of creators that race through two handles one wins" shared_creators,
    C174 "shared: a counter kept through two handles loses no increment" shared_counter,
    C175 "shared: no version is used by two handles" shared_versions,
    C176 "A storage that is not shared refuses a second handle" not_shared,
    C177 "atomic_transact: transactions at the same time leave all of one or none" atomic_transact,
    C178 "native_expiry: expired values leave by themselves" native_expiry,
    C179 "native_ranges: a range costs less than the whole" native_ranges,
    C180 "native_arrays: other tools read what was stored" native_arrays,
    C181 "A storage that does not claim to evict keeps everything" never_evicts,
    C182 "evicts: it makes room and stays right" evicts,
    C183 "read_only: every change is refused and everything can be read" read_only,
}

fn claims(storage: &Storage) -> Capabilities {
    storage.describe().capabilities()
}

async fn not_durable(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(!claims(&storage).durable, "it is durable");
    put(&storage, &key("k")?, &bytes("x")).await?;
    storage.close().await?;
    drop(storage);
    let storage = harness.open().await?;
    expect_absent(&storage, &key("k")?).await?;
    ensure_eq!(list(&storage, "").await?, [], "the keys");
    Ok(())
}

/// Two handles on one place.
async fn two_handles(harness: &dyn Harness) -> Result<[Storage; 2], Stop> {
    let first = harness.open().await?;
    require!(claims(&first).shared, "it does not claim to be shared");
    let Some(second) = harness.open_another().await? else {
        return Err(Stop::broken("it claims to be shared, and the harness opens no second handle"));
    };
    Ok([first, second])
}

async fn shared_sees(harness: &dyn Harness) -> Verdict {
    let handles = two_handles(harness).await?;
    let keys = keys(&["k", "l"])?;
    for round in 0..10 {
        let (here, there) = (&handles[round % 2], &handles[(round + 1) % 2]);
        let options = StoreOptions::new().tag("round", round.to_string());
        let stored = here.store(&keys[0], noise(100 + round, round as u64), options).await?;
        let found = entry(there, &keys[0]).await?;
        ensure_eq!(found.value, noise(100 + round, round as u64), "the value through the other handle");
        ensure_eq!(found.metadata, stored, "the metadata through the other handle");
        put(there, &keys[1], &bytes("x")).await?;
        ensure_eq!(list(here, "").await?, keys, "the keys through the other handle");
        ensure!(remove(here, &keys[1]).await?, "delete of what the other handle stored says false");
        expect_absent(there, &keys[1]).await?;
    }
    Ok(())
}

async fn shared_creators(harness: &dyn Harness) -> Verdict {
    let handles = Arc::new(two_handles(harness).await?);
    for round in 0..10 {
        let key = key(&format!("k{round}"))?;
        let answers =
            at_once(16, |i| {
                let (handles, key) = (Arc::clone(&handles), key.clone());
                async move {
                    handles[i % 2].store(&key, noise(50, i as u64), StoreOptions::new().if_absent()).await
                }
            })
            .await?;
        let winners: Vec<_> = (0..16).filter(|i| answers[*i].is_ok()).collect();
        ensure_eq!(winners.len(), 1, "how many of 16 creators won");
        let found = entry(&handles[0], &key).await?;
        ensure_eq!(found.value, noise(50, winners[0] as u64), "the value after the race");
        for answer in answers.into_iter().filter(Result::is_err) {
            let error = expect_error(answer, ErrorKind::Conflict, "a creator who came too late")?;
            ensure_eq!(error.found(), Some(found.metadata.version), "the version that a loser learns");
        }
    }
    Ok(())
}

async fn shared_counter(harness: &dyn Harness) -> Verdict {
    let handles = Arc::new(two_handles(harness).await?);
    let work = at_once(8, |i| {
        let handles = Arc::clone(&handles);
        async move {
            for _ in 0..10 {
                handles[i % 2].update("n", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
            }
            Verdict::Ok(())
        }
    });
    for verdict in work.await? {
        verdict?;
    }
    for handle in handles.iter() {
        ensure_eq!(
            handle.get::<u64>("n").await?,
            Some(80),
            "the counter after 80 updates through two handles"
        );
    }
    Ok(())
}

async fn shared_versions(harness: &dyn Harness) -> Verdict {
    let (handles, key) = (two_handles(harness).await?, key("k")?);
    let mut last = None;
    for round in 0..10 {
        let (here, there) = (&handles[round % 2], &handles[(round + 1) % 2]);
        let version = put(here, &key, &noise(30, round as u64)).await?.version;
        ensure!(Some(version) > last, "version {version} follows {last:?} through the other handle");
        let again = put(there, &key, &noise(40, round as u64)).await?.version;
        ensure!(again > version, "version {again} follows {version} through the other handle");
        remove(there, &key).await?;
        let reborn = put(here, &key, &noise(50, round as u64)).await?.version;
        ensure!(
            reborn > again,
            "version {reborn} follows {again}, which was deleted through the other handle"
        );
        last = Some(reborn);
    }
    Ok(())
}

async fn not_shared(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(!claims(&storage).shared, "it is shared");
    match harness.open_another().await {
        Ok(None) => Err(Stop::skipped("a second handle on the same place makes no sense here")),
        Ok(Some(_)) => Err(Stop::broken("a second handle opens, and it does not claim to be shared")),
        Err(error) => {
            ensure_eq!(error.kind(), ErrorKind::Locked, "the kind of the error ({error:?})");
            put(&storage, &key("k")?, &bytes("x")).await?;
            expect_value(&storage, &key("k")?, &bytes("x")).await
        }
    }
}

async fn atomic_transact(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(claims(&storage).atomic_transact, "it does not claim that transactions are atomic");
    let pair = Arc::new(keys(&["a", "b"])?);
    for key in pair.iter() {
        storage.put(key, &0_u64).await?;
    }
    let work = at_once(8, |_| {
        let (storage, pair) = (Arc::clone(&storage), Arc::clone(&pair));
        async move {
            for _ in 0..10 {
                count_both(&storage, &pair).await?;
            }
            Verdict::Ok(())
        }
    });
    for verdict in work.await? {
        verdict?;
    }
    for key in pair.iter() {
        ensure_eq!(storage.get::<u64>(key).await?, Some(80), "counter {key:?} after 80 transactions on both");
    }
    Ok(())
}

/// Adds one to both counters in one transaction.
async fn count_both(storage: &Storage, pair: &[Key]) -> Verdict {
    for _ in 0..10_000 {
        let mut steps = Vec::new();
        for key in pair {
            let found = entry(storage, key).await?;
            let options = StoreOptions::new().if_version(found.metadata.version);
            steps.push(Operation::put(key.clone(), Value::json(&(found.to::<u64>()? + 1))?, options));
        }
        match storage.transact(steps).await {
            Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
            result => return Ok(result.map(drop)?),
        }
    }
    Err(Stop::broken("a transaction met 10000 conflicts in a row: nobody makes progress"))
}

async fn native_expiry(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(claims(&storage).native_expiry, "it does not claim that expired values leave by themselves");
    for (i, key) in numbered("k", 25)?.iter().enumerate() {
        let lifetime = if i < 20 { harness.tick() } else { harness.tick() * 1000 };
        storage.store(key, noise(100, i as u64), StoreOptions::new().ttl(lifetime)).await?;
    }
    harness.advance(harness.tick() * 2).await;
    let begun = Instant::now();
    while storage.stats().await?.keys.is_some_and(|keys| keys > 5) {
        ensure!(begun.elapsed() < Duration::from_secs(20), "expired values are still counted after 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = storage.maintain().await?.expired;
    ensure_eq!(found, 0, "how many expired values were still there for maintain to remove");
    ensure_eq!(list(&storage, "").await?.len(), 5, "how many keys live on");
    Ok(())
}

async fn native_ranges(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    require!(claims(&storage).native_ranges, "it does not claim that a range is read alone");
    let size = storage.describe().max_value_bytes().min(16 << 20);
    let value = noise(usize::try_from(size).unwrap_or(usize::MAX), 1);
    put(&storage, &key, &value).await?;
    let (mut whole, mut part) = (Duration::MAX, Duration::MAX);
    // The least of many: whatever else runs on the machine makes single figures larger.
    for round in 0..24 {
        let begun = Instant::now();
        let found = get(&storage, &key).await?;
        whole = whole.min(begun.elapsed());
        ensure!(found.as_ref() == Some(&value), "the value is another one");
        let begun = Instant::now();
        let start = size / 25 * round;
        let found = storage.retrieve_range(&key, start..start + 1000).await?;
        part = part.min(begun.elapsed());
        ensure!(found == Some(value.range(start..start + 1000)), "the range from {start} is another one");
    }
    ensure!(part * 2 < whole, "1000 bytes take {part:?}, and all {size} bytes take {whole:?}");
    Ok(())
}

async fn native_arrays(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("group/array")?);
    require!(claims(&storage).native_arrays, "it does not claim that other tools open its arrays");
    let arrays = [
        Array::from_vec(vec![3, 4], (0..12).map(|i| f64::from(i) / 3.0).collect())?,
        Array::from_vec(vec![5], vec![-1_i16, 2, -3, 4, 5])?,
        Array::from_vec(vec![], vec![7_u64])?,
        Array::from_vec::<f32>(vec![0, 3], vec![])?,
    ];
    for array in arrays {
        put(&storage, &key, &array.clone().into()).await?;
        storage.flush().await?;
        let Some(found) = harness.foreign_array(&key).await? else {
            return Err(Stop::skipped("the harness has no other means to read an array"));
        };
        ensure!(found == array, "other means read {found:?} where {array:?} was stored, or other elements");
    }
    Ok(())
}

async fn never_evicts(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(!claims(&storage).evicts, "it evicts");
    let keys = fill_up(&storage).await?;
    ensure_eq!(list(&storage, "").await?.len(), keys.len(), "how many of 2000 keys are listed");
    for (i, key) in keys.iter().enumerate() {
        expect_value(&storage, key, &noise(1024, i as u64)).await?;
    }
    Ok(())
}

/// 2000 values of 1 KiB.
async fn fill_up(storage: &Storage) -> Result<Vec<Key>, Stop> {
    let keys = numbered("k", 2000)?;
    for (part, chunk) in keys.chunks(500).enumerate() {
        let item =
            |(i, key): (usize, &Key)| StoreItem::new(key.clone(), noise(1024, (part * 500 + i) as u64));
        for answer in storage.store_many(chunk.iter().enumerate().map(item).collect()).await {
            answer?;
        }
    }
    Ok(keys)
}

async fn evicts(harness: &dyn Harness) -> Verdict {
    let usual = harness.open().await?;
    require!(claims(&usual).evicts, "it does not evict");
    drop(usual);
    let Some(storage) = harness.open_variant(Variant::Small).await? else {
        return Err(Stop::broken("it claims to evict, and the harness opens no small one"));
    };
    let keys = fill_up(&storage).await?;
    let left = list(&storage, "").await?;
    ensure!(left.len() < 1000, "{} of 2000 values are there, and there is room for a hundred", left.len());
    ensure!(!left.is_empty(), "none of 2000 values is there, and there is room for a hundred");
    for (i, key) in keys.iter().enumerate() {
        let found = get(&storage, key).await?;
        ensure!(found.is_none() || found == Some(noise(1024, i as u64)), "{key:?} holds another value");
    }
    Ok(())
}

async fn read_only(harness: &dyn Harness) -> Verdict {
    let usual = harness.open().await?;
    let durable = claims(&usual).durable;
    let (key, value) = (key("k")?, noise(1000, 1));
    let stored = usual.store(&key, value.clone(), StoreOptions::new().tag("t", "x")).await?;
    usual.close().await?;
    drop(usual);
    let Some(storage) = harness.open_variant(Variant::ReadOnly).await? else {
        return Err(Stop::skipped("the harness opens no storage for reading only"));
    };
    ensure!(claims(&storage).read_only, "it was opened for reading only and does not say so");
    let reads = [
        "retrieve",
        "list_keys",
        "metadata",
        "contains",
        "retrieve_range",
        "snapshot",
        "retrieve_many",
        "verify",
        "stats",
    ];
    for (call, answer) in every_call(&storage, &key).await {
        if reads.contains(&call) {
            answer?;
        } else if !["flush", "transact of a check"].contains(&call) {
            expect_error(answer, ErrorKind::ReadOnly, &format!("{call} on a storage for reading only"))?;
        }
    }
    if durable {
        let found = entry(&storage, &key).await?;
        ensure!(found.value == value && found.metadata == stored, "a refused change has changed something");
        ensure_eq!(list(&storage, "").await?, [key], "the keys");
    }
    Ok(())
}
