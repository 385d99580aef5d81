use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{BaseStorage, ErrorKind, HumanDuration, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::{Answer, Call, Effect, Guard, Guarded, Layer};

/// The settings of [`Fault`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultConfig {
    /// Which share of the calls is struck, 0 to 1.
    pub share: f64,
    /// What happens to them.
    #[serde(default)]
    pub effect: FaultEffect,
    /// How much longer each of them takes.
    #[serde(default)]
    pub delay: Option<HumanDuration>,
    /// Only calls of these methods (`store`, `retrieve_many` …); left out: all reads and changes.
    #[serde(default)]
    pub operations: Option<Vec<String>>,
    /// Where the random numbers begin: the same seed strikes the same calls. Left out: another one each time.
    #[serde(default)]
    pub seed: Option<u64>,
}

impl FaultConfig {
    /// This share of all calls fails with `Unavailable`.
    pub fn new(share: f64) -> Self {
        Self { share, effect: FaultEffect::default(), delay: None, operations: None, seed: None }
    }
}

/// What happens to a call that is struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultEffect {
    /// It fails with `Unavailable`, and nothing happens.
    #[default]
    Unavailable,
    /// It fails with `Timeout` before it is made; nothing happens.
    Timeout,
    /// It takes place, and its answer gets lost: `Timeout`, and for changes the outcome is unknown.
    LoseAnswer,
    /// Nothing but the delay.
    None,
}

/// Makes a share of the calls fail, so that a program can be seen to cope. For tests and rehearsals.
#[derive(Debug)]
pub struct Fault {
    config: FaultConfig,
    random: Mutex<Random>,
}

impl Fault {
    /// Strikes as the settings say.
    pub fn new(config: FaultConfig) -> Self {
        let random = config.seed.map_or_else(Random::new, Random::seeded);
        Self { config, random: Mutex::new(random) }
    }

    fn strikes(&self, call: &Call<'_>) -> bool {
        let meant = match &self.config.operations {
            Some(operations) => operations.iter().any(|operation| operation == call.operation),
            None => call.effect != Effect::Care,
        };
        meant && self.random.lock().unit() < self.config.share
    }
}

impl Guard for Fault {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        if !self.strikes(&call) {
            return next.await;
        }
        if let Some(HumanDuration(delay)) = self.config.delay {
            tokio::time::sleep(delay).await;
        }
        let message =
            "the layer `fault` made this call fail; take it out of the configuration to use the storage";
        match self.config.effect {
            FaultEffect::None => next.await,
            FaultEffect::Unavailable => A::refused(&call, || call.error(ErrorKind::Unavailable, message)),
            FaultEffect::Timeout => A::refused(&call, || call.error(ErrorKind::Timeout, message)),
            FaultEffect::LoseAnswer => {
                let _lost = next.await;
                A::refused(&call, || {
                    let error = call.error(ErrorKind::Timeout, message);
                    if call.effect == Effect::Change { error.with_outcome_unknown() } else { error }
                })
            }
        }
    }
}

const OPERATIONS: [&str; 18] = [
    "store",
    "retrieve",
    "delete",
    "list_keys",
    "metadata",
    "contains",
    "touch",
    "retrieve_range",
    "store_many",
    "retrieve_many",
    "delete_many",
    "transact",
    "flush",
    "health",
    "stats",
    "maintain",
    "verify",
    "snapshot",
];

impl Layer for Fault {
    const NAME: &'static str = "fault";
    type Config = FaultConfig;

    fn check(config: &FaultConfig) -> Result<(), String> {
        if !(0.0..=1.0).contains(&config.share) {
            return Err(format!("`share` is {} and must lie between 0 and 1", config.share));
        }
        if config.delay.is_some_and(|HumanDuration(delay)| delay > Duration::from_secs(3600)) {
            return Err("`delay` may be at most one hour".to_owned());
        }
        let unknown = config.operations.iter().flatten().find(|name| !OPERATIONS.contains(&name.as_str()));
        match unknown {
            Some(name) => Err(format!("`{name}` is no operation; there are: {}", OPERATIONS.join(", "))),
            None => Ok(()),
        }
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: FaultConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::new(config))))
    }
}
