use std::sync::Arc;

use persist_core::{BaseStorage, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::{Instrument, Span, field};

use crate::{Answer, Call, Guard, Guarded, Layer};

/// The settings of [`Trace`].
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TraceConfig {
    /// Note the keys too. They may tell what the values are about.
    pub keys: bool,
}

/// Makes a span of every call, at the level `debug` and with the target `persist`.
///
/// The fields have the names of OpenTelemetry's conventions for databases (semantic conventions 1.33): `db.system.name` (the
/// type of the storage), `db.namespace` (its name), `db.operation.name`, `db.operation.batch.size` for batches, and
/// `error.type` (the kind of the error) if it failed; `persist.key` on demand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    keys: bool,
}

impl Trace {
    /// As the settings say.
    pub fn new(config: &TraceConfig) -> Self {
        Self { keys: config.keys }
    }

    fn span(&self, call: &Call<'_>) -> Span {
        let span = tracing::debug_span!(
            target: "persist",
            "call",
            otel.name = call.operation,
            otel.kind = "client",
            db.system.name = call.storage.backend(),
            db.namespace = call.storage.name(),
            db.operation.name = call.operation,
            db.operation.batch.size = field::Empty,
            error.r#type = field::Empty,
            persist.key = field::Empty,
        );
        if call.operation.ends_with("_many") || call.operation == "transact" {
            span.record("db.operation.batch.size", call.items);
        }
        if let (true, Some(key)) = (self.keys, call.key) {
            span.record("persist.key", field::debug(key));
        }
        span
    }
}

impl Guard for Trace {
    async fn around<A: Answer>(&self, call: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        let span = self.span(&call);
        let answer = next.instrument(span.clone()).await;
        if let Some(failure) = answer.failure() {
            span.record("error.type", failure.kind.as_str());
        }
        answer
    }
}

impl Layer for Trace {
    const NAME: &'static str = "tracing";
    type Config = TraceConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, config: TraceConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Guarded::new(inner, Self::new(&config))))
    }
}
