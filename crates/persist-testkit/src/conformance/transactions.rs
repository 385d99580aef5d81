use std::sync::Arc;

use persist_core::{
    Condition, DeleteOptions, ErrorKind, Key, MAX_TAG_BYTES, Operation, Outcome, StoreOptions, Version,
};

use super::kit::{
    Storage, at_once, bytes, entry, expect_absent, expect_error, expect_value, key, keys, list, metadata, put,
};
use super::{Harness, Stop, Verdict};

group! { "Transactions":
    C076 "All steps take place, and each is answered" all_steps,
    C077 "One condition that fails, wherever it stands, lets nothing take place" all_or_nothing,
    C078 "The conflict of a transaction names the key and the version found" names_the_key,
    C079 "A transaction that names a key twice is refused" duplicate_key,
    C080 "A check changes nothing" check_alone,
    C081 "A value that cannot be stored lets nothing take place" invalid_value,
    C082 "Options hold in a transaction as they do in a store" options_hold,
    C083 "Of transactions that race for the same key one wins" racing,
}

fn put_step(key: &Key, content: &str) -> Operation {
    Operation::put(key.clone(), bytes(content), StoreOptions::new())
}

async fn all_steps(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["new", "old", "gone", "absent", "seen"])?;
    for key in [&keys[1], &keys[2], &keys[4]] {
        put(&storage, key, &bytes("before")).await?;
    }
    let seen = metadata(&storage, &keys[4]).await?.version;
    let mut answers = storage
        .transact(vec![
            Operation::Delete(keys[2].clone(), DeleteOptions::new()),
            put_step(&keys[0], "after"),
            Operation::Check(keys[4].clone(), Condition::IfVersion(seen)),
            put_step(&keys[1], "after"),
            Operation::Delete(keys[3].clone(), DeleteOptions::new()),
        ])
        .await?
        .into_iter();
    ensure_eq!(answers.next(), Some(Outcome::Deleted(true)), "the answer to the delete of a stored key");
    let stored = Outcome::Stored(metadata(&storage, &keys[0]).await?);
    ensure_eq!(answers.next(), Some(stored), "the answer to the first put");
    ensure_eq!(answers.next(), Some(Outcome::Checked), "the answer to the check");
    let stored = Outcome::Stored(metadata(&storage, &keys[1]).await?);
    ensure_eq!(answers.next(), Some(stored), "the answer to the second put");
    ensure_eq!(answers.next(), Some(Outcome::Deleted(false)), "the answer to the delete of an absent key");
    ensure_eq!(answers.next(), None, "the answer after the last");
    expect_value(&storage, &keys[0], &bytes("after")).await?;
    expect_value(&storage, &keys[1], &bytes("after")).await?;
    expect_absent(&storage, &keys[2]).await
}

/// Steps whose condition fails on a storage that holds `old` in another version than `stale`.
fn failing_steps(old: &Key, absent: &Key, stale: Version) -> [Operation; 6] {
    let put = |key: &Key, options| Operation::put(key.clone(), bytes("no"), options);
    [
        put(old, StoreOptions::new().if_absent()),
        put(old, StoreOptions::new().if_version(stale)),
        put(absent, StoreOptions::new().if_version(stale)),
        Operation::Delete(old.clone(), DeleteOptions::new().if_version(stale)),
        Operation::Check(old.clone(), Condition::IfAbsent),
        Operation::Check(absent.clone(), Condition::IfVersion(stale)),
    ]
}

async fn all_or_nothing(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["a", "b", "old", "absent", "gone"])?;
    let stale = put(&storage, &keys[2], &bytes("first")).await?.version;
    for key in [&keys[2], &keys[0], &keys[4]] {
        put(&storage, key, &bytes("kept")).await?;
    }
    let before = contents(&storage).await?;
    for failing in failing_steps(&keys[2], &keys[3], stale) {
        for position in 0..=3 {
            let mut steps = vec![
                put_step(&keys[0], "changed"),
                put_step(&keys[1], "created"),
                Operation::Delete(keys[4].clone(), DeleteOptions::new()),
            ];
            steps.insert(position, failing.clone());
            let what = format!("{failing:?} as step {position}");
            expect_error(storage.transact(steps).await, ErrorKind::Conflict, &what)?;
            ensure_eq!(contents(&storage).await?, before, "what is stored after {what} failed");
        }
    }
    Ok(())
}

async fn contents(storage: &Storage) -> Result<Vec<(Key, persist_core::Entry)>, Stop> {
    let mut contents = Vec::new();
    for key in list(storage, "").await? {
        let found = entry(storage, &key).await?;
        contents.push((key, found));
    }
    Ok(contents)
}

async fn names_the_key(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["a", "b", "c"])?;
    let found = put(&storage, &keys[1], &bytes("x")).await?.version;
    let steps = |failing| vec![put_step(&keys[0], "y"), failing, put_step(&keys[2], "y")];
    let present = Operation::Check(keys[1].clone(), Condition::IfAbsent);
    let error = expect_error(storage.transact(steps(present)).await, ErrorKind::Conflict, "a failing check")?;
    ensure_eq!(error.key(), Some(&keys[1]), "the key that the conflict names");
    ensure_eq!(error.found(), Some(found), "the version that the conflict found");
    ensure_eq!(error.storage(), Some(storage.describe().name()), "the storage that the conflict names");
    storage.delete(&keys[1], DeleteOptions::new()).await?;
    let absent = Operation::Delete(keys[1].clone(), DeleteOptions::new().if_version(found));
    let error = expect_error(
        storage.transact(steps(absent)).await,
        ErrorKind::Conflict,
        "a delete of an absent key",
    )?;
    ensure_eq!(error.key(), Some(&keys[1]), "the key that the conflict names");
    ensure_eq!(error.found(), None, "the version that the conflict found of an absent key");
    Ok(())
}

async fn duplicate_key(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["a", "b"])?;
    put(&storage, &keys[0], &bytes("old")).await?;
    let second = [
        put_step(&keys[0], "twice"),
        Operation::Delete(keys[0].clone(), DeleteOptions::new()),
        Operation::Check(keys[0].clone(), Condition::None),
    ];
    for step in second {
        let steps = vec![put_step(&keys[0], "once"), put_step(&keys[1], "x"), step.clone()];
        let what = format!("a transaction that names a key twice, then in {step:?}");
        let error = expect_error(storage.transact(steps).await, ErrorKind::InvalidKey, &what)?;
        ensure_eq!(error.key(), Some(&keys[0]), "the key that the error names");
        expect_value(&storage, &keys[0], &bytes("old")).await?;
        expect_absent(&storage, &keys[1]).await?;
    }
    Ok(())
}

async fn check_alone(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["there", "absent"])?;
    let stored = put(&storage, &keys[0], &bytes("x")).await?;
    let steps = vec![
        Operation::Check(keys[0].clone(), Condition::IfVersion(stored.version)),
        Operation::Check(keys[1].clone(), Condition::IfAbsent),
    ];
    let answers = storage.transact(steps).await?;
    ensure_eq!(answers, [Outcome::Checked, Outcome::Checked], "the answers to two checks that hold");
    let free = vec![Operation::Check(keys[1].clone(), Condition::None)];
    ensure_eq!(storage.transact(free).await?, [Outcome::Checked], "the answer to a check of nothing");
    ensure_eq!(entry(&storage, &keys[0]).await?.metadata, stored, "the metadata after a check");
    expect_absent(&storage, &keys[1]).await
}

async fn invalid_value(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["a", "b", "c"])?;
    put(&storage, &keys[0], &bytes("old")).await?;
    let options = StoreOptions::new().tag("t", "x".repeat(MAX_TAG_BYTES));
    let steps = vec![
        put_step(&keys[0], "new"),
        Operation::put(keys[1].clone(), bytes("x"), options),
        put_step(&keys[2], "new"),
    ];
    let error =
        expect_error(storage.transact(steps).await, ErrorKind::InvalidValue, "tags that are too large")?;
    ensure_eq!(error.key(), Some(&keys[1]), "the key that the error names");
    expect_value(&storage, &keys[0], &bytes("old")).await?;
    ensure_eq!(list(&storage, "").await?, [keys[0].clone()], "the keys after a refused transaction");
    Ok(())
}

async fn options_hold(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    put(&storage, &key, &bytes("old")).await?;
    let created = metadata(&storage, &key).await?.created_at;
    harness.advance(harness.tick() / 10).await;
    let options = StoreOptions::new().ttl(harness.tick()).tag("colour", "green");
    storage.transact(vec![Operation::put(key.clone(), bytes("new"), options)]).await?;
    let found = metadata(&storage, &key).await?;
    ensure_eq!(found.tags.get("colour"), Some("green"), "the tag");
    ensure_eq!(found.created_at, created, "created_at after a transaction stored over the key");
    ensure!(found.expires_at.is_some(), "the lifetime of a put in a transaction was lost");
    harness.advance(harness.tick() * 2).await;
    expect_absent(&storage, &key).await
}

async fn racing(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let answers = at_once(16, |i| {
        let (storage, key) = (Arc::clone(&storage), key.clone());
        async move {
            let options = StoreOptions::new().if_absent();
            storage.transact(vec![Operation::put(key, bytes(format!("{i}")), options)]).await
        }
    })
    .await?;
    let winners: Vec<_> = (0..16).filter(|i| answers[*i].is_ok()).collect();
    ensure_eq!(winners.len(), 1, "how many of 16 transactions created the key");
    for answer in answers.into_iter().filter(Result::is_err) {
        expect_error(answer, ErrorKind::Conflict, "a transaction that came too late")?;
    }
    expect_value(&storage, &key, &bytes(format!("{}", winners[0]))).await
}
