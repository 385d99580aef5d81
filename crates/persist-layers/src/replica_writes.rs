use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use persist_core::{
    BaseStorage, DeleteOptions, Entry, Expiry, Key, Metadata, Operation, Outcome, Result, StoreItem,
    StoreOptions, Value, Version,
};

use crate::lanes::Rest;
use crate::repair::is_own;
use crate::replicas::{AT_ONCE, Current, Replicas, options_of};
use crate::tombstone::Tombstone;

/// Changes. The caller of each has the lanes of its keys.
impl Replicas {
    pub(crate) async fn store(
        self: Arc<Self>,
        key: Key,
        value: Value,
        options: StoreOptions,
    ) -> Result<(Metadata, Rest)> {
        let current = self.current(&key, "store").await?;
        let stored =
            self.descriptor.next_metadata(&key, current.before(&value).as_ref(), &value, &options)?;
        let rest = self.write(&key, value, &stored, "store").await?;
        Ok((stored, rest))
    }

    /// Stores a value in all replicas, and tells watchers.
    async fn write(
        self: &Arc<Self>,
        key: &Key,
        value: Value,
        metadata: &Metadata,
        operation: &'static str,
    ) -> Result<Rest> {
        let steps = steps_of(key, value, metadata)?;
        let rest = self.spread(operation, |replica| write_in(replica, steps.clone()));
        let rest = rest.await.map_err(|error| error.with_key(key))?;
        self.watchers.stored(key, metadata);
        Ok(rest)
    }

    pub(crate) async fn delete(self: Arc<Self>, key: Key, options: DeleteOptions) -> Result<(bool, Rest)> {
        let current = self.current(&key, "delete").await?;
        self.descriptor.check_condition("delete", options.condition, &key, current.entry.as_ref())?;
        let Some(live) = self.descriptor.live(current.entry.as_ref()) else {
            return Ok((false, async {}.boxed()));
        };
        let steps = Tombstone::new(&key, self.descriptor.next_version(Some(live.version))).steps()?;
        let rest = self.spread("delete", |replica| write_in(replica, steps.to_vec()));
        let rest = rest.await.map_err(|error| error.with_key(&key))?;
        self.watchers.deleted(&key);
        Ok((true, rest))
    }

    pub(crate) async fn touch(self: Arc<Self>, key: Key, expiry: Expiry) -> Result<(Option<Metadata>, Rest)> {
        let (entry, _) = self.resolve(&key, Vec::new(), "touch").await?;
        let Some(Entry { value, metadata }) = entry else { return Ok((None, async {}.boxed())) };
        let touched = self.descriptor.touched_metadata(&metadata, expiry);
        let rest = self.write(&key, value, &touched, "touch").await?;
        Ok((Some(touched), rest))
    }

    /// Stores a batch: one batch for each replica.
    pub(crate) async fn store_many(self: Arc<Self>, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let keys: BTreeSet<&Key> = items.iter().map(|item| &item.key).collect();
        let keys: Vec<Key> = keys.into_iter().cloned().collect();
        let mut known: BTreeMap<Key, Result<Current>> = BTreeMap::new();
        for some in keys.chunks(AT_ONCE) {
            let looks = join_all(some.iter().map(|key| self.current(key, "store"))).await;
            known.extend(some.iter().cloned().zip(looks));
        }
        let (mut answers, mut places, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        for StoreItem { key, value, options } in items {
            let before = match known.get(&key) {
                Some(Ok(current)) => Ok(current.before(&value)),
                Some(Err(error)) => Err(error.again("store").with_key(&key)),
                None => Ok(None),
            };
            let admitted = self.descriptor.admit_store(&key, &value, &options).and(before);
            let stored = admitted
                .and_then(|before| self.descriptor.next_metadata(&key, before.as_ref(), &value, &options));
            let stored = stored.and_then(|stored| Ok((steps_of(&key, value, &stored)?, stored)));
            answers.push(stored.map(|(steps, stored)| {
                // What comes later in the batch finds this.
                known.insert(key, Ok(Current { entry: Some(stored.clone()), deleted: None }));
                let start = batch.len();
                batch.extend(steps.into_iter().filter_map(|step| match step {
                    Operation::Put(item) => Some(item),
                    Operation::Delete(..) | Operation::Check(..) => None,
                }));
                places.push((answers.len(), start..batch.len()));
                stored
            }));
        }
        let written = self.members.ask(|replica| replica.store_many(batch.clone())).await;
        for (place, range) in places {
            let (mut done, mut failed) = (0, Vec::new());
            for (at, answers) in written.iter().enumerate() {
                match answers[range.clone()].iter().find_map(|answer| answer.as_ref().err()) {
                    None => done += 1,
                    Some(error) => failed.push((at, error.again("store"))),
                }
            }
            self.failures.fetch_add(failed.len() as u64, Ordering::Relaxed);
            let key = &batch[range.end - 1].key;
            if done >= self.write_quorum {
                if let Ok(stored) = &answers[place] {
                    self.watchers.stored(key, stored);
                }
                continue;
            }
            answers[place] = Err(self.too_few_written("store", done, failed).with_key(key));
        }
        answers
    }

    pub(crate) async fn transact(
        self: Arc<Self>,
        operations: Vec<Operation>,
    ) -> Result<(Vec<Outcome>, Rest)> {
        let (mut steps, mut outcomes) = (Vec::new(), Vec::new());
        for operation in operations {
            let key = operation.key().clone();
            let current = self.current(&key, "transact").await?;
            self.descriptor.check_condition(
                "transact",
                operation.condition(),
                &key,
                current.entry.as_ref(),
            )?;
            outcomes.push(match operation {
                Operation::Put(StoreItem { key, value, options }) => {
                    let before = current.before(&value);
                    let stored = self.descriptor.next_metadata(&key, before.as_ref(), &value, &options)?;
                    steps.extend(steps_of(&key, value, &stored)?);
                    Outcome::Stored(stored)
                }
                Operation::Delete(key, _) => match self.descriptor.live(current.entry.as_ref()) {
                    None => Outcome::Deleted(false),
                    Some(live) => {
                        let version = self.descriptor.next_version(Some(live.version));
                        steps.extend(Tombstone::new(&key, version).steps()?);
                        Outcome::Deleted(true)
                    }
                },
                Operation::Check(..) => Outcome::Checked,
            });
        }
        if steps.is_empty() {
            return Ok((outcomes, async {}.boxed()));
        }
        let rest = self.spread("transact", |replica| write_in(replica, steps.clone())).await?;
        let changed = steps.iter().filter(|step| !is_own(step.key()));
        let mut stored = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Stored(stored) => Some(stored),
            _ => None,
        });
        for step in changed {
            match step {
                Operation::Put(item) => {
                    stored.next().into_iter().for_each(|stored| self.watchers.stored(&item.key, stored));
                }
                _ => self.watchers.deleted(step.key()),
            }
        }
        Ok((outcomes, rest))
    }
}

/// The steps that store an entry in a replica. A value with an end leaves a tombstone of all that was there before, which would come
/// back otherwise from a replica that missed it.
fn steps_of(key: &Key, value: Value, metadata: &Metadata) -> Result<Vec<Operation>> {
    let mut steps = Vec::with_capacity(2);
    if metadata.expires_at.is_some() {
        let before = Version::from_u64(metadata.version.as_u64() - 1);
        steps.push(Tombstone::new(key, before).step()?);
    }
    steps.push(Operation::put(key.clone(), value, options_of(metadata)));
    Ok(steps)
}

/// Makes the steps of a change in one replica, at once where it can.
fn write_in(replica: Arc<dyn BaseStorage>, mut steps: Vec<Operation>) -> BoxFuture<'static, Result<()>> {
    async move {
        match (steps.len(), steps.pop()) {
            (1, Some(Operation::Put(StoreItem { key, value, options }))) => {
                replica.store(&key, value, options).await.map(drop)
            }
            (_, last) => {
                steps.extend(last);
                replica.transact(steps).await.map(drop)
            }
        }
    }
    .boxed()
}
