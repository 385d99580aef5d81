use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{BaseStorage, ErrorKind, HumanDuration, Result, Stats};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Answer, Call, Effect, Guard, Guarded, Layer};

/// The settings of [`CircuitBreaker`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreakerConfig {
    /// After how many failures in a row it opens.
    pub failures: u32,
    /// How long it stays open before one call is let through to see whether the storage works again.
    pub open_for: HumanDuration,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self { failures: 5, open_for: HumanDuration(Duration::from_secs(10)) }
    }
}

/// Spares a storage that does not work. After some failures in a row (`Unavailable` or `Timeout`) it is open: calls fail at once
/// with `Unavailable`. After a while it is half open: one call goes through, and closes it or opens it anew.
///
/// Care (`flush`, `health`, `maintain` …) always goes through and is not counted.
#[derive(Debug)]
pub struct CircuitBreaker {
    failures: u32,
    open_for: Duration,
    /// It is closed and the last call worked, which is how it is nearly always: then nothing has to be locked.
    sound: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    circuit: Circuit,
    opened: u64,
    refused: u64,
}

#[derive(Clone, Copy, Debug)]
enum Circuit {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One call is on its way to see whether the storage works.
    HalfOpen,
}

/// A call that was let through.
struct Passage<'a> {
    breaker: &'a CircuitBreaker,
    probe: bool,
    judged: bool,
}

impl CircuitBreaker {
    /// A closed one.
    pub fn new(config: &CircuitBreakerConfig) -> Self {
        let state = State { circuit: Circuit::Closed { failures: 0 }, opened: 0, refused: 0 };
        Self {
            failures: config.failures.max(1),
            open_for: config.open_for.0,
            sound: AtomicBool::new(true),
            state: Mutex::new(state),
        }
    }

    /// Lets a call through, or says for how long it is still open.
    fn enter(&self) -> Result<Passage<'_>, Duration> {
        if self.sound.load(Ordering::Acquire) {
            return Ok(Passage { breaker: self, probe: false, judged: false });
        }
        let mut state = self.state.lock();
        let probe = match state.circuit {
            Circuit::Closed { .. } => false,
            Circuit::Open { until } if until <= Instant::now() => {
                state.circuit = Circuit::HalfOpen;
                true
            }
            Circuit::Open { until } => {
                state.refused += 1;
                return Err(until.saturating_duration_since(Instant::now()));
            }
            Circuit::HalfOpen => {
                state.refused += 1;
                return Err(Duration::ZERO);
            }
        };
        Ok(Passage { breaker: self, probe, judged: false })
    }
}

impl Passage<'_> {
    /// Notes what came of the call.
    fn judge(mut self, outage: bool) {
        self.judged = true;
        let breaker = self.breaker;
        if !outage && !self.probe && breaker.sound.load(Ordering::Acquire) {
            return;
        }
        let mut state = breaker.state.lock();
        let failures = match state.circuit {
            Circuit::Closed { failures } => failures,
            Circuit::HalfOpen if self.probe => breaker.failures - 1,
            // An answer from before it opened changes nothing.
            Circuit::HalfOpen | Circuit::Open { .. } => return,
        };
        state.circuit = match outage {
            false => Circuit::Closed { failures: 0 },
            true if failures + 1 < breaker.failures => Circuit::Closed { failures: failures + 1 },
            true => {
                state.opened += 1;
                Circuit::Open { until: Instant::now() + breaker.open_for }
            }
        };
        breaker.sound.store(!outage, Ordering::Release);
    }
}

/// A probe that was cancelled has told nothing: the next call is the probe.
impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.probe && !self.judged {
            self.breaker.state.lock().circuit = Circuit::Open { until: Instant::now() };
        }
    }
}

impl Guard for CircuitBreaker {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        if call.effect == Effect::Care {
            return next.await;
        }
        match self.enter() {
            Ok(passage) => {
                let answer = next.await;
                passage.judge(answer.failure().is_some_and(|failure| failure.is_outage()));
                answer
            }
            Err(left) => A::refused(&call, || {
                let message = format!(
                    "not tried, because the last {} calls failed; the next one is tried in {}",
                    self.failures,
                    HumanDuration(Duration::from_millis(left.as_millis().try_into().unwrap_or(u64::MAX)))
                );
                call.error(ErrorKind::Unavailable, message)
            }),
        }
    }

    /// `breaker_opened`: how often it opened; `breaker_refused`: how many calls it refused; `breaker_open`: 1 while it does.
    fn count(&self, stats: &mut Stats) {
        let state = self.state.lock();
        stats.counters.insert("breaker_opened", state.opened);
        stats.counters.insert("breaker_refused", state.refused);
        let open = !matches!(state.circuit, Circuit::Closed { .. });
        stats.counters.insert("breaker_open", u64::from(open));
    }
}

impl Layer for CircuitBreaker {
    const NAME: &'static str = "circuit_breaker";
    type Config = CircuitBreakerConfig;

    fn check(config: &CircuitBreakerConfig) -> Result<(), String> {
        if config.failures == 0 {
            return Err("`failures` must be at least 1".to_owned());
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: CircuitBreakerConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::new(&config))))
    }
}
