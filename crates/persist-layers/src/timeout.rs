use std::sync::Arc;
use std::time::Duration;

use persist_core::{BaseStorage, ErrorKind, HumanDuration, Result, StorageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::patience::until;
use crate::{Answer, Call, Effect, Guard, Guarded, Layer};

/// The settings of [`Timeout`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeoutConfig {
    /// How long a read or a change may take from when it first has to wait, a batch included.
    pub after: HumanDuration,
}

/// Ends calls that take too long with `Timeout`. A change that was ended has taken place whole or not at all, and the error
/// says that which is unknown.
///
/// Care (`flush`, `maintain`, `verify`, `snapshot` …) and `close` take as long as they need.
#[derive(Clone, Debug)]
pub struct Timeout {
    after: Duration,
}

impl Timeout {
    /// Ends calls after this long.
    pub fn new(after: Duration) -> Self {
        Self { after }
    }

    fn error(&self, call: &Call<'_>) -> StorageError {
        let message = format!(
            "there was no answer within {}; see why the storage is slow, or allow more time",
            HumanDuration(self.after)
        );
        let error = call.error(ErrorKind::Timeout, message);
        if call.effect == Effect::Change { error.with_outcome_unknown() } else { error }
    }
}

impl Guard for Timeout {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        if call.effect == Effect::Care {
            return next.await;
        }
        let answer = until(|| Instant::now() + self.after, next).await;
        answer.unwrap_or_else(|| A::refused(&call, || self.error(&call)))
    }
}

impl Layer for Timeout {
    const NAME: &'static str = "timeout";
    type Config = TimeoutConfig;

    fn check(config: &TimeoutConfig) -> Result<(), String> {
        if config.after.0 < Duration::from_millis(1) {
            return Err("`after` must be at least 1ms".to_owned());
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: TimeoutConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::new(config.after.0))))
    }
}
