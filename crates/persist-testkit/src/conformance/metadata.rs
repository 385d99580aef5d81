use persist_core::{ErrorKind, Kind, MAX_TAG_BYTES, StoreOptions, Tags, Value};

use super::kit::{bytes, entry, expect_error, key, keys, metadata, noise, one_of_each, put, remove};
use super::{Harness, Verdict};

group! { "Metadata and tags":
    C119 "The kind and the size are those of the value" kind_and_size,
    C120 "The checksum is that of the plain value" checksum,
    C121 "created_at stays while the key lives, modified_at moves" created_stays,
    C122 "A key that was deleted and stored anew has a new created_at" created_anew,
    C123 "Times are taken from the clock of the storage" storage_time,
    C124 "Tags come back, in all of Unicode" tags_come_back,
    C125 "Tags are replaced, not added to" tags_replaced,
    C126 "Tags of 2048 bytes are stored" tags_at_limit,
    C127 "Tags of more than 2048 bytes are refused and the old value stays" tags_above_limit,
    C128 "What layers noted about their encodings comes back" encodings,
}

async fn kind_and_size(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let known = [("json", Kind::Json, 29), ("bytes", Kind::Bytes, 5), ("array", Kind::Array, 24)];
    for ((name, value), (_, kind, size)) in one_of_each()?.into_iter().zip(known) {
        put(&storage, &key(name)?, &value).await?;
        let found = metadata(&storage, &key(name)?).await?;
        ensure_eq!((found.kind, found.size), (kind, size), "kind and size of {name}");
    }
    for len in [0, 1, 100_000] {
        let stored = put(&storage, &key("bytes")?, &noise(len, 1)).await?;
        ensure_eq!(stored.size, len as u64, "the size that store answers");
        ensure_eq!(metadata(&storage, &key("bytes")?).await?.size, len as u64, "the size after an overwrite");
    }
    Ok(())
}

async fn checksum(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let empty = [("empty", bytes("")), ("null", Value::json(&())?), ("large", noise(300_000, 2))];
    for (name, value) in one_of_each()?.into_iter().chain(empty) {
        let stored = put(&storage, &key(name)?, &value).await?;
        ensure_eq!(stored.checksum, value.checksum(), "the checksum that store answers for {name}");
        let found = metadata(&storage, &key(name)?).await?.checksum;
        ensure_eq!(found, value.checksum(), "the checksum of {name}");
    }
    Ok(())
}

async fn created_stays(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let first = put(&storage, &key, &bytes("1")).await?;
    ensure_eq!(first.modified_at, first.created_at, "modified_at of a new key");
    let mut last = first.clone();
    for content in ["2", "3"] {
        harness.advance(harness.tick() / 10).await;
        let next = put(&storage, &key, &bytes(content)).await?;
        ensure_eq!(next.created_at, first.created_at, "created_at after an overwrite");
        ensure!(next.modified_at > last.modified_at, "modified_at does not move with an overwrite");
        ensure_eq!(metadata(&storage, &key).await?, next, "the metadata, against what store answered");
        last = next;
    }
    Ok(())
}

async fn created_anew(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let old = put(&storage, &key, &bytes("1")).await?;
    remove(&storage, &key).await?;
    harness.advance(harness.tick() / 10).await;
    let new = put(&storage, &key, &bytes("2")).await?;
    ensure!(new.created_at > old.created_at, "created_at is that of the value that was deleted");
    ensure_eq!(metadata(&storage, &key).await?, new, "the metadata of the new value");
    Ok(())
}

async fn storage_time(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    harness.advance(harness.tick() / 10).await;
    let before = storage.describe().now();
    let stored = put(&storage, &key, &bytes("x")).await?;
    let after = storage.describe().now();
    let within = before..=after;
    ensure!(within.contains(&stored.created_at), "created_at {} is not in {within:?}", stored.created_at);
    ensure!(within.contains(&stored.modified_at), "modified_at {} is not in {within:?}", stored.modified_at);
    Ok(())
}

/// Tags that a line-based or quoted form would break.
fn odd_tags() -> Tags {
    Tags::from_iter([
        ("colour", "green"),
        ("Colour", "red"),
        ("empty", ""),
        ("", "no name"),
        ("a=b;c", "d=e&f"),
        ("new\nline", "tab\t and \r\n"),
        ("\"quoted\"", "back\\slash '"),
        ("größe 😀", "e\u{301} é \u{202e}"),
        ("nul", "\0"),
        ("json", r#"{"a": [null]}"#),
        ("user.persist", "x"),
    ])
}

async fn tags_come_back(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for (name, value) in one_of_each()? {
        let options = StoreOptions { tags: odd_tags(), ..StoreOptions::new() };
        let stored = storage.store(&key(name)?, value, options).await?;
        ensure_eq!(stored.tags, odd_tags(), "the tags that store answers");
        ensure_eq!(metadata(&storage, &key(name)?).await?.tags, odd_tags(), "the tags of {name}");
        ensure_eq!(
            entry(&storage, &key(name)?).await?.metadata.tags,
            odd_tags(),
            "the tags that retrieve gives"
        );
    }
    put(&storage, &key("other")?, &bytes("x")).await?;
    ensure!(
        metadata(&storage, &key("other")?).await?.tags.is_empty(),
        "a key without tags has those of another"
    );
    Ok(())
}

async fn tags_replaced(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let sets = [
        Tags::from_iter([("a", "1"), ("b", "2")]),
        Tags::from_iter([("b", "3"), ("c", "4")]),
        Tags::new(),
        Tags::from_iter([("a", "5")]),
    ];
    for tags in sets {
        let options = StoreOptions { tags: tags.clone(), ..StoreOptions::new() };
        storage.store(&key, bytes("x"), options).await?;
        ensure_eq!(metadata(&storage, &key).await?.tags, tags, "the tags after an overwrite");
    }
    Ok(())
}

async fn tags_at_limit(harness: &dyn Harness) -> Verdict {
    let keys = keys(&["one name", "one text", "many", "wide"])?;
    let storage = harness.open().await?;
    let sets = [
        Tags::new().with("n".repeat(MAX_TAG_BYTES), ""),
        Tags::new().with("", "t".repeat(MAX_TAG_BYTES)),
        (0..128).map(|i| (format!("name{i:04}"), "textual!")).collect(),
        Tags::new().with("😀".repeat(256), "é\n".repeat(341) + "x"),
    ];
    for (key, tags) in keys.iter().zip(sets) {
        ensure_eq!(tags.byte_size(), MAX_TAG_BYTES, "the size of the tags of this check");
        let options = StoreOptions { tags: tags.clone(), ..StoreOptions::new() };
        storage.store(key, bytes("x"), options).await?;
        ensure_eq!(metadata(&storage, key).await?.tags, tags, "tags of exactly 2048 bytes");
    }
    Ok(())
}

async fn tags_above_limit(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = keys(&["old", "new"])?;
    let stored = storage.store(&keys[0], bytes("old"), StoreOptions::new().tag("t", "kept")).await?;
    for tags in [Tags::new().with("n", "t".repeat(MAX_TAG_BYTES)), Tags::new().with("😀".repeat(512), "x")]
    {
        for key in &keys {
            let options = StoreOptions { tags: tags.clone(), ..StoreOptions::new() };
            let refused = storage.store(key, bytes("new"), options).await;
            expect_error(refused, ErrorKind::InvalidValue, "tags of 2049 bytes")?;
        }
    }
    let found = entry(&storage, &keys[0]).await?;
    ensure_eq!((found.value, found.metadata), (bytes("old"), stored), "what is stored after refused stores");
    super::kit::expect_absent(&storage, &keys[1]).await
}

async fn encodings(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let noted = vec!["first layer".to_owned(), "second;\"layer\"".to_owned()];
    let options = StoreOptions { encodings: noted.clone(), ..StoreOptions::new() };
    storage.store(&key, bytes("x"), options).await?;
    ensure_eq!(metadata(&storage, &key).await?.encodings, noted, "the encodings");
    storage.touch(&key, persist_core::Expiry::Never).await?;
    ensure_eq!(entry(&storage, &key).await?.metadata.encodings, noted, "the encodings after touch");
    put(&storage, &key, &bytes("x")).await?;
    ensure!(metadata(&storage, &key).await?.encodings.is_empty(), "the encodings of the value before stay");
    Ok(())
}
