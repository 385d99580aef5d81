//! A storage that fails when a test wants it to.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, Key, ListOptions, Maintenance,
    Metadata, Operation, Outcome, Page, Result, SnapshotSink, SnapshotSummary, Stats, StorageError,
    StoreItem, StoreOptions, Value, Verification, Watch,
};

/// What goes wrong, in which calls.
///
/// ```
/// use persist_core::ErrorKind;
/// use persist_testkit::fault::Fault;
///
/// // The third store does not get through; every fifth answer of a delete, or so, gets lost.
/// let third = Fault::fail(ErrorKind::Unavailable).on("store").nth(3);
/// let lossy = Fault::lose_answer(ErrorKind::Timeout).on("delete").share(0.2, 42);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    operation: Option<&'static str>,
    when: When,
    effect: Effect,
    seen: u64,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    Nth(u64),
    From(u64),
    Share { per_million: u64, state: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Fail(ErrorKind),
    LoseAnswer(ErrorKind),
    Delay(Duration),
}

impl Fault {
    /// Calls fail with an error of this kind, and nothing happens.
    pub fn fail(kind: ErrorKind) -> Self {
        Self::new(Effect::Fail(kind))
    }

    /// Calls take place and then fail with an error of this kind; for changes it says that the outcome is unknown.
    pub fn lose_answer(kind: ErrorKind) -> Self {
        Self::new(Effect::LoseAnswer(kind))
    }

    /// Calls take this much longer.
    pub fn delay(by: Duration) -> Self {
        Self::new(Effect::Delay(by))
    }

    fn new(effect: Effect) -> Self {
        Self { operation: None, when: When::Always, effect, seen: 0 }
    }

    /// Only calls of this method (`"store"`, `"retrieve_many"`, …).
    #[must_use]
    pub fn on(mut self, operation: &'static str) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only the n-th such call, counted from 1 since the fault was armed.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.when = When::Nth(n);
        self
    }

    /// The n-th such call and all after it.
    #[must_use]
    pub fn from(mut self, n: u64) -> Self {
        self.when = When::From(n);
        self
    }

    /// This share of the calls (0 to 1), chosen at random; the same seed chooses the same calls.
    #[must_use]
    pub fn share(mut self, share: f64, seed: u64) -> Self {
        let per_million = (share.clamp(0.0, 1.0) * 1e6).round() as u64;
        self.when = When::Share { per_million, state: seed };
        self
    }

    /// Counts a call, and says whether the fault strikes.
    fn strikes(&mut self, operation: &'static str) -> bool {
        if self.operation.is_some_and(|wanted| wanted != operation) {
            return false;
        }
        self.seen += 1;
        match &mut self.when {
            When::Always => true,
            When::Nth(n) => self.seen == *n,
            When::From(n) => self.seen >= *n,
            When::Share { per_million, state } => splitmix(state) % 1_000_000 < *per_million,
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A layer that fails, loses answers or is slow as the armed [`Fault`]s say; without any it changes nothing.
///
/// Every method of the trait counts as one call, batches too: a fault in a batch concerns all its items. `describe`
/// and `close` never fail.
#[derive(Debug)]
pub struct FaultStorage {
    inner: Arc<dyn BaseStorage>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    calls: Vec<&'static str>,
}

/// What is left to do when the inner call has returned.
#[derive(Clone, Copy)]
struct Aftermath {
    operation: &'static str,
    lost: Option<ErrorKind>,
}

impl FaultStorage {
    /// A storage over another one, without faults at first.
    pub fn new(inner: Arc<dyn BaseStorage>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Adds a fault.
    pub fn arm(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Removes every fault.
    pub fn disarm(&self) {
        self.state.lock().faults.clear();
    }

    /// How often a method was called, whatever came of it.
    pub fn calls(&self, operation: &str) -> usize {
        self.state.lock().calls.iter().filter(|call| **call == operation).count()
    }

    /// Counts the call and lets the faults strike that come before it.
    async fn begin(&self, operation: &'static str) -> Result<Aftermath> {
        let mut aftermath = Aftermath { operation, lost: None };
        let mut delay = Duration::ZERO;
        let mut failure = None;
        for effect in self.struck(operation) {
            match effect {
                Effect::Delay(by) => delay += by,
                Effect::LoseAnswer(kind) => aftermath.lost = Some(kind),
                Effect::Fail(kind) => failure = failure.or(Some(kind)),
            }
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match failure {
            Some(kind) => Err(self.error(kind, operation, "a test made this call fail")),
            None => Ok(aftermath),
        }
    }

    fn struck(&self, operation: &'static str) -> Vec<Effect> {
        let mut state = self.state.lock();
        state.calls.push(operation);
        let faults = state.faults.iter_mut();
        faults.filter_map(|fault| fault.strikes(operation).then_some(fault.effect)).collect()
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, message: &'static str) -> StorageError {
        self.inner.describe().error(kind, operation, message)
    }

    /// The answer, unless it gets lost.
    fn end<T>(&self, aftermath: Aftermath, answer: Result<T>) -> Result<T> {
        let (Some(kind), Ok(_)) = (aftermath.lost, &answer) else { return answer };
        let error = self.error(kind, aftermath.operation, "a test made the answer to this call get lost");
        let changes = ["store", "delete", "touch", "store_many", "delete_many", "transact"];
        Err(if changes.contains(&aftermath.operation) { error.with_outcome_unknown() } else { error })
    }

    fn end_many<T>(&self, aftermath: Aftermath, answers: Vec<Result<T>>) -> Vec<Result<T>> {
        answers.into_iter().map(|answer| self.end(aftermath, answer)).collect()
    }

    /// The same failure for every item of a batch.
    fn refuse_many<T>(&self, error: &StorageError, operation: &'static str, count: usize) -> Vec<Result<T>> {
        (0..count).map(|_| Err(self.error(error.kind(), operation, "a test made this call fail"))).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for FaultStorage {
    fn describe(&self) -> &Descriptor {
        self.inner.describe()
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let aftermath = self.begin("store").await?;
        self.end(aftermath, self.inner.store(key, value, options).await)
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let aftermath = self.begin("retrieve").await?;
        self.end(aftermath, self.inner.retrieve(key).await)
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let aftermath = self.begin("delete").await?;
        self.end(aftermath, self.inner.delete(key, options).await)
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let aftermath = self.begin("list_keys").await?;
        self.end(aftermath, self.inner.list_keys(prefix, options).await)
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let aftermath = self.begin("metadata").await?;
        self.end(aftermath, self.inner.metadata(key).await)
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        let aftermath = self.begin("contains").await?;
        self.end(aftermath, self.inner.contains(key).await)
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let aftermath = self.begin("touch").await?;
        self.end(aftermath, self.inner.touch(key, expiry).await)
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let aftermath = self.begin("retrieve_range").await?;
        self.end(aftermath, self.inner.retrieve_range(key, range).await)
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        match self.begin("store_many").await {
            Ok(aftermath) => self.end_many(aftermath, self.inner.store_many(items).await),
            Err(error) => self.refuse_many(&error, "store_many", items.len()),
        }
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        match self.begin("retrieve_many").await {
            Ok(aftermath) => self.end_many(aftermath, self.inner.retrieve_many(keys).await),
            Err(error) => self.refuse_many(&error, "retrieve_many", keys.len()),
        }
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        match self.begin("delete_many").await {
            Ok(aftermath) => self.end_many(aftermath, self.inner.delete_many(keys).await),
            Err(error) => self.refuse_many(&error, "delete_many", keys.len()),
        }
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let aftermath = self.begin("transact").await?;
        self.end(aftermath, self.inner.transact(operations).await)
    }

    async fn flush(&self) -> Result<()> {
        let aftermath = self.begin("flush").await?;
        self.end(aftermath, self.inner.flush().await)
    }

    async fn health(&self) -> Health {
        match self.begin("health").await {
            Ok(_) => self.inner.health().await,
            Err(error) => Health::unhealthy(&error),
        }
    }

    async fn stats(&self) -> Result<Stats> {
        let aftermath = self.begin("stats").await?;
        self.end(aftermath, self.inner.stats().await)
    }

    async fn maintain(&self) -> Result<Maintenance> {
        let aftermath = self.begin("maintain").await?;
        self.end(aftermath, self.inner.maintain().await)
    }

    async fn verify(&self) -> Result<Verification> {
        let aftermath = self.begin("verify").await?;
        self.end(aftermath, self.inner.verify().await)
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        let aftermath = self.begin("snapshot").await?;
        self.end(aftermath, self.inner.snapshot(sink).await)
    }

    /// Faults befall the beginning of a watch, not its events.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        let aftermath = self.begin("watch").await?;
        self.end(aftermath, self.inner.watch(prefix).await)
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use persist_core::{HealthStatus, StorageExt};

    use super::*;
    use crate::memory::MemoryStorage;

    fn faulty() -> FaultStorage {
        FaultStorage::new(Arc::new(MemoryStorage::new("m")))
    }

    #[tokio::test]
    async fn the_nth_call_fails_and_nothing_happens() {
        let storage = faulty();
        storage.arm(Fault::fail(ErrorKind::Capacity).on("store").nth(2));
        storage.put("a", &1).await.unwrap();
        let error = storage.put("a", &2).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Capacity, false));
        assert_eq!(error.storage(), Some("m"));
        assert_eq!(storage.get("a").await.unwrap(), Some(1));
        storage.put("a", &3).await.unwrap();
        assert_eq!((storage.calls("store"), storage.calls("retrieve")), (3, 1));
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_change_and_says_that_it_is_unknown() {
        let storage = faulty();
        storage.arm(Fault::lose_answer(ErrorKind::Timeout));
        let error = storage.put("a", &1).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Timeout, true));
        let error = storage.get::<u8>("a").await.unwrap_err();
        assert!(!error.outcome_unknown());
        storage.disarm();
        assert_eq!(storage.get("a").await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn from_a_call_on_everything_fails_batches_and_health_included() {
        let storage = faulty();
        storage.arm(Fault::fail(ErrorKind::Unavailable).from(2));
        let key = Key::new("a").unwrap();
        storage.put(&key, &1).await.unwrap();
        let answers = storage.retrieve_many(&[key.clone(), key.clone()]).await;
        assert_eq!(answers.len(), 2);
        assert!(
            answers.iter().all(|answer| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable))
        );
        assert_eq!(storage.health().await.status, HealthStatus::Unhealthy);
    }

    #[tokio::test]
    async fn a_share_of_calls_fails_and_a_seed_repeats_it() {
        let mut runs = Vec::new();
        for _ in 0..2 {
            let storage = faulty();
            storage.arm(Fault::fail(ErrorKind::Locked).on("contains").share(0.25, 7));
            let key = Key::new("a").unwrap();
            let mut failed = Vec::new();
            for i in 0..1000 {
                if storage.contains(&key).await.is_err() {
                    failed.push(i);
                }
            }
            assert!((200..300).contains(&failed.len()), "{}", failed.len());
            runs.push(failed);
        }
        assert_eq!(runs[0], runs[1]);
    }

    #[tokio::test]
    async fn a_delay_delays() {
        let storage = faulty();
        storage.arm(Fault::delay(Duration::from_millis(30)).on("retrieve"));
        let begun = std::time::Instant::now();
        storage.get::<u8>("a").await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }
}
