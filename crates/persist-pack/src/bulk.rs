//! Many values with one call.

use persist_core::writing::{Answer, Batches};
use persist_core::{BaseStorage, Key, Result, StoreItem, async_trait};

use crate::change::{Change, Draft, Step};
use crate::core::Core;
use crate::storage::{BATCH, PackStorage};
use crate::writer::BATCH_BYTES;

/// A storage that many values are stored in.
pub(crate) struct Bulk<'s>(pub(crate) &'s PackStorage);

#[async_trait]
impl Batches for Bulk<'_> {
    type Step = Step;

    const VALUES: usize = BATCH;
    const BYTES: u64 = BATCH_BYTES;

    fn admit(&self, item: &StoreItem) -> Result<()> {
        self.0.describe().admit_store(&item.key, &item.value, &item.options)
    }

    async fn steps(&self, items: Vec<StoreItem>, bytes: u64) -> Result<Vec<Step>> {
        let draft = |core: &Core| {
            let draft = |item| Draft::new(&core.descriptor, core.config.compression, item);
            items.into_iter().map(|item| Step::Put(Box::new(draft(item)))).collect()
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
