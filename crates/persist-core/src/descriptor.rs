use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{
    Capabilities, Checksum, Clock, Condition, ErrorKind, Expiry, Key, Kind, ListOptions, MAX_PAGE, Metadata,
    Operation, Result, SingleFlight, StorageError, StoreItem, StoreOptions, SystemClock, Tags, Timestamp,
    Value, Version, Versions, check_distinct,
};

/// The most that the tags of one value may take, names and texts together, in bytes.
pub const MAX_TAG_BYTES: usize = 2048;

/// What a storage says of itself, and the rules that are the same everywhere: one place for names, limits, time,
/// versions, conditions and the end of life.
#[derive(Debug)]
pub struct Descriptor {
    name: String,
    backend: &'static str,
    capabilities: Capabilities,
    max_value_bytes: u64,
    default_ttl: Option<Duration>,
    clock: Arc<dyn Clock>,
    versions: Versions,
    flights: SingleFlight,
    closed: AtomicBool,
}

impl Descriptor {
    /// A storage called `name`, kept by `backend` (`file`, `cache`, …).
    pub fn new(name: impl Into<String>, backend: &'static str) -> Self {
        Self {
            name: name.into(),
            backend,
            capabilities: Capabilities::NONE,
            max_value_bytes: u64::MAX,
            default_ttl: None,
            clock: Arc::new(SystemClock),
            versions: Versions::default(),
            flights: SingleFlight::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Claims capabilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Refuses values over this many bytes.
    #[must_use]
    pub fn with_max_value_bytes(mut self, bytes: u64) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// Gives values stored without an expiry this lifetime.
    #[must_use]
    pub fn with_default_ttl(mut self, lifetime: Option<Duration>) -> Self {
        self.default_ttl = lifetime;
        self
    }

    /// Takes its time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The name it has in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type it has in the configuration.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// What it promises beyond the contract.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The largest value it accepts, in bytes of the plain buffer.
    pub fn max_value_bytes(&self) -> u64 {
        self.max_value_bytes
    }

    /// The lifetime of values stored without one.
    pub fn default_ttl(&self) -> Option<Duration> {
        self.default_ttl
    }

    /// Its clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The present by its wall clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The turns of `get_or_compute`.
    pub fn flights(&self) -> &SingleFlight {
        &self.flights
    }

    /// Marks it as closed; true the first time.
    pub fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// True once it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// An error of this storage.
    pub fn error(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> StorageError {
        StorageError::new(kind, message).with_operation(operation).with_storage(&self.name)
    }

    /// Lets a reading operation begin.
    ///
    /// # Errors
    /// `Closed` once the storage was closed.
    pub fn admit(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            return Err(self.error(
                ErrorKind::Closed,
                operation,
                "the storage was closed; open it again to use it",
            ));
        }
        Ok(())
    }

    /// Lets a changing operation begin.
    ///
    /// # Errors
    /// `Closed`, or `ReadOnly` if it refuses every change.
    pub fn admit_change(&self, operation: &'static str) -> Result<()> {
        self.admit(operation)?;
        if self.capabilities.read_only {
            return Err(self.error(
                ErrorKind::ReadOnly,
                operation,
                "the storage is open for reading only; open it without read_only to change it",
            ));
        }
        Ok(())
    }

    /// Lets a listing begin, and gives the page limit to use.
    ///
    /// # Errors
    /// `Closed`; `InvalidKey` for a prefix that no key can have; `InvalidValue` for a limit of zero.
    pub fn admit_list(&self, prefix: &str, options: &ListOptions) -> Result<usize> {
        self.admit("list_keys")?;
        let place = |error: StorageError| error.with_operation("list_keys").with_storage(&self.name);
        Key::check_prefix(prefix).map_err(place)?;
        if options.limit == 0 {
            let message = format!("a page of 0 keys was asked for; ask for 1 to {MAX_PAGE}");
            return Err(place(StorageError::new(ErrorKind::InvalidValue, message)));
        }
        Ok(options.limit.min(MAX_PAGE))
    }

    /// Lets a watch begin.
    ///
    /// # Errors
    /// `Closed`; `InvalidKey` for a prefix that no key can have.
    pub fn admit_watch(&self, prefix: &str) -> Result<()> {
        self.admit("watch")?;
        Key::check_prefix(prefix).map_err(|error| error.with_operation("watch").with_storage(&self.name))
    }

    /// Lets a store begin: open, writable, and the value and its tags within the limits.
    ///
    /// # Errors
    /// `Closed`, `ReadOnly`, `TooLarge`, or `InvalidValue` for tags over [`MAX_TAG_BYTES`].
    pub fn admit_store(&self, key: &Key, value: &Value, options: &StoreOptions) -> Result<()> {
        self.admit_change("store")?;
        self.check_size(key, value.size())?;
        self.check_tags(key, &options.tags)
    }

    /// Lets a transaction begin: open, writable, each key named once, and every value and its tags within the limits. Gives the
    /// bytes of its values.
    ///
    /// # Errors
    /// `InvalidKey` for a key named twice; as [`admit_store`](Self::admit_store).
    pub fn admit_transact(&self, operations: &[Operation]) -> Result<u64> {
        self.admit_change("transact")?;
        let place = |error: StorageError| error.with_operation("transact").with_storage(&self.name);
        check_distinct(operations).map_err(place)?;
        let mut bytes = 0;
        for operation in operations {
            if let Operation::Put(StoreItem { key, value, options }) = operation {
                self.admit_store(key, value, options)?;
                bytes += value.size();
            }
        }
        Ok(bytes)
    }

    /// Refuses a value of too many bytes.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn check_size(&self, key: &Key, bytes: u64) -> Result<()> {
        if bytes <= self.max_value_bytes {
            return Ok(());
        }
        let message = format!(
            "the value has {bytes} bytes and the storage accepts {}; raise its limit or split the value",
            self.max_value_bytes
        );
        Err(self.error(ErrorKind::TooLarge, "store", message).with_key(key))
    }

    fn check_tags(&self, key: &Key, tags: &Tags) -> Result<()> {
        let bytes = tags.byte_size();
        if bytes > MAX_TAG_BYTES {
            let message = format!(
                "the tags take {bytes} bytes and may take {MAX_TAG_BYTES}; keep what is larger in the value"
            );
            return Err(self.error(ErrorKind::InvalidValue, "store", message).with_key(key));
        }
        Ok(())
    }

    /// What is stored, if it has not expired.
    pub fn live<'a>(&self, stored: Option<&'a Metadata>) -> Option<&'a Metadata> {
        stored.filter(|metadata| !metadata.is_expired(self.now()))
    }

    /// The metadata of a value about to be stored over `stored` (which may have expired): checks the condition,
    /// keeps `created_at`, resolves the expiry, hashes the value and takes the next version.
    ///
    /// # Errors
    /// `Conflict` if the condition does not hold.
    pub fn next_metadata(
        &self,
        key: &Key,
        stored: Option<&Metadata>,
        value: &Value,
        options: &StoreOptions,
    ) -> Result<Metadata> {
        self.check_condition("store", options.condition, key, stored)?;
        let mut metadata = self.draft_metadata(value, options);
        self.settle_metadata(&mut metadata, stored);
        Ok(metadata)
    }

    /// The part of [`next_metadata`](Self::next_metadata) that does not depend on what is stored, for backends
    /// that hash and write the value before they take the lock.
    pub fn draft_metadata(&self, value: &Value, options: &StoreOptions) -> Metadata {
        self.hashed_metadata(value.kind(), value.size(), value.checksum(), options)
    }

    /// The same for a value that was hashed already.
    pub fn hashed_metadata(
        &self,
        kind: Kind,
        size: u64,
        checksum: Checksum,
        options: &StoreOptions,
    ) -> Metadata {
        let now = self.now();
        Metadata {
            kind,
            size,
            version: self.versions.next(now, None),
            created_at: now,
            modified_at: now,
            expires_at: options.expiry.resolve(now, self.default_ttl),
            checksum,
            tags: options.tags.clone(),
            encodings: options.encodings.clone(),
        }
    }

    /// The other part: keeps the `created_at` of a live value and makes the version greater than the stored one.
    /// Returns true if the draft had to change.
    pub fn settle_metadata(&self, draft: &mut Metadata, stored: Option<&Metadata>) -> bool {
        let before = (draft.version, draft.created_at);
        if let Some(stored) = stored
            && stored.version >= draft.version
        {
            draft.version = self.versions.next(draft.modified_at, Some(stored.version));
        }
        if let Some(live) = self.live(stored) {
            draft.created_at = live.created_at;
        }
        before != (draft.version, draft.created_at)
    }

    /// The metadata after a `touch`: a new expiry and version, all else as it is.
    pub fn touched_metadata(&self, stored: &Metadata, expiry: Expiry) -> Metadata {
        let now = self.now();
        Metadata {
            version: self.versions.next(now, Some(stored.version)),
            modified_at: now,
            expires_at: expiry.resolve(now, self.default_ttl),
            ..stored.clone()
        }
    }

    /// Checks a condition against what is stored (which may have expired).
    ///
    /// # Errors
    /// `Conflict` with the version found.
    pub fn check_condition(
        &self,
        operation: &'static str,
        condition: Condition,
        key: &Key,
        stored: Option<&Metadata>,
    ) -> Result<()> {
        condition
            .check(key, self.live(stored))
            .map_err(|error| error.with_operation(operation).with_storage(&self.name))
    }

    /// Checks a value that was read against its checksum.
    ///
    /// # Errors
    /// `Corruption` naming the key and what to do.
    pub fn check_integrity(
        &self,
        operation: &'static str,
        key: &Key,
        value: &Value,
        metadata: &Metadata,
    ) -> Result<()> {
        let whole = value.kind() == metadata.kind
            && value.size() == metadata.size
            && value.checksum() == metadata.checksum;
        if whole { Ok(()) } else { Err(self.wrong_checksum(operation, key)) }
    }

    /// What is said of a value that does not match its checksum.
    pub fn wrong_checksum(&self, operation: &'static str, key: &Key) -> StorageError {
        let message =
            "the stored value does not match its checksum; restore it from a backup or delete the key";
        self.error(ErrorKind::Corruption, operation, message).with_key(key)
    }

    /// A version greater than every one handed out before and than `previous`.
    pub fn next_version(&self, previous: Option<Version>) -> Version {
        self.versions.next(self.now(), previous)
    }
}
