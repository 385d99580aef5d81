//! What the checks are written with.

use std::future::Future;
use std::sync::Arc;

use persist_core::{
    Array, BaseStorage, DeleteOptions, Entry, ErrorKind, Key, ListOptions, Metadata, Page, Result,
    StorageError, StoreItem, StoreOptions, Value,
};

use super::Stop;

pub(super) type Storage = Arc<dyn BaseStorage>;

/// Breaks the clause unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Stop::Broken(format!($($message)+)));
        }
    };
}

/// Breaks the clause unless two things are equal; shows both, cut.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($message:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) if *found != *expected => {
                let what = format!($($message)+);
                let (found, expected) =
                    ($crate::conformance::kit::shown(found), $crate::conformance::kit::shown(expected));
                return Err($crate::conformance::Stop::Broken(format!(
                    "{what}: found {found}, expected {expected}"
                )));
            }
            _ => {}
        }
    };
}

/// Skips the clause for a reason unless a condition holds.
macro_rules! require {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Stop::Skipped(format!($($reason)+)));
        }
    };
}

/// A table of clauses: `id title check,` each.
macro_rules! group {
    ($name:literal: $($id:ident $title:literal $check:ident,)*) => {
        pub(super) const GROUP: $crate::conformance::Group = $crate::conformance::Group {
            name: $name,
            clauses: &[$($crate::conformance::Clause {
                id: stringify!($id),
                title: $title,
                check: |harness| Box::pin($check(harness)),
            }),*],
        };
    };
}

/// The debug form, cut.
pub(crate) fn shown(what: &(impl std::fmt::Debug + ?Sized)) -> String {
    let text = format!("{what:?}");
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}

pub(super) fn key(text: &str) -> Result<Key> {
    Key::new(text)
}

pub(super) fn keys(texts: &[&str]) -> Result<Vec<Key>> {
    texts.iter().map(|text| Key::new(*text)).collect()
}

/// `prefix00`, `prefix01`, …: in byte order.
pub(super) fn numbered(prefix: &str, count: usize) -> Result<Vec<Key>> {
    let width = count.to_string().len();
    (0..count).map(|i| Key::new(format!("{prefix}{i:0width$}"))).collect()
}

pub(super) fn bytes(content: impl AsRef<[u8]>) -> Value {
    Value::bytes(content.as_ref().to_vec())
}

/// Bytes that no compressor shortens and that differ from seed to seed (xorshift64*, Vigna 2016).
pub(super) fn noise(len: usize, seed: u64) -> Value {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    };
    let mut content = Vec::with_capacity(len + 8);
    while content.len() < len {
        content.extend_from_slice(&next());
    }
    content.truncate(len);
    Value::bytes(content)
}

/// One small value of every kind.
pub(super) fn one_of_each() -> Result<[(&'static str, Value); 3]> {
    Ok([
        ("json", Value::json_text(r#"{"name": "Ada", "born": 1815}"#)?),
        ("bytes", bytes([0, 255, 10, 13, 0])),
        ("array", Value::Array(Array::from_vec(vec![2, 3], vec![1.5_f32, -2.0, 0.0, 4.0, 5.0, 6.0])?)),
    ])
}

/// Stores without options.
pub(super) async fn put(storage: &Storage, key: &Key, value: &Value) -> Result<Metadata> {
    storage.store(key, value.clone(), StoreOptions::new()).await
}

/// Stores every key with its own name as the value, in one batch: sequences of single stores are for other clauses.
pub(super) async fn fill(storage: &Storage, keys: &[Key]) -> Result<(), Stop> {
    let items = keys.iter().map(|key| StoreItem::new(key.clone(), bytes(key.as_bytes()))).collect();
    for answer in storage.store_many(items).await {
        answer?;
    }
    Ok(())
}

/// Reads the value alone.
pub(super) async fn get(storage: &Storage, key: &Key) -> Result<Option<Value>> {
    Ok(storage.retrieve(key).await?.map(|entry| entry.value))
}

/// Reads what must be there.
pub(super) async fn entry(storage: &Storage, key: &Key) -> Result<Entry, Stop> {
    storage.retrieve(key).await?.ok_or_else(|| Stop::broken(format!("{key:?} is absent")))
}

/// Reads the metadata of what must be there.
pub(super) async fn metadata(storage: &Storage, key: &Key) -> Result<Metadata, Stop> {
    storage.metadata(key).await?.ok_or_else(|| Stop::broken(format!("{key:?} has no metadata")))
}

/// Deletes without a condition.
pub(super) async fn remove(storage: &Storage, key: &Key) -> Result<bool> {
    storage.delete(key, DeleteOptions::new()).await
}

/// The clause fails unless the key holds this value.
pub(super) async fn expect_value(storage: &Storage, key: &Key, value: &Value) -> Result<(), Stop> {
    ensure_eq!(get(storage, key).await?, Some(value.clone()), "the value of {key:?}");
    Ok(())
}

/// The clause fails unless the key is absent, by every way of asking.
pub(super) async fn expect_absent(storage: &Storage, key: &Key) -> Result<(), Stop> {
    ensure_eq!(storage.retrieve(key).await?, None, "retrieve of {key:?}");
    ensure_eq!(storage.metadata(key).await?, None, "metadata of {key:?}");
    ensure!(!storage.contains(key).await?, "contains says true for {key:?}, which is absent");
    ensure_eq!(storage.retrieve_range(key, 0..9).await?, None, "retrieve_range of {key:?}");
    Ok(())
}

/// The error, which must be of this kind.
pub(super) fn expect_error<T: std::fmt::Debug>(
    result: Result<T>,
    kind: ErrorKind,
    what: &str,
) -> Result<StorageError, Stop> {
    match result {
        Ok(answer) => Err(Stop::broken(format!("{what}: expected {kind}, got {}", shown(&answer)))),
        Err(error) if error.kind() != kind => {
            Err(Stop::broken(format!("{what}: expected {kind}, got {error:?}")))
        }
        Err(error) => Ok(error),
    }
}

/// One page.
pub(super) async fn page(storage: &Storage, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page> {
    storage.list_keys(prefix, ListOptions::new().after(after.cloned()).limit(limit)).await
}

/// All keys under a prefix in pages of `limit`; the clause fails if the pages do not come to an end.
pub(super) async fn walk(storage: &Storage, prefix: &str, limit: usize) -> Result<Vec<Key>, Stop> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let next = page(storage, prefix, after.as_ref(), limit).await?;
        ensure!(next.keys.len() <= limit, "a page of {limit} holds {} keys", next.keys.len());
        found.extend(next.keys);
        if next.next.is_none() {
            return Ok(found);
        }
        ensure!(next.next > after, "the listing does not advance: {:?} follows {after:?}", next.next);
        after = next.next;
    }
}

/// All keys under a prefix.
pub(super) async fn list(storage: &Storage, prefix: &str) -> Result<Vec<Key>, Stop> {
    walk(storage, prefix, 1000).await
}

/// Runs `count` tasks at once and gives their answers.
pub(super) async fn at_once<T, F, U>(count: usize, task: F) -> Result<Vec<T>, Stop>
where
    T: Send + 'static,
    F: Fn(usize) -> U,
    U: Future<Output = T> + Send + 'static,
{
    let running: Vec<_> = (0..count).map(|i| tokio::spawn(task(i))).collect();
    let mut answers = Vec::with_capacity(count);
    for task in running {
        answers.push(task.await?);
    }
    Ok(answers)
}
