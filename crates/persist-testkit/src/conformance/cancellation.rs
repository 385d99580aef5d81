use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use persist_core::{DeleteOptions, Expiry, Key, Operation, StoreOptions, Value};

use super::kit::{Storage, at_once, bytes, expect_value, key, keys, list, noise, numbered, put};
use super::{Harness, Stop, Verdict};

group! { "Cancellation":
    C158 "A store that is dropped on the way leaves the old value or the new one, whole" dropped_store,
    C159 "A delete that is dropped on the way leaves the value whole or none" dropped_delete,
    C160 "A transaction that is dropped on the way leaves whole values" dropped_transact,
    C161 "A store that was dropped never comes back over a later one" dropped_store_stays_dropped,
    C162 "After many dropped calls the storage works as before" works_after_drops,
    C163 "A touch that is dropped on the way leaves the value whole" dropped_touch,
}

/// How a call is cut off: after so many polls, or after so long.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Polls(usize),
    Time(Duration),
}

/// From "never polled" to later than most calls take.
fn cuts() -> impl Iterator<Item = Cut> {
    let polls = (0..12).map(Cut::Polls);
    polls.chain([0, 20, 50, 100, 300, 1000, 3000].map(|micros| Cut::Time(Duration::from_micros(micros))))
}

impl Cut {
    /// Runs a future until the cut and drops it there; its answer, if it was quicker.
    async fn apply<F: Future>(self, future: F) -> Option<F::Output> {
        match self {
            Self::Polls(limit) => poll_times(future, limit).await,
            Self::Time(limit) => tokio::time::timeout(limit, future).await.ok(),
        }
    }
}

async fn poll_times<F: Future>(future: F, limit: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        if polled == limit {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if polled == limit => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn tagged(tag: &str) -> StoreOptions {
    StoreOptions::new().tag("of", tag)
}

/// The key holds one of these values with the tag that belongs to it, or none if that may be; now and a moment later.
async fn expect_one_of(
    storage: &Storage,
    key: &Key,
    whole: &[(&str, &Value)],
    absent: bool,
    cut: Cut,
) -> Verdict {
    for pause in [0, 3] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let Some(found) = storage.retrieve(key).await? else {
            ensure!(absent, "the key is absent after {cut:?}");
            continue;
        };
        let tag = found.metadata.tags.get("of").unwrap_or_default();
        let known = whole.iter().any(|(name, value)| *name == tag && **value == found.value);
        ensure!(known, "after {cut:?} the key holds {:?} with the tag {tag:?}", found.value.kind());
        let expected = (found.value.checksum(), found.value.size());
        ensure_eq!((found.metadata.checksum, found.metadata.size), expected, "the metadata after {cut:?}");
    }
    Ok(())
}

async fn dropped_store(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let (old, new) = (noise(100, 1), noise(200_000, 2));
    for cut in cuts() {
        storage.store(&key, old.clone(), tagged("old")).await?;
        let answer = cut.apply(storage.store(&key, new.clone(), tagged("new"))).await;
        let acknowledged = answer.transpose()?.is_some();
        let old_may_be = if acknowledged { None } else { Some(("old", &old)) };
        let whole: Vec<_> = old_may_be.into_iter().chain([("new", &new)]).collect();
        expect_one_of(&storage, &key, &whole, false, cut).await?;
        ensure_eq!(list(&storage, "").await?, std::slice::from_ref(&key), "the keys after {cut:?}");
    }
    Ok(())
}

async fn dropped_delete(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let value = noise(50_000, 1);
    for cut in cuts() {
        storage.store(&key, value.clone(), tagged("old")).await?;
        let answer = cut.apply(storage.delete(&key, DeleteOptions::new())).await.transpose()?;
        let whole = if answer == Some(true) { &[][..] } else { &[("old", &value)][..] };
        expect_one_of(&storage, &key, whole, true, cut).await?;
    }
    Ok(())
}

async fn count_new(storage: &Storage, keys: &[Key], new: &Value) -> Result<usize, Stop> {
    let mut changed = 0;
    for key in keys {
        changed += usize::from(super::kit::get(storage, key).await?.as_ref() == Some(new));
    }
    Ok(changed)
}

async fn dropped_transact(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["a", "b", "c"])?;
    let atomic = storage.describe().capabilities().atomic_transact;
    let (old, new) = (noise(3000, 1), noise(60_000, 2));
    for cut in cuts() {
        for key in &keys {
            storage.store(key, old.clone(), tagged("old")).await?;
        }
        let steps = keys.iter().map(|key| Operation::put(key.clone(), new.clone(), tagged("new"))).collect();
        let answer = cut.apply(storage.transact(steps)).await.transpose()?;
        for key in &keys {
            expect_one_of(&storage, key, &[("old", &old), ("new", &new)], false, cut).await?;
        }
        let mut changed = count_new(&storage, &keys, &new).await?;
        // It may take place while these three reads are made; once it has, nothing moves any more.
        for _ in 0..50 {
            if [0, 3].contains(&changed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            changed = count_new(&storage, &keys, &new).await?;
        }
        ensure!(
            answer.is_none() || changed == 3,
            "{changed} of 3 steps took place, and all were acknowledged"
        );
        ensure!(!atomic || [0, 3].contains(&changed), "after {cut:?} {changed} of 3 steps have taken place");
    }
    Ok(())
}

async fn dropped_store_stays_dropped(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = numbered("k", cuts().count())?;
    for (key, cut) in keys.iter().zip(cuts()) {
        put(&storage, key, &bytes("old")).await?;
        cut.apply(put(&storage, key, &noise(300_000, 2))).await.transpose()?;
        put(&storage, key, &bytes("later")).await?;
        expect_value(&storage, key, &bytes("later")).await?;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for key in &keys {
        expect_value(&storage, key, &bytes("later")).await?;
    }
    Ok(())
}

async fn works_after_drops(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = Arc::new(numbered("k", 8)?);
    let work = at_once(8, |i| {
        let (storage, keys) = (Arc::clone(&storage), Arc::clone(&keys));
        async move {
            for cut in cuts() {
                let key = &keys[i % 4];
                cut.apply(put(&storage, key, &noise(20_000, i as u64))).await.transpose()?;
                cut.apply(storage.retrieve(key)).await.transpose()?;
                cut.apply(storage.list_keys("", persist_core::ListOptions::new())).await.transpose()?;
                cut.apply(storage.delete(&keys[4 + i % 4], DeleteOptions::new())).await.transpose()?;
            }
            Verdict::Ok(())
        }
    });
    for verdict in work.await? {
        verdict?;
    }
    for key in keys.iter() {
        put(&storage, key, &bytes("after")).await?;
        expect_value(&storage, key, &bytes("after")).await?;
    }
    ensure_eq!(list(&storage, "").await?, *keys, "the keys after many dropped calls");
    ensure!(storage.verify().await?.is_clean(), "verify finds damage after dropped calls");
    Ok(())
}

async fn dropped_touch(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let value = noise(50_000, 1);
    for cut in cuts() {
        let stored = storage.store(&key, value.clone(), tagged("old")).await?;
        let moment = stored.modified_at.saturating_add(harness.tick() * 1000);
        cut.apply(storage.touch(&key, Expiry::At(moment))).await.transpose()?;
        expect_one_of(&storage, &key, &[("old", &value)], false, cut).await?;
        let found = storage.metadata(&key).await?.ok_or_else(|| Stop::broken("the key is absent"))?;
        let either = [None, Some(moment)].contains(&found.expires_at);
        ensure!(either, "after {cut:?} the expiry is {:?}", found.expires_at);
    }
    Ok(())
}
