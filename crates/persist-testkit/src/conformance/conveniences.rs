use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use persist_core::{
    BlockingStorage, DeleteOptions, ErrorKind, Key, ListOptions, StorageError, StorageExt, StoreOptions,
    Value,
};

use super::kit::{
    Storage, at_once, bytes, entry, expect_error, expect_value, key, keys, list, metadata, noise, numbered,
    put,
};
use super::{Harness, Stop, Verdict};
use crate::memory::MemoryStorage;

group! { "Conveniences":
    C149 "get and put keep typed values" typed_values,
    C150 "update changes what is stored and keeps tags and expiry" update_keeps,
    C151 "update by many tasks loses no change" update_races,
    C152 "get_or_compute computes once for callers who come together" single_flight,
    C153 "A computation that fails stores nothing, and the next caller tries again" failed_computation,
    C154 "copy_to takes values, tags and expiry along" copies,
    C155 "clear deletes what is under a prefix and nothing else" clears,
    C156 "Streams give all keys and entries in order" streams,
    C157 "The blocking face does the same, and refuses within a task" blocking,
}

async fn typed_values(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let map = std::collections::BTreeMap::from([("é".to_owned(), vec![Some(1.5), None])]);
    storage.put("map", &map).await?;
    ensure_eq!(storage.get("map").await?, Some(map), "a map");
    storage.put("none", &None::<u8>).await?;
    ensure_eq!(storage.get::<Option<u8>>("none").await?, Some(None), "a stored None");
    ensure_eq!(storage.get::<Option<u8>>("absent").await?, None, "an absent key");
    storage.put_bytes("bytes", vec![0, 255].into()).await?;
    ensure_eq!(storage.get_bytes("bytes").await?.as_deref(), Some(&[0, 255][..]), "bytes");
    storage.put_with("tagged", "text", StoreOptions::new().tag("a", "b")).await?;
    ensure_eq!(metadata(&storage, &key("tagged")?).await?.tags.get("a"), Some("b"), "the tag of put_with");
    ensure!(storage.remove("tagged").await?, "remove of a stored key says false");
    ensure!(!storage.remove("tagged").await?, "remove of an absent key says true");
    Ok(())
}

async fn update_keeps(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let count = |old: Option<u64>| old.map_or(1, |old| old + 1);
    ensure_eq!(storage.update(&key, count).await?, 1, "what update makes of an absent key");
    let options = StoreOptions::new().tag("t", "kept").ttl(harness.tick() * 1000);
    let before = storage.put_with(&key, &10_u64, options).await?;
    ensure_eq!(storage.update(&key, count).await?, 11, "what update makes of 10");
    ensure_eq!(storage.get::<u64>(&key).await?, Some(11), "what is stored after update");
    let after = metadata(&storage, &key).await?;
    ensure_eq!(
        (after.tags, after.expires_at),
        (before.tags, before.expires_at),
        "tags and expiry after update"
    );
    ensure_eq!(after.created_at, before.created_at, "created_at after update");
    Ok(())
}

async fn update_races(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let work = at_once(8, |_| {
        let storage = Arc::clone(&storage);
        async move {
            for _ in 0..10 {
                storage.update("n", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
            }
            Verdict::Ok(())
        }
    });
    for verdict in work.await? {
        verdict?;
    }
    ensure_eq!(storage.get::<u64>("n").await?, Some(80), "the counter after 80 updates by 8 tasks");
    Ok(())
}

async fn single_flight(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for name in ["a", "b"] {
        let computed = Arc::new(AtomicUsize::new(0));
        let answers = at_once(32, |_| compute(Arc::clone(&storage), name, Arc::clone(&computed))).await?;
        for answer in answers {
            ensure_eq!(answer?, 7, "what a caller gets");
        }
        ensure_eq!(computed.load(Ordering::SeqCst), 1, "how often 32 callers computed");
        ensure_eq!(storage.get::<u8>(name).await?, Some(7), "what is stored");
    }
    Ok(())
}

async fn compute(
    storage: Storage,
    name: &'static str,
    computed: Arc<AtomicUsize>,
) -> persist_core::Result<u8> {
    let slowly = || async move {
        computed.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(7)
    };
    storage.get_or_compute(name, StoreOptions::new(), slowly).await
}

async fn failed_computation(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let fail = || async { Err(StorageError::new(ErrorKind::Timeout, "the source did not answer")) };
    let refused = storage.get_or_compute::<u8, _, _>(&key, StoreOptions::new(), fail).await;
    expect_error(refused, ErrorKind::Timeout, "get_or_compute with a computation that fails")?;
    ensure!(!storage.contains(&key).await?, "a computation that failed has stored something");
    let found = storage.get_or_compute(&key, StoreOptions::new(), || async { Ok(5_u8) }).await?;
    ensure_eq!(found, 5, "what the next caller gets");
    let found = storage.get_or_compute(&key, StoreOptions::new(), || async { Ok(6_u8) }).await?;
    ensure_eq!(found, 5, "what a caller gets who finds it stored");
    Ok(())
}

async fn copies(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let names = numbered("in/", 70)?;
    for (i, name) in names.iter().enumerate() {
        let options = StoreOptions::new().tag("i", i.to_string()).ttl(harness.tick() * 1000);
        storage.store(name, noise(i * 9, 4), options).await?;
    }
    put(&storage, &key("out")?, &bytes("x")).await?;
    let clock = Arc::clone(storage.describe().clock());
    let target: Storage = Arc::new(MemoryStorage::builder("target").clock(clock).open(&Default::default()));
    ensure_eq!(storage.copy_to(&*target, "in/").await?, 70, "how many values were copied");
    ensure_eq!(list(&target, "").await?, names, "the keys of the copy");
    for name in &names {
        let (source, copy) = (entry(&storage, name).await?, entry(&target, name).await?);
        ensure_eq!(copy.value, source.value, "the copy of {name:?}");
        ensure_eq!(copy.metadata.tags, source.metadata.tags, "the tags of the copy of {name:?}");
        ensure_eq!(
            copy.metadata.expires_at,
            source.metadata.expires_at,
            "the expiry of the copy of {name:?}"
        );
    }
    // And back, over what is there.
    put(&target, &names[3], &bytes("changed")).await?;
    ensure_eq!(target.copy_to(&*storage, "").await?, 70, "how many values were copied back");
    expect_value(&storage, &names[3], &bytes("changed")).await
}

async fn clears(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let kept = keys(&["a", "a%", "a_x", "b/1", "A/1"])?;
    let cleared = keys(&["a/", "a/1", "a/2", "a/b/c"])?;
    for key in kept.iter().chain(&cleared) {
        put(&storage, key, &bytes("x")).await?;
    }
    ensure_eq!(storage.clear("a/").await?, 4, "how many keys were under the prefix");
    let mut left = kept.clone();
    left.sort_unstable();
    ensure_eq!(list(&storage, "").await?, left, "the keys after clear");
    ensure_eq!(storage.clear("a/").await?, 0, "how many keys are left under the prefix");
    ensure_eq!(storage.clear("").await?, 5, "how many keys were there at all");
    ensure_eq!(list(&storage, "").await?, [], "the keys after everything was cleared");
    Ok(())
}

async fn streams(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let names = numbered("k", 130)?;
    for (i, name) in names.iter().enumerate() {
        put(&storage, name, &noise(i, 5)).await?;
    }
    put(&storage, &key("other")?, &bytes("x")).await?;
    let found: Vec<Key> = storage.keys("k").try_collect().await?;
    ensure_eq!(found, names, "the stream of keys");
    let entries: Vec<_> = storage.entries("k").try_collect().await?;
    ensure_eq!(entries.len(), names.len(), "how many entries the stream gives");
    for (i, (name, found)) in entries.into_iter().enumerate() {
        ensure_eq!((&name, &found.value), (&names[i], &noise(i, 5)), "entry {i} of the stream");
        ensure_eq!(Some(found.metadata), storage.metadata(&name).await?, "the metadata in the stream");
    }
    Ok(())
}

async fn blocking(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let face = BlockingStorage::new(Arc::clone(&storage));
    let refused = face.get::<u8>("k");
    expect_error(refused, ErrorKind::Unsupported, "a blocking call within a task")?;
    let (answer, answered) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || answer.send(block(&face)));
    let verdict = answered.await.map_err(|_| Stop::broken("the thread with the blocking calls panicked"))?;
    let _ = thread.join();
    verdict?;
    ensure_eq!(storage.get::<u8>("k").await?, Some(3), "what the blocking face left");
    Ok(())
}

fn block(face: &BlockingStorage) -> Verdict {
    face.put("k", &1)?;
    ensure_eq!(face.get::<u8>("k")?, Some(1), "a blocking get");
    ensure_eq!(face.update("k", |old: Option<u8>| old.unwrap_or(0) + 2)?, 3, "a blocking update");
    face.store("gone", Value::bytes(vec![1]), StoreOptions::new())?;
    ensure_eq!(
        face.list_keys("", ListOptions::new())?.keys.len(),
        2,
        "how many keys a blocking listing gives"
    );
    ensure!(face.delete("gone", DeleteOptions::new())?, "a blocking delete of a stored key says false");
    ensure_eq!(face.retrieve("gone")?, None, "a blocking retrieve of a deleted key");
    Ok(())
}
