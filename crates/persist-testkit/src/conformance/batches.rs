use persist_core::{ErrorKind, MAX_TAG_BYTES, StoreItem, StoreOptions};

use super::kit::{
    bytes, entry, expect_absent, expect_error, expect_value, key, keys, list, metadata, noise, numbered,
    one_of_each, put,
};
use super::{Harness, Verdict};

group! { "Batches":
    C068 "store_many stores each value and answers in the order asked" store_order,
    C069 "retrieve_many answers in the order asked" retrieve_order,
    C070 "delete_many answers in the order asked" delete_order,
    C071 "What fails in a batch does not hold up the rest" independent_items,
    C072 "A key named twice in a batch is stored twice, in order" named_twice,
    C073 "Every value of a batch has its own options" own_options,
    C074 "An empty batch is answered with nothing" empty_batches,
    C075 "A batch of a thousand is stored, read and deleted" large_batch,
}

fn items(keys: &[persist_core::Key]) -> Vec<StoreItem> {
    keys.iter().enumerate().map(|(i, key)| StoreItem::new(key.clone(), noise(20 + i, i as u64))).collect()
}

async fn store_order(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["m", "z", "a", "k/1", "k", "b"])?;
    let answers = storage.store_many(items(&keys)).await;
    ensure_eq!(answers.len(), keys.len(), "how many answers store_many gives");
    for (i, (key, answer)) in keys.iter().zip(answers).enumerate() {
        expect_value(&storage, key, &noise(20 + i, i as u64)).await?;
        ensure_eq!(answer?, metadata(&storage, key).await?, "the answer for {key:?}, item {i} of the batch");
    }
    Ok(())
}

async fn retrieve_order(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let stored = keys(&["a", "b", "c", "d"])?;
    for item in items(&stored) {
        put(&storage, &item.key, &item.value).await?;
    }
    let asked = keys(&["d", "a", "absent", "c", "a", "b", "nor this", "d"])?;
    let answers = storage.retrieve_many(&asked).await;
    ensure_eq!(answers.len(), asked.len(), "how many answers retrieve_many gives");
    for (key, answer) in asked.iter().zip(answers) {
        ensure_eq!(answer?, storage.retrieve(key).await?, "the answer for {key:?}");
    }
    Ok(())
}

async fn delete_order(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for key in keys(&["a", "b", "c", "d"])? {
        put(&storage, &key, &bytes("x")).await?;
    }
    let asked = keys(&["c", "absent", "a", "c", "d"])?;
    let answers = storage.delete_many(&asked).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure_eq!(answers, [true, false, true, false, true], "what delete_many says of {asked:?}");
    ensure_eq!(list(&storage, "").await?, keys(&["b"])?, "the keys after delete_many");
    Ok(())
}

async fn independent_items(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = numbered("k", 6)?;
    put(&storage, &keys[4], &bytes("old")).await?;
    let mut batch = items(&keys);
    batch[1].options = StoreOptions::new().tag("t", "x".repeat(MAX_TAG_BYTES));
    batch[4].options = StoreOptions::new().if_absent();
    let mut answers = storage.store_many(batch).await;
    ensure_eq!(answers.len(), keys.len(), "how many answers store_many gives");
    expect_error(answers.remove(4), ErrorKind::Conflict, "item 4, which should be absent and is not")?;
    expect_error(answers.remove(1), ErrorKind::InvalidValue, "item 1, whose tags are too large")?;
    for answer in answers {
        answer?;
    }
    for i in [0, 2, 3, 5] {
        expect_value(&storage, &keys[i], &noise(20 + i, i as u64)).await?;
    }
    expect_absent(&storage, &keys[1]).await?;
    expect_value(&storage, &keys[4], &bytes("old")).await
}

async fn named_twice(harness: &dyn Harness) -> Verdict {
    let (storage, twice, other) = (harness.open().await?, key("twice")?, key("other")?);
    let batch = vec![
        StoreItem::new(twice.clone(), bytes("first")),
        StoreItem::new(other.clone(), bytes("other")),
        StoreItem::new(twice.clone(), bytes("second")),
    ];
    let answers = storage.store_many(batch).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    expect_value(&storage, &twice, &bytes("second")).await?;
    expect_value(&storage, &other, &bytes("other")).await?;
    ensure!(
        answers[2].version > answers[0].version,
        "the second store has no greater version than the first"
    );
    ensure_eq!(entry(&storage, &twice).await?.metadata, answers[2], "the metadata of the key named twice");
    Ok(())
}

async fn own_options(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["mortal", "tagged", "plain"])?;
    let mut batch = items(&keys);
    batch[0].options = StoreOptions::new().ttl(harness.tick());
    batch[1].options = StoreOptions::new().tag("colour", "green");
    for answer in storage.store_many(batch).await {
        answer?;
    }
    ensure_eq!(metadata(&storage, &keys[1]).await?.tags.get("colour"), Some("green"), "the tag of item 1");
    ensure!(metadata(&storage, &keys[2]).await?.tags.is_empty(), "item 2 has the tags of another");
    harness.advance(harness.tick() * 2).await;
    expect_absent(&storage, &keys[0]).await?;
    expect_value(&storage, &keys[1], &noise(21, 1)).await?;
    expect_value(&storage, &keys[2], &noise(22, 2)).await
}

async fn empty_batches(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    ensure!(storage.store_many(Vec::new()).await.is_empty(), "store_many of nothing gives an answer");
    ensure!(storage.retrieve_many(&[]).await.is_empty(), "retrieve_many of nothing gives an answer");
    ensure!(storage.delete_many(&[]).await.is_empty(), "delete_many of nothing gives an answer");
    ensure_eq!(storage.transact(Vec::new()).await?, [], "what transact of nothing gives");
    ensure_eq!(list(&storage, "").await?, [], "the keys after empty batches");
    Ok(())
}

async fn large_batch(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let kinds = one_of_each()?;
    let keys = numbered("k", 1000)?;
    let value = |i: usize| if i % 4 == 3 { noise(i, i as u64) } else { kinds[i % 4].1.clone() };
    let batch = keys.iter().enumerate().map(|(i, key)| StoreItem::new(key.clone(), value(i))).collect();
    for answer in storage.store_many(batch).await {
        answer?;
    }
    ensure_eq!(list(&storage, "").await?, keys, "the keys after a batch of 1000");
    for (i, answer) in storage.retrieve_many(&keys).await.into_iter().enumerate() {
        ensure_eq!(answer?.map(|entry| entry.value), Some(value(i)), "value {i} of the batch");
    }
    for (i, answer) in storage.delete_many(&keys).await.into_iter().enumerate() {
        ensure!(answer?, "delete_many says that key {i}, which was stored, was absent");
    }
    ensure_eq!(list(&storage, "").await?, [], "the keys after all were deleted");
    Ok(())
}
