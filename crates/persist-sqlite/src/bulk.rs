//! Many values with one call: a few large transactions, and while one is written the values of the next are hashed.

use std::iter::Peekable;
use std::vec::IntoIter;

use persist_core::{BaseStorage, Descriptor, Key, Metadata, Result, StorageError, StoreItem};

use crate::change::{Change, Draft, Step};
use crate::storage::{SqliteStorage, stored_of};
use crate::writer::TRANSACTION_BYTES;

/// How many values share a transaction, if they are not too large for one: fewer cost more commits, more keep other
/// callers waiting.
const BATCH: usize = 16_384;

/// The values of one transaction, and those between them that were refused, by their places.
#[derive(Default)]
struct Admitted {
    items: Vec<StoreItem>,
    bytes: u64,
    refused: Vec<(usize, StorageError)>,
}

/// The same, hashed.
struct Prepared {
    keys: Vec<Key>,
    steps: Result<Vec<Step>>,
    refused: Vec<(usize, StorageError)>,
}

impl SqliteStorage {
    /// Stores each value on its own.
    pub(crate) async fn store_in_batches(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let mut results = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        let mut prepared = self.hash(self.next_batch(&mut items)).await;
        while items.peek().is_some() {
            let next = self.next_batch(&mut items);
            let (stored, following) = tokio::join!(self.store_batch(prepared), self.hash(next));
            results.extend(stored);
            prepared = following;
        }
        results.extend(self.store_batch(prepared).await);
        results
    }

    fn next_batch(&self, items: &mut Peekable<IntoIter<StoreItem>>) -> Admitted {
        let mut batch = Admitted::default();
        while batch.items.len() < BATCH && batch.bytes < TRANSACTION_BYTES {
            let Some(item) = items.next() else { break };
            match self.describe().admit_store(&item.key, &item.value, &item.options) {
                Ok(()) => {
                    batch.bytes += item.value.size();
                    batch.items.push(item);
                }
                Err(error) => batch.refused.push((batch.items.len() + batch.refused.len(), error)),
            }
        }
        batch
    }

    async fn hash(&self, batch: Admitted) -> Prepared {
        let keys = batch.items.iter().map(|item| item.key.clone()).collect();
        let draft = |descriptor: &Descriptor| {
            batch.items.into_iter().map(|item| Step::Put(Box::new(Draft::new(descriptor, item)))).collect()
        };
        Prepared { keys, steps: self.prepare("store", batch.bytes, draft).await, refused: batch.refused }
    }

    async fn store_batch(&self, batch: Prepared) -> Vec<Result<Metadata>> {
        let stored = async {
            let change = Change { operation: "store", steps: batch.steps?, together: false };
            self.writer("store")?.change(change).await
        };
        let answers = match stored.await {
            Ok(answers) => answers,
            Err(error) => batch.keys.iter().map(|_| Err(error.again("store"))).collect(),
        };
        let named = batch.keys.iter().zip(answers);
        let mut results: Vec<_> = named
            .map(|(key, answer)| answer.and_then(stored_of).map_err(|error| error.with_key(key)))
            .collect();
        for (at, error) in batch.refused {
            results.insert(at, Err(error));
        }
        results
    }
}
