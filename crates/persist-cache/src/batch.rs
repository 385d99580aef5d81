use std::time::Duration;

use persist_core::{Condition, Key, Operation, Outcome, Result, StoreItem};

use crate::engine::{Draft, Engine};
use crate::index::Index;

/// A step of a batch, prepared before the lock is taken.
enum Step {
    Put(Box<Draft>),
    Delete(Key),
    Check,
}

impl Engine {
    /// Applies a batch: all of it under one hold of the lock, or nothing.
    ///
    /// # Errors
    /// As `BaseStorage::transact`; `TooLarge` too for a batch that would not fit into an empty cache.
    pub(crate) fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let admitted = self.descriptor.admit_transact(&operations);
        admitted.inspect_err(|error| self.note_refusal(error.kind()))?;
        let conditions: Vec<(Key, Condition)> =
            operations.iter().map(|operation| (operation.key().clone(), operation.condition())).collect();
        let steps =
            operations.into_iter().map(|operation| self.step(operation)).collect::<Result<Vec<_>>>()?;
        self.admit_batch(&steps)?;
        let mut index = self.index.lock();
        let now = self.begin("transact", &mut index)?;
        for (key, condition) in &conditions {
            self.check("transact", *condition, key, &index, now)?;
        }
        Ok(self.apply(&mut index, steps, now))
    }

    fn step(&self, operation: Operation) -> Result<Step> {
        Ok(match operation {
            Operation::Put(StoreItem { key, value, options }) => {
                Step::Put(Box::new(self.draft(&key, value, options)?))
            }
            Operation::Delete(key, _) => Step::Delete(key),
            Operation::Check(..) => Step::Check,
        })
    }

    /// Refuses a batch that would not fit if the cache were empty, for it could not be there as a whole.
    fn admit_batch(&self, steps: &[Step]) -> Result<()> {
        let weights = puts(steps).map(|draft| draft.record.weight);
        let (entries, bytes) = weights.fold((0, 0), |(entries, bytes), weight| (entries + 1, bytes + weight));
        if self.bounds.hold(entries, bytes) {
            return Ok(());
        }
        Err(self.too_large("transact", entries, bytes))
    }

    /// Makes the steps of a batch. Deletes come first, because they make room.
    fn apply(&self, index: &mut Index, steps: Vec<Step>, now: Duration) -> Vec<Outcome> {
        let mut delete = |step: &Step| match step {
            Step::Delete(key) => Outcome::Deleted(self.discard(index, key, now)),
            Step::Put(_) | Step::Check => Outcome::Checked,
        };
        let mut outcomes: Vec<Outcome> = steps.iter().map(&mut delete).collect();
        self.make_room(index, puts(&steps));
        for (outcome, step) in outcomes.iter_mut().zip(steps) {
            if let Step::Put(draft) = step {
                *outcome = Outcome::Stored(self.place(index, *draft, now));
            }
        }
        outcomes
    }
}

fn puts(steps: &[Step]) -> impl Iterator<Item = &Draft> + Clone {
    steps.iter().filter_map(|step| match step {
        Step::Put(draft) => Some(&**draft),
        Step::Delete(_) | Step::Check => None,
    })
}
