use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    Condition, DeleteOptions, ErrorKind, Expiry, Key, Operation, Outcome, Retry, StoreItem, StoreOptions,
    Timestamp, Version,
};

use super::kit::{
    Storage, at_once, bytes, entry, expect_absent, expect_error, expect_value, key, metadata, noise, put,
    remove,
};
use super::{Harness, Stop, Verdict};

group! { "Conditions":
    C084 "if_absent stores an absent key and refuses a stored one" if_absent,
    C085 "if_version stores over exactly that version" if_version,
    C086 "A stale if_version changes nothing" stale_version,
    C087 "if_version on an absent key is a conflict with nothing found" version_of_absent,
    C088 "A conditional delete deletes exactly that version" conditional_delete,
    C089 "A delete that asks for absence deletes nothing" delete_if_absent,
    C090 "Of racing creators exactly one wins, and the others learn its version" racing_creators,
    C091 "A counter by compare-and-swap loses no increment" counter,
    C092 "Of racing conditional deletes exactly one wins" racing_deletes,
    C093 "The version grows with every change" versions_grow,
    C094 "A version is never used again, not even after a delete" versions_are_unique,
    C095 "Stores at the same time get different versions, and the last one stays" concurrent_versions,
    C096 "Versions grow although the wall clock goes back" clock_goes_back,
    C097 "A conflict says where it happened and that reading again helps" conflict_says_where,
}

async fn store_if(
    storage: &Storage,
    key: &Key,
    content: &str,
    condition: Condition,
) -> persist_core::Result<persist_core::Metadata> {
    storage.store(key, bytes(content), StoreOptions { condition, ..StoreOptions::new() }).await
}

async fn delete_if(storage: &Storage, key: &Key, condition: Condition) -> persist_core::Result<bool> {
    storage.delete(key, DeleteOptions { condition }).await
}

async fn if_absent(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let first = store_if(&storage, &key, "first", Condition::IfAbsent).await?;
    expect_value(&storage, &key, &bytes("first")).await?;
    let refused = store_if(&storage, &key, "second", Condition::IfAbsent).await;
    let error = expect_error(refused, ErrorKind::Conflict, "if_absent on a stored key")?;
    ensure_eq!(error.found(), Some(first.version), "the version that the conflict found");
    let found = entry(&storage, &key).await?;
    ensure_eq!((found.value, found.metadata), (bytes("first"), first), "what is stored after the conflict");
    remove(&storage, &key).await?;
    store_if(&storage, &key, "third", Condition::IfAbsent).await?;
    expect_value(&storage, &key, &bytes("third")).await
}

async fn if_version(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let mut version = put(&storage, &key, &bytes("0")).await?.version;
    for content in ["1", "2", "3"] {
        let stored = store_if(&storage, &key, content, Condition::IfVersion(version)).await?;
        expect_value(&storage, &key, &bytes(content)).await?;
        ensure!(stored.version > version, "the version after a swap is not greater than the one before");
        version = stored.version;
    }
    Ok(())
}

async fn stale_version(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let stale = put(&storage, &key, &bytes("old")).await?.version;
    let options = StoreOptions::new().tag("t", "kept").ttl(harness.tick() * 100);
    let current = storage.store(&key, bytes("current"), options).await?;
    let other = Version::from_u64(current.version.as_u64() + 1);
    for version in [stale, other, Version::from_u64(0), Version::from_u64(1)] {
        let refused = store_if(&storage, &key, "never", Condition::IfVersion(version)).await;
        let error = expect_error(refused, ErrorKind::Conflict, "a store over another version")?;
        ensure_eq!(error.found(), Some(current.version), "the version that the conflict found");
        let found = entry(&storage, &key).await?;
        ensure_eq!(found.value, bytes("current"), "the value after the conflict");
        ensure_eq!(found.metadata, current, "the metadata after the conflict");
    }
    Ok(())
}

async fn version_of_absent(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let version = put(&storage, &key, &bytes("x")).await?.version;
    remove(&storage, &key).await?;
    for version in [version, Version::from_u64(0)] {
        let refused = store_if(&storage, &key, "never", Condition::IfVersion(version)).await;
        let error = expect_error(refused, ErrorKind::Conflict, "if_version on an absent key")?;
        ensure_eq!(error.found(), None, "the version that the conflict found of an absent key");
        expect_absent(&storage, &key).await?;
    }
    Ok(())
}

async fn conditional_delete(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let stale = put(&storage, &key, &bytes("old")).await?.version;
    let current = put(&storage, &key, &bytes("current")).await?.version;
    let refused = delete_if(&storage, &key, Condition::IfVersion(stale)).await;
    let error = expect_error(refused, ErrorKind::Conflict, "a delete of another version")?;
    ensure_eq!(error.found(), Some(current), "the version that the conflict found");
    expect_value(&storage, &key, &bytes("current")).await?;
    let deleted = delete_if(&storage, &key, Condition::IfVersion(current)).await?;
    ensure!(deleted, "a delete of exactly the stored version says false");
    expect_absent(&storage, &key).await?;
    let refused = delete_if(&storage, &key, Condition::IfVersion(current)).await;
    let error = expect_error(refused, ErrorKind::Conflict, "a conditional delete of an absent key")?;
    ensure_eq!(error.found(), None, "the version that the conflict found of an absent key");
    Ok(())
}

async fn delete_if_absent(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let deleted = delete_if(&storage, &key, Condition::IfAbsent).await?;
    ensure!(!deleted, "a delete of an absent key says true");
    let stored = put(&storage, &key, &bytes("x")).await?;
    let refused = delete_if(&storage, &key, Condition::IfAbsent).await;
    let error = expect_error(refused, ErrorKind::Conflict, "a delete that asks for absence")?;
    ensure_eq!(error.found(), Some(stored.version), "the version that the conflict found");
    expect_value(&storage, &key, &bytes("x")).await
}

async fn racing_creators(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for round in 0..5 {
        let key = key(&format!("k{round}"))?;
        let answers = at_once(32, |i| {
            let (storage, key) = (Arc::clone(&storage), key.clone());
            async move { store_if(&storage, &key, &format!("{i}"), Condition::IfAbsent).await }
        })
        .await?;
        let winners: Vec<_> = (0..32).filter(|i| answers[*i].is_ok()).collect();
        ensure_eq!(winners.len(), 1, "how many of 32 creators won");
        let found = entry(&storage, &key).await?;
        ensure_eq!(found.value, bytes(format!("{}", winners[0])), "the value after the race");
        for answer in answers.into_iter().filter(Result::is_err) {
            let error = expect_error(answer, ErrorKind::Conflict, "a creator who came too late")?;
            ensure_eq!(error.found(), Some(found.metadata.version), "the version that a loser learns");
        }
    }
    Ok(())
}

async fn counter(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("counter")?);
    put(&storage, &key, &bytes("0")).await?;
    let work = at_once(8, |_| {
        let (storage, key) = (Arc::clone(&storage), key.clone());
        async move {
            for _ in 0..10 {
                increment(&storage, &key).await?;
            }
            Verdict::Ok(())
        }
    });
    for verdict in work.await? {
        verdict?;
    }
    expect_value(&storage, &key, &bytes("80")).await
}

async fn increment(storage: &Storage, key: &Key) -> Verdict {
    for _ in 0..10_000 {
        let found = entry(storage, key).await?;
        let count: u64 = std::str::from_utf8(found.value.buffer())
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Stop::broken(format!("the counter holds {:?}", found.value)))?;
        let condition = Condition::IfVersion(found.metadata.version);
        match store_if(storage, key, &format!("{}", count + 1), condition).await {
            Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
            result => return Ok(result.map(drop)?),
        }
    }
    Err(Stop::broken("an increment met 10000 conflicts in a row: nobody makes progress"))
}

async fn racing_deletes(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for round in 0..5 {
        let version = put(&storage, &key, &noise(50, round)).await?.version;
        let answers = at_once(16, |_| {
            let (storage, key) = (Arc::clone(&storage), key.clone());
            async move { delete_if(&storage, &key, Condition::IfVersion(version)).await }
        })
        .await?;
        let deleted = answers.iter().filter(|answer| matches!(answer, Ok(true))).count();
        ensure_eq!(deleted, 1, "how many of 16 deletes of one version say true");
        for answer in answers.into_iter().filter(|answer| !matches!(answer, Ok(true))) {
            expect_error(answer, ErrorKind::Conflict, "a delete that came too late")?;
        }
    }
    Ok(())
}

async fn versions_grow(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let mut versions = vec![put(&storage, &key, &bytes("1")).await?.version];
    versions.push(put(&storage, &key, &bytes("1")).await?.version);
    let touched = storage.touch(&key, Expiry::Never).await?;
    versions.push(touched.ok_or_else(|| Stop::broken("touch says that a stored key is absent"))?.version);
    for answer in storage.store_many(vec![StoreItem::new(key.clone(), bytes("2"))]).await {
        versions.push(answer?.version);
    }
    let step = Operation::put(key.clone(), bytes("3"), StoreOptions::new());
    if let Some(Outcome::Stored(stored)) = storage.transact(vec![step]).await?.pop() {
        versions.push(stored.version);
    }
    versions.push(metadata(&storage, &key).await?.version);
    let (read, changes) = versions.split_last().ok_or_else(|| Stop::broken("no versions"))?;
    ensure_eq!(changes.len(), 5, "how many changes answered a version");
    ensure!(changes.is_sorted_by(|a, b| a < b), "the versions do not grow with every change: {changes:?}");
    ensure_eq!(Some(read), changes.last(), "the version that is read");
    Ok(())
}

async fn versions_are_unique(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let mut seen = Vec::new();
    for _ in 0..10 {
        let version = store_if(&storage, &key, "x", Condition::IfAbsent).await?.version;
        ensure!(!seen.contains(&version), "version {version} was used before the key was deleted");
        ensure!(seen.iter().all(|old| *old < version), "the version is smaller than one before the delete");
        seen.push(version);
        remove(&storage, &key).await?;
    }
    put(&storage, &key, &bytes("new")).await?;
    for old in seen {
        let refused = store_if(&storage, &key, "never", Condition::IfVersion(old)).await;
        expect_error(refused, ErrorKind::Conflict, "a version from before the delete")?;
    }
    expect_value(&storage, &key, &bytes("new")).await
}

async fn concurrent_versions(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let answers = at_once(32, |i| {
        let (storage, key) = (Arc::clone(&storage), key.clone());
        async move { put(&storage, &key, &noise(40, i as u64)).await }
    })
    .await?;
    let mut versions = Vec::new();
    for answer in answers {
        versions.push(answer?.version);
    }
    versions.sort_unstable();
    ensure!(versions.is_sorted_by(|a, b| a < b), "two stores at the same time got the same version");
    let last = entry(&storage, &key).await?.metadata.version;
    ensure_eq!(Some(&last), versions.last(), "the version that stays, against the greatest one handed out");
    Ok(())
}

async fn clock_goes_back(harness: &dyn Harness) -> Verdict {
    let Some(clock) = harness.clock() else {
        return Err(Stop::skipped("the clock of this storage cannot be moved"));
    };
    let (storage, key) = (harness.open().await?, key("k")?);
    let mut last = put(&storage, &key, &bytes("0")).await?.version;
    for back in [Duration::from_secs(1), Duration::from_secs(3600), Duration::from_secs(86_400 * 365)] {
        let millis = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
        clock.set_wall(Timestamp::from_millis(storage.describe().now().as_millis() - millis));
        let version = put(&storage, &key, &bytes("x")).await?.version;
        ensure!(
            version > last,
            "the version went from {last} to {version} when the clock went back by {back:?}"
        );
        last = version;
    }
    Ok(())
}

async fn conflict_says_where(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    put(&storage, &key, &bytes("x")).await?;
    let store = store_if(&storage, &key, "y", Condition::IfAbsent).await;
    let store = expect_error(store, ErrorKind::Conflict, "if_absent on a stored key")?;
    let delete = delete_if(&storage, &key, Condition::IfAbsent).await;
    let delete = expect_error(delete, ErrorKind::Conflict, "a delete that asks for absence")?;
    for (error, operation) in [(store, "store"), (delete, "delete")] {
        ensure_eq!(error.storage(), Some(storage.describe().name()), "the storage that the conflict names");
        ensure_eq!(error.key(), Some(&key), "the key that the conflict names");
        ensure_eq!(error.operation(), Some(operation), "the operation that the conflict names");
        ensure_eq!(error.retry(), Retry::AfterRead, "what the conflict says about a retry");
        ensure!(!error.outcome_unknown(), "a conflict says that its outcome is unknown");
    }
    Ok(())
}
