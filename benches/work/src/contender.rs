//! What is measured: one way of keeping values.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use persist_core::Key;

use crate::sample::Sample;
use crate::work::{Job, check_all, measure};

/// A result with any error: a benchmark that fails says why and stops.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many stores are under way at once when a storage is filled.
const AT_ONCE: usize = 64;

/// One way of keeping values. Its futures are known to the compiler, so that a contender that is called directly pays
/// for no allocation that only the benchmark needs.
pub trait Contender: Send + Sync + 'static {
    /// Stores a value over whatever was there.
    fn store(&self, key: &Key, value: &Bytes) -> impl Future<Output = Outcome<()>> + Send;

    /// Gives a value back.
    fn retrieve(&self, key: &Key) -> impl Future<Output = Outcome<Option<Bytes>>> + Send;

    /// Stores many; all at once where the contender has no batches of its own.
    fn store_many(&self, items: Vec<(Key, Bytes)>) -> impl Future<Output = Outcome<()>> + Send {
        async move {
            let mut stores = Vec::with_capacity(items.len());
            for (key, value) in &items {
                stores.push(self.store(key, value));
            }
            try_join_all(stores).await.map(drop)
        }
    }

    /// Gives many values back, in the order asked.
    fn retrieve_many(&self, keys: &[Key]) -> impl Future<Output = Outcome<Vec<Option<Bytes>>>> + Send {
        async move {
            let mut reads = Vec::with_capacity(keys.len());
            for key in keys {
                reads.push(self.retrieve(key));
            }
            try_join_all(reads).await
        }
    }

    /// Brings what was stored to where it stays, if the contender keeps it elsewhere for a while.
    fn settle(&self) -> impl Future<Output = Outcome<()>> + Send {
        async { Ok(()) }
    }

    /// The first `limit` keys after a key, in byte order.
    fn page(&self, after: Option<&Key>, limit: usize) -> impl Future<Output = Outcome<Vec<String>>> + Send;
}

/// A contender of any type, to be measured.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs a job and says how fast it was.
    async fn run(self: Arc<Self>, job: Arc<Job>) -> Outcome<Sample>;

    /// Stores every key of the job and settles.
    async fn fill(self: Arc<Self>, job: Arc<Job>) -> Outcome<()>;

    /// Reads every key of the job back and compares every byte with what its work leaves there.
    async fn verify(self: Arc<Self>, job: Arc<Job>) -> Outcome<()>;
}

#[async_trait]
impl<C: Contender> Runner for C {
    async fn run(self: Arc<Self>, job: Arc<Job>) -> Outcome<Sample> {
        measure(&self, &job).await
    }

    async fn fill(self: Arc<Self>, job: Arc<Job>) -> Outcome<()> {
        let data = &job.data;
        for first in (0..data.count()).step_by(AT_ONCE) {
            let some = first..data.count().min(first + AT_ONCE);
            try_join_all(some.map(|i| self.store(data.key(i), data.value(i)))).await?;
        }
        self.settle().await
    }

    async fn verify(self: Arc<Self>, job: Arc<Job>) -> Outcome<()> {
        check_all(&*self, &job).await
    }
}
