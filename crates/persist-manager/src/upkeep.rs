use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use persist_core::{BaseStorage, ErrorKind, Result, StorageError};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// The task that calls `maintain` of every storage now and then.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// Dropping it ends the task after the round that is under way.
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Upkeep {
    /// Starts it; the first round comes after one interval.
    ///
    /// # Errors
    /// `Unsupported` outside of a tokio runtime.
    pub(crate) fn start(interval: Duration, storages: Vec<Arc<dyn BaseStorage>>) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|_| {
            let message = "`maintenance` needs a tokio runtime; open the storages in one, or leave it out";
            StorageError::new(ErrorKind::Unsupported, message)
        })?;
        let (stop, mut stopped) = watch::channel(false);
        let task = runtime.spawn(async move {
            // Whether told to stop or left alone by a dropped manager: the wait ends.
            while tokio::time::timeout(interval, stopped.changed()).await.is_err() {
                join_all(storages.iter().map(|storage| maintain(storage.as_ref()))).await;
            }
        });
        Ok(Self { stop, task: Mutex::new(Some(task)) })
    }

    /// Ends it, and returns when the round that is under way has ended.
    pub(crate) async fn stop(&self) {
        // The task may have ended already; then nobody listens, which is what was wanted.
        let _ = self.stop.send(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(failure) = task.await
        {
            tracing::error!(%failure, "the maintenance task ended abnormally");
        }
    }
}

async fn maintain(storage: &dyn BaseStorage) {
    if storage.describe().capabilities().read_only {
        return;
    }
    let name = storage.describe().name();
    match storage.maintain().await {
        Ok(done) => tracing::debug!(
            storage = name,
            expired = done.expired,
            freed_bytes = done.freed_bytes,
            "maintained"
        ),
        Err(error) => tracing::warn!(storage = name, %error, "maintenance failed"),
    }
}
