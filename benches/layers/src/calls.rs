//! Calls that a layer hands on, and copies that a composite finds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use persist_core::{HumanDuration, Key, StoreOptions, Value};
use persist_layers::{
    CircuitBreaker, CircuitBreakerConfig, Concurrency, ConcurrencyConfig, Evict, EvictConfig, Guarded,
    Namespace, NamespaceConfig, Retry, RetryConfig, SizeLimit, SizeLimitConfig, Tiered, TieredConfig,
    Timeout, Trace, TraceConfig, TtlClamp, TtlClampConfig, Verify, VerifyConfig, WriteBehind,
    WriteBehindConfig,
};

use crate::{Outcome, ROUNDS, Storage, cache, median};

/// How many calls one sample makes.
const CALLS: u32 = 50_000;

/// How large the value is that is read.
const VALUE: usize = 1024;

/// Two calls: one that nearly every layer hands on as it is, and a read.
#[derive(Clone, Copy)]
enum Call {
    Contains,
    Retrieve,
}

pub(crate) async fn run() -> Outcome<()> {
    let contenders = contenders()?;
    let key = Key::new("k")?;
    for (_, storage) in &contenders {
        storage.store(&key, Value::bytes(vec![7; VALUE]), StoreOptions::new()).await?;
        // What is to wait cannot be written in no time.
        let _ = storage.flush().await;
    }
    println!("| over `cache` | contains, ns | more than bare | retrieve of 1 KiB, ns | of bare |");
    println!("|---|---|---|---|---|");
    let contains = measure(&contenders, &key, Call::Contains).await?;
    let retrieve = measure(&contenders, &key, Call::Retrieve).await?;
    for (place, (name, _)) in contenders.iter().enumerate() {
        let (more, share) = (contains[place] - contains[0], retrieve[place] / retrieve[0]);
        println!("| {name} | {:.0} | {more:.0} | {:.0} | {share:.2} |", contains[place], retrieve[place]);
    }
    Ok(())
}

fn contenders() -> Outcome<Vec<(&'static str, Storage)>> {
    let tiers = TieredConfig::new(Vec::new());
    let upper = cache()?;
    let lower = cache()?;
    Ok(vec![
        ("bare", cache()?),
        ("size_limit", Arc::new(SizeLimit::new(cache()?, &SizeLimitConfig::new(1 << 20)))),
        ("ttl_clamp", Arc::new(TtlClamp::new(cache()?, &TtlClampConfig::default()))),
        ("verify", Arc::new(Verify::new(cache()?, &VerifyConfig { ranges: false }))),
        ("namespace", Arc::new(Namespace::new(cache()?, NamespaceConfig::new("tenant/"))?)),
        ("timeout", Arc::new(Guarded::new(cache()?, Timeout::new(Duration::from_secs(1))))),
        ("retry", Arc::new(Retry::new(cache()?, RetryConfig::default()))),
        (
            "circuit_breaker",
            Arc::new(Guarded::new(cache()?, CircuitBreaker::new(&CircuitBreakerConfig::default()))),
        ),
        ("concurrency", Arc::new(Guarded::new(cache()?, Concurrency::new(ConcurrencyConfig::new(64))))),
        ("metrics, no exporter", Arc::new(Guarded::new(cache()?, persist_layers::Metrics::default()))),
        (
            "tracing, no subscriber",
            Arc::new(Guarded::new(cache()?, Trace::new(&TraceConfig { keys: false }))),
        ),
        ("evict", Arc::new(Evict::new(cache()?, EvictConfig::new(1 << 30))?)),
        ("write_behind, written", Arc::new(WriteBehind::new(cache()?, WriteBehindConfig::default())?)),
        ("write_behind, waiting", Arc::new(Waiting::new()?.0)),
        ("tiered, in the first tier", Arc::new(Tiered::new("bench", vec![upper, lower], &tiers)?)),
    ])
}

/// Nothing of it is ever written.
struct Waiting(WriteBehind);

impl Waiting {
    fn new() -> Outcome<Self> {
        let delay = HumanDuration(Duration::from_secs(3600));
        let flush_timeout = HumanDuration(Duration::ZERO);
        let config = WriteBehindConfig { delay, flush_timeout, ..WriteBehindConfig::default() };
        Ok(Self(WriteBehind::new(cache()?, config)?))
    }
}

/// Nanoseconds a call for each contender: medians of rounds in which all take turns.
async fn measure(contenders: &[(&str, Storage)], key: &Key, call: Call) -> Outcome<Vec<f64>> {
    let mut samples = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, storage), samples) in contenders.iter().zip(&mut samples) {
            let begun = Instant::now();
            for _ in 0..CALLS {
                match call {
                    Call::Contains => assert!(storage.contains(key).await?),
                    Call::Retrieve => assert!(storage.retrieve(key).await?.is_some()),
                }
            }
            samples.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
        }
    }
    Ok(samples.into_iter().map(median).collect())
}
