use persist_core::{
    Condition, ErrorKind, HealthStatus, ListOptions, MAX_TAG_BYTES, Operation, Retry, StoreItem, StoreOptions,
};

use super::kit::{
    Storage, bytes, expect_absent, expect_error, expect_value, key, keys, list, noise, one_of_each, put,
    remove,
};
use super::lifecycle::every_call;
use super::{Harness, Stop, Verdict};
use crate::Variant;

group! { "Errors":
    C140 "An error names the storage, the operation and the key" names_the_place,
    C141 "A message holds no control character" clean_messages,
    C142 "Unavailable is an error, never absent" unavailable_is_an_error,
    C143 "An unavailable storage is unhealthy, and its errors say whether a retry helps" unavailable_is_unhealthy,
    C144 "What was stored is there when the storage is available again" available_again,
    C145 "Damage is an error, never absent and never another value" damage_is_an_error,
    C146 "verify finds what is damaged and reads the rest" verify_finds_damage,
    C147 "A damaged value can be overwritten and deleted" damage_is_curable,
    C148 "A value of the largest size is stored, a larger one is refused" too_large,
}

async fn names_the_place(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("some/key")?);
    put(&storage, &key, &bytes("x")).await?;
    let name = storage.describe().name().to_owned();
    let tags = StoreOptions::new().tag("t", "x".repeat(MAX_TAG_BYTES));
    let error = storage.store(&key, bytes("y"), tags.clone()).await;
    let error = expect_error(error, ErrorKind::InvalidValue, "tags that are too large")?;
    let place = (error.storage(), error.operation(), error.key());
    ensure_eq!(place, (Some(name.as_str()), Some("store"), Some(&key)), "the place of an invalid value");
    let error = storage.list_keys("", ListOptions::new().limit(0)).await;
    let error = expect_error(error, ErrorKind::InvalidValue, "a page of 0 keys")?;
    let place = (error.storage(), error.operation());
    ensure_eq!(place, (Some(name.as_str()), Some("list_keys")), "the place of an invalid limit");
    let twice = Operation::Check(key.clone(), Condition::None);
    let error = storage.transact(vec![twice.clone(), twice]).await;
    let error = expect_error(error, ErrorKind::InvalidKey, "a key named twice")?;
    ensure_eq!(error.key(), Some(&key), "the key of a transaction that names one twice");
    let absent = Operation::Check(key.clone(), Condition::IfAbsent);
    let error = expect_error(storage.transact(vec![absent]).await, ErrorKind::Conflict, "a failing check")?;
    let place = (error.storage(), error.operation(), error.key());
    ensure_eq!(place, (Some(name.as_str()), Some("transact"), Some(&key)), "the place of a conflict");
    Ok(())
}

async fn clean_messages(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for text in ["a\nb", "\u{1b}[31mred\u{7}", "\r\nINFO fake log line", "\u{85}\u{9b}x", "\u{7f}"] {
        let key = key(text)?;
        put(&storage, &key, &bytes("x")).await?;
        let refused = storage.store(&key, bytes("x"), StoreOptions::new().if_absent()).await;
        let conflict = expect_error(refused, ErrorKind::Conflict, "if_absent on a stored key")?;
        let tags = StoreOptions::new().tag("t", "x".repeat(MAX_TAG_BYTES));
        let refused = storage.store(&key, bytes("x"), tags).await;
        let invalid = expect_error(refused, ErrorKind::InvalidValue, "tags that are too large")?;
        for message in
            [conflict.to_string(), format!("{conflict:?}"), invalid.to_string(), format!("{invalid:?}")]
        {
            ensure!(!message.contains(char::is_control), "the message {message:?} holds a control character");
            ensure!(message.len() > 20, "the message {message:?} does not say what is wrong");
        }
    }
    Ok(())
}

/// A storage that holds `k` and has become unavailable.
async fn broken_down(harness: &dyn Harness) -> Result<Storage, Stop> {
    let storage = harness.open().await?;
    put(&storage, &key("k")?, &bytes("before")).await?;
    require!(harness.break_down().await, "this storage cannot be made unavailable");
    Ok(storage)
}

async fn unavailable_is_an_error(harness: &dyn Harness) -> Verdict {
    let storage = broken_down(harness).await?;
    for name in ["k", "never stored"] {
        for (call, answer) in every_call(&storage, &key(name)?).await {
            // These may have nothing to do, and so nothing that could fail.
            if ["flush", "stats", "maintain", "transact of a check"].contains(&call) {
                continue;
            }
            let Err(error) = answer else {
                return Err(Stop::broken(format!("{call} of {name:?} succeeds on an unavailable storage")));
            };
            let honest = [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::AccessDenied];
            ensure!(honest.contains(&error.kind()), "{call} on an unavailable storage says {error:?}");
            ensure_eq!(error.storage(), Some(storage.describe().name()), "the storage that {call} names");
        }
    }
    Ok(())
}

async fn unavailable_is_unhealthy(harness: &dyn Harness) -> Verdict {
    let storage = broken_down(harness).await?;
    let health = storage.health().await;
    ensure_eq!(health.status, HealthStatus::Unhealthy, "the health of an unavailable storage");
    ensure!(!health.detail.is_empty(), "an unhealthy storage does not say what is wrong");
    if let Err(error) = storage.retrieve(&key("k")?).await {
        let expected = if error.kind() == ErrorKind::AccessDenied { Retry::No } else { Retry::Later };
        ensure_eq!(error.retry(), expected, "what the error says about a retry");
    }
    Ok(())
}

async fn available_again(harness: &dyn Harness) -> Verdict {
    let mut storage = broken_down(harness).await?;
    let _ = put(&storage, &key("k")?, &bytes("during")).await;
    require!(harness.mend().await, "this storage cannot be made available again");
    if storage.retrieve(&key("k")?).await.is_err() {
        drop(storage);
        storage = harness.open().await?;
    }
    let found = super::kit::get(&storage, &key("k")?).await?;
    let possible = [Some(bytes("before")), Some(bytes("during"))];
    ensure!(possible.contains(&found), "after a failure the key holds {found:?}");
    put(&storage, &key("k")?, &bytes("after")).await?;
    expect_value(&storage, &key("k")?, &bytes("after")).await
}

/// A storage with three keys, the second of which is damaged.
async fn damaged(harness: &dyn Harness) -> Result<Storage, Stop> {
    let storage = harness.open().await?;
    for name in ["a", "b", "c"] {
        put(&storage, &key(name)?, &noise(5000, 1)).await?;
    }
    require!(harness.corrupt(&key("b")?).await, "values of this storage cannot be damaged from outside");
    Ok(storage)
}

async fn damage_is_an_error(harness: &dyn Harness) -> Verdict {
    let storage = damaged(harness).await?;
    let names = keys(&["a", "b", "c"])?;
    let error = storage.retrieve(&names[1]).await;
    let error = expect_error(error, ErrorKind::Corruption, "retrieve of a damaged value")?;
    ensure_eq!(error.key(), Some(&names[1]), "the key that the error names");
    ensure_eq!(error.retry(), Retry::No, "what the error says about a retry");
    for (key, answer) in names.iter().zip(storage.retrieve_many(&names).await) {
        if *key == names[1] {
            expect_error(answer, ErrorKind::Corruption, "a damaged value in a batch")?;
        } else {
            ensure_eq!(answer?.map(|entry| entry.value), Some(noise(5000, 1)), "the sound value of {key:?}");
        }
    }
    ensure_eq!(list(&storage, "").await?, names, "the keys, one of them with a damaged value");
    for (name, value) in one_of_each()? {
        put(&storage, &key(name)?, &value).await?;
        require!(harness.corrupt(&key(name)?).await, "a value of kind {name} cannot be damaged from outside");
        let error = storage.retrieve(&key(name)?).await;
        expect_error(error, ErrorKind::Corruption, &format!("retrieve of a damaged value of kind {name}"))?;
    }
    Ok(())
}

async fn verify_finds_damage(harness: &dyn Harness) -> Verdict {
    let storage = damaged(harness).await?;
    let report = storage.verify().await?;
    let found: Vec<_> = report.problems.iter().map(|problem| (problem.key.clone(), problem.kind)).collect();
    ensure_eq!(found, [(Some(key("b")?), ErrorKind::Corruption)], "what verify finds");
    ensure_eq!(report.checked, 3, "how many values verify has read");
    expect_value(&storage, &key("a")?, &noise(5000, 1)).await?;
    expect_value(&storage, &key("c")?, &noise(5000, 1)).await
}

async fn damage_is_curable(harness: &dyn Harness) -> Verdict {
    let storage = damaged(harness).await?;
    put(&storage, &key("b")?, &bytes("new")).await?;
    expect_value(&storage, &key("b")?, &bytes("new")).await?;
    ensure!(harness.corrupt(&key("c")?).await, "a second value could not be damaged");
    ensure!(remove(&storage, &key("c")?).await?, "delete of a damaged value says false");
    expect_absent(&storage, &key("c")?).await?;
    ensure!(storage.verify().await?.is_clean(), "verify finds damage after it was cured");
    Ok(())
}

async fn too_large(harness: &dyn Harness) -> Verdict {
    let storage = match harness.open_variant(Variant::MaxValueBytes(1000)).await? {
        Some(storage) => storage,
        None => harness.open().await?,
    };
    let limit = storage.describe().max_value_bytes();
    require!(limit <= 64 << 20, "this storage has no limit that a test can reach");
    let keys = keys(&["old", "new"])?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    put(&storage, &keys[0], &noise(limit, 1)).await?;
    let large = noise(limit + 1, 2);
    for key in &keys {
        let refused = put(&storage, key, &large).await;
        let error = expect_error(refused, ErrorKind::TooLarge, "a value above the limit")?;
        ensure_eq!(error.key(), Some(key), "the key that the error names");
        let step = Operation::put(key.clone(), large.clone(), StoreOptions::new());
        expect_error(storage.transact(vec![step]).await, ErrorKind::TooLarge, "a step above the limit")?;
        for answer in storage.store_many(vec![StoreItem::new(key.clone(), large.clone())]).await {
            expect_error(answer, ErrorKind::TooLarge, "an item above the limit")?;
        }
    }
    expect_absent(&storage, &keys[1]).await?;
    ensure!(super::kit::get(&storage, &keys[0]).await? == Some(noise(limit, 1)), "the old value has changed");
    Ok(())
}
