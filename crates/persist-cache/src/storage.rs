use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, HealthStatus,
    Key, ListOptions, Maintenance, Metadata, OpenContext, Operation, Outcome, Page, Result, Stats,
    StorageError, StoreItem, StoreOptions, Value, Verification, Watch,
};
use tokio::task::yield_now;

use crate::CacheConfig;
use crate::engine::{Bounds, Engine};
use crate::index::Index;
use crate::record::largest_value;
use crate::sweeper::Sweeper;

/// After how many values of a batch other tasks get a chance to run.
const STRIDE: usize = 128;

/// A bounded cache in memory.
///
/// Never more entries and bytes than configured: a store first makes room, by evicting what was not read for long
/// (SIEVE), and a value that would not fit into the empty cache is refused with `TooLarge` before anything is evicted.
/// A stored value is a buffer of its own, so a part of a larger buffer does not keep the whole of it in memory.
///
/// Lifetimes are measured by the monotonic clock: setting the wall clock changes nothing about them, and the
/// `expires_at` of the metadata is what the wall clock showed when the value was stored. Expired values leave memory
/// within `sweep_interval`, without a call.
///
/// `retrieve` does not recompute the checksum of a value that never left this process's memory; `verify` does.
///
/// `stats` counts `hits`, `misses`, `stale_hits`, `stores`, `deletes`, `evictions`, `expirations`, `invalidations`,
/// `refusals` (`TooLarge`), `refreshes`, `refresh_failures` and `refreshes_outrun` (the key had been changed
/// meanwhile), and shows `memory_bytes` against `max_bytes`, `max_entries` if there is one, and `stale_keys`.
///
/// Nothing outlives it: closing or dropping it frees everything.
pub struct CacheStorage {
    engine: Arc<Engine>,
    sweeper: Sweeper,
}

impl CacheStorage {
    /// Opens an empty cache.
    ///
    /// # Errors
    /// `InvalidConfig` saying what to write instead; `Unavailable` if the system gives no thread for the sweeper.
    pub fn open(name: &str, config: &CacheConfig, context: &OpenContext) -> Result<Self> {
        let error = |kind, message: String| StorageError::new(kind, message).with_storage(name);
        config.check().map_err(|message| error(ErrorKind::InvalidConfig, message))?;
        let bounds = Bounds { entries: config.max_entries.unwrap_or(u64::MAX), bytes: config.max_bytes.0 };
        let fitting = largest_value(bounds.bytes);
        let max_value = config.max_value.map_or(fitting, |size| size.0.min(fitting));
        let descriptor = Descriptor::new(name, "cache")
            .with_capabilities(capabilities(context.read_only))
            .with_default_ttl(config.ttl.map(|ttl| ttl.0))
            .with_max_value_bytes(max_value)
            .with_clock(Arc::clone(&context.clock));
        let engine = Arc::new(Engine::new(descriptor, bounds, config.stale_while_revalidate.0));
        let sweeper = Sweeper::start(&engine, config.sweep_interval.0).map_err(|cause| {
            let message = "the system gives no thread for the sweeper; raise the limit of threads".to_owned();
            error(ErrorKind::Unavailable, message).with_operation("open").with_source(cause)
        })?;
        Ok(Self { engine, sweeper })
    }

    /// Forgets every value that bears a tag of this name and text; gives how many there were. What is stored while
    /// it runs may stay.
    ///
    /// # Errors
    /// `Closed` or `ReadOnly`.
    pub async fn invalidate_tag(&self, name: &str, text: &str) -> Result<u64> {
        let select = |index: &Index, after: Option<&Key>, limit| index.tagged(name, text, after, limit);
        self.invalidate("invalidate_tag", select).await
    }

    /// Forgets every value whose key begins with `prefix`, literally; gives how many there were. What is stored while
    /// it runs may stay.
    ///
    /// # Errors
    /// `Closed` or `ReadOnly`; `InvalidKey` for a prefix that no key can have.
    pub async fn invalidate_prefix(&self, prefix: &str) -> Result<u64> {
        let checked = Key::check_prefix(prefix);
        checked
            .map_err(|e| e.with_operation("invalidate_prefix").with_storage(self.engine.descriptor.name()))?;
        let select = |index: &Index, after: Option<&Key>, limit| index.under(prefix, after, limit);
        self.invalidate("invalidate_prefix", select).await
    }

    async fn invalidate(
        &self,
        operation: &'static str,
        select: impl Fn(&Index, Option<&Key>, usize) -> Vec<Key>,
    ) -> Result<u64> {
        let (mut total, mut after) = (0, None);
        loop {
            let pick = |index: &Index, limit| select(index, after.as_ref(), limit);
            let (gone, last) = self.engine.invalidate(operation, pick)?;
            total += gone;
            if last.is_none() {
                return Ok(total);
            }
            after = last;
            yield_now().await;
        }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

fn capabilities(read_only: bool) -> Capabilities {
    Capabilities {
        atomic_transact: true,
        native_expiry: true,
        // Not `native_ranges`: the whole value is handed out without a copy as well, so a range is no cheaper.
        native_watch: true,
        evicts: true,
        read_only,
        ..Capabilities::NONE
    }
}

#[async_trait]
impl BaseStorage for CacheStorage {
    fn describe(&self) -> &Descriptor {
        &self.engine.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.engine.store(key, value, options)
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.engine.descriptor.admit("retrieve")?;
        // Not by `map`: this writes the copy straight to where the answer is expected.
        match self.engine.read(key) {
            Some(record) => Ok(Some(record.entry.clone())),
            None => Ok(None),
        }
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.engine.delete(key, options)
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.engine.page(prefix, &options)
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.engine.descriptor.admit("metadata")?;
        Ok(self.engine.peek(key).map(|record| record.entry.metadata.clone()))
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.engine.descriptor.admit("contains")?;
        Ok(self.engine.peek(key).is_some())
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.engine.touch(key, expiry)
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.engine.descriptor.admit("retrieve_range")?;
        Ok(self.engine.read(key).map(|record| record.entry.value.range(range)))
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let mut results = Vec::with_capacity(items.len());
        for StoreItem { key, value, options } in items {
            results.push(self.engine.store(&key, value, options));
            breathe(results.len()).await;
        }
        results
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            let admitted = self.engine.descriptor.admit("retrieve");
            results.push(admitted.map(|()| self.engine.read(key).map(|record| record.entry.clone())));
            breathe(results.len()).await;
        }
        results
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(self.engine.delete(key, DeleteOptions::new()));
            breathe(results.len()).await;
        }
        results
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.engine.transact(operations)
    }

    async fn flush(&self) -> Result<()> {
        self.engine.descriptor.admit("flush")
    }

    async fn health(&self) -> Health {
        match self.engine.descriptor.admit("health") {
            Ok(()) if self.sweeper.has_ended() => Health {
                status: HealthStatus::Degraded,
                detail:
                    "the sweeper has died: expired values leave memory only as others are stored; reopen it"
                        .to_owned(),
            },
            Ok(()) => Health::healthy(),
            Err(error) => Health::unhealthy(&error),
        }
    }

    async fn stats(&self) -> Result<Stats> {
        self.engine.descriptor.admit("stats")?;
        Ok(self.engine.stats())
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.engine.descriptor.admit_change("maintain")?;
        Ok(self.engine.expire_all())
    }

    async fn verify(&self) -> Result<Verification> {
        let mut report = Verification::default();
        let mut after = None;
        loop {
            let page = self.engine.page("", &ListOptions::new().after(after).limit(STRIDE))?;
            for record in page.keys.iter().filter_map(|key| self.engine.peek(key)) {
                let Entry { value, metadata } = &record.entry;
                report.checked += 1;
                report.bytes += metadata.size;
                let checked = self.engine.descriptor.check_integrity("verify", &record.key, value, metadata);
                report.problems.extend(checked.err().map(Into::into));
            }
            after = page.next;
            if after.is_none() {
                return Ok(report);
            }
            yield_now().await;
        }
    }

    /// Told in the order of the changes, before they are acknowledged. What is evicted or invalidated is told as deleted.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.engine.descriptor.admit_watch(prefix)?;
        Ok(self.engine.watchers.watch(prefix))
    }

    async fn close(&self) -> Result<()> {
        self.sweeper.stop();
        self.engine.close();
        Ok(())
    }
}

/// Lets other tasks run after every [`STRIDE`] values of a batch.
async fn breathe(done: usize) {
    if done.is_multiple_of(STRIDE) {
        yield_now().await;
    }
}

impl fmt::Debug for CacheStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheStorage").field("descriptor", &self.engine.descriptor).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::record::Record;

    use super::*;

    #[tokio::test]
    async fn verify_finds_what_does_not_match_its_checksum() {
        let cache = CacheStorage::open("c", &CacheConfig::default(), &OpenContext::default()).unwrap();
        for i in 0..300 {
            let key = Key::new(format!("{i:03}")).unwrap();
            cache.store(&key, Value::bytes(vec![1; 10]), StoreOptions::new()).await.unwrap();
        }
        let found = cache.verify().await.unwrap();
        assert_eq!((found.checked, found.bytes, found.problems.len()), (300, 3000, 0));
        let key = Key::new("217").unwrap();
        let metadata = cache.metadata(&key).await.unwrap().unwrap();
        let damaged = Record::new(key.clone(), Entry::new(Value::bytes(vec![2; 10]), metadata), None);
        cache.engine.shelf.put(Arc::new(damaged));
        let problems = cache.verify().await.unwrap().problems;
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].key.as_ref(), problems[0].kind), (Some(&key), ErrorKind::Corruption));
    }

    #[tokio::test]
    async fn health_notices_a_dead_sweeper() {
        let cache = CacheStorage::open("c", &CacheConfig::default(), &OpenContext::default()).unwrap();
        assert_eq!(cache.health().await, Health::healthy());
        cache.sweeper.stop();
        while !cache.sweeper.has_ended() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(cache.health().await.status, HealthStatus::Degraded);
        cache.close().await.unwrap();
        assert_eq!(cache.health().await.status, HealthStatus::Unhealthy);
    }
}
