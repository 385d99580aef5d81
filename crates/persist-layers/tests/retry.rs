//! What is repeated, what is not, and that no repetition undoes what somebody else was told is stored.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;

use std::sync::atomic::{AtomicBool, Ordering};

use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, HumanDuration, Key, ListOptions, Metadata,
    Operation, Outcome, Page, Result, StorageExt, StoreItem, StoreOptions, Value, async_trait,
};
use persist_layers::{Retry, RetryConfig};
use persist_testkit::fault::{Fault, FaultStorage};
use support::{key, memory, millis};

struct Scene {
    below: support::Storage,
    fault: Arc<FaultStorage>,
    retry: Retry,
}

fn scene(config: RetryConfig) -> Scene {
    let below = memory("m");
    let fault = Arc::new(FaultStorage::new(Arc::clone(&below)));
    let retry = Retry::new(fault.clone(), RetryConfig { backoff: HumanDuration(millis(1)), ..config });
    Scene { below, fault, retry }
}

fn fenced() -> RetryConfig {
    RetryConfig { fence: true, ..RetryConfig::default() }
}

#[tokio::test]
async fn a_failure_that_passes_is_repeated_and_others_are_not() {
    let Scene { fault, retry, .. } = scene(RetryConfig::default());
    for (kind, calls) in [
        (ErrorKind::Unavailable, 4),
        (ErrorKind::Locked, 4),
        (ErrorKind::Timeout, 4),
        (ErrorKind::Capacity, 1),
        (ErrorKind::Corruption, 1),
        (ErrorKind::ReadOnly, 1),
        (ErrorKind::Closed, 1),
    ] {
        fault.disarm();
        fault.arm(Fault::fail(kind));
        let (reads, stores) = (fault.calls("retrieve"), fault.calls("store"));
        assert_eq!(retry.get::<u8>("a").await.unwrap_err().kind(), kind);
        assert_eq!(retry.put("a", &1).await.unwrap_err().kind(), kind);
        assert_eq!(
            (fault.calls("retrieve") - reads, fault.calls("store") - stores),
            (calls, calls),
            "{kind}"
        );
    }
    fault.disarm();
    fault.arm(Fault::fail(ErrorKind::Unavailable).nth(1));
    retry.put("a", &2).await.unwrap();
    assert_eq!(retry.get("a").await.unwrap(), Some(2));
}

/// The case that a plain repetition gets wrong: the first store took place, somebody else stored a newer value, and the
/// repetition would bring the older one back.
#[tokio::test]
async fn a_store_without_a_fence_is_not_repeated_when_its_answer_is_lost() {
    let Scene { below, fault, retry } = scene(RetryConfig::default());
    fault.arm(Fault::lose_answer(ErrorKind::Timeout).on("store").nth(1));
    let error = retry.put("a", &1).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!(fault.calls("store"), 1);
    below.put("a", &2).await.unwrap();
    assert_eq!(below.get("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_fenced_store_whose_answer_is_lost_is_found_to_be_done() {
    let Scene { below, fault, retry } = scene(fenced());
    below.put("a", &1).await.unwrap();
    fault.arm(Fault::lose_answer(ErrorKind::Timeout).on("store").nth(1));
    let stored = retry.put("a", &2).await.unwrap();
    let found = below.metadata(&key("a")).await.unwrap().unwrap();
    assert_eq!(stored, found);
    assert_eq!((fault.calls("store"), below.get("a").await.unwrap()), (2, Some(2)));
}

#[tokio::test]
async fn a_fenced_store_that_did_not_happen_is_repeated() {
    // Whether it happened cannot be seen from the error; here it did not.
    let Scene { below, fault, .. } = scene(fenced());
    below.put("a", &1).await.unwrap();
    let slow = Fault::delay(millis(200)).on("store").nth(1);
    fault.arm(slow);
    let retry = Retry::new(
        fault.clone(),
        RetryConfig {
            attempt_timeout: HumanDuration(millis(30)),
            backoff: HumanDuration(millis(1)),
            ..fenced()
        },
    );
    retry.put("a", &2).await.unwrap();
    assert_eq!((fault.calls("store"), below.get("a").await.unwrap()), (2, Some(2)));
}

/// Stores another value through the back door as soon as the first store has taken place and its answer is lost.
#[tokio::test]
async fn a_newer_value_is_never_undone() {
    let Scene { below, fault, retry } = scene(RetryConfig { backoff: HumanDuration(millis(50)), ..fenced() });
    let retry = Arc::new(retry);
    below.put("a", &1).await.unwrap();
    // Two answers get lost, so there is a pause in which somebody else stores.
    fault.arm(Fault::lose_answer(ErrorKind::Timeout).on("store").nth(1));
    let other = tokio::spawn({
        let below = Arc::clone(&below);
        async move {
            while below.get::<u8>("a").await.unwrap() != Some(2) {
                tokio::task::yield_now().await;
            }
            below.put("a", &3).await.unwrap();
        }
    });
    let answer = retry.put("a", &2).await;
    other.await.unwrap();
    // Either the other one came in between, and the outcome stays unknown, or it came after the repetition.
    if let Err(error) = answer {
        assert!(error.outcome_unknown(), "{error}");
    }
    assert_eq!(below.get("a").await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_swap_is_repeated_and_takes_place_once() {
    let Scene { below, fault, retry } = scene(RetryConfig::default());
    let version = below.put("a", &1).await.unwrap().version;
    fault.arm(Fault::fail(ErrorKind::Unavailable).on("store").nth(1));
    let swap = StoreOptions::new().if_version(version);
    retry.store(&key("a"), Value::json(&2).unwrap(), swap.clone()).await.unwrap();
    assert_eq!(fault.calls("store"), 2);
    // With a lost answer it took place, and the repetition finds another version.
    let version = below.metadata(&key("a")).await.unwrap().unwrap().version;
    fault.disarm();
    fault.arm(Fault::lose_answer(ErrorKind::Timeout).on("store").nth(1));
    let swap = StoreOptions::new().if_version(version);
    let error = retry.store(&key("a"), Value::json(&3).unwrap(), swap).await.unwrap_err();
    assert!(error.outcome_unknown() && error.kind() == ErrorKind::Timeout, "{error:?}");
    assert_eq!((fault.calls("store"), below.get("a").await.unwrap()), (4, Some(3)));
}

#[tokio::test]
async fn nobody_is_told_twice_to_be_the_creator() {
    let Scene { fault, retry, .. } = scene(fenced());
    fault.arm(Fault::lose_answer(ErrorKind::Timeout).on("store").nth(1));
    let lock = key("lock");
    let create = || retry.store(&lock, Value::bytes("mine"), StoreOptions::new().if_absent());
    let error = create().await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!(create().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(fault.calls("store"), 2);
}

#[tokio::test]
async fn deletes_and_touches_whose_answers_are_lost_stay_unknown() {
    let Scene { below, fault, retry } = scene(RetryConfig::default());
    below.put("a", &1).await.unwrap();
    fault.arm(Fault::lose_answer(ErrorKind::Unavailable));
    assert!(retry.delete(&key("a"), DeleteOptions::new()).await.unwrap_err().outcome_unknown());
    assert!(retry.touch(&key("a"), persist_core::Expiry::Never).await.unwrap_err().outcome_unknown());
    assert_eq!((fault.calls("delete"), fault.calls("touch")), (1, 1));
}

/// Refuses to store the number 1 the first time.
#[derive(Debug)]
struct Choosy {
    below: support::Storage,
    refused: AtomicBool,
}

#[async_trait]
impl BaseStorage for Choosy {
    fn describe(&self) -> &Descriptor {
        self.below.describe()
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        if value.buffer() == "1" && !self.refused.swap(true, Ordering::SeqCst) {
            return Err(self.describe().error(ErrorKind::Unavailable, "store", "not now"));
        }
        self.below.store(key, value, options).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.below.retrieve(key).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.below.delete(key, options).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.below.list_keys(prefix, options).await
    }
}

fn item(name: &str, n: u8) -> StoreItem {
    StoreItem::new(key(name), Value::json(&n).unwrap())
}

#[tokio::test]
async fn an_item_of_a_batch_does_not_come_back_over_a_later_one() {
    let below = memory("m");
    let choosy = || Arc::new(Choosy { below: below.clone(), refused: AtomicBool::new(false) });
    let retry = Retry::new(choosy(), RetryConfig::default());
    let answers = retry.store_many(vec![item("a", 1), item("b", 2), item("a", 3)]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(answers[1].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!((below.get("a").await.unwrap(), below.get("b").await.unwrap()), (Some(3), Some(2)));
    // Without a later one it is repeated.
    let retry = Retry::new(choosy(), RetryConfig::default());
    let answers = retry.store_many(vec![item("a", 3), item("a", 1)]).await;
    assert!(answers.iter().all(|answer| answer.is_ok()), "{answers:?}");
    assert_eq!(below.get("a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_batch_that_did_not_happen_is_repeated_in_its_order() {
    let Scene { below, fault, retry } = scene(RetryConfig::default());
    fault.arm(Fault::fail(ErrorKind::Unavailable).on("store_many").nth(1));
    let answers = retry.store_many(vec![item("a", 1), item("b", 2), item("a", 3)]).await;
    assert!(answers.iter().all(|answer| answer.is_ok()), "{answers:?}");
    assert_eq!((fault.calls("store_many"), below.get("a").await.unwrap()), (2, Some(3)));
    fault.arm(Fault::fail(ErrorKind::Unavailable).on("retrieve_many").nth(1));
    let found = retry.retrieve_many(&[key("a"), key("a"), key("x")]).await;
    assert!(found[0].is_ok() && found[1].is_ok() && matches!(found[2], Ok(None)), "{found:?}");
    fault.arm(Fault::lose_answer(ErrorKind::Unavailable).on("delete_many").nth(1));
    let lost = retry.delete_many(&[key("a")]).await;
    assert!(lost[0].as_ref().is_err_and(|error| error.outcome_unknown()), "{lost:?}");
    assert_eq!(fault.calls("delete_many"), 1);
}

#[tokio::test]
async fn a_transaction_is_repeated_if_a_version_binds_it() {
    let Scene { below, fault, retry } = scene(RetryConfig::default());
    let version = below.put("a", &1).await.unwrap().version;
    let put = |options| vec![Operation::put(key("a"), Value::json(&2).unwrap(), options)];
    fault.arm(Fault::lose_answer(ErrorKind::Timeout).on("transact"));
    assert!(retry.transact(put(StoreOptions::new())).await.unwrap_err().outcome_unknown());
    assert_eq!(fault.calls("transact"), 1);
    assert!(retry.transact(put(StoreOptions::new().if_version(version))).await.is_err());
    fault.disarm();
    fault.arm(Fault::fail(ErrorKind::Unavailable).on("transact").nth(1));
    let version = below.metadata(&key("a")).await.unwrap().unwrap().version;
    let done = retry.transact(put(StoreOptions::new().if_version(version))).await.unwrap();
    assert!(matches!(done[..], [Outcome::Stored(_)]), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_all_attempts() {
    let Scene { fault, .. } = scene(RetryConfig::default());
    fault.arm(Fault::delay(millis(1_000_000)).on("retrieve"));
    let config = RetryConfig {
        attempts: 100,
        attempt_timeout: HumanDuration(millis(2_000)),
        deadline: HumanDuration(millis(7_000)),
        ..RetryConfig::default()
    };
    let retry = Retry::new(fault.clone(), config);
    let begun = tokio::time::Instant::now();
    let error = retry.get::<u8>("a").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Timeout, false));
    assert!(begun.elapsed() <= millis(7_000), "{:?}", begun.elapsed());
    assert!((3..=4).contains(&fault.calls("retrieve")), "{}", fault.calls("retrieve"));
}
