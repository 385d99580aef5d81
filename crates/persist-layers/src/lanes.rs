use futures_util::future::BoxFuture;
use persist_core::{Flight, Key, Result, SingleFlight, StorageError};
use tokio::sync::oneshot;

/// Turns on keys: whoever changes a key, or puts copies of it somewhere, does it alone.
#[derive(Debug, Default)]
pub(crate) struct Lanes(SingleFlight);

impl Lanes {
    /// Takes the lane of a key.
    pub(crate) async fn enter(&self, key: &Key) -> Vec<Flight> {
        vec![self.0.enter(key).await]
    }

    /// Takes the lanes of some keys, in an order in which nobody waits for somebody who waits for him.
    pub(crate) async fn enter_all(&self, keys: impl IntoIterator<Item = &Key>) -> Vec<Flight> {
        let mut keys: Vec<&Key> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        let mut lanes = Vec::with_capacity(keys.len());
        for key in keys {
            lanes.push(self.0.enter(key).await);
        }
        lanes
    }
}

/// Does a change to its end, whatever becomes of the caller. The lanes of its keys were taken before, so that changes come
/// in the order in which they were begun: one whose caller has gone never comes after a later one.
pub(crate) async fn detached<T: Send + 'static>(
    lanes: Vec<Flight>,
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(async move {
        let answer = change.await;
        drop(lanes);
        answer
    });
    done.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_outcome_unknown()))
}

/// What of a change goes on after its answer.
pub(crate) type Rest = BoxFuture<'static, ()>;

/// The same for a change that is answered before it has come to its end; the lanes are kept until then.
pub(crate) async fn detached_early<T: Send + 'static>(
    lanes: Vec<Flight>,
    change: impl Future<Output = Result<(T, Rest)>> + Send + 'static,
) -> Result<T> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        // A caller who has gone needs no answer.
        match change.await {
            Ok((answer, rest)) => {
                let _ = tell.send(Ok(answer));
                rest.await;
            }
            Err(error) => drop(tell.send(Err(error))),
        }
        drop(lanes);
    });
    told.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_outcome_unknown()))
}
