use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use persist_core::{
    Condition, DeleteOptions, ErrorKind, Expiry, HealthStatus, Key, ListOptions, Operation, Result,
    StorageExt, StoreItem, StoreOptions,
};

use super::kit::{
    Storage, bytes, expect_error, expect_value, key, list, metadata, noise, numbered, one_of_each, put,
    remove,
};
use super::{Harness, Stop, Verdict};
use crate::TestSnapshot;

group! { "Lifecycle":
    C129 "A closed storage refuses every call with Closed" refuses_when_closed,
    C130 "Closing twice is no error" close_twice,
    C131 "A storage that works is healthy" healthy,
    C132 "A closed storage is unhealthy" unhealthy_when_closed,
    C133 "flush succeeds whenever the storage works" flush_often,
    C134 "Statistics count what is stored, where they count" statistics,
    C135 "verify reads every value and counts it" verify_counts,
    C136 "maintain leaves every value as it is" maintain_changes_nothing,
    C137 "A storage says what it is, and always the same" constant_description,
    C138 "Calls that meet a close end well or with Closed" close_under_load,
    C139 "The debug form shows no value and no tag" discreet_debug,
}

/// The answer of every method that can fail, called with harmless arguments; the batches give their first answer.
pub(super) async fn every_call(storage: &Storage, key: &Key) -> Vec<(&'static str, Result<()>)> {
    let ones = std::slice::from_ref(key);
    let (value, item) = (bytes("x"), StoreItem::new(key.clone(), bytes("x")));
    let put = Operation::put(key.clone(), bytes("x"), StoreOptions::new());
    let check = Operation::Check(key.clone(), Condition::None);
    vec![
        ("store", storage.store(key, value, StoreOptions::new()).await.map(drop)),
        ("retrieve", storage.retrieve(key).await.map(drop)),
        ("delete", storage.delete(key, DeleteOptions::new()).await.map(drop)),
        ("list_keys", storage.list_keys("", ListOptions::new()).await.map(drop)),
        ("metadata", storage.metadata(key).await.map(drop)),
        ("contains", storage.contains(key).await.map(drop)),
        ("touch", storage.touch(key, Expiry::Never).await.map(drop)),
        ("retrieve_range", storage.retrieve_range(key, 0..1).await.map(drop)),
        ("store_many", first(storage.store_many(vec![item]).await)),
        ("retrieve_many", first(storage.retrieve_many(ones).await)),
        ("delete_many", first(storage.delete_many(ones).await)),
        ("transact", storage.transact(vec![put]).await.map(drop)),
        ("transact of a check", storage.transact(vec![check]).await.map(drop)),
        ("verify", storage.verify().await.map(drop)),
        ("flush", storage.flush().await),
        ("stats", storage.stats().await.map(drop)),
        ("maintain", storage.maintain().await.map(drop)),
        ("snapshot", storage.snapshot(&mut TestSnapshot::default()).await.map(drop)),
    ]
}

fn first<T>(answers: Vec<Result<T>>) -> Result<()> {
    answers.into_iter().next().map_or(Ok(()), |answer| answer.map(drop))
}

async fn refuses_when_closed(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    put(&storage, &key, &bytes("x")).await?;
    storage.close().await?;
    for (call, answer) in every_call(&storage, &key).await {
        let error = expect_error(answer, ErrorKind::Closed, &format!("{call} after close"))?;
        ensure_eq!(
            error.storage(),
            Some(storage.describe().name()),
            "the storage that the error of {call} names"
        );
    }
    expect_error(storage.get::<u8>(&key).await, ErrorKind::Closed, "get after close")?;
    expect_error(storage.transact(Vec::new()).await, ErrorKind::Closed, "an empty transaction after close")?;
    Ok(())
}

async fn close_twice(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    put(&storage, &key("k")?, &bytes("x")).await?;
    for _ in 0..3 {
        storage.close().await?;
    }
    let other = Arc::clone(&storage);
    Ok(tokio::spawn(async move { other.close().await }).await??)
}

async fn healthy(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for turn in 0..2 {
        let health = storage.health().await;
        ensure_eq!(
            health.status,
            HealthStatus::Healthy,
            "the health of a storage that works ({})",
            health.detail
        );
        put(&storage, &key(&format!("k{turn}"))?, &bytes("x")).await?;
    }
    Ok(())
}

async fn unhealthy_when_closed(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    storage.close().await?;
    let health = storage.health().await;
    ensure_eq!(health.status, HealthStatus::Unhealthy, "the health of a closed storage");
    ensure!(!health.detail.is_empty(), "an unhealthy storage does not say what is wrong");
    Ok(())
}

async fn flush_often(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    storage.flush().await?;
    for round in 0..3 {
        put(&storage, &key, &noise(100, round)).await?;
        storage.flush().await?;
        storage.flush().await?;
        expect_value(&storage, &key, &noise(100, round)).await?;
    }
    Ok(())
}

async fn statistics(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = numbered("k", 10)?;
    for (i, key) in keys.iter().enumerate() {
        put(&storage, key, &noise(i * 10, 1)).await?;
        put(&storage, key, &noise(i * 100, 2)).await?;
    }
    remove(&storage, &keys[9]).await?;
    let stats = storage.stats().await?;
    require!(stats.keys.is_some() || stats.bytes.is_some(), "it counts neither keys nor bytes");
    ensure!(stats.keys.is_none_or(|count| count == 9), "it counts {:?} keys, and there are 9", stats.keys);
    ensure!(
        stats.bytes.is_none_or(|sum| sum == 3600),
        "it counts {:?} bytes, and there are 3600",
        stats.bytes
    );
    Ok(())
}

async fn verify_counts(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let mut bytes = 0;
    for (name, value) in one_of_each()? {
        put(&storage, &key(name)?, &value).await?;
        bytes += value.size();
    }
    for (i, key) in numbered("k", 40)?.iter().enumerate() {
        put(&storage, key, &noise(i, 1)).await?;
        bytes += i as u64;
    }
    let report = storage.verify().await?;
    ensure!(report.is_clean(), "verify finds {:?} where nothing is wrong", report.problems);
    ensure_eq!((report.checked, report.bytes), (43, bytes), "how many values and bytes verify has read");
    Ok(())
}

async fn maintain_changes_nothing(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let mut stored = Vec::new();
    for (i, key) in numbered("k", 30)?.into_iter().enumerate() {
        let options = StoreOptions::new().tag("i", i.to_string()).ttl(harness.tick() * 1000);
        let metadata = storage.store(&key, noise(i * 50, 3), options).await?;
        stored.push((key, metadata, noise(i * 50, 3)));
    }
    for (key, _, _) in stored.split_off(20) {
        remove(&storage, &key).await?;
    }
    for _ in 0..2 {
        storage.maintain().await?;
        for (key, expected, value) in &stored {
            expect_value(&storage, key, value).await?;
            ensure_eq!(metadata(&storage, key).await?, *expected, "the metadata of {key:?} after maintain");
        }
        ensure_eq!(list(&storage, "").await?.len(), 20, "how many keys are listed after maintain");
    }
    Ok(())
}

async fn constant_description(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let describe = |storage: &Storage| {
        let about = storage.describe();
        (
            about.name().to_owned(),
            about.backend(),
            about.capabilities(),
            about.max_value_bytes(),
            about.default_ttl(),
        )
    };
    let before = describe(&storage);
    ensure!(!before.0.is_empty(), "the storage has no name");
    ensure!(!before.1.is_empty(), "the storage does not say its type");
    put(&storage, &key, &bytes("x")).await?;
    storage.maintain().await?;
    ensure_eq!(describe(&storage), before, "what it says of itself after some work");
    storage.close().await?;
    ensure_eq!(describe(&storage), before, "what it says of itself after it was closed");
    Ok(())
}

async fn close_under_load(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let begun = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..8)
        .map(|task| tokio::spawn(work_until_closed(Arc::clone(&storage), task, Arc::clone(&begun))))
        .collect();
    while begun.load(Ordering::Acquire) < 16 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    storage.close().await?;
    let mut acknowledged = Vec::new();
    for worker in workers {
        acknowledged.extend(worker.await??);
    }
    let durable = storage.describe().capabilities().durable;
    drop(storage);
    if durable {
        let storage = harness.open().await?;
        for (key, round) in acknowledged {
            expect_value(&storage, &key, &noise(64, round)).await?;
        }
    }
    Ok(())
}

/// Stores until the storage says `Closed`; gives what was acknowledged.
async fn work_until_closed(
    storage: Storage,
    task: usize,
    begun: Arc<AtomicUsize>,
) -> Result<Vec<(Key, u64)>, Stop> {
    let mut acknowledged = Vec::new();
    for round in 0..100_000 {
        let key = key(&format!("{task}/{}", round % 50))?;
        match put(&storage, &key, &noise(64, round)).await {
            Ok(_) => {
                acknowledged.retain(|(known, _)| *known != key);
                acknowledged.push((key, round));
            }
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(acknowledged),
            Err(error) => return Err(Stop::broken(format!("a store that met the close: {error:?}"))),
        }
        begun.fetch_add(1, Ordering::AcqRel);
        tokio::task::yield_now().await;
    }
    Err(Stop::broken("100000 stores were acknowledged although the storage was closed"))
}

async fn discreet_debug(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let options = StoreOptions::new().tag("tag", "confidential-tag");
    storage.store(&key, bytes("confidential-value"), options).await?;
    storage.retrieve(&key).await?;
    let shown = format!("{storage:?} {storage:#?}");
    ensure!(!shown.contains("confidential"), "the debug form shows a value or a tag");
    let as_numbers = format!("{:?}", b"confidential");
    ensure!(
        !shown.contains(as_numbers.trim_matches(['[', ']'])),
        "the debug form shows the bytes of a value"
    );
    Ok(())
}
