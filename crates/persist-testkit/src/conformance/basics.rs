use std::sync::Arc;

use persist_core::{Expiry, StorageExt};

use super::kit::{at_once, bytes, entry, expect_absent, expect_value, key, list, metadata, noise, numbered};
use super::kit::{one_of_each, put, remove};
use super::{Harness, Verdict};

group! { "Basics":
    C001 "What is stored is read back" round_trip,
    C002 "An absent key is no error" absent_is_none,
    C003 "Storing again replaces" overwrite,
    C004 "Delete makes a key absent and says true" delete_present,
    C005 "Delete says false for a key that is not there" delete_absent,
    C006 "A new storage is empty" begins_empty,
    C007 "Keys do not disturb each other" independent_keys,
    C008 "Reading changes nothing" reads_change_nothing,
    C009 "Every way of asking gives the same metadata" one_metadata,
    C010 "A change is seen by everybody as soon as it was acknowledged" seen_at_once,
    C011 "Calls at the same time do not mix up their keys" no_mix_up,
    C012 "Stores on one key at the same time leave one of them whole" whole_winner,
}

async fn round_trip(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for (name, value) in one_of_each()? {
        put(&storage, &key(name)?, &value).await?;
        expect_value(&storage, &key(name)?, &value).await?;
        ensure!(storage.contains(&key(name)?).await?, "contains says false for {name:?}, which was stored");
    }
    Ok(())
}

async fn absent_is_none(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let absent = key("never/stored")?;
    expect_absent(&storage, &absent).await?;
    ensure_eq!(storage.touch(&absent, Expiry::Never).await?, None, "touch of an absent key");
    ensure_eq!(storage.get::<u8>(&absent).await?, None, "get of an absent key");
    expect_absent(&storage, &absent).await
}

async fn overwrite(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for content in ["a rather long first value", "short", "", "longer again than the one before"] {
        put(&storage, &key, &bytes(content)).await?;
        expect_value(&storage, &key, &bytes(content)).await?;
    }
    ensure_eq!(list(&storage, "").await?, [key], "the keys after four stores under one key");
    Ok(())
}

async fn delete_present(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    put(&storage, &key, &bytes("x")).await?;
    ensure!(remove(&storage, &key).await?, "delete of a stored key says false");
    expect_absent(&storage, &key).await?;
    ensure_eq!(list(&storage, "").await?, [], "the keys after the only one was deleted");
    Ok(())
}

async fn delete_absent(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    ensure!(!remove(&storage, &key).await?, "delete of a key never stored says true");
    put(&storage, &key, &bytes("x")).await?;
    remove(&storage, &key).await?;
    ensure!(!remove(&storage, &key).await?, "the second delete of a key says true");
    Ok(())
}

async fn begins_empty(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    ensure_eq!(list(&storage, "").await?, [], "the keys of a new storage");
    let stats = storage.stats().await?;
    ensure!(stats.keys.is_none_or(|keys| keys == 0), "a new storage counts {:?} keys", stats.keys);
    ensure!(stats.bytes.is_none_or(|bytes| bytes == 0), "a new storage counts {:?} bytes", stats.bytes);
    ensure_eq!(storage.verify().await?.checked, 0, "the values checked in a new storage");
    Ok(())
}

async fn independent_keys(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = numbered("k", 20)?;
    let mut stored = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        stored.push(put(&storage, key, &noise(i, 7)).await?);
    }
    put(&storage, &keys[3], &bytes("changed")).await?;
    remove(&storage, &keys[11]).await?;
    for (i, key) in keys.iter().enumerate().filter(|(i, _)| ![3, 11].contains(i)) {
        let found = entry(&storage, key).await?;
        ensure_eq!(found.value, noise(i, 7), "the value of {key:?}, which nobody changed");
        ensure_eq!(found.metadata, stored[i], "the metadata of {key:?}, which nobody changed");
    }
    Ok(())
}

async fn reads_change_nothing(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let stored = put(&storage, &key, &bytes("x")).await?;
    harness.advance(harness.tick() / 10).await;
    for _ in 0..3 {
        storage.contains(&key).await?;
        storage.retrieve_range(&key, 0..1).await?;
        storage.retrieve_many(std::slice::from_ref(&key)).await;
        storage.verify().await?;
        storage.stats().await?;
        storage.flush().await?;
        storage.maintain().await?;
        list(&storage, "").await?;
        ensure_eq!(entry(&storage, &key).await?.metadata, stored, "the metadata after reading");
    }
    expect_value(&storage, &key, &bytes("x")).await
}

async fn one_metadata(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for (name, value) in one_of_each()? {
        let key = key(name)?;
        let stored = put(&storage, &key, &value).await?;
        ensure_eq!(
            metadata(&storage, &key).await?,
            stored,
            "metadata() of {name}, against what store answered"
        );
        let read = entry(&storage, &key).await?.metadata;
        ensure_eq!(read, stored, "the metadata that retrieve gives of {name}");
        let many = storage.retrieve_many(std::slice::from_ref(&key)).await.remove(0)?;
        ensure_eq!(many.map(|entry| entry.metadata), Some(stored), "the metadata in a batch, of {name}");
    }
    Ok(())
}

async fn seen_at_once(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for round in 0..20_u64 {
        put(&storage, &key, &noise(40, round)).await?;
        let (other, wanted) = (Arc::clone(&storage), key.clone());
        let seen = tokio::spawn(async move { other.retrieve(&wanted).await }).await??;
        ensure_eq!(seen.map(|entry| entry.value), Some(noise(40, round)), "what another task reads");
        remove(&storage, &key).await?;
        let (other, wanted) = (Arc::clone(&storage), key.clone());
        let there = tokio::spawn(async move { other.contains(&wanted).await }).await??;
        ensure!(!there, "another task sees the key after the delete was acknowledged");
    }
    Ok(())
}

async fn no_mix_up(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = Arc::new(numbered("k", 64)?);
    let work = at_once(keys.len(), |i| {
        let (storage, keys) = (Arc::clone(&storage), Arc::clone(&keys));
        async move {
            for round in 0..5 {
                let value = noise(20 + i, (i * 10 + round) as u64);
                put(&storage, &keys[i], &value).await?;
                expect_value(&storage, &keys[i], &value).await?;
            }
            Verdict::Ok(())
        }
    });
    for verdict in work.await? {
        verdict?;
    }
    ensure_eq!(list(&storage, "").await?, *keys, "the keys after 64 tasks stored one each");
    Ok(())
}

async fn whole_winner(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let value = |i: usize| noise(100 + i * 997, i as u64);
    let stored = at_once(16, |i| {
        let (storage, key) = (Arc::clone(&storage), key.clone());
        async move { put(&storage, &key, &value(i)).await }
    })
    .await?;
    let found = entry(&storage, &key).await?;
    let Some(winner) = (0..16).find(|i| found.value == value(*i)) else {
        return Err(super::Stop::broken("the value is none of those that were stored"));
    };
    let stored = stored.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure_eq!(found.metadata.version, stored[winner].version, "the version beside the value that won");
    ensure_eq!(found.metadata.checksum, stored[winner].checksum, "the checksum beside the value that won");
    Ok(())
}
