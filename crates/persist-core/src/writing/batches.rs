use std::iter::Peekable;
use std::vec::IntoIter;

use async_trait::async_trait;

use super::{Answer, Change, Done, Step};
use crate::{Key, Metadata, Result, StorageError, StoreItem};

/// A storage that makes few changes of many values.
#[async_trait]
pub trait Batches: Send + Sync {
    /// What its changes consist of.
    type Step: Step;

    /// How many values share a change: fewer cost more commits, more keep other callers waiting.
    const VALUES: usize;

    /// How many bytes of values share one.
    const BYTES: u64;

    /// Refuses what cannot be stored.
    fn admit(&self, item: &StoreItem) -> Result<()>;

    /// Makes steps of values that were admitted, of so many bytes: hashed, and packed where values are.
    async fn steps(&self, items: Vec<StoreItem>, bytes: u64) -> Result<Vec<Self::Step>>;

    /// The step of a delete without a condition.
    fn delete_step(&self, key: Key) -> Self::Step;

    /// Has a change made.
    async fn change(&self, change: Change<Self::Step>) -> Result<Answer>;
}

/// The values of one change, and those between them that were refused, by their places.
#[derive(Default)]
struct Admitted {
    items: Vec<StoreItem>,
    bytes: u64,
    refused: Vec<(usize, StorageError)>,
}

/// The same as steps.
struct Prepared<S> {
    keys: Vec<Key>,
    steps: Result<Vec<S>>,
    refused: Vec<(usize, StorageError)>,
}

/// Stores each value on its own: [`store_many`](crate::BaseStorage::store_many). While the values of one change are written, those of the
/// next are prepared.
pub async fn store_in_batches<B: Batches>(storage: &B, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    let mut prepared = prepare(storage, next_batch(storage, &mut items)).await;
    while items.peek().is_some() {
        let next = next_batch(storage, &mut items);
        let (stored, following) = tokio::join!(store(storage, prepared), prepare(storage, next));
        results.extend(stored);
        prepared = following;
    }
    results.extend(store(storage, prepared).await);
    results
}

fn next_batch<B: Batches>(storage: &B, items: &mut Peekable<IntoIter<StoreItem>>) -> Admitted {
    let mut batch = Admitted::default();
    while batch.items.len() < B::VALUES && batch.bytes < B::BYTES {
        let Some(item) = items.next() else { break };
        match storage.admit(&item) {
            Ok(()) => {
                batch.bytes += item.value.size();
                batch.items.push(item);
            }
            Err(error) => batch.refused.push((batch.items.len() + batch.refused.len(), error)),
        }
    }
    batch
}

async fn prepare<B: Batches>(storage: &B, batch: Admitted) -> Prepared<B::Step> {
    let keys = batch.items.iter().map(|item| item.key.clone()).collect();
    let steps = match batch.items.is_empty() {
        true => Ok(Vec::new()),
        false => storage.steps(batch.items, batch.bytes).await,
    };
    Prepared { keys, steps, refused: batch.refused }
}

async fn store<B: Batches>(storage: &B, batch: Prepared<B::Step>) -> Vec<Result<Metadata>> {
    let mut results = change_each(storage, "store", &batch.keys, batch.steps, Done::stored).await;
    for (at, error) in batch.refused {
        results.insert(at, Err(error));
    }
    results
}

/// Deletes each key on its own: [`delete_many`](crate::BaseStorage::delete_many).
pub async fn delete_in_batches<B: Batches>(storage: &B, keys: &[Key]) -> Vec<Result<bool>> {
    let mut results = Vec::with_capacity(keys.len());
    for batch in keys.chunks(B::VALUES) {
        let steps = batch.iter().map(|key| storage.delete_step(key.clone())).collect();
        results.extend(change_each(storage, "delete", batch, Ok(steps), Done::deleted).await);
    }
    results
}

/// One step for each key; errors name it.
async fn change_each<B: Batches, T>(
    storage: &B,
    operation: &'static str,
    keys: &[Key],
    steps: Result<Vec<B::Step>>,
    read: fn(Done) -> Result<T>,
) -> Vec<Result<T>> {
    if keys.is_empty() {
        return Vec::new();
    }
    let answer = match steps {
        Ok(steps) => storage.change(Change::each(operation, steps)).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => {
            let named = keys.iter().zip(answer);
            named.map(|(key, done)| done.and_then(read).map_err(|error| error.with_key(key))).collect()
        }
        Err(error) => error.for_each(operation, keys),
    }
}
