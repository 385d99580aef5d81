//! Random sequences of operations against a model: what a storage must answer is computed in a `BTreeMap` beside it.
//!
//! ```
//! use persist_testkit::broken::BrokenHarness;
//! use persist_testkit::model::Model;
//!
//! Model::new().cases(5).run(BrokenHarness::sound);
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{
    BaseStorage, Condition, DeleteOptions, ErrorKind, Expiry, Key, ListOptions, Metadata, Operation, Outcome,
    Page, Result, StoreItem, StoreOptions, Tags, Timestamp, Value, Version,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use crate::conformance::{Stop, Verdict};
use crate::{Harness, strategies};

/// How many keys the steps of one sequence share, so that they meet.
const POOL: usize = 6;

/// How a model test is run.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    cases: u32,
    steps: usize,
    seed: Option<u64>,
}

impl Model {
    /// 64 sequences of up to 40 steps, others in every run.
    pub fn new() -> Self {
        Self { cases: 64, steps: 40, seed: None }
    }

    /// The same sequences in every run.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// So many sequences.
    #[must_use]
    pub fn cases(mut self, cases: u32) -> Self {
        self.cases = cases;
        self
    }

    /// Sequences of up to so many steps.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Runs the sequences, each on a fresh harness.
    ///
    /// # Panics
    /// With the shortest sequence found that the storage answers wrongly, if there is one. This is for tests.
    pub fn run<H: Harness>(self, factory: impl Fn() -> H) {
        if let Err(what) = self.search(factory) {
            panic!("{what}");
        }
    }

    /// The same, with the failure as an answer.
    ///
    /// # Errors
    /// The shortest sequence found that the storage answers wrongly, and what it answered.
    pub fn search<H: Harness>(self, factory: impl Fn() -> H) -> Result<(), String> {
        let rng_seed = self.seed.map_or(RngSeed::Random, RngSeed::Fixed);
        let config = Config { cases: self.cases, rng_seed, failure_persistence: None, ..Config::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let sequences =
            (prop::collection::vec(strategies::key(), POOL), prop::collection::vec(step(), 1..=self.steps));
        let run = |(pool, steps): (Vec<Key>, Vec<Step>)| {
            let verdict = runtime.block_on(async { follow(Arc::new(factory()), pool, steps).await });
            verdict.map_err(TestCaseError::fail)
        };
        TestRunner::new(config).run(&sequences, run).map_err(|error| error.to_string())
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

/// One step; keys are places in the pool.
#[derive(Clone, Debug)]
enum Step {
    Store(Put),
    Retrieve(usize),
    Range(usize, u64, u64),
    Delete(usize, Guess),
    Touch(usize, Life),
    List { key: usize, prefix_len: usize, after: Option<usize>, limit: usize },
    StoreMany(Vec<Put>),
    DeleteMany(Vec<usize>),
    Transact(Vec<Change>),
    Pass(u64),
    Reopen { close: bool },
    Maintain,
    Verify,
}

#[derive(Clone, Debug)]
struct Put {
    key: usize,
    value: Value,
    tags: Tags,
    life: Life,
    guess: Guess,
}

#[derive(Clone, Debug)]
enum Change {
    Put(Put),
    Delete(usize, Guess),
    Check(usize, Guess),
}

/// A condition, in terms of what the model knows.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Nothing,
    Absent,
    Current,
    Stale,
}

#[derive(Clone, Copy, Debug)]
enum Life {
    Default,
    Never,
    Ticks(u32),
    Past,
}

fn place() -> impl Strategy<Value = usize> {
    0..POOL
}

fn guess() -> impl Strategy<Value = Guess> {
    prop_oneof![
        5 => Just(Guess::Nothing),
        2 => Just(Guess::Absent),
        2 => Just(Guess::Current),
        1 => Just(Guess::Stale),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        4 => Just(Life::Default),
        1 => Just(Life::Never),
        3 => (0..6_u32).prop_map(Life::Ticks),
        1 => Just(Life::Past),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    (place(), strategies::value(), strategies::tags(), life(), guess())
        .prop_map(|(key, value, tags, life, guess)| Put { key, value, tags, life, guess })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        put().prop_map(Change::Put),
        (place(), guess()).prop_map(|(key, guess)| Change::Delete(key, guess)),
        (place(), guess()).prop_map(|(key, guess)| Change::Check(key, guess)),
    ]
}

fn step() -> BoxedStrategy<Step> {
    let list = (place(), 0..4_usize, prop::option::of(place()), 1..5_usize)
        .prop_map(|(key, prefix_len, after, limit)| Step::List { key, prefix_len, after, limit });
    prop_oneof![
        8 => put().prop_map(Step::Store),
        4 => place().prop_map(Step::Retrieve),
        1 => (place(), 0..80_u64, 0..80_u64).prop_map(|(key, start, end)| Step::Range(key, start, end)),
        3 => (place(), guess()).prop_map(|(key, guess)| Step::Delete(key, guess)),
        2 => (place(), life()).prop_map(|(key, life)| Step::Touch(key, life)),
        3 => list,
        1 => prop::collection::vec(put(), 0..4).prop_map(Step::StoreMany),
        1 => prop::collection::vec(place(), 0..4).prop_map(Step::DeleteMany),
        2 => prop::collection::vec(change(), 0..4).prop_map(Step::Transact),
        3 => (0..4_u64).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
        1 => Just(Step::Maintain),
        1 => Just(Step::Verify),
    ]
    .boxed()
}

/// What the model knows of a key.
#[derive(Clone, Debug)]
struct Kept {
    value: Value,
    metadata: Metadata,
}

/// A storage and the model of it.
struct Run {
    harness: Arc<dyn Harness>,
    storage: Arc<dyn BaseStorage>,
    pool: Vec<Key>,
    kept: BTreeMap<Key, Kept>,
    /// The greatest version of each key so far, over deletes too.
    last: BTreeMap<Key, Version>,
}

async fn follow(harness: Arc<dyn Harness>, pool: Vec<Key>, steps: Vec<Step>) -> Result<(), String> {
    let told = |stop: Stop| match stop {
        Stop::Broken(what) | Stop::Skipped(what) => what,
    };
    let storage = harness.open().await.map_err(|error| format!("{error:?}"))?;
    let mut run = Run { harness, storage, pool, kept: BTreeMap::new(), last: BTreeMap::new() };
    for (number, step) in steps.iter().enumerate() {
        let verdict = run.step(step).await;
        verdict.map_err(|stop| format!("step {number}, {step:?}: {}", told(stop)))?;
    }
    run.compare().await.map_err(|stop| format!("after the last step: {}", told(stop)))
}

impl Run {
    async fn step(&mut self, step: &Step) -> Verdict {
        self.expire();
        match step {
            Step::Store(put) => self.store(put).await,
            Step::Retrieve(key) => self.retrieve(&self.pool[*key]).await,
            Step::Range(key, start, end) => self.range(*key, *start, *end).await,
            Step::Delete(key, guess) => self.delete(*key, *guess).await,
            Step::Touch(key, life) => self.touch(*key, *life).await,
            Step::List { key, prefix_len, after, limit } => {
                self.list(*key, *prefix_len, *after, *limit).await
            }
            Step::StoreMany(puts) => self.store_many(puts).await,
            Step::DeleteMany(keys) => self.delete_many(keys).await,
            Step::Transact(changes) => self.transact(changes).await,
            Step::Pass(ticks) => self.pass(*ticks).await,
            Step::Reopen { close } => self.reopen(*close).await,
            Step::Maintain => Ok(self.storage.maintain().await.map(drop)?),
            Step::Verify => self.verify().await,
        }
    }

    fn now(&self) -> Timestamp {
        self.storage.describe().now()
    }

    fn expire(&mut self) {
        let now = self.now();
        self.kept.retain(|_, kept| !kept.metadata.is_expired(now));
    }

    fn condition(&self, key: &Key, guess: Guess) -> Condition {
        let last = self.last.get(key).map_or(1, |version| version.as_u64());
        match guess {
            Guess::Nothing => Condition::None,
            Guess::Absent => Condition::IfAbsent,
            Guess::Current => Condition::IfVersion(Version::from_u64(last)),
            Guess::Stale => Condition::IfVersion(Version::from_u64(last.saturating_sub(1))),
        }
    }

    fn holds(&self, key: &Key, condition: Condition) -> bool {
        condition.check(key, self.kept.get(key).map(|kept| &kept.metadata)).is_ok()
    }

    /// A lifetime in hours where time cannot be moved, so that none ends within the test.
    fn expiry(&self, life: Life) -> Expiry {
        let tick =
            if self.harness.clock().is_some() { Duration::from_secs(1) } else { Duration::from_secs(3600) };
        match life {
            Life::Default => Expiry::Default,
            Life::Never => Expiry::Never,
            Life::Ticks(ticks) => Expiry::After(tick * ticks),
            Life::Past => Expiry::At(Timestamp::from_millis(1000)),
        }
    }

    fn item(&self, put: &Put) -> StoreItem {
        let key = self.pool[put.key].clone();
        let condition = self.condition(&key, put.guess);
        let options = StoreOptions {
            expiry: self.expiry(put.life),
            condition,
            tags: put.tags.clone(),
            encodings: Vec::new(),
        };
        StoreItem { key, value: put.value.clone(), options }
    }

    /// Takes over what a store answered, if it is right.
    fn keep(&mut self, item: StoreItem, answer: Metadata) -> Verdict {
        let StoreItem { key, value, options } = item;
        let expected = (value.kind(), value.size(), value.checksum(), &options.tags);
        ensure_eq!(
            (answer.kind, answer.size, answer.checksum, &answer.tags),
            expected,
            "the answer for {key:?}"
        );
        self.check_times(&key, &answer, options.expiry)?;
        let created = self.kept.get(&key).map_or(answer.modified_at, |kept| kept.metadata.created_at);
        ensure_eq!(answer.created_at, created, "created_at of {key:?}");
        self.kept.insert(key, Kept { value, metadata: answer });
        Ok(())
    }

    fn check_times(&mut self, key: &Key, answer: &Metadata, expiry: Expiry) -> Verdict {
        let last = self.last.insert(key.clone(), answer.version);
        ensure!(Some(answer.version) > last, "version {} of {key:?} follows {last:?}", answer.version);
        let expires_at = expiry.resolve(answer.modified_at, self.storage.describe().default_ttl());
        ensure_eq!(answer.expires_at, expires_at, "the expiry of {key:?}");
        if self.harness.clock().is_some() {
            ensure_eq!(answer.modified_at, self.now(), "modified_at of {key:?}");
        }
        Ok(())
    }

    /// An answer that is a conflict exactly when the condition does not hold.
    fn judge<T: std::fmt::Debug>(
        &self,
        key: &Key,
        holds: bool,
        answer: Result<T>,
    ) -> Result<Option<T>, Stop> {
        match answer {
            Ok(answer) if holds => Ok(Some(answer)),
            Ok(answer) => Err(Stop::Broken(format!("expected a conflict on {key:?}, got {answer:?}"))),
            Err(error) if !holds && error.kind() == ErrorKind::Conflict => {
                let found = self.kept.get(key).map(|kept| kept.metadata.version);
                ensure_eq!(error.found(), found, "the version that the conflict on {key:?} found");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn store(&mut self, put: &Put) -> Verdict {
        let item = self.item(put);
        let holds = self.holds(&item.key, item.options.condition);
        let answer = self.storage.store(&item.key, item.value.clone(), item.options.clone()).await;
        match self.judge(&item.key, holds, answer)? {
            Some(metadata) => self.keep(item, metadata),
            None => Ok(()),
        }
    }

    async fn store_many(&mut self, puts: &[Put]) -> Verdict {
        // Versions within the batch are not known beforehand.
        let free = puts.iter().map(|put| Put { guess: Guess::Nothing, ..put.clone() });
        let items: Vec<_> = free.map(|put| self.item(&put)).collect();
        let answers = self.storage.store_many(items.clone()).await;
        ensure_eq!(answers.len(), items.len(), "how many answers store_many gives");
        for (item, answer) in items.into_iter().zip(answers) {
            self.expire();
            self.keep(item, answer?)?;
        }
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Verdict {
        let found = self.storage.retrieve(key).await?;
        let expected = self.kept.get(key);
        ensure_eq!(
            found.as_ref().map(|entry| &entry.value),
            expected.map(|kept| &kept.value),
            "the value of {key:?}"
        );
        let metadata = expected.map(|kept| kept.metadata.clone());
        ensure_eq!(found.map(|entry| entry.metadata), metadata, "the metadata of {key:?}");
        ensure_eq!(self.storage.metadata(key).await?, metadata, "what metadata says of {key:?}");
        Ok(())
    }

    async fn range(&self, key: usize, start: u64, end: u64) -> Verdict {
        let key = &self.pool[key];
        let found = self.storage.retrieve_range(key, start..end).await?;
        let expected = self.kept.get(key).map(|kept| kept.value.range(start..end));
        ensure_eq!(found, expected, "the range {start}..{end} of {key:?}");
        Ok(())
    }

    async fn delete(&mut self, key: usize, guess: Guess) -> Verdict {
        let key = self.pool[key].clone();
        let condition = self.condition(&key, guess);
        let holds = self.holds(&key, condition);
        let answer = self.storage.delete(&key, DeleteOptions { condition }).await;
        if let Some(deleted) = self.judge(&key, holds, answer)? {
            ensure_eq!(deleted, self.kept.remove(&key).is_some(), "what delete says of {key:?}");
        }
        Ok(())
    }

    async fn delete_many(&mut self, keys: &[usize]) -> Verdict {
        let keys: Vec<_> = keys.iter().map(|key| self.pool[*key].clone()).collect();
        let answers = self.storage.delete_many(&keys).await;
        ensure_eq!(answers.len(), keys.len(), "how many answers delete_many gives");
        for (key, answer) in keys.iter().zip(answers) {
            ensure_eq!(answer?, self.kept.remove(key).is_some(), "what delete_many says of {key:?}");
        }
        Ok(())
    }

    async fn touch(&mut self, key: usize, life: Life) -> Verdict {
        let (key, expiry) = (self.pool[key].clone(), self.expiry(life));
        let touched = self.storage.touch(&key, expiry).await?;
        ensure_eq!(touched.is_some(), self.kept.contains_key(&key), "whether touch finds {key:?}");
        let (Some(touched), Some(kept)) = (touched, self.kept.get(&key).cloned()) else { return Ok(()) };
        self.check_times(&key, &touched, expiry)?;
        let (version, modified_at, expires_at) = (touched.version, touched.modified_at, touched.expires_at);
        let expected = Metadata { version, modified_at, expires_at, ..kept.metadata };
        ensure_eq!(touched, expected, "what touch answers about {key:?}");
        self.kept.insert(key, Kept { metadata: touched, value: kept.value });
        Ok(())
    }

    async fn list(&self, key: usize, prefix_len: usize, after: Option<usize>, limit: usize) -> Verdict {
        let prefix: String = self.pool[key].chars().take(prefix_len).collect();
        let after = after.map(|key| self.pool[key].clone());
        let options = ListOptions::new().after(after.clone()).limit(limit);
        let found = self.storage.list_keys(&prefix, options).await?;
        let matching = self.kept.keys().filter(|key| key.starts_with(&prefix) && Some(*key) > after.as_ref());
        ensure_eq!(
            found,
            Page::collect(matching.cloned(), limit),
            "{limit} keys under {prefix:?} after {after:?}"
        );
        Ok(())
    }

    fn operation(&self, change: &Change) -> Operation {
        match change {
            Change::Put(put) => Operation::Put(self.item(put)),
            Change::Delete(key, guess) => {
                let key = self.pool[*key].clone();
                let condition = self.condition(&key, *guess);
                Operation::Delete(key, DeleteOptions { condition })
            }
            Change::Check(key, guess) => {
                let key = self.pool[*key].clone();
                let condition = self.condition(&key, *guess);
                Operation::Check(key, condition)
            }
        }
    }

    async fn transact(&mut self, changes: &[Change]) -> Verdict {
        let steps: Vec<_> = changes.iter().map(|change| self.operation(change)).collect();
        let distinct = persist_core::check_distinct(&steps).is_ok();
        let broken: Vec<_> = steps
            .iter()
            .filter(|step| !self.holds(step.key(), step.condition()))
            .map(Operation::key)
            .collect();
        match self.storage.transact(steps.clone()).await {
            Ok(outcomes) if distinct && broken.is_empty() => self.settle(steps, outcomes),
            Ok(outcomes) => {
                Err(Stop::Broken(format!("the transaction should fail and answers {outcomes:?}")))
            }
            Err(error) if !distinct && error.kind() == ErrorKind::InvalidKey => Ok(()),
            Err(error) if distinct && error.kind() == ErrorKind::Conflict => {
                let named = error.key().is_some_and(|key| broken.contains(&key));
                ensure!(named, "the conflict should name one of {broken:?}: {error:?}");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn settle(&mut self, steps: Vec<Operation>, outcomes: Vec<Outcome>) -> Verdict {
        ensure_eq!(outcomes.len(), steps.len(), "how many outcomes the transaction has");
        for (step, outcome) in steps.into_iter().zip(outcomes) {
            match (step, outcome) {
                (Operation::Put(item), Outcome::Stored(metadata)) => self.keep(item, metadata)?,
                (Operation::Delete(key, _), Outcome::Deleted(deleted)) => {
                    ensure_eq!(
                        deleted,
                        self.kept.remove(&key).is_some(),
                        "what the transaction says of {key:?}"
                    );
                }
                (Operation::Check(..), Outcome::Checked) => {}
                (step, outcome) => {
                    return Err(Stop::Broken(format!("{step:?} is answered with {outcome:?}")));
                }
            }
        }
        Ok(())
    }

    async fn pass(&self, ticks: u64) -> Verdict {
        if self.harness.clock().is_some() {
            self.harness.advance(Duration::from_secs(ticks)).await;
        }
        Ok(())
    }

    async fn reopen(&mut self, close: bool) -> Verdict {
        let durable = self.storage.describe().capabilities().durable;
        if !durable {
            return Ok(());
        }
        if close {
            self.storage.close().await?;
        }
        // The old handle must be gone before the place is opened again.
        let nothing = crate::memory::MemoryStorage::new("nothing");
        drop(std::mem::replace(&mut self.storage, Arc::new(nothing)));
        // Time passes between two runs of a program, though perhaps no more than this.
        self.harness.advance(Duration::from_millis(2)).await;
        self.storage = self.harness.open().await?;
        self.expire();
        self.compare().await
    }

    async fn verify(&self) -> Verdict {
        let report = self.storage.verify().await?;
        ensure!(report.is_clean(), "verify finds {:?}", report.problems);
        ensure_eq!(report.checked, self.kept.len() as u64, "how many values verify has read");
        Ok(())
    }

    /// Everything that is stored, against everything that should be.
    async fn compare(&mut self) -> Verdict {
        self.expire();
        for key in &self.pool {
            self.retrieve(key).await?;
        }
        let found = self.storage.list_keys("", ListOptions::new()).await?;
        ensure_eq!(found, Page::collect(self.kept.keys().cloned(), 1000), "all keys");
        Ok(())
    }
}
