use std::collections::HashSet;

use persist_core::{
    Condition, DeleteOptions, Entry, ErrorKind, Key, Metadata, Operation, Outcome, Result, StorageError,
    StoreItem,
};

use crate::change::{Change, Step};
use crate::engine::{Body, Call};
use crate::fault::Fault;
use crate::reading::{self, Look};
use crate::recovery::{Done, Made};
use crate::storage::{Inner, RedisStorage};

/// For how long a value is taken that is asked for in a batch: as many are asked for at a time as fit into one piece.
const GUESS: usize = 32 << 10;

impl RedisStorage {
    pub(crate) async fn retrieve_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        const OPERATION: &str = "retrieve_many";
        let Inner { descriptor, engine, .. } = &*self.inner;
        if let Err(error) = descriptor.admit(OPERATION) {
            return error.for_each(OPERATION, keys);
        }
        let call = |key: &Key| {
            let cmd = reading::whole(&engine.keyspace, key);
            Call { tag: engine.keyspace.tag(key), bytes: GUESS, body: Body::Read(cmd) }
        };
        let answers = engine.run(keys.iter().map(call).collect(), engine.deadline()).await;
        let mut entries = Vec::with_capacity(keys.len());
        for (key, answer) in keys.iter().zip(answers) {
            let answer = answer.map_err(|fault| fault.error_at(descriptor, OPERATION, key));
            entries.push(
                match answer.and_then(|answer| reading::entry(descriptor, OPERATION, key, answer)) {
                    Ok(Look::Whole(found)) => Ok(found),
                    // One after the other: together they may be more than the memory holds.
                    Ok(Look::Long) => self.retrieve_long(OPERATION, key).await,
                    Err(error) => Err(error),
                },
            );
        }
        entries
    }

    pub(crate) async fn store_batch(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let Inner { descriptor, config, .. } = &*self.inner;
        let step = |StoreItem { key, value, options }: StoreItem| {
            descriptor.admit_store(&key, &value, &options)?;
            Ok(Step::put(descriptor, config, &key, &value, options))
        };
        let steps = items.into_iter().map(step).collect();
        let made = self.change_many("store", steps).await;
        made.into_iter()
            .map(|made| made.and_then(|(key, made)| made.stored(descriptor, "store", &key)))
            .collect()
    }

    pub(crate) async fn delete_batch(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let descriptor = &self.inner.descriptor;
        let step = |key: &Key| {
            descriptor.admit_change("delete")?;
            Ok(Step::delete(descriptor, key, DeleteOptions::new()))
        };
        let made = self.change_many("delete", keys.iter().map(step).collect()).await;
        made.into_iter()
            .map(|made| made.and_then(|(key, made)| made.deleted(descriptor, "delete", &key)))
            .collect()
    }

    /// Makes each step on its own, in as few round trips as can be. A key named twice is changed in the order named: a
    /// wave of steps holds each key once.
    async fn change_many(
        &self,
        operation: &'static str,
        steps: Vec<Result<Step>>,
    ) -> Vec<Result<(Key, Made)>> {
        let mut answers = Vec::with_capacity(steps.len());
        let mut wave = Vec::new();
        let mut named = HashSet::new();
        for step in steps {
            if let Ok(step) = &step
                && !named.insert(step.key.clone())
            {
                answers.extend(self.change_wave(operation, std::mem::take(&mut wave)).await);
                named = HashSet::from([step.key.clone()]);
            }
            wave.push(step);
        }
        answers.extend(self.change_wave(operation, wave).await);
        answers
    }

    async fn change_wave(
        &self,
        operation: &'static str,
        wave: Vec<Result<Step>>,
    ) -> Vec<Result<(Key, Made)>> {
        let engine = &self.inner.engine;
        let mut changes = Vec::with_capacity(wave.len());
        let places: Vec<Result<(Key, Condition)>> = wave
            .into_iter()
            .map(|step| {
                let step = step?;
                let place = (step.key.clone(), step.condition);
                changes.push(self.change(engine.keyspace.tag(&step.key), vec![step]));
                Ok(place)
            })
            .collect();
        let mut done = engine.make_all(changes, engine.deadline()).await.into_iter();
        let mut answer = |place: Result<(Key, Condition)>| {
            let (key, condition) = place?;
            let done = done.next().unwrap_or_else(|| Err(Fault::garbled("no answer")));
            let done = done.map_err(|fault| fault.error_at(&self.inner.descriptor, operation, &key))?;
            let made = self.made_one(operation, &key, condition, done)?;
            Ok((key, made))
        };
        places.into_iter().map(&mut answer).collect()
    }

    pub(crate) async fn transact_batch(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        descriptor.admit_transact(&operations)?;
        let Some(change) = self.transaction(operations)? else { return Ok(Vec::new()) };
        let places: Vec<_> = change.steps.iter().map(|step| (step.key.clone(), step.condition)).collect();
        let done = engine.make(change, engine.deadline()).await;
        match done.map_err(|fault| fault.error(descriptor, "transact"))? {
            Done::Made(made) => Ok(made.into_iter().filter_map(Made::outcome).collect()),
            Done::Conflict(step, found) => {
                let (key, condition) = &places[step.min(places.len() - 1)];
                let conflict = condition.conflict(key, found);
                Err(conflict.with_operation("transact").with_storage(descriptor.name()))
            }
        }
    }

    /// The change that a transaction is; none if it is empty.
    fn transaction(&self, operations: Vec<Operation>) -> Result<Option<Change>> {
        let Inner { descriptor, engine, config, .. } = &*self.inner;
        let Some(first) = operations.first().map(Operation::key).cloned() else { return Ok(None) };
        let tag = engine.keyspace.tag(&first);
        if let Some(stray) = operations.iter().map(Operation::key).find(|key| engine.keyspace.tag(key) != tag)
        {
            return Err(self.apart(&first, stray));
        }
        let steps = operations.into_iter().map(|operation| Step::of(descriptor, config, operation)).collect();
        Ok(Some(self.change(tag, steps)))
    }

    /// The refusal of keys that no cluster changes in one step.
    fn apart(&self, first: &Key, stray: &Key) -> StorageError {
        let message = format!(
            "this key and {first:?} lie on different slots of the cluster, which changes only one at a time; give the keys \
             of a transaction the same {{part}} in braces, or set cluster.tags to 1"
        );
        self.inner.descriptor.error(ErrorKind::Unsupported, "transact", message).with_key(stray)
    }
}
