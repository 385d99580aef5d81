use persist_core::{ErrorKind, Key, MAX_KEY_BYTES, StorageExt};

use super::kit::{Storage, bytes, expect_absent, expect_error, expect_value, fill, key, list, put, remove};
use super::{Harness, Stop, Verdict};
use crate::hostile;

group! { "Keys":
    C023 "Every ASCII character but NUL may be in a key" every_ascii,
    C024 "A key that looks like a path is just a name" path_names,
    C025 "No name is reserved for a device, and none is cut short" device_names,
    C026 "No name is reserved for the storage itself" own_names,
    C027 "Case matters and nothing is normalised" twins,
    C028 "Nothing in a key is decoded" escapes,
    C029 "Quotes, patterns and control characters are just characters" syntax,
    C030 "All of Unicode may be in a key" unicode,
    C031 "A key and keys below it live side by side" levels,
    C032 "Keys of 1024 bytes are stored, and all their bytes count" long_keys,
    C033 "All hostile keys live side by side" all_together,
    C034 "No two hostile keys are the same key" every_pair,
    C035 "Every hostile key lists itself as a prefix" as_prefix,
    C036 "A text that is no key is refused and changes nothing" invalid_keys,
}

/// Stores each key with its own name as the value, then looks for each.
async fn side_by_side(storage: &Storage, keys: &[Key]) -> Verdict {
    for key in keys {
        put(storage, key, &bytes(key.as_bytes())).await?;
    }
    expect_all(storage, keys).await
}

/// Each key holds its own name and is listed, and no other key is.
async fn expect_all(storage: &Storage, keys: &[Key]) -> Verdict {
    for key in keys {
        expect_value(storage, key, &bytes(key.as_bytes())).await?;
    }
    expect_listed(storage, keys).await
}

async fn expect_listed(storage: &Storage, keys: &[Key]) -> Verdict {
    let listed = list(storage, "").await?;
    if let Some(missing) = keys.iter().find(|key| !listed.contains(key)) {
        return Err(Stop::broken(format!("{missing:?} is stored and not listed")));
    }
    if let Some(stranger) = listed.iter().find(|key| !keys.contains(key)) {
        return Err(Stop::broken(format!("{stranger:?} is listed and was never stored")));
    }
    ensure_eq!(listed.len(), keys.len(), "how many keys are listed");
    Ok(())
}

/// The same, and then deletes them one by one.
async fn hostile(harness: &dyn Harness, texts: impl IntoIterator<Item = String>) -> Verdict {
    let storage = harness.open().await?;
    let mut keys = texts.into_iter().map(Key::new).collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    keys.dedup();
    side_by_side(&storage, &keys).await?;
    while let Some(key) = keys.pop() {
        ensure!(remove(&storage, &key).await?, "delete says that {key:?}, which was stored, was absent");
        expect_absent(&storage, &key).await?;
    }
    expect_listed(&storage, &[]).await
}

fn owned(texts: &'static [&'static str]) -> impl Iterator<Item = String> {
    texts.iter().map(|text| (*text).to_owned())
}

async fn every_ascii(harness: &dyn Harness) -> Verdict {
    hostile(harness, hostile::ascii()).await
}

async fn path_names(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::PATHS)).await
}

async fn device_names(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::DEVICES)).await
}

async fn own_names(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::OWN_NAMES)).await
}

async fn twins(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::TWINS)).await
}

async fn escapes(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::ESCAPES)).await
}

async fn syntax(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::SYNTAX)).await
}

async fn unicode(harness: &dyn Harness) -> Verdict {
    hostile(harness, owned(hostile::UNICODE)).await
}

async fn levels(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let down =
        super::kit::keys(&["a", "a/b", "a/b/c", "a/b/c/d", "a/", "a//", "ab", "a.", "a.json", "a/b.json"])?;
    let up: Vec<_> = down.iter().rev().cloned().collect();
    for (stored, deleted) in [(&down, &down), (&up, &down), (&down, &up), (&up, &up)] {
        side_by_side(&storage, stored).await?;
        for (i, key) in deleted.iter().enumerate() {
            ensure!(remove(&storage, key).await?, "delete says that {key:?}, which was stored, was absent");
            for left in &deleted[i + 1..] {
                expect_value(&storage, left, &bytes(left.as_bytes())).await?;
            }
        }
        expect_listed(&storage, &[]).await?;
    }
    Ok(())
}

async fn long_keys(harness: &dyn Harness) -> Verdict {
    hostile(harness, hostile::long()).await
}

/// A storage that holds all hostile keys.
async fn with_hostile(harness: &dyn Harness) -> Result<(Storage, Vec<Key>), Stop> {
    let (storage, keys) = (harness.open().await?, hostile::keys());
    fill(&storage, &keys).await?;
    Ok((storage, keys))
}

async fn all_together(harness: &dyn Harness) -> Verdict {
    let (storage, keys) = with_hostile(harness).await?;
    expect_all(&storage, &keys).await?;
    ensure_eq!(list(&storage, "").await?, keys, "the hostile keys in byte order");
    Ok(())
}

async fn every_pair(harness: &dyn Harness) -> Verdict {
    let (storage, mut left) = with_hostile(harness).await?;
    // If two keys were one, the later would have taken the value of the earlier, and a delete of either both.
    expect_all(&storage, &left).await?;
    while !left.is_empty() {
        // A sixteenth of what is left in each round, so that in the end every two keys were parted.
        let gone: Vec<_> = left.iter().step_by(16).cloned().collect();
        left.retain(|key| !gone.contains(key));
        for (key, answer) in gone.iter().zip(storage.delete_many(&gone).await) {
            ensure!(answer?, "{key:?} went away with another key");
            expect_absent(&storage, key).await?;
        }
        ensure_eq!(list(&storage, "").await?, left, "the keys that are left after some others were deleted");
    }
    Ok(())
}

async fn as_prefix(harness: &dyn Harness) -> Verdict {
    let (storage, keys) = with_hostile(harness).await?;
    for prefix in &keys {
        let expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix.as_str())).cloned().collect();
        ensure_eq!(list(&storage, prefix).await?, expected, "the keys under the prefix {prefix:?}");
    }
    Ok(())
}

async fn invalid_keys(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    put(&storage, &key("k")?, &bytes("x")).await?;
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    for text in ["", "a\0b", "\0", &long] {
        expect_error(Key::new(text), ErrorKind::InvalidKey, "Key::new")?;
        expect_error(storage.put(text, &1).await, ErrorKind::InvalidKey, "put")?;
        expect_error(storage.get::<u8>(text).await, ErrorKind::InvalidKey, "get")?;
        expect_error(storage.remove(text).await, ErrorKind::InvalidKey, "remove")?;
    }
    ensure_eq!(list(&storage, "").await?, [key("k")?], "the keys after refused calls");
    Ok(())
}
