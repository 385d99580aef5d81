//! Timeout, circuit breaker, limits, metrics and faults, each seen at its work.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use persist_core::{BaseStorage, ErrorKind, HumanDuration, StorageExt};
use persist_layers::{
    Answer, Call, CircuitBreaker, CircuitBreakerConfig, Concurrency, ConcurrencyConfig, Fault as FaultLayer,
    FaultConfig, FaultEffect, Guard, Guarded, Layer, RateLimit, RateLimitConfig, Timeout,
};
use persist_testkit::fault::{Fault, FaultStorage};
use support::{key, memory, millis};
use tokio::time::Instant;

fn faulty() -> Arc<FaultStorage> {
    Arc::new(FaultStorage::new(memory("m")))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_ended_and_a_change_says_that_it_is_unknown() {
    let below = faulty();
    let storage = Guarded::new(below.clone(), Timeout::new(millis(100)));
    below.arm(Fault::delay(millis(101)));
    let error = storage.put("a", &1).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome_unknown(), error.storage()),
        (ErrorKind::Timeout, true, Some("m"))
    );
    let error = storage.get::<u8>("a").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Timeout, false));
    let many = storage.retrieve_many(&[key("a"), key("b")]).await;
    assert!(many.iter().all(|answer| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Timeout)));
    assert_eq!(many.len(), 2);
    // Care takes what it needs.
    storage.flush().await.unwrap();
    below.disarm();
    below.arm(Fault::delay(millis(99)));
    storage.put("a", &1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_after_failures_in_a_row_and_closes_after_a_probe() {
    let below = faulty();
    let config = CircuitBreakerConfig { failures: 3, open_for: HumanDuration(millis(1_000)) };
    let storage = Guarded::new(below.clone(), CircuitBreaker::new(&config));
    below.arm(Fault::fail(ErrorKind::Unavailable));
    for _ in 0..3 {
        storage.get::<u8>("a").await.unwrap_err();
    }
    assert_eq!(below.calls("retrieve"), 3);
    let error = storage.get::<u8>("a").await.unwrap_err();
    assert_eq!((error.kind(), below.calls("retrieve")), (ErrorKind::Unavailable, 3));
    assert!(error.message().contains("not tried"), "{error}");
    // Half open: one probe fails and it is open again.
    tokio::time::advance(millis(1_001)).await;
    storage.get::<u8>("a").await.unwrap_err();
    storage.get::<u8>("a").await.unwrap_err();
    assert_eq!(below.calls("retrieve"), 4);
    // A probe that works closes it.
    below.disarm();
    tokio::time::advance(millis(1_001)).await;
    storage.get::<u8>("a").await.unwrap();
    storage.get::<u8>("a").await.unwrap();
    let stats = storage.stats().await.unwrap();
    assert_eq!((stats.counters["breaker_opened"], stats.counters["breaker_refused"]), (2, 2));
    assert_eq!(stats.counters["breaker_open"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_counts_outages_alone_and_only_in_a_row() {
    let below = faulty();
    let config = CircuitBreakerConfig { failures: 2, open_for: HumanDuration(millis(1_000)) };
    let storage = Guarded::new(below.clone(), CircuitBreaker::new(&config));
    for kind in [ErrorKind::Conflict, ErrorKind::Corruption, ErrorKind::TooLarge, ErrorKind::Capacity] {
        below.disarm();
        below.arm(Fault::fail(kind));
        for _ in 0..3 {
            assert_eq!(storage.get::<u8>("a").await.unwrap_err().kind(), kind);
        }
    }
    below.disarm();
    for _ in 0..3 {
        below.arm(Fault::fail(ErrorKind::Timeout).nth(1));
        storage.get::<u8>("a").await.unwrap_err();
        storage.get::<u8>("a").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cancelled_does_not_keep_the_breaker_half_open() {
    let below = faulty();
    let config = CircuitBreakerConfig { failures: 1, open_for: HumanDuration(millis(10)) };
    let storage = Guarded::new(below.clone(), CircuitBreaker::new(&config));
    below.arm(Fault::fail(ErrorKind::Unavailable).nth(1));
    storage.get::<u8>("a").await.unwrap_err();
    tokio::time::advance(millis(11)).await;
    below.disarm();
    below.arm(Fault::delay(millis(1_000)).nth(1));
    assert!(tokio::time::timeout(millis(5), storage.get::<u8>("a")).await.is_err());
    storage.get::<u8>("a").await.unwrap();
}

/// Counts how many calls are inside at once.
#[derive(Debug, Default)]
struct Gauge {
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Guard for &'static Gauge {
    async fn around<A: Answer>(&self, _: Call<'_>, next: impl Future<Output = A> + Send) -> A {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        let answer = next.await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_inside_than_allowed_and_the_queue_is_bounded() {
    let below = faulty();
    below.arm(Fault::delay(millis(100)).on("retrieve"));
    let gauge: &'static Gauge = Box::leak(Box::default());
    let config = ConcurrencyConfig { max: 3, queue: 4, wait: HumanDuration(millis(150)) };
    let storage = Arc::new(Guarded::new(Arc::new(Guarded::new(below, gauge)), Concurrency::new(config)));
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.get::<u8>("a").await.map_err(|error| error.kind()) })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    let count = |wanted: Result<Option<u8>, ErrorKind>| answers.iter().filter(|got| **got == wanted).count();
    assert_eq!(gauge.most.load(Ordering::SeqCst), 3);
    // 3 at once, 3 more after 100 ms, one that waited longer than 150 ms, and 3 that found the queue full.
    assert_eq!(
        (count(Ok(None)), count(Err(ErrorKind::Timeout)), count(Err(ErrorKind::Unavailable))),
        (6, 1, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn calls_are_spread_over_time_after_the_burst() {
    let config =
        RateLimitConfig { burst: Some(5), wait: HumanDuration(millis(500)), ..RateLimitConfig::new(10) };
    let storage = Guarded::new(memory("m"), RateLimit::new(&config));
    let begun = Instant::now();
    for _ in 0..5 {
        storage.get::<u8>("a").await.unwrap();
    }
    assert!(begun.elapsed() < millis(5), "{:?}", begun.elapsed());
    for _ in 0..10 {
        storage.get::<u8>("a").await.unwrap();
    }
    assert!((millis(990)..millis(1_050)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // A batch of five waits half a second; what comes after it would wait longer, and fails at once.
    let keys: Vec<_> = (0..5).map(|n| key(&n.to_string())).collect();
    let begun = Instant::now();
    let (batch, refused) = tokio::join!(storage.retrieve_many(&keys), async {
        let refused = storage.get::<u8>("a").await.unwrap_err();
        (refused, begun.elapsed())
    });
    assert_eq!((refused.0.kind(), refused.1.as_millis()), (ErrorKind::Unavailable, 0));
    assert!(batch.iter().all(|answer| matches!(answer, Ok(None))));
    assert!((millis(490)..millis(520)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn faults_strike_the_share_and_the_operations_they_are_meant_for() {
    let config = FaultConfig {
        operations: Some(vec!["store".to_owned()]),
        seed: Some(1),
        effect: FaultEffect::LoseAnswer,
        ..FaultConfig::new(0.25)
    };
    let below = memory("m");
    let storage = Guarded::new(below.clone(), FaultLayer::new(config.clone()));
    let mut struck = 0;
    for n in 0..400 {
        let answer = storage.put("a", &n).await;
        // The answer is lost, not the change.
        assert_eq!(below.get("a").await.unwrap(), Some(n));
        struck += usize::from(answer.is_err_and(|error| error.outcome_unknown()));
        storage.get::<u16>("a").await.unwrap();
    }
    assert!((70..130).contains(&struck), "{struck}");
    let wrong = FaultConfig { operations: Some(vec!["stor".to_owned()]), ..config };
    assert!(FaultLayer::check(&wrong).unwrap_err().contains("`stor` is no operation"));
}

#[cfg(feature = "metrics")]
mod measured {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString,
        Unit,
    };
    use persist_layers::Metrics;

    use super::*;

    type Seen = Arc<Mutex<BTreeMap<String, u64>>>;

    #[derive(Default)]
    struct Book(Seen);

    struct Line(Seen, String);

    impl CounterFn for Line {
        fn increment(&self, by: u64) {
            *self.0.lock().unwrap().entry(self.1.clone()).or_default() += by;
        }

        fn absolute(&self, _: u64) {}
    }

    impl HistogramFn for Line {
        fn record(&self, _: f64) {
            self.increment(1);
        }
    }

    fn line(key: &Key) -> String {
        let labels: Vec<String> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        format!("{} {}", key.name(), labels.join(" "))
    }

    impl Recorder for Book {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(Line(self.0.clone(), line(key))))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(Line(self.0.clone(), line(key))))
        }
    }

    #[test]
    fn calls_values_and_failures_are_counted_by_storage_and_operation() {
        let (book, below) = (Book::default(), faulty());
        let seen = book.0.clone();
        let storage = Guarded::new(below.clone(), Metrics::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        metrics::with_local_recorder(&book, || {
            runtime.block_on(async {
                storage.put("a", &1).await.unwrap();
                storage.retrieve_many(&[key("a"), key("b"), key("c")]).await;
                below.arm(Fault::fail(ErrorKind::Capacity).on("store"));
                storage.put("secret-key", &1).await.unwrap_err();
                drop(tokio::time::timeout(millis(0), storage.health()).await);
            });
        });
        let seen = seen.lock().unwrap();
        let count = |line: &str| seen.get(line).copied().unwrap_or_default();
        assert_eq!(count("persist_calls_total storage=m operation=store outcome=ok"), 1, "{seen:?}");
        assert_eq!(count("persist_calls_total storage=m operation=store outcome=Capacity"), 1);
        assert_eq!(count("persist_values_total storage=m operation=retrieve_many"), 3);
        assert_eq!(count("persist_call_seconds storage=m operation=store"), 2);
        assert!(!format!("{seen:?}").contains("secret-key"));
    }
}
