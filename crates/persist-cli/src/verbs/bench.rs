use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use persist_core::{BaseStorage, ByteSize, DeleteOptions, Key, ListOptions, StoreOptions, Value};
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::args::Jobs;
use crate::exit::{Failure, Result};
use crate::storages::Access;
use crate::text::{self, count, size};

/// Below this prefix the benchmark keeps its keys, and nothing else should.
const RESERVED: &str = ".persist-bench/";

/// How many bytes of values are made up before the clock starts.
const MADE_UP_BYTES: u64 = 64 << 20;

/// Measure a storage: store, retrieve, list and delete, medians over rounds
///
/// Works on keys of its own below .persist-bench/ and deletes them afterwards, also when it is interrupted. What it
/// measures includes everything a program would wait for: checksums, metadata and, where the storage promises it,
/// the disk.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The storage
    #[arg(value_name = "NAME", value_parser = OsStringValueParser::new().try_map(Stored::parse_whole))]
    address: Stored,
    /// How many values a round handles
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How large each value is
    #[arg(long, value_name = "SIZE", default_value = "1KiB")]
    size: ByteSize,
    /// How many rounds to take the median of
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    #[command(flatten)]
    jobs: Jobs,
}

impl Bench {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let (storage, _) = app.stored(&self.address, Access::Write).await?;
        let prefix = format!("{RESERVED}{}-{}/", storage.describe().now().as_millis(), std::process::id());
        app.delete_in_the_end(&storage, &prefix);
        let run = Run { app, storage, prefix, keys: self.count, size: self.size.0, jobs: self.jobs.jobs };
        let progress = app.console.progress("measuring");
        let mut works = Work::ALL.map(|work| (work, Series::default()));
        for _ in 0..self.rounds {
            for (work, series) in &mut works {
                run.round(*work, series).await?;
                progress.step(0);
            }
        }
        drop(progress);
        self.report(app, &run, works)
    }

    fn report(&self, app: &App, run: &Run<'_>, works: [(Work, Series); 4]) -> Result<()> {
        let results = works.map(|(work, series)| (work, series.outcome(run.keys)));
        if app.out.is_json() {
            let name = run.storage.describe().name();
            return results.iter().try_for_each(|(work, result)| {
                app.out.json(&json!({
                    "storage": name,
                    "work": work.name(),
                    "values": run.keys,
                    "size": run.size,
                    "jobs": run.jobs,
                    "rounds": self.rounds,
                    "values_per_second": result.rate,
                    "median_micros": result.median.as_secs_f64() * 1e6,
                    "p99_micros": result.p99.as_secs_f64() * 1e6,
                }))
            });
        }
        app.console.note(&format!(
            "{}: {} of {}, {} at once, median of {}",
            run.storage.describe().name(),
            text::things(u64::from(run.keys), "value"),
            size(run.size),
            run.jobs,
            text::things(u64::from(self.rounds), "round")
        ));
        let mut rows = vec![["work", "values/s", "median call", "p99 call"].map(str::to_owned).to_vec()];
        rows.extend(results.iter().map(|(work, result)| result.row(*work)));
        text::table(&rows, &[1, 2, 3]).iter().try_for_each(|line| app.out.line(line))
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Store,
    Retrieve,
    List,
    Delete,
}

impl Work {
    const ALL: [Self; 4] = [Self::Store, Self::Retrieve, Self::List, Self::Delete];

    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Retrieve => "retrieve",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

struct Run<'a> {
    app: &'a App,
    storage: Arc<dyn BaseStorage>,
    prefix: String,
    keys: u32,
    size: u64,
    jobs: usize,
}

impl Run<'_> {
    async fn round(&self, work: Work, series: &mut Series) -> Result<()> {
        let mut wall = Duration::ZERO;
        let mut from = 0;
        while from < self.keys {
            let to = from.saturating_add(self.at_once()).min(self.keys);
            // Made beforehand: what it takes to make up keys and values is not the storage's time.
            let calls = (from..to).map(|number| self.prepare(work, number)).collect::<Result<Vec<_>>>()?;
            let start = Instant::now();
            match work {
                Work::List => series.calls.push(self.list().await?),
                _ => self.calls(calls, &mut series.calls).await?,
            }
            wall += start.elapsed();
            from = if work == Work::List { self.keys } else { to };
        }
        series.rounds.push(wall);
        Ok(())
    }

    /// How many values are made up beforehand.
    fn at_once(&self) -> u32 {
        u32::try_from(MADE_UP_BYTES / self.size.max(1)).unwrap_or(u32::MAX).max(1)
    }

    fn prepare(&self, work: Work, number: u32) -> Result<(Key, Step)> {
        let key = Key::new(format!("{}{number:08}", self.prefix))?;
        Ok((
            key,
            match work {
                Work::Store => Step::Store(self.value(number)),
                Work::Retrieve | Work::List => Step::Retrieve,
                Work::Delete => Step::Delete,
            },
        ))
    }

    async fn calls(&self, calls: Vec<(Key, Step)>, took: &mut Vec<Duration>) -> Result<()> {
        // After an interrupt no call begins, and those that have begun are waited for.
        let calls = stream::iter(calls).take_while(|_| ready(self.app.go_on().is_ok()));
        let calls = calls.map(|(key, step)| self.call(key, step));
        let mut calls = calls.buffer_unordered(self.jobs);
        while let Some(time) = calls.try_next().await? {
            took.push(time);
        }
        self.app.go_on()
    }

    async fn call(&self, key: Key, step: Step) -> Result<Duration> {
        let start = Instant::now();
        let is_there = match step {
            Step::Store(value) => self.storage.store(&key, value, StoreOptions::new()).await.map(|_| true)?,
            Step::Retrieve => self.storage.retrieve(&key).await?.is_some(),
            Step::Delete => self.storage.delete(&key, DeleteOptions::new()).await?,
        };
        let took = start.elapsed();
        if is_there { Ok(took) } else { Err(self.lost(&key)) }
    }

    fn lost(&self, key: &Key) -> Failure {
        let evicts = self.storage.describe().capabilities().evicts;
        let why =
            if evicts { "it makes room by itself; lower --count or --size" } else { "somebody deleted it" };
        Failure::new(format!("{key:?} vanished while it was measured: {why}"))
    }

    async fn list(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut after = None;
        loop {
            let page = self.storage.list_keys(&self.prefix, ListOptions::new().after(after)).await?;
            after = page.next;
            if after.is_none() {
                return Ok(start.elapsed());
            }
        }
    }

    /// Bytes that no two values share, so that nothing can be stored once for several.
    fn value(&self, number: u32) -> Value {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        Value::bytes(bytes)
    }
}

/// One call, ready to be made.
enum Step {
    Store(Value),
    Retrieve,
    Delete,
}

/// What was measured of one work.
#[derive(Default)]
struct Series {
    rounds: Vec<Duration>,
    calls: Vec<Duration>,
}

/// What is reported of one work.
struct Outcome {
    rate: f64,
    median: Duration,
    p99: Duration,
}

impl Series {
    fn outcome(mut self, values: u32) -> Outcome {
        let round = quantile(&mut self.rounds, 0.5).as_secs_f64().max(1e-9);
        let median = quantile(&mut self.calls, 0.5);
        Outcome { rate: f64::from(values) / round, median, p99: quantile(&mut self.calls, 0.99) }
    }
}

impl Outcome {
    fn row(&self, work: Work) -> Vec<String> {
        // A rate is positive and far below what the conversion could cut off.
        let rate = count(self.rate.round() as u64);
        vec![work.name().to_owned(), rate, micros(self.median), micros(self.p99)]
    }
}

fn micros(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

/// The value that this share of all is not above (nearest rank).
fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(quantile(&mut times, 0.5), Duration::from_micros(50));
        assert_eq!(quantile(&mut times, 0.99), Duration::from_micros(99));
        assert_eq!(quantile(&mut times[..1], 0.5), Duration::from_micros(1));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
