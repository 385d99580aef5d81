use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::walk::Walk;
use crate::{
    Condition, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, Key, ListOptions, Maintenance,
    Metadata, Operation, Outcome, POLL_INTERVAL, Page, Result, SnapshotSink, SnapshotSummary, Stats,
    StorageError, StoreItem, StoreOptions, Value, Verification, Watch, snapshot_entries, watch_by_polling,
};

/// One storage: a file tree, a database, a cache, a server, or a layer over another storage.
///
/// Used as `Arc<dyn BaseStorage>`. [`describe`](Self::describe) and four verbs are required; the other methods have
/// defaults that are correct and merely slower than what a backend can do natively. No method swallows an error, and
/// absent (`None`, `false`), `null` and failed are three different answers.
///
/// The rules stand in `docs/contract.md`; `persist-testkit` checks every one of them. Typed conveniences are in
/// [`StorageExt`](crate::StorageExt).
///
/// **Cancellation**: dropping the future of a change never leaves half of it; the change takes place whole or not at
/// all. **Order**: calls for one key that do not overlap take effect in the order they were made.
#[async_trait]
pub trait BaseStorage: Send + Sync + Debug + 'static {
    /// What it says of itself: name, type, capabilities, limits.
    fn describe(&self) -> &Descriptor;

    /// Stores a value under a key: whole, with its metadata, or not at all.
    ///
    /// # Errors
    /// `Conflict` if the condition does not hold; `TooLarge`, `InvalidValue`, `Capacity`, `ReadOnly`, `Closed`, and
    /// what the backend meets. An error leaves the old value, unless it says that the outcome is unknown.
    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata>;

    /// Gives the value of a key; `None` if it is absent or has expired. The checksum has been verified.
    ///
    /// # Errors
    /// `Corruption` if what is stored is damaged; never `None` for that.
    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>>;

    /// Makes a key absent; true if it was there, false if it was absent or had expired.
    ///
    /// # Errors
    /// `Conflict` if the condition does not hold.
    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool>;

    /// One page of the keys that begin with `prefix` (literally; empty: all), in byte order, without expired ones.
    /// A page costs what it holds, not what the storage holds.
    ///
    /// # Errors
    /// `InvalidKey` for a prefix that no key can have, `InvalidValue` for a limit of zero.
    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page>;

    /// The metadata of a key without its value; `None` if it is absent or has expired.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        Ok(self.retrieve(key).await?.map(|entry| entry.metadata))
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    async fn contains(&self, key: &Key) -> Result<bool> {
        Ok(self.metadata(key).await?.is_some())
    }

    /// Changes when a key expires, and nothing else but its version and `modified_at`; `None` if it is absent.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        loop {
            self.describe().admit_change("touch")?;
            let Some(Entry { value, metadata }) = self.retrieve(key).await? else { return Ok(None) };
            let options = StoreOptions {
                expiry,
                condition: Condition::IfVersion(metadata.version),
                tags: metadata.tags,
                encodings: metadata.encodings,
            };
            match self.store(key, value, options).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                result => return result.map(Some),
            }
        }
    }

    /// A part of the buffer of a value (JSON text, bytes, or array elements without header), clamped to its end;
    /// `None` if the key is absent.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        Ok(self.retrieve(key).await?.map(|entry| entry.value.range(range)))
    }

    /// Stores many values, each on its own: one that fails does not hold up the others. Answers in the order asked;
    /// a key named twice is stored twice, in order.
    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let mut results = Vec::with_capacity(items.len());
        for StoreItem { key, value, options } in items {
            results.push(self.store(&key, value, options).await);
        }
        results
    }

    /// Gives many values, in the order asked.
    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(self.retrieve(key).await);
        }
        results
    }

    /// Makes many keys absent, each on its own, in the order asked.
    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(self.delete(key, DeleteOptions::new()).await);
        }
        results
    }

    /// Applies a batch if every condition in it holds, else nothing. Each key may be named once.
    ///
    /// With the capability `atomic_transact` the batch is all or nothing whatever happens. Without it all conditions
    /// are checked first, then the steps are made in order, each under its own condition: an error on the way (it
    /// names the key) leaves the steps before it.
    ///
    /// # Errors
    /// `Conflict` naming the key whose condition does not hold; `InvalidKey` for a key named twice; as
    /// [`store`](Self::store).
    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.describe().admit_transact(&operations)?;
        for operation in &operations {
            if operation.condition() != Condition::None {
                let current = self.metadata(operation.key()).await?;
                let check = operation.condition().check(operation.key(), current.as_ref());
                check.map_err(|e| e.with_operation("transact").with_storage(self.describe().name()))?;
            }
        }
        let mut outcomes = Vec::with_capacity(operations.len());
        for operation in operations {
            outcomes.push(match operation {
                Operation::Put(item) => {
                    Outcome::Stored(self.store(&item.key, item.value, item.options).await?)
                }
                Operation::Delete(key, options) => Outcome::Deleted(self.delete(&key, options).await?),
                Operation::Check(..) => Outcome::Checked,
            });
        }
        Ok(outcomes)
    }

    /// Returns when every change acknowledged before is as durable as the storage promises.
    ///
    /// # Errors
    /// Why it cannot be made so.
    async fn flush(&self) -> Result<()> {
        self.describe().admit("flush")
    }

    /// Whether it works; asking never fails.
    async fn health(&self) -> Health {
        match self.list_keys("", ListOptions::new().limit(1)).await {
            Ok(_) => Health::healthy(),
            Err(error) => Health::unhealthy(&error),
        }
    }

    /// Figures about it. The default counts nothing.
    ///
    /// # Errors
    /// `Closed`, and what the backend meets.
    async fn stats(&self) -> Result<Stats> {
        self.describe().admit("stats").map(|()| Stats::default())
    }

    /// Removes what has expired, gives space back, tidies up. The default has nothing to do.
    ///
    /// # Errors
    /// `Closed`, `ReadOnly`, and what the backend meets.
    async fn maintain(&self) -> Result<Maintenance> {
        self.describe().admit_change("maintain").map(|()| Maintenance::default())
    }

    /// Reads every value back and checks it. What is damaged is in the answer, not an error.
    ///
    /// # Errors
    /// What keeps it from reading at all.
    async fn verify(&self) -> Result<Verification> {
        verify_values(self).await
    }

    /// Writes a copy of everything that is stored, while others go on reading and writing. Each value in it is whole and
    /// belongs to its metadata; what did not change meanwhile is in it, what had expired is not.
    ///
    /// Snapshots are kept, verified and restored by `persist-backup`. The default gives one entry after the other.
    ///
    /// # Errors
    /// `Corruption` naming the key of a damaged value, which is never left out silently; `Closed`, and what the backend
    /// and the sink meet.
    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        snapshot_entries(self, sink).await
    }

    /// Tells of changes under a literal prefix (empty: all) as they take place, whoever makes them.
    ///
    /// What is promised: after a change that begins once this has returned, an event follows that tells it or a later
    /// state of its key, or [`Event::Lost`](crate::Event::Lost); events of one key come in the order of its changes. So whoever watches, then
    /// lists, then applies the events (and lists again after `Lost`) arrives at what is stored. An event may come twice, and
    /// of several changes in a row only the last may be told. What changes nothing is not told; neither is that a lifetime
    /// has ended, which `expires_at` of the event that began it says. A watcher never holds up a writer: one that falls
    /// behind is told `Lost` in place of what it missed.
    ///
    /// The default lists the keys every second and compares versions. A storage with the capability `native_watch` is told.
    ///
    /// # Errors
    /// `Closed`; `InvalidKey` for a prefix that no key can have; what keeps it from watching.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        watch_by_polling(self, prefix, POLL_INTERVAL).await
    }

    /// Makes everything durable and ends the storage; every later call says `Closed`. Closing twice is no error.
    ///
    /// # Errors
    /// What could not be made durable.
    async fn close(&self) -> Result<()> {
        self.describe().close();
        Ok(())
    }
}

/// What [`BaseStorage::verify`] does by default: lists every key and retrieves it, a few megabytes at a time. For backends
/// that check more.
///
/// # Errors
/// What keeps it from reading at all.
pub async fn verify_values<S: BaseStorage + ?Sized>(storage: &S) -> Result<Verification> {
    let mut report = Verification::default();
    let mut walk = Walk::new(storage);
    while let Some((key, result)) = walk.next().await? {
        note(&mut report, &key, result)?;
    }
    Ok(report)
}

fn note(report: &mut Verification, key: &Key, result: Result<Option<Entry>>) -> Result<(), StorageError> {
    match result {
        Ok(Some(entry)) => {
            report.checked += 1;
            report.bytes += entry.metadata.size;
        }
        // Deleted or expired since the page was read.
        Ok(None) => {}
        Err(error) if error.kind() == ErrorKind::Corruption => {
            report.checked += 1;
            report.problems.push(error.with_key(key).into());
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
