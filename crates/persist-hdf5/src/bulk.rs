//! Many values with one call: a few commits.

use persist_core::writing::{Answer, Batches};
use persist_core::{Descriptor, Key, Result, StoreItem, async_trait};

use crate::change::{Change, Draft, Step};
use crate::filter::Choice;
use crate::storage::Hdf5Storage;

/// A storage that many values are stored in.
pub(crate) struct Bulk<'s>(pub(crate) &'s Hdf5Storage);

#[async_trait]
impl Batches for Bulk<'_> {
    type Step = Step;

    const VALUES: usize = 4096;
    const BYTES: u64 = 16 << 20;

    fn admit(&self, item: &StoreItem) -> Result<()> {
        self.0.admit(&item.key, &item.value, &item.options)
    }

    async fn steps(&self, items: Vec<StoreItem>, bytes: u64) -> Result<Vec<Step>> {
        let draft = |descriptor: &Descriptor, choice: &Choice| {
            let draft = |item| Draft::new(descriptor, choice, item);
            items.into_iter().map(|item| Step::Put(Box::new(draft(item)))).collect()
        };
        self.0.prepare("store", bytes, draft).await
    }

    fn delete_step(&self, key: Key) -> Step {
        Step::Delete { key, condition: Default::default() }
    }

    async fn change(&self, change: Change) -> Result<Answer> {
        self.0.worker(change.operation)?.change(change).await
    }
}
