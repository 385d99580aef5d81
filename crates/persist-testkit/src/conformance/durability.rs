use persist_core::{
    Condition, DeleteOptions, ErrorKind, Key, Metadata, Operation, StoreItem, StoreOptions, Value,
};

use super::kit::{
    Storage, bytes, entry, expect_absent, expect_error, expect_value, key, keys, list, noise, numbered,
    one_of_each, put, remove,
};
use super::{Harness, Verdict};
use crate::hostile;

group! { "Reopening":
    C164 "Every value and its metadata is there after reopening" everything_is_there,
    C165 "Every hostile key is there after reopening" keys_are_there,
    C166 "What was deleted stays deleted after reopening" deletes_last,
    C167 "Lifetimes end while the storage is closed" lifetimes_go_on,
    C168 "Versions go on growing after reopening" versions_go_on,
    C169 "What was acknowledged is there without a close too" without_close,
    C170 "Batches and transactions are there after reopening" batches_last,
}

async fn durable(harness: &dyn Harness) -> Result<Storage, super::Stop> {
    let storage = harness.open().await?;
    require!(storage.describe().capabilities().durable, "it does not claim to be durable");
    Ok(storage)
}

async fn reopen(harness: &dyn Harness, storage: Storage) -> Result<Storage, super::Stop> {
    storage.close().await?;
    drop(storage);
    Ok(harness.open().await?)
}

/// Some of everything, with what store answered.
async fn fill(harness: &dyn Harness, storage: &Storage) -> Result<Vec<(Key, Value, Metadata)>, super::Stop> {
    let mut stored = Vec::new();
    let odd = [("empty", bytes("")), ("null", Value::json(&())?), ("large", noise(1_500_000, 1))];
    for (i, (name, value)) in one_of_each()?.into_iter().chain(odd).enumerate() {
        let plain = key(&format!("plain/{name}"))?;
        let metadata = put(storage, &plain, &value).await?;
        stored.push((plain, value.clone(), metadata));
        let rich = key(&format!("rich/{name}"))?;
        let options = StoreOptions::new().tag("ü", format!("{i}\n")).ttl(harness.tick() * 1000);
        let metadata = storage.store(&rich, value.clone(), options).await?;
        stored.push((rich, value, metadata));
    }
    Ok(stored)
}

async fn expect_all(storage: &Storage, stored: &[(Key, Value, Metadata)]) -> Verdict {
    for (key, value, metadata) in stored {
        let found = entry(storage, key).await?;
        ensure!(found.value == *value, "the value of {key:?} is another one");
        ensure_eq!(found.metadata, *metadata, "the metadata of {key:?}");
    }
    let mut keys: Vec<_> = stored.iter().map(|(key, ..)| key.clone()).collect();
    keys.sort_unstable();
    ensure_eq!(list(storage, "").await?, keys, "the keys");
    Ok(())
}

async fn everything_is_there(harness: &dyn Harness) -> Verdict {
    let mut storage = durable(harness).await?;
    let mut stored = fill(harness, &storage).await?;
    for _ in 0..2 {
        storage = reopen(harness, storage).await?;
        expect_all(&storage, &stored).await?;
    }
    let overwritten = put(&storage, &stored[0].0, &bytes("new")).await?;
    ensure_eq!(overwritten.created_at, stored[0].2.created_at, "created_at of what was stored before");
    stored[0] = (stored[0].0.clone(), bytes("new"), overwritten);
    storage = reopen(harness, storage).await?;
    expect_all(&storage, &stored).await
}

async fn keys_are_there(harness: &dyn Harness) -> Verdict {
    let storage = durable(harness).await?;
    let keys = hostile::keys();
    super::kit::fill(&storage, &keys).await?;
    let storage = reopen(harness, storage).await?;
    ensure_eq!(list(&storage, "").await?, keys, "the keys");
    for key in &keys {
        expect_value(&storage, key, &bytes(key.as_bytes())).await?;
    }
    Ok(())
}

async fn deletes_last(harness: &dyn Harness) -> Verdict {
    let storage = durable(harness).await?;
    let keys = numbered("k", 10)?;
    for key in &keys {
        put(&storage, key, &bytes("x")).await?;
    }
    let mut storage = reopen(harness, storage).await?;
    for (i, key) in keys.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        ensure!(remove(&storage, key).await?, "delete of key {i}, which was stored before, says false");
    }
    for _ in 0..2 {
        storage = reopen(harness, storage).await?;
        let left: Vec<_> = keys.iter().skip(1).step_by(2).cloned().collect();
        ensure_eq!(list(&storage, "").await?, left, "the keys");
        expect_absent(&storage, &keys[0]).await?;
    }
    Ok(())
}

async fn lifetimes_go_on(harness: &dyn Harness) -> Verdict {
    let storage = durable(harness).await?;
    let keys = keys(&["long", "short"])?;
    for (key, lifetime) in keys.iter().zip([harness.tick() * 1000, harness.tick()]) {
        storage.store(key, bytes("x"), StoreOptions::new().ttl(lifetime)).await?;
    }
    storage.close().await?;
    drop(storage);
    harness.advance(harness.tick() * 2).await;
    let storage = harness.open().await?;
    expect_absent(&storage, &keys[1]).await?;
    expect_value(&storage, &keys[0], &bytes("x")).await?;
    ensure_eq!(list(&storage, "").await?, keys[..1], "the keys");
    Ok(())
}

async fn versions_go_on(harness: &dyn Harness) -> Verdict {
    let (mut storage, names) = (durable(harness).await?, keys(&["kept", "deleted"])?);
    let mut seen = Vec::new();
    for round in 0..3 {
        let kept = put(&storage, &names[0], &noise(20, round)).await?.version;
        let made = storage.store(&names[1], noise(20, round), StoreOptions::new().if_absent()).await?.version;
        for (name, version, place) in [("kept", kept, 0), ("deleted", made, 1)] {
            let before = seen.iter().filter(|(known, _)| *known == place).map(|(_, version)| *version).max();
            ensure!(
                Some(version) > before,
                "the version of the {name} key does not grow: {version} after {before:?}"
            );
            seen.push((place, version));
        }
        remove(&storage, &names[1]).await?;
        // Time passes between two runs of a program, though perhaps no more than this.
        harness.advance(std::time::Duration::from_millis(2)).await;
        storage = reopen(harness, storage).await?;
        let refused = storage.store(&names[1], bytes("x"), StoreOptions::new().if_version(made)).await;
        expect_error(refused, ErrorKind::Conflict, "a version from before the delete")?;
        storage.store(&names[0], bytes("x"), StoreOptions::new().if_version(kept)).await?;
    }
    Ok(())
}

async fn without_close(harness: &dyn Harness) -> Verdict {
    let storage = durable(harness).await?;
    let stored = fill(harness, &storage).await?;
    drop(storage);
    let storage = harness.open().await?;
    expect_all(&storage, &stored).await?;
    put(&storage, &stored[0].0, &bytes("x")).await?;
    expect_value(&storage, &stored[0].0, &bytes("x")).await
}

async fn batches_last(harness: &dyn Harness) -> Verdict {
    let storage = durable(harness).await?;
    let keys = numbered("k", 30)?;
    let items = keys.iter().map(|key| StoreItem::new(key.clone(), bytes(key.as_bytes()))).collect();
    for answer in storage.store_many(items).await {
        answer?;
    }
    for answer in storage.delete_many(&keys[..5]).await {
        answer?;
    }
    let steps = vec![
        Operation::put(keys[0].clone(), bytes("new"), StoreOptions::new().if_absent().tag("t", "x")),
        Operation::Delete(keys[9].clone(), DeleteOptions::new()),
        Operation::Check(keys[1].clone(), Condition::IfAbsent),
    ];
    storage.transact(steps).await?;
    storage.touch(&keys[10], persist_core::Expiry::After(harness.tick())).await?;
    let storage = reopen(harness, storage).await?;
    let left: Vec<_> = [&keys[..1], &keys[5..9], &keys[10..]].concat();
    ensure_eq!(list(&storage, "").await?, left, "the keys");
    expect_value(&storage, &keys[0], &bytes("new")).await?;
    ensure_eq!(entry(&storage, &keys[0]).await?.metadata.tags.get("t"), Some("x"), "the tag");
    ensure!(
        entry(&storage, &keys[10]).await?.metadata.expires_at.is_some(),
        "the expiry that touch set is lost"
    );
    Ok(())
}
