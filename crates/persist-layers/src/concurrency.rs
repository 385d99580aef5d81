use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use persist_core::{BaseStorage, ErrorKind, HumanDuration, Result, Stats};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Answer, Call, Effect, Guard, Guarded, Layer};

/// The settings of [`Concurrency`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// How many calls the storage works on at once.
    pub max: usize,
    /// How many more may wait; further ones fail at once with `Unavailable`.
    #[serde(default = "queue")]
    pub queue: usize,
    /// How long one may wait; then it fails with `Timeout` and has not been made.
    #[serde(default = "wait")]
    pub wait: HumanDuration,
}

fn queue() -> usize {
    1000
}

fn wait() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

impl ConcurrencyConfig {
    /// At most `max` calls at once, 1000 that wait, for 30 seconds.
    pub fn new(max: usize) -> Self {
        Self { max, queue: queue(), wait: wait() }
    }
}

/// Lets so many reads and changes through at once; the others wait in the order in which they came. A batch counts as one.
#[derive(Debug)]
pub struct Concurrency {
    config: ConcurrencyConfig,
    places: Semaphore,
    waiting: AtomicUsize,
}

/// One that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Concurrency {
    /// With nobody inside.
    pub fn new(config: ConcurrencyConfig) -> Self {
        let places = Semaphore::new(config.max.clamp(1, Semaphore::MAX_PERMITS));
        Self { config, places, waiting: AtomicUsize::new(0) }
    }

    /// A place, or why there is none.
    async fn enter(&self) -> Result<SemaphorePermit<'_>, (ErrorKind, String)> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.config.queue {
            let message = format!(
                "{} calls are being made and {} wait already; call less often, or raise `max` or `queue`",
                self.config.max, self.config.queue
            );
            return Err((ErrorKind::Unavailable, message));
        }
        match tokio::time::timeout(self.config.wait.0, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => {
                let message = format!(
                    "{} other calls took longer than {}, and this one was not made; raise `max` or `wait`",
                    self.config.max, self.config.wait
                );
                Err((ErrorKind::Timeout, message))
            }
        }
    }
}

impl Guard for Concurrency {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        if call.effect == Effect::Care {
            return next.await;
        }
        match self.enter().await {
            Ok(_place) => next.await,
            Err((kind, message)) => A::refused(&call, || call.error(kind, message.clone())),
        }
    }

    /// `concurrency_waiting`: how many calls wait for a place.
    fn count(&self, stats: &mut Stats) {
        stats.counters.insert("concurrency_waiting", self.waiting.load(Ordering::Relaxed) as u64);
    }
}

impl Layer for Concurrency {
    const NAME: &'static str = "concurrency";
    type Config = ConcurrencyConfig;

    fn check(config: &ConcurrencyConfig) -> Result<(), String> {
        if config.max == 0 {
            return Err("`max` must be at least 1".to_owned());
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: ConcurrencyConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::new(config))))
    }
}
