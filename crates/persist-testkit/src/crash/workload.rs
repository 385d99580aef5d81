//! The standard work on a storage: scripted steps, or random changes from several tasks.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Condition, DeleteOptions, Expiry, Key, Metadata, Operation, Outcome, StorageError,
    StoreItem, Timestamp,
};
use tokio::runtime::{Builder, Runtime};

use super::acks::Acks;
use super::inspection;
use super::plan::{Plan, Step, Workload};
use super::protocol::{Line, Verb};
use super::sample::{self, Random};
use super::subject::{Opener, Versions};

/// Opens the storage, tells that it is open, works, closes, tells that it is done.
pub(super) fn run(plan: &Plan, acks: &Acks, open: &Opener, versions: Versions) -> Result<(), String> {
    let runtime = runtime(plan).map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let storage = open(plan.root.clone()).await.map_err(|error| format!("open: {error}"))?;
        acks.tell(&Line::Opened);
        if plan.hold {
            wait_for_the_end_of_input();
        }
        let mut driver = Driver::new(storage, plan, *acks, versions);
        driver.work(plan, open).await?;
        driver.finish(plan).await
    })
}

/// One thread for the tasks where the order of calls matters, else two; never an I/O driver, whose wake-ups are writes.
fn runtime(plan: &Plan) -> std::io::Result<Runtime> {
    let mut builder = match plan.workload {
        Workload::Steps(_) => Builder::new_current_thread(),
        Workload::Random { .. } => Builder::new_multi_thread(),
    };
    if matches!(plan.workload, Workload::Random { .. }) {
        builder.worker_threads(2);
    }
    builder.enable_time().max_blocking_threads(plan.blocking_threads.max(1)).build()
}

fn wait_for_the_end_of_input() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// Makes changes and tells of each what it is and how it ended.
#[derive(Clone)]
struct Driver {
    acks: Acks,
    versions: Versions,
    storage: Arc<dyn BaseStorage>,
    atomic: bool,
    generations: Arc<AtomicU64>,
    latest: Arc<Mutex<BTreeMap<String, u64>>>,
    max_value: usize,
}

/// One change that was told to begin.
struct Begun {
    acks: Acks,
    versions: Versions,
    key: Key,
    generation: u64,
}

impl Begun {
    fn end(&self, result: Result<Option<Metadata>, &StorageError>) {
        let (key, generation) = (self.key.as_str().to_owned(), self.generation);
        self.acks.tell(&match result {
            Ok(metadata) => {
                let version = metadata.filter(|_| self.versions == Versions::Kept);
                Line::Acknowledged { key, generation, version: version.map(|found| found.version.as_u64()) }
            }
            Err(error) => {
                let unknown = error.outcome_unknown();
                Line::Failed { key, generation, kind: error.kind().to_string(), unknown }
            }
        });
    }

    /// A step of a batch that is not atomic may have been made though the batch failed.
    fn end_unknown(&self, error: &StorageError) {
        let (key, generation) = (self.key.as_str().to_owned(), self.generation);
        self.acks.tell(&Line::Failed { key, generation, kind: error.kind().to_string(), unknown: true });
    }
}

impl Driver {
    fn new(storage: Arc<dyn BaseStorage>, plan: &Plan, acks: Acks, versions: Versions) -> Self {
        let atomic = storage.describe().capabilities().atomic_transact;
        Self {
            acks,
            versions,
            storage,
            atomic,
            generations: Arc::new(AtomicU64::new(plan.generation)),
            latest: Arc::default(),
            max_value: plan.max_value,
        }
    }

    async fn work(&mut self, plan: &Plan, open: &Opener) -> Result<(), String> {
        match plan.workload {
            Workload::Steps(ref steps) => {
                for step in steps {
                    self.step(*step, plan, open).await?;
                }
                Ok(())
            }
            Workload::Random { tasks, keys, changes } => self.random(plan.seed, tasks, keys, changes).await,
        }
    }

    async fn finish(&self, plan: &Plan) -> Result<(), String> {
        if plan.read_back {
            let keys: Vec<String> = self.latest.lock().keys().cloned().collect();
            for key in keys {
                let seen = inspection::look(&self.storage, &key).await;
                self.acks.tell(&Line::Read { key, seen });
            }
        }
        self.note("close", self.storage.close()).await;
        self.acks.tell(&Line::Done);
        Ok(())
    }

    /// Tells if something failed that changes no value.
    async fn note<T>(&self, what: &str, call: impl Future<Output = persist_core::Result<T>>) {
        if let Err(error) = call.await {
            self.acks.tell(&Line::Note(format!("{what}: {}", error.kind())));
        }
    }

    fn begin(&self, key: &Key, generation: u64, verb: Verb, batch: Option<&str>) -> Begun {
        self.latest.lock().insert(key.as_str().to_owned(), generation);
        let text = key.as_str().to_owned();
        self.acks.tell(&Line::Attempt { key: text, generation, verb, batch: batch.map(Into::into) });
        Begun { acks: self.acks, versions: self.versions, key: key.clone(), generation }
    }

    fn next(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The next generation that is stored as the same kind as the latest of this key, or as another one.
    fn next_kind(&self, key: &Key, same: bool) -> u64 {
        let latest = self.latest.lock().get(key.as_str()).copied().unwrap_or(0);
        loop {
            let generation = self.next();
            if (sample::kind(generation) == sample::kind(latest)) == same {
                return generation;
            }
        }
    }

    fn item(&self, key: &Key, generation: u64, condition: Condition) -> StoreItem {
        let mut options = sample::options(generation);
        options.condition = condition;
        let value = sample::value(key, generation, self.max_value);
        StoreItem { key: key.clone(), value, options }
    }

    async fn put(&self, key: &Key, generation: u64, condition: Condition) {
        let item = self.item(key, generation, condition);
        let begun = self.begin(key, generation, Verb::Put, None);
        let result = self.storage.store(key, item.value, item.options).await;
        begun.end(result.as_ref().map(|metadata| Some(metadata.clone())));
    }

    async fn put_if_version(&self, key: &Key, generation: u64) {
        let condition = match self.storage.metadata(key).await {
            Ok(Some(metadata)) => Condition::IfVersion(metadata.version),
            Ok(None) => Condition::IfAbsent,
            Err(_) => return,
        };
        self.put(key, generation, condition).await;
    }

    async fn delete(&self, key: &Key) {
        let begun = self.begin(key, self.next(), Verb::Delete, None);
        let result = self.storage.delete(key, DeleteOptions::new()).await;
        begun.end(result.as_ref().map(|_| None));
    }

    async fn touch(&self, key: &Key) {
        let generation = self.next();
        let expiry = sample::expiry(generation)
            .map_or(Expiry::Never, |moment| Expiry::At(Timestamp::from_millis(moment)));
        let begun = self.begin(key, generation, Verb::Touch, None);
        let result = self.storage.touch(key, expiry).await;
        begun.end(result.as_ref().map(Clone::clone));
    }

    async fn store_many(&self, keys: &[Key]) {
        let mut begun = Vec::new();
        let mut items = Vec::new();
        for key in keys {
            let generation = self.next();
            items.push(self.item(key, generation, Condition::None));
            begun.push(self.begin(key, generation, Verb::Put, None));
        }
        let results = self.storage.store_many(items).await;
        for (begun, result) in begun.iter().zip(&results) {
            begun.end(result.as_ref().map(|metadata| Some(metadata.clone())));
        }
    }

    async fn delete_many(&self, keys: &[Key]) {
        let begun: Vec<Begun> =
            keys.iter().map(|key| self.begin(key, self.next(), Verb::Delete, None)).collect();
        let results = self.storage.delete_many(keys).await;
        for (begun, result) in begun.iter().zip(&results) {
            begun.end(result.as_ref().map(|_| None));
        }
    }

    /// Stores all of `keys` but the last, which is deleted, in one batch.
    async fn transact(&self, keys: &[Key]) {
        let Some((last, stored)) = keys.split_last() else { return };
        let batch = self.atomic.then(|| format!("b{}", self.next()));
        let mut begun = Vec::new();
        let mut operations = Vec::new();
        for key in stored {
            let generation = self.next();
            operations.push(Operation::Put(self.item(key, generation, Condition::None)));
            begun.push(self.begin(key, generation, Verb::Put, batch.as_deref()));
        }
        operations.push(Operation::Delete(last.clone(), DeleteOptions::new()));
        begun.push(self.begin(last, self.next(), Verb::Delete, batch.as_deref()));
        match self.storage.transact(operations).await {
            Ok(outcomes) => {
                begun.iter().zip(outcomes).for_each(|(begun, outcome)| begun.end(Ok(stored_in(outcome))));
            }
            Err(error) if self.atomic => begun.iter().for_each(|begun| begun.end(Err(&error))),
            Err(error) => begun.iter().for_each(|begun| begun.end_unknown(&error)),
        }
    }

    async fn step(&mut self, step: Step, plan: &Plan, open: &Opener) -> Result<(), String> {
        let base = key("base");
        match step {
            Step::Create => self.put(&base, self.next(), Condition::IfAbsent).await,
            Step::Replace => self.put_if_version(&base, self.next_kind(&base, true)).await,
            Step::ChangeKind => self.put(&base, self.next_kind(&base, false), Condition::None).await,
            Step::Touch => self.touch(&base).await,
            Step::Nested => self.put(&key("base/nested/Über child"), self.next(), Condition::None).await,
            Step::LongKey => {
                self.put(&key(&format!("long/{}", "Ä".repeat(490))), self.next(), Condition::None).await;
            }
            Step::StoreMany => self.store_many(&numbered("many", 4)).await,
            Step::Transact => self.transact_on_known().await,
            Step::DeleteMany => self.delete_many(&numbered("many", 2)).await,
            Step::Delete => self.delete(&base).await,
            Step::Flush => self.note("flush", self.storage.flush()).await,
            Step::Maintain => self.note("maintain", self.storage.maintain()).await,
            Step::Reopen => self.reopen(plan, open).await?,
        }
        Ok(())
    }

    /// One key that is there and stays, one that is not, one that goes.
    async fn transact_on_known(&self) {
        let keys = numbered("txn", 3);
        self.put(&keys[0], self.next(), Condition::None).await;
        self.put(&keys[2], self.next(), Condition::None).await;
        self.transact(&keys).await;
    }

    async fn reopen(&mut self, plan: &Plan, open: &Opener) -> Result<(), String> {
        self.note("close", self.storage.close()).await;
        self.storage = open(plan.root.clone()).await.map_err(|error| format!("reopen: {error}"))?;
        Ok(())
    }

    async fn random(&self, seed: u64, tasks: u64, keys: u64, changes: Option<u64>) -> Result<(), String> {
        let running: Vec<_> = (0..tasks)
            .map(|task| {
                let driver = self.clone();
                let random = Random::new(seed ^ (task + 1).wrapping_mul(0x9e37_79b9));
                tokio::spawn(async move { driver.random_task(task, keys, changes, random).await })
            })
            .collect();
        for task in running {
            task.await.map_err(|error| format!("a task ended badly: {error}"))?;
        }
        Ok(())
    }

    async fn random_task(&self, task: u64, keys: u64, changes: Option<u64>, mut random: Random) {
        let own: Vec<Key> = (0..keys.max(3)).map(|number| own_key(task, number)).collect();
        let mut made = 0;
        while changes.is_none_or(|changes| made < changes) {
            made += 1;
            let first = usize::try_from(random.below(own.len() as u64 - 2)).unwrap_or(0);
            let (key, three) = (&own[first], &own[first..first + 3]);
            match random.below(20) {
                0..8 => self.put(key, self.next(), Condition::None).await,
                8..10 => self.put_if_version(key, self.next()).await,
                10..12 => self.put(key, self.next(), Condition::IfAbsent).await,
                12..15 => self.delete(&three[1]).await,
                15..17 => self.touch(key).await,
                17..19 => self.transact(three).await,
                _ => self.store_many(three).await,
            }
            tokio::task::yield_now().await;
        }
    }
}

fn stored_in(outcome: Outcome) -> Option<Metadata> {
    match outcome {
        Outcome::Stored(metadata) => Some(metadata),
        Outcome::Deleted(_) | Outcome::Checked => None,
    }
}

/// Some keys of each task lie in folders of their own, some are children of another key.
fn own_key(task: u64, number: u64) -> Key {
    key(&match number % 3 {
        0 => format!("task {task}/{number}"),
        1 => format!("task {task}/{}/child", number - 1),
        _ => format!("deep/{number}/Task/{task}"),
    })
}

fn numbered(name: &str, count: usize) -> Vec<Key> {
    (0..count).map(|number| key(&format!("{name}/{number}"))).collect()
}

fn key(text: &str) -> Key {
    Key::new(text).expect("keys of the workload are short and have no NUL")
}
