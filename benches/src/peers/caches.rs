use bytes::Bytes;
use persist_core::Key;
use quick_cache::Weighter;

use super::page_of;
use persist_bench_work::{Contender, Outcome};

/// What an entry counts for, besides key and value; the same for all.
const OVERHEAD: u64 = 64;

fn weight(key: &Key, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64 + OVERHEAD
}

fn weight_u32(key: &Key, value: &Bytes) -> u32 {
    u32::try_from(weight(key, value)).unwrap_or(u32::MAX)
}

/// `moka::sync`, called directly and not through a trait.
#[derive(Debug)]
pub(crate) struct SyncMoka(moka::sync::Cache<Key, Bytes>);

impl SyncMoka {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(moka::sync::Cache::builder().max_capacity(bytes).weigher(weight_u32).build())
    }
}

impl Contender for SyncMoka {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.0.insert(key.clone(), value.clone());
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        Ok(self.0.get(key))
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let keys = self.0.iter().map(|(key, _)| Key::clone(&key)).collect();
        Ok(page_of::<Key>(keys, after.map(Key::as_str), limit))
    }
}

/// `moka::future`, called directly.
#[derive(Debug)]
pub(crate) struct FutureMoka(moka::future::Cache<Key, Bytes>);

impl FutureMoka {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(moka::future::Cache::builder().max_capacity(bytes).weigher(weight_u32).build())
    }
}

impl Contender for FutureMoka {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.0.insert(key.clone(), value.clone()).await;
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        Ok(self.0.get(key).await)
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let keys = self.0.iter().map(|(key, _)| Key::clone(&key)).collect();
        Ok(page_of::<Key>(keys, after.map(Key::as_str), limit))
    }
}

#[derive(Clone, Debug)]
struct Weigh;

impl Weighter<Key, Bytes> for Weigh {
    fn weight(&self, key: &Key, value: &Bytes) -> u64 {
        weight(key, value)
    }
}

/// `quick_cache`, called directly.
#[derive(Debug)]
pub(crate) struct Quick(quick_cache::sync::Cache<Key, Bytes, Weigh>);

impl Quick {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(quick_cache::sync::Cache::with_weighter(100_000, bytes, Weigh))
    }
}

impl Contender for Quick {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.0.insert(key.clone(), value.clone());
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        Ok(self.0.get(key))
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let keys = self.0.iter().map(|(key, _)| key).collect();
        Ok(page_of::<Key>(keys, after.map(Key::as_str), limit))
    }
}
