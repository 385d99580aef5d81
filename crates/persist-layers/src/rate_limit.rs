use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{BaseStorage, ErrorKind, HumanDuration, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Answer, Call, Effect, Guard, Guarded, Layer};

/// The settings of [`RateLimit`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// How many values may be read or changed a second, in the long run.
    pub per_second: u32,
    /// How many at once after a pause; left out: as many as in a second.
    #[serde(default)]
    pub burst: Option<u32>,
    /// How long a call may wait for its turn; if it would be longer, it fails at once with `Unavailable` and is not made.
    #[serde(default = "wait")]
    pub wait: HumanDuration,
}

fn wait() -> HumanDuration {
    HumanDuration(Duration::from_secs(1))
}

impl RateLimitConfig {
    /// So many values a second, a burst of the same size, a wait of a second.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, burst: None, wait: wait() }
    }
}

/// Spreads reads and changes over time; a batch counts as many values as it has.
///
/// The generic cell rate algorithm (ITU-T I.371, annex A): one moment is kept, at which everything let through so far would be
/// used up at the long-run rate. A call that would move it further ahead than the burst waits.
#[derive(Debug)]
pub struct RateLimit {
    /// The time that one value takes.
    each: Duration,
    burst: Duration,
    wait: Duration,
    used_up: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// With its burst unused.
    pub fn new(config: &RateLimitConfig) -> Self {
        let rate = config.per_second.max(1);
        let each = Duration::from_secs(1) / rate;
        let burst = each * config.burst.unwrap_or(rate).max(1);
        Self { each, burst, wait: config.wait.0, used_up: Mutex::new(None) }
    }

    /// Takes a turn for some values: how long to wait for it, or how long it would be.
    fn turn(&self, values: usize) -> Result<Duration, Duration> {
        let now = Instant::now();
        let cost = self.each.saturating_mul(u32::try_from(values).unwrap_or(u32::MAX));
        let mut used_up = self.used_up.lock();
        let from = used_up.map_or(now, |moment| moment.max(now));
        let to = from + cost;
        // What is more than a burst by itself waits until nothing is owed, and is let through then.
        let delay = (to - now).saturating_sub(self.burst.max(cost));
        if delay > self.wait {
            return Err(delay);
        }
        *used_up = Some(to);
        Ok(delay)
    }
}

impl Guard for RateLimit {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        if call.effect == Effect::Care {
            return next.await;
        }
        match self.turn(call.items) {
            Ok(delay) => {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                next.await
            }
            Err(delay) => A::refused(&call, || {
                let message = format!(
                    "the turn of this call would come in {} ms, and it may wait {}; call less often or raise `per_second`",
                    delay.as_millis(),
                    HumanDuration(self.wait)
                );
                call.error(ErrorKind::Unavailable, message)
            }),
        }
    }
}

impl Layer for RateLimit {
    const NAME: &'static str = "rate_limit";
    type Config = RateLimitConfig;

    fn check(config: &RateLimitConfig) -> Result<(), String> {
        if config.per_second == 0 || config.burst == Some(0) {
            return Err("`per_second` and `burst` must be at least 1".to_owned());
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: RateLimitConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::new(&config))))
    }
}
