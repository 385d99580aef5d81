//! The timed part: tasks that do the same thing again and again until their time is over.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use persist_core::Key;
use serde::{Deserialize, Serialize};

use crate::contender::{Contender, Outcome};
use crate::data::{Data, Random};
use crate::sample::Sample;

/// How many values a batch holds, and how many bytes at most.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 8 << 20;

/// How many keys a page holds.
const PAGE: usize = 100;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Store a random value of the space over a random key: who is given the value that is there may write nothing.
    Store,
    /// Store a new key.
    Create,
    /// Retrieve a random key.
    Retrieve,
    /// Store a batch of random keys with one call.
    StoreMany,
    /// Store all keys with one call.
    Bulk,
    /// Retrieve a batch of random keys with one call.
    RetrieveMany,
    /// List the 100 keys after a random one.
    Page,
    /// List the first 100 keys once.
    FirstPage,
}

/// One run of one contender.
#[derive(Debug)]
pub struct Job {
    /// What is done.
    pub work: Work,
    /// With which keys and values.
    pub data: Arc<Data>,
    /// By how many tasks at once.
    pub tasks: usize,
    /// For how long.
    pub time: Duration,
    /// How many calls are made between two looks at the clock.
    pub stride: usize,
    /// The seed of the order of the keys.
    pub seed: u64,
    /// How many new keys there are.
    created: AtomicUsize,
}

impl Job {
    /// A job that looks at the clock after each call.
    pub fn new(work: Work, data: &Arc<Data>, tasks: usize, seconds: f64) -> Self {
        let time = Duration::from_secs_f64(seconds);
        Self { work, data: Arc::clone(data), tasks, time, stride: 1, seed: 0, created: AtomicUsize::new(0) }
    }
}

/// Runs a job.
pub(crate) async fn measure<C: Contender>(contender: &Arc<C>, job: &Arc<Job>) -> Outcome<Sample> {
    let begun = Instant::now();
    let end = begun + job.time;
    let mut tasks = Vec::with_capacity(job.tasks);
    for number in 0..job.tasks {
        tasks.push(tokio::spawn(task(Arc::clone(contender), Arc::clone(job), number, end)));
    }
    let (mut done, mut times) = (0, Vec::new());
    for task in tasks {
        let (count, took) = task.await??;
        done += count;
        times.extend(took);
    }
    let elapsed = begun.elapsed();
    match job.work {
        Work::Create => check_created(&**contender, job).await?,
        Work::Bulk => check_all(&**contender, job).await?,
        _ => {}
    }
    Ok(Sample::new(done, elapsed, times))
}

async fn task<C: Contender>(
    contender: Arc<C>,
    job: Arc<Job>,
    number: usize,
    end: Instant,
) -> Outcome<(u64, Vec<Duration>)> {
    let mut random = Random::new(job.seed ^ Random::new(number as u64 + 1).draw());
    let (mut done, mut times, mut now) = (0, Vec::new(), Instant::now());
    while now < end {
        for _ in 0..job.stride {
            done += step(&*contender, &job, &mut random).await?;
        }
        let before = std::mem::replace(&mut now, Instant::now());
        times.push((now - before) / job.stride as u32);
        if matches!(job.work, Work::FirstPage | Work::Bulk) {
            break;
        }
        // So that a contender that never waits leaves its turn to the other tasks too.
        tokio::task::coop::consume_budget().await;
    }
    Ok((done, times))
}

/// One call; gives how many values (or pages) it dealt with.
async fn step<C: Contender>(contender: &C, job: &Job, random: &mut Random) -> Outcome<u64> {
    let data = &*job.data;
    match job.work {
        Work::Store => {
            let (i, j) = (random.below(data.count()), random.below(data.count()));
            contender.store(data.key(i), data.value(j)).await?;
        }
        Work::Create => {
            let i = job.created.fetch_add(1, Ordering::Relaxed);
            contender.store(&data.new_key(i)?, data.value(i)).await?;
        }
        Work::Retrieve => {
            let i = random.below(data.count());
            data.looks_right(i, contender.retrieve(data.key(i)).await?.as_ref())?;
        }
        Work::StoreMany => return store_many(contender, data, random).await,
        Work::Bulk => return bulk(contender, data).await,
        Work::RetrieveMany => return retrieve_many(contender, data, random).await,
        Work::Page | Work::FirstPage => page(contender, job, random).await?,
    }
    Ok(1)
}

async fn store_many<C: Contender>(contender: &C, data: &Data, random: &mut Random) -> Outcome<u64> {
    let mut any = || random.below(data.count());
    let items = (0..batch(data)).map(|_| (data.key(any()).clone(), data.value(any()).clone()));
    let items: Vec<(Key, Bytes)> = items.collect();
    let count = items.len() as u64;
    contender.store_many(items).await?;
    Ok(count)
}

async fn bulk<C: Contender>(contender: &C, data: &Data) -> Outcome<u64> {
    let items = (0..data.count()).map(|i| (data.key(i).clone(), data.value(i).clone())).collect();
    contender.store_many(items).await?;
    Ok(data.count() as u64)
}

fn batch(data: &Data) -> usize {
    BATCH.min(BATCH_BYTES / data.value(0).len().max(1)).max(1)
}

async fn retrieve_many<C: Contender>(contender: &C, data: &Data, random: &mut Random) -> Outcome<u64> {
    let picked: Vec<usize> = (0..batch(data)).map(|_| random.below(data.count())).collect();
    let keys: Vec<Key> = picked.iter().map(|i| data.key(*i).clone()).collect();
    for (i, found) in picked.into_iter().zip(contender.retrieve_many(&keys).await?) {
        data.looks_right(i, found.as_ref())?;
    }
    Ok(keys.len() as u64)
}

/// A page is checked whole: it must hold the keys that follow, in order.
async fn page<C: Contender>(contender: &C, job: &Job, random: &mut Random) -> Outcome<()> {
    let data = &*job.data;
    let last = data.count() - PAGE - 1;
    let after = (job.work == Work::Page).then(|| random.below(last));
    let first = after.map_or(0, |after| after + 1);
    let found = contender.page(after.map(|after| data.key(after)), PAGE).await?;
    let expected = (first..first + PAGE).map(|i| data.key(i).as_str());
    if !found.iter().map(String::as_str).eq(expected) {
        return Err(format!("the page after {after:?} is wrong: {found:?}").into());
    }
    Ok(())
}

async fn check_created<C: Contender>(contender: &C, job: &Job) -> Outcome<()> {
    for i in 0..job.created.load(Ordering::Relaxed) {
        check(contender, &job.data.new_key(i)?, job.data.value(i)).await?;
    }
    Ok(())
}

/// Reads every key of a job back: each holds its value, after stores of random values one of them, byte for byte.
pub(crate) async fn check_all<C: Contender>(contender: &C, job: &Job) -> Outcome<()> {
    let data = &job.data;
    if matches!(job.work, Work::Store | Work::StoreMany) {
        let values: HashSet<&Bytes> = (0..data.count()).map(|i| data.value(i)).collect();
        for i in 0..data.count() {
            let found = contender.retrieve(data.key(i)).await?;
            if !found.is_some_and(|found| values.contains(&found)) {
                return Err(wrong(data.key(i)));
            }
        }
        return Ok(());
    }
    for i in 0..job.data.count() {
        check(contender, job.data.key(i), job.data.value(i)).await?;
    }
    Ok(())
}

async fn check<C: Contender>(contender: &C, key: &Key, value: &Bytes) -> Outcome<()> {
    match contender.retrieve(key).await?.as_ref() == Some(value) {
        true => Ok(()),
        false => Err(wrong(key)),
    }
}

fn wrong(key: &Key) -> Box<dyn Error + Send + Sync> {
    format!("{key:?} does not hold what was stored there").into()
}
