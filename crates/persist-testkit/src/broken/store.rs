use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use persist_core::{BaseStorage, Condition, Entry, ErrorKind, Key, Metadata, Result, StoreOptions, Value};

use super::{BrokenStorage, Bug, let_others_in, options, values};

/// How many values there is room for in a storage that evicts and does not say so.
const ROOM: usize = 1500;

impl BrokenStorage {
    /// A store under a key that is mangled already.
    pub(super) async fn store_mangled(
        &self,
        key: &Key,
        value: Value,
        given: StoreOptions,
    ) -> Result<Metadata> {
        let old = self.place.peek(key);
        self.refuse(key, &given, old.as_ref())?;
        let value = values::mangled(self.bug, value, old.as_ref().map(|entry| &entry.value));
        let given = options::mangled(self.bug, given, old.as_ref(), self.inner.describe());
        let stored = self.store_somehow(key, value, given).await?;
        self.leave_marks(key);
        Ok(self.amend(key, old.as_ref()).unwrap_or(stored))
    }

    /// What a sound storage would not refuse.
    fn refuse(&self, key: &Key, given: &StoreOptions, old: Option<&Entry>) -> Result<()> {
        let about = self.inner.describe();
        let damaged = |entry: &Entry| entry.value.checksum() != entry.metadata.checksum;
        let below = format!("{key}/");
        let (kind, message) = match self.bug {
            Some(Bug::FileOrFolder) if self.place.keys().iter().any(|other| other.starts_with(&below)) => {
                (ErrorKind::Internal, "is a directory")
            }
            Some(Bug::TagsOneKib) if given.tags.byte_size() > 1024 => {
                (ErrorKind::InvalidValue, "too many tags")
            }
            Some(Bug::DamageStays) if old.is_some_and(damaged) => {
                (ErrorKind::Corruption, "the old value is damaged")
            }
            Some(Bug::ExpiredBlocks) if given.condition == Condition::IfAbsent && old.is_some() => {
                (ErrorKind::Conflict, "the key is there")
            }
            _ => return Ok(()),
        };
        Err(about.error(kind, "store", message).with_key(key))
    }

    async fn store_somehow(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        match self.bug {
            Some(Bug::LosesValues) => self.inner.describe().next_metadata(key, None, &value, &given),
            Some(Bug::ConflictStores) => self.store_in_spite(key, value, given).await,
            Some(Bug::IfAbsentNotAtomic) if given.condition == Condition::IfAbsent => {
                self.check_then_store(key, value, given).await
            }
            Some(Bug::SwapNotAtomic) if matches!(given.condition, Condition::IfVersion(_)) => {
                self.check_then_store(key, value, given).await
            }
            Some(Bug::TornStore) => self.store_in_halves(key, value, given).await,
            Some(Bug::LateStore) => self.store_late(key, value, given).await,
            Some(Bug::StuckLock) => self.store_locked(key, value, given).await,
            Some(Bug::OneSlot) => self.store_from_slot(key, value, given).await,
            Some(Bug::MetadataApart) => self.store_apart(key, value, given).await,
            Some(Bug::VersionTooEarly) => self.store_early(key, value, given).await,
            Some(Bug::VersionsPerHandle) => {
                self.inner.describe().admit_store(key, &value, &given)?;
                self.store_raw(key, value, &given)
            }
            Some(Bug::NoSizeLimit) => self.store_unless(ErrorKind::TooLarge, key, value, given).await,
            Some(Bug::TagsUnlimited) => self.store_unless(ErrorKind::InvalidValue, key, value, given).await,
            Some(Bug::WritesReadOnly) => self.store_unless(ErrorKind::ReadOnly, key, value, given).await,
            _ => self.inner.store(key, value, given).await,
        }
    }

    /// Stores although a sound storage refuses for this reason.
    async fn store_unless(
        &self,
        refusal: ErrorKind,
        key: &Key,
        value: Value,
        given: StoreOptions,
    ) -> Result<Metadata> {
        match self.inner.store(key, value.clone(), given.clone()).await {
            Err(error) if error.kind() == refusal => self.store_raw(key, value, &given),
            result => result,
        }
    }

    /// Past all limits, with a version that this handle alone knows of.
    pub(super) fn store_raw(&self, key: &Key, value: Value, given: &StoreOptions) -> Result<Metadata> {
        self.inner.describe().admit("store")?;
        let old = self.place.peek(key).map(|entry| entry.metadata);
        let metadata = self.inner.describe().next_metadata(key, old.as_ref(), &value, given)?;
        self.place.poke(key, Entry::new(value, metadata.clone()));
        Ok(metadata)
    }

    async fn store_in_spite(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        let result = self.inner.store(key, value.clone(), given.clone()).await;
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict) {
            self.inner.store(key, value, StoreOptions { condition: Condition::None, ..given }).await?;
        }
        result
    }

    async fn check_then_store(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        let found = self.inner.metadata(key).await?;
        self.inner.describe().check_condition("store", given.condition, key, found.as_ref())?;
        let_others_in().await;
        self.inner.store(key, value, StoreOptions { condition: Condition::None, ..given }).await
    }

    async fn store_in_halves(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        self.inner.describe().admit_store(key, &value, &given)?;
        let found = self.live(key);
        let about = self.inner.describe();
        about.check_condition("store", given.condition, key, found.as_ref().map(|entry| &entry.metadata))?;
        if let (Some(old), Value::Bytes(_)) = (found, &value) {
            let half = Value::Bytes(value.range(0..value.size() / 2));
            self.place.poke(key, Entry::new(half, old.metadata));
            let_others_in().await;
        }
        self.inner.store(key, value, StoreOptions { condition: Condition::None, ..given }).await
    }

    async fn store_late(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        // Large values take longer, so a small one may overtake them.
        let pause = Duration::from_millis(if value.size() > 1000 { 20 } else { 0 });
        let store = async move {
            tokio::time::sleep(pause).await;
            inner.store(&key, value, given).await
        };
        let lost = |_| self.inner.describe().error(ErrorKind::Internal, "store", "the task was lost");
        tokio::spawn(store).await.map_err(lost)?
    }

    async fn store_locked(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        for _ in 0..1000 {
            if !self.busy.swap(true, Ordering::AcqRel) {
                let_others_in().await;
                let result = self.inner.store(key, value, given).await;
                self.busy.store(false, Ordering::Release);
                return result;
            }
            let_others_in().await;
        }
        Err(self.inner.describe().error(ErrorKind::Locked, "store", "another call holds the lock"))
    }

    async fn store_from_slot(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        *self.slot.lock() = Some(value.clone());
        let_others_in().await;
        let slot = self.slot.lock().clone();
        self.inner.store(key, slot.unwrap_or(value), given).await
    }

    async fn store_apart(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        self.inner.describe().admit_store(key, &value, &given)?;
        let found = self.live(key).map(|entry| entry.metadata);
        let metadata = self.inner.describe().next_metadata(key, found.as_ref(), &value, &given)?;
        self.place.poke(key, Entry::new(value, found.unwrap_or_else(|| metadata.clone())));
        self.let_later_ones_pass().await;
        if let Some(entry) = self.place.peek(key) {
            self.place.poke(key, Entry::new(entry.value, metadata.clone()));
        }
        Ok(metadata)
    }

    async fn store_early(&self, key: &Key, value: Value, given: StoreOptions) -> Result<Metadata> {
        self.inner.describe().admit_store(key, &value, &given)?;
        let old = self.place.peek(key).map(|entry| entry.metadata);
        let metadata = self.inner.describe().next_metadata(key, old.as_ref(), &value, &given)?;
        self.let_later_ones_pass().await;
        self.place.poke(key, Entry::new(value, metadata.clone()));
        Ok(metadata)
    }

    /// The later a store has begun, the shorter it waits here.
    async fn let_later_ones_pass(&self) {
        let turn = self.stores.load(Ordering::Acquire) % 64;
        tokio::time::sleep(Duration::from_micros(500 * (64 - turn))).await;
    }

    /// What a bug does beside the store.
    fn leave_marks(&self, key: &Key) {
        let keys = self.place.keys();
        match self.bug {
            Some(Bug::TouchesNeighbours) => {
                if let Some(next) = keys.iter().find(|other| *other > key) {
                    self.rewrite(next, |metadata| metadata.modified_at = self.inner.describe().now());
                    self.rewrite(next, |metadata| {
                        metadata.version = self.inner.describe().next_version(Some(metadata.version));
                    });
                }
            }
            Some(Bug::EvictsUnclaimed) if keys.len() > ROOM => {
                self.place.take(&keys[0]);
            }
            Some(Bug::ListsTempFiles) => {
                self.leftovers.lock().extend(Key::new(format!(".{}.tmp", key.len())));
            }
            _ => {}
        }
    }

    /// What a bug makes of the metadata of a value that was just stored.
    fn amend(&self, key: &Key, old: Option<&Entry>) -> Option<Metadata> {
        // Only these: it is a second step, which concurrent calls could see.
        let amends = [
            Bug::KeepsTheOldKind,
            Bug::WrongSize,
            Bug::WrongChecksum,
            Bug::CreatedReset,
            Bug::CreatedSurvives,
            Bug::ExpiredLends,
            Bug::SystemTime,
            Bug::VersionStandsStill,
            Bug::VersionRestarts,
            Bug::VersionByClock,
            Bug::ChecksumWithoutShape,
        ];
        let bug = self.bug.filter(|bug| amends.contains(bug))?;
        self.rewrite(key, |metadata| {
            options::metadata(bug, metadata, old, self.inner.describe());
            if bug == Bug::CreatedSurvives {
                let deleted = self.past.deleted.lock();
                let before = deleted.iter().find(|(other, _)| other == key);
                metadata.created_at =
                    before.map_or(metadata.created_at, |(_, entry)| entry.metadata.created_at);
            }
            if bug == Bug::ChecksumWithoutShape {
                metadata.checksum = self
                    .place
                    .peek(key)
                    .map_or(metadata.checksum, |entry| persist_core::Checksum::of(&[entry.value.buffer()]));
            }
        })
    }

    pub(super) fn rewrite(&self, key: &Key, change: impl FnOnce(&mut Metadata)) -> Option<Metadata> {
        let mut entry = self.place.peek(key)?;
        change(&mut entry.metadata);
        self.place.poke(key, entry.clone());
        Some(entry.metadata)
    }
}
