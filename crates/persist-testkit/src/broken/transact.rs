use persist_core::{
    BaseStorage, Condition, DeleteOptions, ErrorKind, Expiry, Key, Operation, Outcome, Result, StorageError,
    StoreItem, StoreOptions,
};

use super::{BrokenStorage, Bug, let_others_in};

impl BrokenStorage {
    pub(super) async fn transact_mangled(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let about = self.inner.describe();
        about.admit("transact")?;
        match self.bug {
            Some(Bug::EmptyTransactFails) if operations.is_empty() => {
                Err(about.error(ErrorKind::InvalidValue, "transact", "there is nothing to do"))
            }
            Some(Bug::TransactStepByStep | Bug::TransactTwice) => self.step_by_step(operations).await,
            Some(Bug::TransactUnchecked) => self.unchecked(operations).await,
            Some(Bug::TransactNotAtomic | Bug::TornTransact) => self.check_then_step(operations).await,
            Some(Bug::TransactNamesNoKey) => {
                self.inner.transact(operations).await.map_err(|error| {
                    if error.kind() == ErrorKind::Conflict { nameless(&error) } else { error }
                })
            }
            Some(Bug::TransactReversed) => {
                self.inner.transact(operations).await.map(|outcomes| outcomes.into_iter().rev().collect())
            }
            Some(Bug::CheckTouches) => self.touching_checks(operations).await,
            Some(Bug::TransactSeesExpired) => self.seeing_expired(operations).await,
            _ => self.inner.transact(self.mangled_steps(operations)).await,
        }
    }

    fn mangled_steps(&self, operations: Vec<Operation>) -> Vec<Operation> {
        let step = |operation| match operation {
            Operation::Put(item) => Operation::Put(self.mangled_item(item)),
            Operation::Delete(key, options) => Operation::Delete(self.key(&key), options),
            Operation::Check(key, condition) => Operation::Check(self.key(&key), condition),
        };
        operations.into_iter().map(step).collect()
    }

    fn mangled_item(&self, item: StoreItem) -> StoreItem {
        let old = self.place.peek(&item.key);
        let given = match self.bug {
            Some(Bug::TransactWithoutOptions) => {
                StoreOptions { condition: item.options.condition, ..StoreOptions::new() }
            }
            Some(Bug::DefaultTtlInStoreAlone) if item.options.expiry == Expiry::Default => {
                StoreOptions { expiry: Expiry::Never, ..item.options }
            }
            _ => item.options,
        };
        let options = super::options::mangled(self.bug, given, old.as_ref(), self.inner.describe());
        let value = super::values::mangled(self.bug, item.value, old.as_ref().map(|entry| &entry.value));
        StoreItem { key: self.key(&item.key), value, options }
    }

    async fn step(&self, operation: Operation) -> Result<Outcome> {
        match operation {
            Operation::Put(item) => {
                self.inner.store(&item.key, item.value, item.options).await.map(Outcome::Stored)
            }
            Operation::Delete(key, options) => self.inner.delete(&key, options).await.map(Outcome::Deleted),
            Operation::Check(key, condition) => {
                condition.check(&key, self.inner.metadata(&key).await?.as_ref())?;
                Ok(Outcome::Checked)
            }
        }
    }

    async fn step_by_step(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for operation in operations {
            outcomes.push(self.step(operation).await?);
        }
        Ok(outcomes)
    }

    async fn unchecked(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for operation in operations {
            outcomes.push(match operation {
                Operation::Put(item) => {
                    Outcome::Stored(self.store_raw(&item.key, item.value, &item.options)?)
                }
                other => self.step(other).await?,
            });
        }
        Ok(outcomes)
    }

    async fn check_then_step(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        persist_core::check_distinct(&operations)?;
        for operation in &operations {
            self.step(Operation::Check(operation.key().clone(), operation.condition())).await?;
        }
        let mut outcomes = Vec::new();
        for operation in operations {
            let_others_in().await;
            outcomes.push(self.step(unconditional(operation)).await?);
        }
        Ok(outcomes)
    }

    async fn touching_checks(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let checked = |operation: &Operation| match operation {
            Operation::Check(key, _) => Some(key.clone()),
            _ => None,
        };
        let keys: Vec<Key> = operations.iter().filter_map(checked).collect();
        let outcomes = self.inner.transact(operations).await?;
        for key in keys {
            self.inner.touch(&key, Expiry::Never).await?;
        }
        Ok(outcomes)
    }

    async fn seeing_expired(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        for operation in &operations {
            let found = self.place.peek(operation.key()).map(|entry| entry.metadata);
            operation.condition().check(operation.key(), found.as_ref())?;
        }
        self.inner.transact(operations.into_iter().map(unconditional).collect()).await
    }
}

fn unconditional(operation: Operation) -> Operation {
    match operation {
        Operation::Put(mut item) => {
            item.options.condition = Condition::None;
            Operation::Put(item)
        }
        Operation::Delete(key, _) => Operation::Delete(key, DeleteOptions::new()),
        Operation::Check(key, _) => Operation::Check(key, Condition::None),
    }
}

fn nameless(error: &StorageError) -> StorageError {
    StorageError::new(error.kind(), "a condition did not hold")
}
