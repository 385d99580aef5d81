use std::sync::Weak;
use std::time::Duration;

use persist_core::{Descriptor, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::answer;
use crate::engine::{Body, Call, Engine};
use crate::fault::Fault;
use crate::script;

/// How many expired entries one call removes: few enough that nobody waits for it.
const AT_ONCE: i64 = 200;

impl Engine {
    /// Removes what has expired at `now`, on every tag; says how much that was.
    pub(crate) async fn sweep(&self, now: Timestamp, deadline: Instant) -> Result<u64, Fault> {
        let mut removed = 0;
        let mut tags: Vec<_> = self.keyspace.tags().collect();
        while !tags.is_empty() {
            let sweep = |tag: &crate::keyspace::Tag| {
                let keys = [self.keyspace.head(*tag), self.keyspace.index(*tag), self.keyspace.expiry(*tag)];
                let mut cmd = script::SWEEP.call(&keys);
                cmd.arg(now.as_millis()).arg(AT_ONCE);
                Call { tag: *tag, bytes: 0, body: Body::Read(cmd) }
            };
            let answers = self.run(tags.iter().map(sweep).collect(), deadline).await;
            let mut unfinished = Vec::new();
            for (tag, answer) in tags.into_iter().zip(answers) {
                let count = answer::integer(answer?)?;
                removed += u64::try_from(count).unwrap_or(0);
                if count >= AT_ONCE {
                    unfinished.push(tag);
                }
            }
            tags = unfinished;
        }
        Ok(removed)
    }
}

/// What the sweeper needs of a storage; it does not keep the storage alive.
pub(crate) trait Swept: Send + Sync + 'static {
    fn engine(&self) -> &Engine;
    fn descriptor(&self) -> &Descriptor;
}

/// Sweeps every so often, until the storage is closed or gone.
pub(crate) fn start<S: Swept>(storage: Weak<S>, interval: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let Some(storage) = storage.upgrade() else { return };
            if storage.descriptor().is_closed() {
                return;
            }
            let engine = storage.engine();
            // Whoever is not reached now is swept later.
            if let Err(fault) = engine.sweep(storage.descriptor().now(), engine.deadline()).await {
                tracing::debug!(storage = storage.descriptor().name(), error = %fault.message, "could not sweep");
            }
        }
    })
}
