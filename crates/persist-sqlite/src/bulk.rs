//! Many values with one call: a few large transactions.

use persist_core::writing::{Answer, Batches};
use persist_core::{BaseStorage, Descriptor, Key, Result, StoreItem, async_trait};

use crate::change::{Change, Draft, Step};
use crate::storage::SqliteStorage;
use crate::writer::TRANSACTION_BYTES;

/// A storage that many values are stored in.
pub(crate) struct Bulk<'s>(pub(crate) &'s SqliteStorage);

#[async_trait]
impl Batches for Bulk<'_> {
    type Step = Step;

    const VALUES: usize = 16_384;
    const BYTES: u64 = TRANSACTION_BYTES;

    fn admit(&self, item: &StoreItem) -> Result<()> {
        self.0.describe().admit_store(&item.key, &item.value, &item.options)
    }

    async fn steps(&self, items: Vec<StoreItem>, bytes: u64) -> Result<Vec<Step>> {
        let draft = |descriptor: &Descriptor| {
            items.into_iter().map(|item| Step::Put(Box::new(Draft::new(descriptor, item)))).collect()
        };
        self.0.prepare("store", bytes, draft).await
    }

    fn delete_step(&self, key: Key) -> Step {
        Step::Delete { key, condition: Default::default() }
    }

    async fn change(&self, change: Change) -> Result<Answer> {
        self.0.writer(change.operation)?.change(change).await
    }
}
