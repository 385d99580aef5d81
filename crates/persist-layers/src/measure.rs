use std::sync::{Arc, OnceLock};
use std::time::Instant;

use metrics::{Key, Label, Level, SharedString, with_recorder};
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
#[derive(Debug, Default)]
pub struct Metrics {
    /// Of the operations that were called, one after the other.
    names: [OnceLock<Names>; KEPT],
}

/// For how many operations labels are kept; storages have fewer.
const KEPT: usize = 24;

/// Where the metrics of one operation come from.
static ORIGIN: metrics::Metadata<'static> =
    metrics::Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// What the metrics of one operation are called, with their labels.
#[derive(Debug)]
struct Names {
    operation: &'static str,
    in_flight: Key,
    values: Key,
    seconds: Key,
    succeeded: Key,
}

impl Names {
    fn new(storage: &str, operation: &'static str) -> Self {
        let storage = Label::new("storage", SharedString::from(Arc::<str>::from(storage)));
        let both = vec![storage.clone(), Label::new("operation", operation)];
        let succeeded = [both.as_slice(), &[Label::new("outcome", "ok")]].concat();
        Self {
            operation,
            in_flight: Key::from_parts("persist_calls_in_flight", vec![storage]),
            values: Key::from_parts("persist_values_total", both.clone()),
            seconds: Key::from_parts("persist_call_seconds", both),
            succeeded: Key::from_parts("persist_calls_total", succeeded),
        }
    }

    /// The number of calls that ended otherwise.
    fn ended(&self, outcome: &'static str) -> Key {
        let labels: Vec<Label> =
            self.values.labels().cloned().chain([Label::new("outcome", outcome)]).collect();
        Key::from_parts("persist_calls_total", labels)
    }
}

impl Metrics {
    /// The labels of an operation, which takes the first place that is free; `None`: all were taken.
    fn names(&self, call: &Call<'_>) -> Option<&Names> {
        let new = || Names::new(call.storage.name(), call.operation);
        self.names.iter().map(|place| place.get_or_init(new)).find(|names| names.operation == call.operation)
    }
}

/// A call that was begun.
struct Begun<'a> {
    names: &'a Names,
    since: Instant,
    outcome: &'static str,
}

impl<'a> Begun<'a> {
    fn new(names: &'a Names, values: usize) -> Self {
        with_recorder(|recorder| {
            recorder.register_gauge(&names.in_flight, &ORIGIN).increment(1.0);
            recorder.register_counter(&names.values, &ORIGIN).increment(values as u64);
        });
        Self { names, since: Instant::now(), outcome: "cancelled" }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        with_recorder(|recorder| {
            recorder.register_gauge(&self.names.in_flight, &ORIGIN).decrement(1.0);
            recorder.register_histogram(&self.names.seconds, &ORIGIN).record(took);
            let calls = match self.outcome {
                "ok" => recorder.register_counter(&self.names.succeeded, &ORIGIN),
                other => recorder.register_counter(&self.names.ended(other), &ORIGIN),
            };
            calls.increment(1);
        });
    }
}

impl Guard for Metrics {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        let own;
        let names = match self.names(&call) {
            Some(names) => names,
            None => {
                own = Box::new(Names::new(call.storage.name(), call.operation));
                &own
            }
        };
        let mut begun = Begun::new(names, call.items);
        let answer = next.await;
        begun.outcome = answer.failure().map_or("ok", |failure| failure.kind.as_str());
        answer
    }
}

impl Layer for Metrics {
    const NAME: &'static str = "metrics";
    type Config = MetricsConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, _: MetricsConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::default())))
    }
}

#[cfg(test)]
mod tests {
    use persist_core::Descriptor;

    use super::*;
    use crate::Effect;

    #[test]
    fn each_operation_has_labels_of_its_own_as_long_as_there_is_room() {
        let (metrics, storage) = (Metrics::default(), Descriptor::new("s", "memory"));
        let call =
            |operation| Call { storage: &storage, operation, effect: Effect::Read, key: None, items: 1 };
        let operations: Vec<&'static str> =
            "a b c d e f g h i j k l m n o p q r s t u v w x y z".split(' ').collect();
        for round in 0..2 {
            for (place, operation) in operations.iter().enumerate() {
                let kept = metrics.names(&call(operation)).map(|names| names.operation);
                assert_eq!(kept, (place < KEPT).then_some(*operation), "{round}");
            }
        }
    }
}
