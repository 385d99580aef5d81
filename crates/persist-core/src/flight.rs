use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::Key;

type Lane = Arc<tokio::sync::Mutex<()>>;

/// Lets one caller at a time through for each key, so that N callers who miss the same key compute its value once.
///
/// Holds one lane for each key that somebody waits for, and none when nobody does.
#[derive(Clone, Debug, Default)]
pub struct SingleFlight {
    lanes: Arc<Mutex<HashMap<Key, Lane>>>,
}

impl SingleFlight {
    /// Waits for its turn on `key`. The turn ends when the returned guard is dropped.
    pub async fn enter(&self, key: &Key) -> Flight {
        let lane = Arc::clone(self.lanes.lock().entry(key.clone()).or_default());
        // Built before the wait, so that a caller who gives up waiting tidies up as well.
        let mut flight = Flight { lanes: Arc::clone(&self.lanes), key: key.clone(), turn: None };
        flight.turn = Some(lane.lock_owned().await);
        flight
    }

    /// How many keys somebody holds or waits for.
    pub fn len(&self) -> usize {
        self.lanes.lock().len()
    }

    /// True if nobody holds or waits for any key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A turn on a key; dropping it lets the next caller through.
#[derive(Debug)]
pub struct Flight {
    lanes: Arc<Mutex<HashMap<Key, Lane>>>,
    key: Key,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lock();
        self.turn.take();
        // Only the map itself still holds it: nobody waits.
        if lanes.get(&self.key).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            lanes.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_at_a_time_and_nothing_left() {
        let flights = SingleFlight::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let key = Key::new("k").unwrap();
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (flights, inside, key) = (flights.clone(), Arc::clone(&inside), key.clone());
                tokio::spawn(async move {
                    let _turn = flights.enter(&key).await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_caller_who_gives_up_leaves_nothing() {
        let flights = SingleFlight::default();
        let key = Key::new("k").unwrap();
        let turn = flights.enter(&key).await;
        let waited = tokio::time::timeout(std::time::Duration::from_millis(5), flights.enter(&key)).await;
        assert!(waited.is_err());
        assert_eq!(flights.len(), 1);
        drop(turn);
        assert!(flights.is_empty());
    }
}
