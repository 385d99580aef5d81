use std::time::Duration;

use persist_core::{
    Condition, DeleteOptions, ErrorKind, Expiry, Key, Operation, Outcome, StoreItem, StoreOptions, Timestamp,
};

use super::kit::{
    Storage, bytes, entry, expect_absent, expect_error, expect_value, key, keys, list, metadata, numbered,
    one_of_each, page, put, remove,
};
use super::{Harness, Stop, Verdict};
use crate::Variant;

group! { "Expiry":
    C098 "A value lives as long as it was given, and no longer" lifetime,
    C099 "A lifetime of zero has ended at once" zero,
    C100 "A moment that has passed ends the key at once" past_moment,
    C101 "A moment of expiry is kept to the millisecond and shown" exact_moment,
    C102 "Storing without a lifetime ends an earlier one" rewrite_clears,
    C103 "Storing with a lifetime replaces an earlier one" rewrite_replaces,
    C104 "touch sets, extends, shortens and ends a lifetime" touch_sets,
    C105 "touch of an absent key gives None and makes nothing" touch_absent,
    C106 "touch changes the expiry, the version and modified_at alone" touch_alone,
    C107 "touch with a moment that has passed ends the key at once" touch_past,
    C108 "The default lifetime holds wherever none is given" default_lifetime,
    C109 "Never overrides the default lifetime" never_overrides,
    C110 "An expired key is absent, however it is asked for" expired_is_absent,
    C111 "An expired key is not listed" expired_not_listed,
    C112 "Delete of an expired key says false" delete_expired,
    C113 "An expired key admits if_absent and no version" conditions_on_expired,
    C114 "A transaction takes an expired key as absent" transact_on_expired,
    C115 "An expired key that is stored anew is a new key" stored_anew,
    C116 "A lifetime may be as long as time" endless,
    C117 "maintain removes nothing that lives" maintain_spares,
    C118 "The moment of expiry itself counts as expired" the_very_moment,
}

async fn store_for(
    storage: &Storage,
    key: &Key,
    lifetime: Duration,
) -> persist_core::Result<persist_core::Metadata> {
    storage.store(key, bytes("mortal"), StoreOptions::new().ttl(lifetime)).await
}

/// A storage in which `key` has expired.
async fn with_expired(harness: &dyn Harness, key: &Key) -> Result<Storage, Stop> {
    let storage = harness.open().await?;
    let options = StoreOptions::new().ttl(harness.tick()).tag("t", "x");
    storage.store(key, bytes("mortal"), options).await?;
    harness.advance(harness.tick() * 2).await;
    Ok(storage)
}

async fn lifetime(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for (name, value) in one_of_each()? {
        storage.store(&key(name)?, value.clone(), StoreOptions::new().ttl(harness.tick())).await?;
        expect_value(&storage, &key(name)?, &value).await?;
    }
    put(&storage, &key("immortal")?, &bytes("x")).await?;
    harness.advance(harness.tick() * 2).await;
    for (name, _) in one_of_each()? {
        expect_absent(&storage, &key(name)?).await?;
    }
    expect_value(&storage, &key("immortal")?, &bytes("x")).await
}

async fn zero(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for _ in 0..2 {
        let stored = store_for(&storage, &key, Duration::ZERO).await?;
        ensure!(
            stored.expires_at.is_some(),
            "store answers a lifetime of zero with metadata that never expires"
        );
        expect_absent(&storage, &key).await?;
        put(&storage, &key, &bytes("before")).await?;
    }
    Ok(())
}

async fn past_moment(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for moment in [Timestamp::from_millis(0), Timestamp::from_millis(-1), Timestamp::from_millis(i64::MIN)] {
        put(&storage, &key, &bytes("before")).await?;
        let stored = storage.store(&key, bytes("dead"), StoreOptions::new().expires_at(moment)).await?;
        ensure!(
            stored.expires_at.is_some(),
            "store answers a moment that has passed with metadata that never expires"
        );
        expect_absent(&storage, &key).await?;
        ensure_eq!(
            list(&storage, "").await?,
            [],
            "the keys after one was stored for a moment that has passed"
        );
    }
    Ok(())
}

async fn exact_moment(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let now = storage.describe().now();
    for ahead in [1_234_567, 86_400_001, 31_536_000_999] {
        let moment = now.saturating_add(Duration::from_millis(ahead));
        let stored = storage.store(&key, bytes("x"), StoreOptions::new().expires_at(moment)).await?;
        ensure_eq!(stored.expires_at, Some(moment), "the expiry that store answers");
        ensure_eq!(metadata(&storage, &key).await?.expires_at, Some(moment), "the expiry in the metadata");
        let touched =
            storage.touch(&key, Expiry::At(moment.saturating_add(Duration::from_millis(7)))).await?;
        let later = moment.saturating_add(Duration::from_millis(7));
        ensure_eq!(
            touched.and_then(|metadata| metadata.expires_at),
            Some(later),
            "the expiry that touch answers"
        );
        ensure_eq!(
            entry(&storage, &key).await?.metadata.expires_at,
            Some(later),
            "the expiry that retrieve gives"
        );
    }
    ensure_eq!(put(&storage, &key, &bytes("x")).await?.expires_at, None, "the expiry of what never expires");
    Ok(())
}

async fn rewrite_clears(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    store_for(&storage, &key, harness.tick()).await?;
    let stored = put(&storage, &key, &bytes("immortal")).await?;
    ensure_eq!(stored.expires_at, None, "the expiry after storing without one");
    harness.advance(harness.tick() * 2).await;
    expect_value(&storage, &key, &bytes("immortal")).await
}

async fn rewrite_replaces(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["extended", "shortened"])?;
    store_for(&storage, &keys[0], harness.tick()).await?;
    store_for(&storage, &keys[0], harness.tick() * 1000).await?;
    store_for(&storage, &keys[1], harness.tick() * 1000).await?;
    store_for(&storage, &keys[1], harness.tick()).await?;
    harness.advance(harness.tick() * 2).await;
    expect_value(&storage, &keys[0], &bytes("mortal")).await?;
    expect_absent(&storage, &keys[1]).await
}

async fn touch_sets(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["set", "extended", "shortened", "ended"])?;
    let (short, long) = (harness.tick(), harness.tick() * 1000);
    put(&storage, &keys[0], &bytes("mortal")).await?;
    for (key, lifetime) in keys[1..].iter().zip([short, long, short]) {
        store_for(&storage, key, lifetime).await?;
    }
    let expiries = [Expiry::After(short), Expiry::After(long), Expiry::After(short), Expiry::Never];
    for (key, expiry) in keys.iter().zip(expiries) {
        let touched = storage.touch(key, expiry).await?;
        ensure!(touched.is_some(), "touch says that {key:?} is absent");
        ensure_eq!(touched, storage.metadata(key).await?, "what touch answers, against the metadata");
    }
    ensure_eq!(metadata(&storage, &keys[3]).await?.expires_at, None, "the expiry after a touch with Never");
    harness.advance(harness.tick() * 2).await;
    expect_absent(&storage, &keys[0]).await?;
    expect_value(&storage, &keys[1], &bytes("mortal")).await?;
    expect_absent(&storage, &keys[2]).await?;
    expect_value(&storage, &keys[3], &bytes("mortal")).await
}

async fn touch_absent(harness: &dyn Harness) -> Verdict {
    let (gone, expired) = (key("never")?, key("expired")?);
    let storage = with_expired(harness, &expired).await?;
    for key in [gone, expired] {
        for expiry in [Expiry::Default, Expiry::Never, Expiry::After(harness.tick() * 100)] {
            ensure_eq!(storage.touch(&key, expiry).await?, None, "touch of {key:?}, which is absent");
            expect_absent(&storage, &key).await?;
        }
    }
    ensure_eq!(list(&storage, "").await?, [], "the keys after absent ones were touched");
    Ok(())
}

async fn touch_alone(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for (name, value) in one_of_each()? {
        let key = key(name)?;
        let stored = storage.store(&key, value.clone(), StoreOptions::new().tag("colour", "green")).await?;
        harness.advance(harness.tick() / 10).await;
        let touched = storage.touch(&key, Expiry::After(harness.tick() * 1000)).await?;
        let touched = touched.ok_or_else(|| Stop::broken("touch says that a stored key is absent"))?;
        ensure!(touched.version > stored.version, "touch does not make the version greater");
        ensure!(touched.modified_at > stored.modified_at, "touch does not move modified_at");
        ensure!(touched.expires_at.is_some(), "touch does not set the expiry");
        let found = entry(&storage, &key).await?;
        ensure_eq!(found.metadata, touched, "the metadata after touch, against what touch answered");
        let expected = persist_core::Metadata {
            version: touched.version,
            modified_at: touched.modified_at,
            expires_at: touched.expires_at,
            ..stored
        };
        ensure_eq!(touched, expected, "the metadata after touch");
        ensure_eq!(found.value, value, "the value after touch");
    }
    Ok(())
}

async fn touch_past(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for expiry in [
        Expiry::After(Duration::ZERO),
        Expiry::At(Timestamp::from_millis(1)),
        Expiry::At(Timestamp::from_millis(-1)),
    ] {
        put(&storage, &key, &bytes("x")).await?;
        let touched = storage.touch(&key, expiry).await?;
        ensure!(touched.is_some(), "touch says that a stored key is absent");
        expect_absent(&storage, &key).await?;
    }
    Ok(())
}

async fn with_default(harness: &dyn Harness) -> Result<Storage, Stop> {
    let lifetime = harness.tick();
    let Some(storage) = harness.open_variant(Variant::DefaultTtl(lifetime)).await? else {
        return Err(Stop::skipped("this storage has no default lifetime"));
    };
    ensure_eq!(storage.describe().default_ttl(), Some(lifetime), "the default lifetime in the descriptor");
    Ok(storage)
}

async fn default_lifetime(harness: &dyn Harness) -> Verdict {
    let storage = with_default(harness).await?;
    let keys = keys(&["stored", "batch", "step", "touched", "longer"])?;
    put(&storage, &keys[0], &bytes("x")).await?;
    for answer in storage.store_many(vec![StoreItem::new(keys[1].clone(), bytes("x"))]).await {
        answer?;
    }
    storage.transact(vec![Operation::put(keys[2].clone(), bytes("x"), StoreOptions::new())]).await?;
    store_for(&storage, &keys[3], harness.tick() * 1000).await?;
    storage.touch(&keys[3], Expiry::Default).await?;
    store_for(&storage, &keys[4], harness.tick() * 1000).await?;
    for key in &keys {
        ensure!(metadata(&storage, key).await?.expires_at.is_some(), "{key:?} never expires");
    }
    harness.advance(harness.tick() * 2).await;
    ensure_eq!(list(&storage, "").await?, keys[4..], "the keys after the default lifetime");
    expect_value(&storage, &keys[4], &bytes("mortal")).await
}

async fn never_overrides(harness: &dyn Harness) -> Verdict {
    let storage = with_default(harness).await?;
    let keys = keys(&["stored", "touched"])?;
    let options = StoreOptions { expiry: Expiry::Never, ..StoreOptions::new() };
    let stored = storage.store(&keys[0], bytes("x"), options).await?;
    ensure_eq!(stored.expires_at, None, "the expiry of what was stored with Never");
    put(&storage, &keys[1], &bytes("x")).await?;
    storage.touch(&keys[1], Expiry::Never).await?;
    harness.advance(harness.tick() * 2).await;
    for key in &keys {
        expect_value(&storage, key, &bytes("x")).await?;
    }
    Ok(())
}

async fn expired_is_absent(harness: &dyn Harness) -> Verdict {
    let expired = key("expired")?;
    let storage = with_expired(harness, &expired).await?;
    expect_absent(&storage, &expired).await?;
    for answer in storage.retrieve_many(std::slice::from_ref(&expired)).await {
        ensure_eq!(answer?, None, "retrieve_many of an expired key");
    }
    ensure_eq!(
        storage.verify().await?.checked,
        0,
        "how many values verify finds where the only one has expired"
    );
    expect_absent(&storage, &expired).await
}

async fn expired_not_listed(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let all = numbered("k", 12)?;
    let mut alive = Vec::new();
    for (i, key) in all.iter().enumerate() {
        // Runs of one and of three expired keys, at the beginning and at the end too.
        if [0, 3, 5, 6, 7, 10, 11].contains(&i) {
            store_for(&storage, key, harness.tick()).await?;
        } else {
            put(&storage, key, &bytes("x")).await?;
            alive.push(key.clone());
        }
    }
    harness.advance(harness.tick() * 2).await;
    for limit in [1, 2, 3, 12] {
        let found = super::kit::walk(&storage, "k", limit).await?;
        ensure_eq!(found, alive, "the keys in pages of {limit} after seven of twelve expired");
    }
    let after_expired = page(&storage, "k", Some(&all[6]), 10).await?;
    ensure_eq!(
        (after_expired.keys, after_expired.next),
        (all[8..10].to_vec(), None),
        "the page after an expired key"
    );
    Ok(())
}

async fn delete_expired(harness: &dyn Harness) -> Verdict {
    let expired = key("expired")?;
    let storage = with_expired(harness, &expired).await?;
    ensure!(!remove(&storage, &expired).await?, "delete of an expired key says true");
    storage.close().await?;
    let storage = with_expired(harness, &expired).await?;
    for answer in storage.delete_many(std::slice::from_ref(&expired)).await {
        ensure!(!answer?, "delete_many of an expired key says true");
    }
    Ok(())
}

async fn conditions_on_expired(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let version = store_for(&storage, &key, harness.tick()).await?.version;
    harness.advance(harness.tick() * 2).await;
    let refused = storage.store(&key, bytes("never"), StoreOptions::new().if_version(version)).await;
    let error = expect_error(refused, ErrorKind::Conflict, "if_version on an expired key")?;
    ensure_eq!(error.found(), None, "the version that the conflict found of an expired key");
    let refused = storage.delete(&key, DeleteOptions::new().if_version(version)).await;
    expect_error(refused, ErrorKind::Conflict, "a delete of a version that has expired")?;
    expect_absent(&storage, &key).await?;
    storage.store(&key, bytes("new"), StoreOptions::new().if_absent()).await?;
    expect_value(&storage, &key, &bytes("new")).await
}

async fn transact_on_expired(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["put", "delete", "check"])?;
    let mut versions = Vec::new();
    for key in &keys {
        versions.push(store_for(&storage, key, harness.tick()).await?.version);
    }
    harness.advance(harness.tick() * 2).await;
    let stale = vec![Operation::Check(keys[2].clone(), Condition::IfVersion(versions[2]))];
    expect_error(
        storage.transact(stale).await,
        ErrorKind::Conflict,
        "a check of a version that has expired",
    )?;
    let answers = storage
        .transact(vec![
            Operation::put(keys[0].clone(), bytes("new"), StoreOptions::new().if_absent()),
            Operation::Delete(keys[1].clone(), DeleteOptions::new()),
            Operation::Check(keys[2].clone(), Condition::IfAbsent),
        ])
        .await?;
    ensure_eq!(answers[1..], [Outcome::Deleted(false), Outcome::Checked], "the answers about expired keys");
    expect_value(&storage, &keys[0], &bytes("new")).await
}

async fn stored_anew(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let options = StoreOptions::new().ttl(harness.tick()).tag("old", "tag");
    let old = storage.store(&key, bytes("old"), options).await?;
    harness.advance(harness.tick() * 2).await;
    let new = put(&storage, &key, &bytes("new")).await?;
    ensure!(new.created_at > old.created_at, "created_at is that of the value that has expired");
    ensure!(new.version > old.version, "the version is not greater than that of the value that has expired");
    ensure!(new.tags.is_empty(), "the tags are those of the value that has expired");
    ensure_eq!(entry(&storage, &key).await?.metadata, new, "the metadata of the new value");
    Ok(())
}

async fn endless(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let expiries = [
        Expiry::After(Duration::MAX),
        Expiry::After(Duration::from_secs(u64::MAX / 1000)),
        Expiry::After(Duration::from_secs(86_400 * 365 * 1000)),
        Expiry::At(Timestamp::from_millis(i64::MAX)),
        Expiry::At(Timestamp::from_millis(253_402_300_800_000)),
    ];
    for (i, expiry) in expiries.into_iter().enumerate() {
        let key = key(&format!("k{i}"))?;
        storage.store(&key, bytes("x"), StoreOptions { expiry, ..StoreOptions::new() }).await?;
        expect_value(&storage, &key, &bytes("x")).await?;
        storage.touch(&key, expiry).await?;
        expect_value(&storage, &key, &bytes("x")).await?;
    }
    harness.advance(harness.tick() * 2).await;
    ensure_eq!(list(&storage, "").await?.len(), 5, "how many of five very long lives have lasted");
    Ok(())
}

async fn maintain_spares(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["alive", "expired", "later", "rewritten"])?;
    put(&storage, &keys[0], &bytes("mortal")).await?;
    store_for(&storage, &keys[1], harness.tick()).await?;
    store_for(&storage, &keys[2], harness.tick() * 1000).await?;
    store_for(&storage, &keys[3], harness.tick()).await?;
    harness.advance(harness.tick() * 2).await;
    put(&storage, &keys[3], &bytes("mortal")).await?;
    for _ in 0..2 {
        let done = storage.maintain().await?;
        ensure!(done.expired <= 1, "maintain says that {} expired, and only one has", done.expired);
        for key in [&keys[0], &keys[2], &keys[3]] {
            expect_value(&storage, key, &bytes("mortal")).await?;
        }
        expect_absent(&storage, &keys[1]).await?;
    }
    ensure_eq!(storage.maintain().await?.expired, 0, "how many expired since the maintain before");
    Ok(())
}

async fn the_very_moment(harness: &dyn Harness) -> Verdict {
    let Some(clock) = harness.clock() else {
        return Err(Stop::skipped("the clock of this storage cannot be moved"));
    };
    let storage = harness.open().await?;
    let keys = keys(&["stored", "touched"])?;
    store_for(&storage, &keys[0], Duration::from_millis(500)).await?;
    put(&storage, &keys[1], &bytes("mortal")).await?;
    storage.touch(&keys[1], Expiry::After(Duration::from_millis(500))).await?;
    clock.advance(Duration::from_millis(499));
    for key in &keys {
        expect_value(&storage, key, &bytes("mortal")).await?;
    }
    clock.advance(Duration::from_millis(1));
    for key in &keys {
        expect_absent(&storage, key).await?;
    }
    Ok(())
}
