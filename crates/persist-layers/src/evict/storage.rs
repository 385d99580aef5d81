use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Key, ListOptions,
    Maintenance, Metadata, Operation, Outcome, Result, Stats, StorageError, StoreItem, StoreOptions, Value,
};

use super::config::EvictConfig;
use super::ledger::{Ledger, Victim};
use crate::Layer;
use crate::batch::{merge, split};
use crate::derived::derived;

/// How many keys are asked for at once while the books are made.
const AT_ONCE: usize = 32;

/// Keeps what a storage holds within a number of bytes: when there is no room for a value, others go, those first that are worth the
/// least.
///
/// What a value is worth follows from what it cost to compute, which a tag says, its size and its uses ([`EvictPolicy`](crate::EvictPolicy)).
/// What is pinned by a tag or a prefix, or [held](Self::hold) because it is nowhere else yet, never goes; if all that is there must
/// stay, a store fails with `Capacity`.
///
/// Sizes are of keys, plain values and tags. The books are in memory, about 200 bytes a key; they are made from a listing before the first change, and made
/// anew by `maintain`. Of uses before that only their order by `modified_at` is known. Several processes may share the storage below;
/// each counts what it has seen, so that the budget may be passed by what the others stored since.
#[derive(Debug)]
pub struct Evict {
    inner: Arc<dyn BaseStorage>,
    descriptor: Descriptor,
    config: EvictConfig,
    books: Arc<Mutex<Ledger>>,
    open: tokio::sync::OnceCell<()>,
    is_open: AtomicBool,
    /// Whoever makes room for something stores it before the next one does.
    room: tokio::sync::Mutex<()>,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
}

/// Keeps a value from going as long as it lives: for values that are nowhere else yet.
#[derive(Debug)]
pub struct Hold {
    books: Arc<Mutex<Ledger>>,
    key: Key,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.books.lock().release(&self.key);
    }
}

impl Evict {
    /// A budget over a storage.
    ///
    /// # Errors
    /// `InvalidConfig` for a budget of nothing.
    pub fn new(inner: Arc<dyn BaseStorage>, config: EvictConfig) -> Result<Self> {
        config.check().map_err(|why| StorageError::new(ErrorKind::InvalidConfig, why))?;
        let below = inner.describe();
        let capabilities = Capabilities { evicts: true, ..below.capabilities() };
        let limit = below.max_value_bytes().min(config.max_bytes.0);
        let descriptor = derived(&inner).with_capabilities(capabilities).with_max_value_bytes(limit);
        Ok(Self {
            inner,
            descriptor,
            books: Arc::new(Mutex::new(Ledger::new(&config))),
            config,
            open: tokio::sync::OnceCell::new(),
            is_open: AtomicBool::new(false),
            room: tokio::sync::Mutex::new(()),
            evicted: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
        })
    }

    /// Keeps a value until the answer is dropped; `None` if the key is absent.
    ///
    /// # Errors
    /// What the storage below meets.
    pub async fn hold(&self, key: &Key) -> Result<Option<Hold>> {
        self.ready().await?;
        let _turn = self.room.lock().await;
        if !self.inner.contains(key).await? {
            return Ok(None);
        }
        self.books.lock().hold(key);
        Ok(Some(Hold { books: Arc::clone(&self.books), key: key.clone() }))
    }

    /// Makes the books the first time.
    async fn ready(&self) -> Result<()> {
        self.open.get_or_try_init(|| self.take_stock()).await?;
        self.is_open.store(true, Ordering::Release);
        Ok(())
    }

    /// Enters everything that is stored, the longest unchanged first.
    async fn take_stock(&self) -> Result<()> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.inner.list_keys("", ListOptions::new().after(after)).await?;
            let asked =
                stream::iter(page.keys).map(|key| async move { (self.inner.metadata(&key).await, key) });
            let mut asked = asked.buffered(AT_ONCE);
            while let Some((metadata, key)) = asked.next().await {
                match metadata {
                    Ok(metadata) => found.extend(metadata.map(|metadata| (key, metadata))),
                    // It takes room that nobody can tell; whoever overwrites or deletes it puts that right.
                    Err(error) if error.kind() == ErrorKind::Corruption => {}
                    Err(error) => return Err(error),
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        found.sort_by_key(|(_, metadata)| (metadata.modified_at, metadata.version));
        let mut books = self.books.lock();
        for (key, metadata) in &found {
            if books.bytes_of(key) != Ledger::size(key, metadata) {
                books.enter(key, metadata);
            }
        }
        Ok(())
    }

    /// Lets values go until there is room for more bytes. `keys` are about to be stored, and what they take now is counted in.
    async fn make_room(&self, operation: &'static str, keys: &[Key], bytes: u64) -> Result<()> {
        let budget = self.config.max_bytes.0;
        self.books.lock().expire(self.descriptor.now());
        loop {
            let victim = {
                let mut books = self.books.lock();
                let mine: u64 = keys.iter().map(|key| books.bytes_of(key)).sum();
                if books.bytes() - mine + bytes <= budget {
                    return Ok(());
                }
                books.victim(keys)
            };
            let Some(victim) = victim else {
                let message = format!(
                    "there is no room for {bytes} bytes within {budget}, because all that is there is pinned or held; raise \
                     `max_bytes` or pin less"
                );
                return Err(self.descriptor.error(ErrorKind::Capacity, operation, message));
            };
            self.evict(victim).await?;
        }
    }

    async fn evict(&self, Victim { key, version }: Victim) -> Result<()> {
        match self.inner.delete(&key, DeleteOptions::new().if_version(version)).await {
            Ok(_) => {
                let mut books = self.books.lock();
                self.evicted.fetch_add(1, Ordering::Relaxed);
                self.evicted_bytes.fetch_add(books.bytes_of(&key), Ordering::Relaxed);
                books.evicted(&key);
                Ok(())
            }
            // It is another one by now, or gone.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let now = self.inner.metadata(&key).await?;
                let mut books = self.books.lock();
                match now {
                    Some(metadata) => books.enter(&key, &metadata),
                    None => books.forget(&key),
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What is about to be stored takes this much.
    fn size(key: &Key, value: &Value, options: &StoreOptions) -> u64 {
        key.len() as u64 + value.size() + options.tags.byte_size() as u64
    }

    /// Refuses what can never fit.
    fn fits(&self, StoreItem { key, value, options }: &StoreItem) -> Result<()> {
        self.descriptor.admit_store(key, value, options)?;
        let (bytes, budget) = (Self::size(key, value, options), self.config.max_bytes.0);
        if bytes > budget {
            let message = format!(
                "key, value and tags take {bytes} bytes and the budget is {budget}; raise `max_bytes`"
            );
            return Err(self.descriptor.error(ErrorKind::TooLarge, "store", message).with_key(key));
        }
        Ok(())
    }

    /// Notes what became of a change. One whose outcome is unknown is looked at.
    async fn settle<T>(&self, key: &Key, answer: &Result<T>, stored: impl Fn(&T) -> Option<Metadata>) {
        match answer {
            Ok(done) => match stored(done) {
                Some(metadata) => self.books.lock().enter(key, &metadata),
                None => self.books.lock().forget(key),
            },
            Err(error) if error.outcome_unknown() => {
                if let Ok(Some(metadata)) = self.inner.metadata(key).await {
                    self.books.lock().enter(key, &metadata);
                }
            }
            Err(_) => {}
        }
    }

    fn used(&self, key: &Key) {
        if self.is_open.load(Ordering::Acquire) {
            self.books.lock().used(key);
        }
    }

    async fn store_some(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
        let bytes = items.iter().map(|item| Self::size(&item.key, &item.value, &item.options)).sum();
        if let Err(error) = self.make_room("store", &keys, bytes).await {
            return error.for_each("store", &keys);
        }
        let answers = self.inner.store_many(items).await;
        for (key, answer) in keys.iter().zip(&answers) {
            self.settle(key, answer, |metadata| Some(metadata.clone())).await;
        }
        answers
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Evict {
    forward!(inner: list_keys, metadata, contains, flush, health, verify, snapshot, watch);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let item = StoreItem { key: key.clone(), value, options };
        self.fits(&item)?;
        self.ready().await?;
        let _turn = self.room.lock().await;
        let bytes = Self::size(key, &item.value, &item.options);
        // What would be refused must cost nobody his place.
        let current = self.inner.metadata(key).await;
        if let Ok(current) = &current {
            self.descriptor.check_condition("store", item.options.condition, key, current.as_ref())?;
        }
        self.make_room("store", std::slice::from_ref(key), bytes)
            .await
            .map_err(|error| error.with_key(key))?;
        let answer = self.inner.store(key, item.value, item.options).await;
        self.settle(key, &answer, |metadata| Some(metadata.clone())).await;
        answer
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let found = self.inner.retrieve(key).await?;
        if found.is_some() {
            self.used(key);
        }
        Ok(found)
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let answer = self.inner.delete(key, options).await;
        if answer.is_ok() && options.condition != persist_core::Condition::IfAbsent {
            self.books.lock().forget(key);
        }
        answer
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let touched = self.inner.touch(key, expiry).await?;
        if let Some(metadata) = &touched
            && self.is_open.load(Ordering::Acquire)
        {
            self.books.lock().enter(key, metadata);
        }
        Ok(touched)
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let found = self.inner.retrieve_range(key, range).await?;
        if found.is_some() {
            self.used(key);
        }
        Ok(found)
    }

    /// Some values at a time, as many as the budget has room for.
    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let (items, refused) = split(items.into_iter().map(|item| self.fits(&item).map(|()| item)));
        if let Err(error) = self.ready().await {
            return merge(refused, error.for_each("store", items.iter().map(|item| &item.key)));
        }
        let mut answers = Vec::with_capacity(items.len());
        let (mut some, mut bytes) = (Vec::new(), 0);
        let share = self.config.max_bytes.0 / 4;
        for item in items {
            let size = Self::size(&item.key, &item.value, &item.options);
            // A key that is named twice counts once in the books.
            let again = some.iter().any(|known: &StoreItem| known.key == item.key);
            if !some.is_empty() && (bytes + size > share || again) {
                let _turn = self.room.lock().await;
                answers.extend(self.store_some(std::mem::take(&mut some)).await);
                bytes = 0;
            }
            bytes += size;
            some.push(item);
        }
        if !some.is_empty() {
            let _turn = self.room.lock().await;
            answers.extend(self.store_some(some).await);
        }
        merge(refused, answers)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let found = self.inner.retrieve_many(keys).await;
        for (key, found) in keys.iter().zip(&found) {
            if matches!(found, Ok(Some(_))) {
                self.used(key);
            }
        }
        found
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let answers = self.inner.delete_many(keys).await;
        for (key, _) in keys.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
            self.books.lock().forget(key);
        }
        answers
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.descriptor.admit_transact(&operations)?;
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for operation in &operations {
            if let Operation::Put(item) = operation {
                self.fits(item).map_err(|error| error.again("transact").with_key(&item.key))?;
                bytes += Self::size(&item.key, &item.value, &item.options);
            }
            keys.push(operation.key().clone());
        }
        if bytes > self.config.max_bytes.0 {
            let message =
                format!("the values of the transaction take {bytes} bytes, which is more than the budget");
            return Err(self.descriptor.error(ErrorKind::TooLarge, "transact", message));
        }
        self.ready().await?;
        let _turn = self.room.lock().await;
        if bytes > 0 {
            self.make_room("transact", &keys, bytes).await?;
        }
        let answer = self.inner.transact(operations).await;
        if let Ok(outcomes) = &answer {
            let mut books = self.books.lock();
            for (key, outcome) in keys.iter().zip(outcomes) {
                match outcome {
                    Outcome::Stored(metadata) => books.enter(key, metadata),
                    Outcome::Deleted(_) => books.forget(key),
                    Outcome::Checked => {}
                }
            }
        }
        answer
    }

    /// The figures of the storage below, and `budget_bytes`, `budget_used` (as the books say), `evicted` and `evicted_bytes`.
    async fn stats(&self) -> Result<Stats> {
        let mut stats = self.inner.stats().await?;
        stats.counters.extend([
            ("budget_bytes", self.config.max_bytes.0),
            ("budget_used", self.books.lock().bytes()),
            ("evicted", self.evicted.load(Ordering::Relaxed)),
            ("evicted_bytes", self.evicted_bytes.load(Ordering::Relaxed)),
        ]);
        Ok(stats)
    }

    /// As the storage below; and compares the books with what is there.
    async fn maintain(&self) -> Result<Maintenance> {
        let done = self.inner.maintain().await?;
        self.ready().await?;
        let _turn = self.room.lock().await;
        self.books.lock().expire(self.descriptor.now());
        self.take_stock().await?;
        self.make_room("maintain", &[], 0).await?;
        Ok(done)
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner.close().await
    }
}

impl Layer for Evict {
    const NAME: &'static str = "evict";
    type Config = EvictConfig;

    fn check(config: &EvictConfig) -> Result<(), String> {
        config.check()
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: EvictConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, config)?))
    }
}
