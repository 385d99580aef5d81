//! The cache never takes more than it may, and makes room for what is used.

mod support;

use std::sync::Arc;

use persist_cache::{CacheBackend, CacheConfig, CacheStorage};
use persist_core::{
    Array, Backend, BaseStorage, Condition, DeleteOptions, ErrorKind, OpenContext, Operation, Outcome,
    StorageExt, StoreOptions, Value,
};
use support::{figure, has, key, list, manual, put};

#[tokio::test]
async fn the_bound_on_entries_is_exact() {
    let (cache, _clock) = manual(CacheConfig::default().max_entries(1000));
    for i in 0..1000 {
        put(&cache, &format!("{i:04}"), 1, StoreOptions::new()).await;
    }
    assert_eq!(cache.stats().await.unwrap().keys, Some(1000));
    assert_eq!(figure(&cache, "evictions").await, 0);
    put(&cache, "one too many", 1, StoreOptions::new()).await;
    assert_eq!(cache.stats().await.unwrap().keys, Some(1000));
    assert_eq!(figure(&cache, "evictions").await, 1);
    assert!(has(&cache, "one too many").await && !has(&cache, "0000").await);
}

#[tokio::test]
async fn the_bound_on_bytes_holds_after_every_store() {
    let (cache, _clock) = manual(CacheConfig::default().max_bytes(64 << 10));
    for i in 0..2000_usize {
        put(&cache, &format!("{}", i % 300), i * 37 % 9000, StoreOptions::new().tag("i", i.to_string()))
            .await;
        assert!(figure(&cache, "memory_bytes").await <= 64 << 10, "after store {i}");
    }
    assert!(figure(&cache, "evictions").await > 500);
    // It is made use of: what is left is less than the largest value.
    assert!(figure(&cache, "memory_bytes").await > (64 << 10) - 12_000);
}

#[tokio::test]
async fn one_value_may_take_the_whole_cache_but_not_more() {
    let (cache, _clock) = manual(CacheConfig::default().max_bytes(1 << 20));
    for i in 0..10 {
        put(&cache, &format!("neighbour/{i}"), 1000, StoreOptions::new()).await;
    }
    let limit = usize::try_from(cache.describe().max_value_bytes()).unwrap();
    assert!(limit > (1 << 20) - 2048, "{limit}");
    let error =
        cache.store(&key("large"), Value::bytes(vec![0; limit + 1]), StoreOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(list(&cache, "").await.len(), 10, "the neighbours stay");
    assert_eq!((figure(&cache, "evictions").await, figure(&cache, "refusals").await), (0, 1));
    let longest = "k".repeat(1024);
    put(&cache, &longest, limit, StoreOptions::new()).await;
    assert_eq!(list(&cache, "").await, [longest]);
}

#[tokio::test]
async fn a_refused_value_leaves_the_old_one() {
    let (cache, _clock) = manual(CacheConfig::default().max_bytes(1 << 20).max_value(1000));
    put(&cache, "k", 1000, StoreOptions::new()).await;
    let refused = cache.store(&key("k"), Value::bytes(vec![0; 1001]), StoreOptions::new()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(cache.metadata(&key("k")).await.unwrap().unwrap().size, 1000);
}

#[tokio::test]
async fn tags_count_and_are_refused_with_what_does_not_fit() {
    let (cache, _clock) = manual(CacheConfig::default().max_bytes(16 << 10));
    let many = (0..400).fold(StoreOptions::new(), |options, i| options.tag(format!("{i}"), ""));
    let error = cache.store(&key("k"), Value::bytes(vec![]), many).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("raise max_bytes"), "{error}");
    assert_eq!(list(&cache, "").await, [""; 0]);
}

#[tokio::test]
async fn what_is_read_again_and_again_stays() {
    let (cache, _clock) = manual(CacheConfig::default().max_entries(50));
    for i in 0..10 {
        put(&cache, &format!("hot/{i}"), 10, StoreOptions::new()).await;
    }
    for i in 0..5000 {
        put(&cache, &format!("cold/{i}"), 10, StoreOptions::new()).await;
        assert!(has(&cache, &format!("hot/{}", i % 10)).await, "a hot key was evicted after {i} cold ones");
    }
}

#[tokio::test]
async fn overwriting_evicts_no_neighbour() {
    let (cache, _clock) = manual(CacheConfig::default().max_entries(2));
    put(&cache, "a", 10, StoreOptions::new()).await;
    let first = put(&cache, "b", 10, StoreOptions::new()).await;
    for size in 1..100 {
        let again = put(&cache, "b", size, StoreOptions::new()).await;
        assert_eq!(again.created_at, first.created_at);
    }
    assert_eq!(list(&cache, "").await, ["a", "b"]);
    // Grown so much that all neighbours but two have to go, the key itself is not what is evicted.
    let (cache, clock) = manual(CacheConfig::default().max_bytes(16 << 10));
    let first = put(&cache, "b", 10, StoreOptions::new()).await;
    for i in 0..5 {
        put(&cache, &format!("a/{i}"), 10, StoreOptions::new()).await;
    }
    clock.advance(support::SECOND);
    let grown = put(&cache, "b", 14_400, StoreOptions::new()).await;
    assert_eq!(list(&cache, "").await, ["a/3", "a/4", "b"]);
    assert_eq!(grown.created_at, first.created_at);
}

#[tokio::test]
async fn a_batch_is_there_as_a_whole_or_not_at_all() {
    let (cache, _clock) = manual(CacheConfig::default().max_entries(10));
    for i in 0..10 {
        put(&cache, &format!("old/{i}"), 10, StoreOptions::new()).await;
    }
    let puts = |count: usize| -> Vec<Operation> {
        let put = |i| Operation::put(key(format!("new/{i:02}")), Value::bytes(vec![1]), StoreOptions::new());
        (0..count).map(put).collect()
    };
    let error = cache.transact(puts(11)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(list(&cache, "old/").await.len(), 10, "a batch that cannot fit evicts nothing");
    let outcomes = cache.transact(puts(10)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored(_))), "{outcomes:?}");
    assert_eq!(list(&cache, "new/").await.len(), 10);
    let mut batch = puts(10);
    batch.push(Operation::Delete(key("new/03"), DeleteOptions::new()));
    assert_eq!(cache.transact(batch).await.unwrap_err().kind(), ErrorKind::InvalidKey);
}

#[tokio::test]
async fn a_batch_whose_last_condition_fails_changes_and_evicts_nothing() {
    let (cache, _clock) = manual(CacheConfig::default().max_entries(2));
    let before =
        [put(&cache, "a", 10, StoreOptions::new()).await, put(&cache, "b", 10, StoreOptions::new()).await];
    let batch = vec![
        Operation::put(key("c"), Value::bytes(vec![1]), StoreOptions::new()),
        Operation::Delete(key("a"), DeleteOptions::new()),
        Operation::Check(key("b"), Condition::IfAbsent),
    ];
    let error = cache.transact(batch).await.unwrap_err();
    assert_eq!((error.kind(), error.found()), (ErrorKind::Conflict, Some(before[1].version)));
    assert_eq!(list(&cache, "").await, ["a", "b"]);
    for (text, metadata) in ["a", "b"].into_iter().zip(before) {
        assert_eq!(cache.metadata(&key(text)).await.unwrap(), Some(metadata));
    }
    assert_eq!(figure(&cache, "evictions").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_race_leave_what_belongs_together() {
    let cache = Arc::new(manual(CacheConfig::default()).0);
    let [left, right] = [
        put(&cache, "left", 0, StoreOptions::new()).await,
        put(&cache, "right", 0, StoreOptions::new()).await,
    ];
    let racers: Vec<_> = (0..64_u8)
        .map(|number| {
            let (cache, [left, right]) = (Arc::clone(&cache), [left.version, right.version]);
            tokio::spawn(async move {
                let put = |text: &str, version| {
                    let options = StoreOptions::new().if_version(version);
                    Operation::put(key(text), Value::bytes(vec![number]), options)
                };
                cache.transact(vec![put("left", left), put("right", right)]).await.is_ok()
            })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        winners += usize::from(racer.await.unwrap());
    }
    assert_eq!(winners, 1);
    let found = cache.retrieve_many(&[key("left"), key("right")]).await;
    let [left, right] = found.try_into().unwrap();
    assert_eq!(left.unwrap().unwrap().value, right.unwrap().unwrap().value);
}

#[tokio::test]
async fn memory_of_others_is_not_held() {
    let (cache, _clock) = manual(CacheConfig::default());
    let array = Array::from_vec(vec![2, 3], vec![1.5_f64, 2.5, f64::NAN, 4.5, 5.5, 6.5]).unwrap();
    let address = array.data().as_ptr().addr();
    cache.store(&key("a"), Value::Array(array.clone()), StoreOptions::new()).await.unwrap();
    let found = cache.retrieve(&key("a")).await.unwrap().unwrap().value;
    assert_ne!(found.buffer().as_ptr().addr(), address);
    assert_eq!(found, Value::Array(array));
    // Reading copies nothing.
    let again = cache.retrieve_range(&key("a"), 8..16).await.unwrap().unwrap();
    assert_eq!(again.as_ptr().addr(), found.buffer().as_ptr().addr() + 8);
}

#[tokio::test]
async fn every_read_is_counted_once() {
    let (cache, _clock) = manual(CacheConfig::default());
    cache.put("a", &1).await.unwrap();
    for _ in 0..3 {
        assert!(has(&cache, "a").await && !has(&cache, "b").await);
    }
    cache.retrieve_many(&[key("a"), key("b")]).await;
    cache.retrieve_range(&key("a"), 0..1).await.unwrap();
    // These are not reads of a value.
    cache.contains(&key("a")).await.unwrap();
    cache.metadata(&key("b")).await.unwrap();
    cache.verify().await.unwrap();
    assert!(cache.remove("a").await.unwrap() && !cache.remove("a").await.unwrap());
    let counters = cache.stats().await.unwrap().counters;
    let counted = ["hits", "misses", "stores", "deletes", "evictions"].map(|name| counters[name]);
    assert_eq!(counted, [5, 4, 1, 1, 0]);
}

#[tokio::test]
async fn closing_frees_everything() {
    let (cache, _clock) = manual(CacheConfig::default());
    let entry = {
        put(&cache, "a", 100, StoreOptions::new().tag("t", "x")).await;
        cache.retrieve(&key("a")).await.unwrap().unwrap()
    };
    assert!(!entry.value.buffer().is_unique());
    cache.close().await.unwrap();
    cache.close().await.unwrap();
    assert!(entry.value.buffer().is_unique(), "the cache still holds the buffer");
    assert_eq!(cache.retrieve(&key("a")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(cache.invalidate_tag("t", "x").await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(cache.invalidate_prefix("").await.unwrap_err().kind(), ErrorKind::Closed);
    let refreshed = cache.get_or_refresh("a", StoreOptions::new(), || async { Ok(1) }).await;
    assert_eq!(refreshed.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_opens_nothing() {
    let bad = CacheConfig::default().max_entries(0);
    assert!(CacheBackend::check(&bad).unwrap_err().contains("leave it out"));
    let error = CacheStorage::open("hot", &bad, &OpenContext::default()).unwrap_err();
    assert_eq!((error.kind(), error.storage()), (ErrorKind::InvalidConfig, Some("hot")));
}

#[tokio::test]
async fn read_only_refuses_every_change() {
    let context = OpenContext { read_only: true, ..OpenContext::default() };
    let cache = CacheStorage::open("hot", &CacheConfig::default(), &context).unwrap();
    assert_eq!(cache.put("a", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(cache.invalidate_prefix("").await.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(cache.retrieve(&key("a")).await.unwrap(), None);
}
