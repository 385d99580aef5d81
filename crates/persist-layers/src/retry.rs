use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Condition, DeleteOptions, Entry, ErrorKind, Expiry, HumanDuration, Key, ListOptions,
    Metadata, Operation, Outcome, Page, Result, StorageError, StoreItem, StoreOptions, Value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Layer;
use crate::patience::until;
use crate::random::Random;

/// The settings of [`Retry`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// How often a call is made at most, the first time included.
    pub attempts: u32,
    /// How long one attempt may take. It has no end without this, so that nothing would ever be repeated.
    pub attempt_timeout: HumanDuration,
    /// How long all attempts and the pauses between them may take together.
    pub deadline: HumanDuration,
    /// The longest first pause; each further one may be twice as long. The pause itself is drawn between nothing and that.
    pub backoff: HumanDuration,
    /// The longest pause of all.
    pub max_backoff: HumanDuration,
    /// Read the version of a key before it is stored or deleted without a condition, so that the change can be repeated even
    /// if its answer was lost. It costs one more call for each such change.
    pub fence: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 4,
            attempt_timeout: HumanDuration(Duration::from_secs(5)),
            deadline: HumanDuration(Duration::from_secs(30)),
            backoff: HumanDuration(Duration::from_millis(50)),
            max_backoff: HumanDuration(Duration::from_secs(5)),
            fence: false,
        }
    }
}

/// Makes calls again that failed for a reason which may have gone: `Unavailable`, `Timeout` and `Locked`.
///
/// A repeated change must never undo what somebody else was told is stored. So a change is repeated
///
/// - if its error says that nothing happened (every error does, unless its outcome is unknown);
/// - if its outcome is unknown and it has the condition `if_version`: versions are never used again, so it takes place once or
///   not at all. Should the repetition meet another version, the outcome stays unknown, and the error says so;
/// - with [`fence`](RetryConfig::fence) also without a condition: it is repeated over the version that was there before.
///
/// Everything else whose outcome is unknown (`if_absent`, `touch`, items of a batch, transactions without `if_version`) comes
/// back as it is. An item of a batch is not repeated if a later one has
/// stored or deleted its key. Care is never repeated: above all no
/// `flush`, because a failed fsync that succeeds the second time has lost data.
///
/// Pauses have "full jitter": Brooker, "Exponential backoff and jitter" (AWS Architecture Blog, 2015).
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn BaseStorage>,
    config: RetryConfig,
    random: Mutex<Random>,
}

/// The attempts at one call.
struct Attempts<'a> {
    retry: &'a Retry,
    /// When the call first had to wait, or failed.
    begun: Option<Instant>,
    made: u32,
}

impl Attempts<'_> {
    /// Makes one attempt.
    async fn make<T>(
        &mut self,
        changes: bool,
        operation: &'static str,
        next: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.made += 1;
        let RetryConfig { attempt_timeout, deadline, .. } = &self.retry.config;
        let end = || {
            let now = Instant::now();
            (now + attempt_timeout.0).min(*self.begun.get_or_insert(now) + deadline.0)
        };
        until(end, next).await.unwrap_or_else(|| Err(self.retry.late(changes, operation)))
    }

    /// Waits before the next attempt; false if there is none.
    async fn again(&mut self) -> bool {
        let config = &self.retry.config;
        if self.made >= config.attempts {
            return false;
        }
        let doubled = config.backoff.0.saturating_mul(2_u32.saturating_pow(self.made.saturating_sub(1)));
        let longest = doubled.min(config.max_backoff.0);
        let pause = longest.mul_f64(self.retry.random.lock().unit());
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if begun.elapsed() + pause >= config.deadline.0 {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// Whether trying again can help by itself. A full disk stays full, and a conflict must be looked at.
fn passes(error: &StorageError) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Locked)
}

/// Whether a change is known not to have happened and may yet.
fn harmless(error: &StorageError) -> bool {
    passes(error) && !error.outcome_unknown()
}

impl Retry {
    /// Repeats calls of `inner`.
    pub fn new(inner: Arc<dyn BaseStorage>, config: RetryConfig) -> Self {
        Self { inner, config, random: Mutex::new(Random::new()) }
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts { retry: self, begun: None, made: 0 }
    }

    fn late(&self, changes: bool, operation: &'static str) -> StorageError {
        let message = format!("no answer came within {}", self.config.attempt_timeout);
        let error = self.inner.describe().error(ErrorKind::Timeout, operation, message);
        if changes { error.with_outcome_unknown() } else { error }
    }

    async fn read<T, F>(&self, operation: &'static str, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut attempts = self.attempts();
        loop {
            match attempts.make(false, operation, call()).await {
                Err(error) if passes(&error) && attempts.again().await => {}
                answer => return answer,
            }
        }
    }

    /// Repeats a change. `fence` is the condition under which it may be repeated although its outcome is unknown; `call` makes
    /// it, under that condition (`Some`) or as it was asked for (`None`).
    async fn change<T, F>(
        &self,
        operation: &'static str,
        fence: Option<Condition>,
        call: impl Fn(Option<Condition>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut attempts = self.attempts();
        let mut unknown: Option<StorageError> = None;
        loop {
            let condition = unknown.as_ref().and(fence);
            let error = match attempts.make(true, operation, call(condition)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let lost = error.outcome_unknown() && passes(&error);
            let repeat = harmless(&error) || (lost && fence.is_some());
            if lost {
                unknown = Some(error);
                if !(repeat && attempts.again().await) {
                    return Err(unknown.unwrap_or_else(|| self.late(true, operation)));
                }
            } else if !(repeat && attempts.again().await) {
                // What an earlier attempt did is still unknown, whatever the last one says.
                return Err(unknown.unwrap_or(error));
            }
        }
    }

    /// The condition under which a change may be repeated although its outcome is unknown, and whether it was asked for.
    async fn fence(&self, key: &Key, condition: Condition) -> Result<Option<Condition>> {
        match condition {
            Condition::IfVersion(_) => Ok(Some(condition)),
            Condition::None if self.config.fence => {
                let before = self.read("metadata", || self.inner.metadata(key)).await?;
                // Absence is no fence: what was stored may have been deleted by somebody else in between.
                Ok(before.map(|metadata| Condition::IfVersion(metadata.version)))
            }
            Condition::None | Condition::IfAbsent => Ok(None),
        }
    }

    /// Repeats the items of a batch that failed for a reason which may have gone.
    async fn batch<I, T, F>(
        &self,
        operation: &'static str,
        changes: bool,
        items: Vec<I>,
        key: impl Fn(&I) -> &Key,
        call: impl Fn(Vec<I>) -> F,
    ) -> Vec<Result<T>>
    where
        I: Clone,
        F: Future<Output = Vec<Result<T>>> + Send,
    {
        let mut attempts = self.attempts();
        let mut answers: Vec<Option<Result<T>>> = items.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..items.len()).collect();
        loop {
            let asked: Vec<I> = open.iter().map(|place| items[*place].clone()).collect();
            let count = asked.len();
            let next = async { Ok(call(asked).await) };
            let given = attempts.make(changes, operation, next).await;
            let given =
                given.unwrap_or_else(|_| (0..count).map(|_| Err(self.late(changes, operation))).collect());
            for (place, answer) in open.iter().zip(given) {
                answers[*place] = Some(answer);
            }
            open = repeatable(&items, &answers, changes, &key);
            if open.is_empty() || !attempts.again().await {
                let lost = || Err(self.late(changes, operation));
                return answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect();
            }
        }
    }
}

/// The places of a batch whose items may be repeated: those that failed for a reason which may have gone. A change must also
/// not have happened, and nothing later in the batch that names its key may have.
fn repeatable<I, T>(
    items: &[I],
    answers: &[Option<Result<T>>],
    changes: bool,
    key: impl Fn(&I) -> &Key,
) -> Vec<usize> {
    let mut done: HashSet<&Key> = HashSet::new();
    let mut places = Vec::new();
    for (place, answer) in answers.iter().enumerate().rev() {
        let again = match answer {
            Some(Err(error)) if changes => harmless(error) && !done.contains(key(&items[place])),
            Some(Err(error)) => passes(error),
            Some(Ok(_)) | None => false,
        };
        if again {
            places.push(place);
        } else {
            done.insert(key(&items[place]));
        }
    }
    places.reverse();
    places
}

/// Whether what is stored is what was to be stored.
fn is_ours(stored: &Metadata, value: &Value, options: &StoreOptions, default_ttl: Option<Duration>) -> bool {
    stored.kind == value.kind()
        && stored.size == value.size()
        && stored.tags == options.tags
        && stored.encodings == options.encodings
        && stored.expires_at == options.expiry.resolve(stored.modified_at, default_ttl)
        && stored.checksum == value.checksum()
}

/// A transaction that can take place once at most, because one of its changes is bound to a version.
fn is_fenced(operations: &[Operation]) -> bool {
    operations.iter().any(|operation| {
        !matches!(operation, Operation::Check(..)) && matches!(operation.condition(), Condition::IfVersion(_))
    })
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Retry {
    forward!(inner: describe, flush, health, stats, maintain, verify, snapshot, watch, close);

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let fence = self.fence(key, options.condition).await?;
        let stored = self
            .change("store", fence, |condition| {
                let condition = condition.unwrap_or(options.condition);
                self.inner.store(key, value.clone(), StoreOptions { condition, ..options.clone() })
            })
            .await;
        let (Err(error), Some(_), Condition::None) = (&stored, fence, options.condition) else {
            return stored;
        };
        if !error.outcome_unknown() {
            return stored;
        }
        // It was not asked for in a version, so it is done if the value is there, whoever stored it last.
        let found = self.read("metadata", || self.inner.metadata(key)).await;
        let newer = |found: &Metadata| fence != Some(Condition::IfVersion(found.version));
        match found {
            Ok(Some(found))
                if newer(&found) && is_ours(&found, &value, &options, self.describe().default_ttl()) =>
            {
                Ok(found)
            }
            _ => stored,
        }
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.read("retrieve", || self.inner.retrieve(key)).await.map_err(|error| error.with_key(key))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let fence = self.fence(key, options.condition).await?;
        self.change("delete", fence, |condition| {
            let condition = condition.unwrap_or(options.condition);
            self.inner.delete(key, DeleteOptions { condition })
        })
        .await
        .map_err(|error| error.with_key(key))
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.read("list_keys", || self.inner.list_keys(prefix, options.clone())).await
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.read("metadata", || self.inner.metadata(key)).await.map_err(|error| error.with_key(key))
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.read("contains", || self.inner.contains(key)).await.map_err(|error| error.with_key(key))
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let touched = self.change("touch", None, |_| self.inner.touch(key, expiry)).await;
        touched.map_err(|error| error.with_key(key))
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let read = self.read("retrieve_range", || self.inner.retrieve_range(key, range.clone())).await;
        read.map_err(|error| error.with_key(key))
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        self.batch("store_many", true, items, |item| &item.key, |items| self.inner.store_many(items)).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let call = |keys: Vec<Key>| async move { self.inner.retrieve_many(&keys).await };
        self.batch("retrieve_many", false, keys.to_vec(), |key| key, call).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let call = |keys: Vec<Key>| async move { self.inner.delete_many(&keys).await };
        self.batch("delete_many", true, keys.to_vec(), |key| key, call).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        if !self.describe().capabilities().atomic_transact {
            // Some of its steps may have been made.
            let mut attempts = self.attempts();
            return attempts.make(true, "transact", self.inner.transact(operations)).await;
        }
        // Its own condition is the fence.
        let fence = is_fenced(&operations).then_some(Condition::None);
        self.change("transact", fence, |_| self.inner.transact(operations.clone())).await
    }
}

impl Layer for Retry {
    const NAME: &'static str = "retry";
    type Config = RetryConfig;

    fn check(config: &RetryConfig) -> Result<(), String> {
        if config.attempts < 2 {
            return Err("`attempts` must be at least 2; with 1 nothing is repeated, so leave the layer out"
                .to_owned());
        }
        if config.attempt_timeout.0.is_zero() || config.deadline < config.attempt_timeout {
            return Err(
                "`attempt_timeout` must be longer than nothing and at most as long as `deadline`".to_owned()
            );
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: RetryConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, config)))
    }
}
