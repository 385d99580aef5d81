use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge, histogram};
use persist_core::{BaseStorage, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Answer, Call, Guard, Guarded, Layer};

/// The settings of [`Metrics`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {}

/// Counts and times every call through the facade `metrics`, for whatever exporter the program has installed:
///
/// - `persist_calls_total`, by `storage`, `operation` and `outcome` (`ok` or the kind of the error);
/// - `persist_values_total`, by `storage` and `operation`: values concerned, which is more than calls for batches;
/// - `persist_call_seconds`, a histogram by `storage` and `operation`;
/// - `persist_calls_in_flight`, a gauge by `storage`.
///
/// No key and no value is ever a label. A call that is cancelled has the outcome `cancelled`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

/// A call that was begun.
struct Begun {
    storage: String,
    operation: &'static str,
    since: Instant,
    outcome: &'static str,
}

impl Begun {
    fn new(call: &Call<'_>) -> Self {
        let storage = call.storage.name().to_owned();
        gauge!("persist_calls_in_flight", "storage" => storage.clone()).increment(1.0);
        counter!("persist_values_total", "storage" => storage.clone(), "operation" => call.operation)
            .increment(call.items as u64);
        Self { storage, operation: call.operation, since: Instant::now(), outcome: "cancelled" }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let storage = std::mem::take(&mut self.storage);
        gauge!("persist_calls_in_flight", "storage" => storage.clone()).decrement(1.0);
        histogram!("persist_call_seconds", "storage" => storage.clone(), "operation" => self.operation)
            .record(self.since.elapsed());
        counter!("persist_calls_total",
            "storage" => storage, "operation" => self.operation, "outcome" => self.outcome)
        .increment(1);
    }
}

impl Guard for Metrics {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        let mut begun = Begun::new(&call);
        let answer = next.await;
        begun.outcome = answer.failure().map_or("ok", |failure| failure.kind.as_str());
        answer
    }
}

impl Layer for Metrics {
    const NAME: &'static str = "metrics";
    type Config = MetricsConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, _: MetricsConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self)))
    }
}
