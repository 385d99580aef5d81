use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use persist_core::{Array, BaseStorage, ByteSize, HumanDuration, Key, ManualClock, Result, SnapshotSource};

/// A way of opening a storage other than the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Values stored without an expiry live this long.
    DefaultTtl(Duration),
    /// Values over this many bytes are refused.
    MaxValueBytes(u64),
    /// Every change is refused.
    ReadOnly,
    /// For a storage that evicts: there is room for about a hundred values of 1 KiB, no more.
    Small,
}

impl Variant {
    /// Puts it into the settings that most storages have; false for what they do not cover.
    pub fn settle(
        self,
        ttl: &mut Option<HumanDuration>,
        max_value: &mut ByteSize,
        read_only: &mut bool,
    ) -> bool {
        match self {
            Self::DefaultTtl(lifetime) => *ttl = Some(HumanDuration(lifetime)),
            Self::MaxValueBytes(bytes) => *max_value = ByteSize(bytes),
            Self::ReadOnly => *read_only = true,
            Self::Small => return false,
        }
        true
    }
}

/// One place where a storage of the kind under test lives, and what a test may do to it.
///
/// The suite makes a new harness for every clause, so a place begins empty and is nobody else's. Only
/// [`open`](Self::open) is required; a clause that needs more is skipped with a reason where it is not provided. The
/// usual storage has no default lifetime and accepts values of 16 MiB, or says in its descriptor what it accepts.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Opens the storage on this place: the first time an empty one, later (after a close, or after every handle was
    /// dropped) what is left there.
    ///
    /// # Errors
    /// Why it cannot be opened; the clause fails.
    async fn open(&self) -> Result<Arc<dyn BaseStorage>>;

    /// Opens this place in another way, while no other handle is open; `None` if the kind of storage cannot do that.
    ///
    /// # Errors
    /// Why it cannot be opened; the clause fails.
    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let _ = variant;
        Ok(None)
    }

    /// Opens this place once more while the first handle is open, with nothing shared in memory between the two, as
    /// another process would; `None` if a second handle makes no sense here.
    ///
    /// # Errors
    /// `Locked` where only one process may have it open.
    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        Ok(None)
    }

    /// The clock of the storage, if the storage takes its time from one that the test can move.
    fn clock(&self) -> Option<Arc<ManualClock>> {
        None
    }

    /// A lifetime that a test can wait out with [`advance`](Self::advance), and in which it can comfortably make a few
    /// dozen calls.
    fn tick(&self) -> Duration {
        if self.clock().is_some() { Duration::from_secs(60) } else { Duration::from_secs(1) }
    }

    /// How long the event of a watch may take: a storage that looks for changes again and again needs a moment.
    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }

    /// Lets time pass: moves the clock, or waits.
    async fn advance(&self, by: Duration) {
        match self.clock() {
            Some(clock) => clock.advance(by),
            None => tokio::time::sleep(by).await,
        }
    }

    /// Makes the open storage unable to work (its folder is gone, its server is down) until [`mend`](Self::mend);
    /// false if that cannot be done.
    async fn break_down(&self) -> bool {
        false
    }

    /// Undoes [`break_down`](Self::break_down); false if that cannot be done. The storage may be opened anew then.
    async fn mend(&self) -> bool {
        false
    }

    /// Damages the stored value of a key behind the storage's back (flips a bit of it where it lies); false if that
    /// cannot be done.
    async fn corrupt(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// Reads an array by other means than persist; `None` if that cannot be done here.
    ///
    /// # Errors
    /// What those means say; the clause fails.
    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        let _ = key;
        Ok(None)
    }

    /// Opens what the storage wrote into a snapshot in files of its own form; `None` if it writes none.
    ///
    /// # Errors
    /// Why it cannot be opened; the clause fails.
    async fn open_snapshot(&self, snapshot: &dyn SnapshotSource) -> Result<Option<Arc<dyn BaseStorage>>> {
        let _ = snapshot;
        Ok(None)
    }

    /// Why a clause does not apply to this kind of storage, in words that stand in the output; `None`: it applies.
    fn skips(&self, clause: &str) -> Option<&'static str> {
        let _ = clause;
        None
    }
}

/// The storages of another harness under a layer, or otherwise wrapped: what a layer runs the suite with.
///
/// ```
/// use std::sync::Arc;
///
/// use persist_testkit::Wrapped;
/// use persist_testkit::fault::FaultStorage;
/// use persist_testkit::memory::MemoryHarness;
///
/// let harness = Wrapped::new(MemoryHarness::new(), |storage| Arc::new(FaultStorage::new(storage)));
/// # let _: &dyn persist_testkit::Harness = &harness;
/// ```
#[derive(Debug)]
pub struct Wrapped<H, F> {
    inner: H,
    wrap: F,
}

impl<H, F> Wrapped<H, F>
where
    H: Harness,
    F: Fn(Arc<dyn BaseStorage>) -> Arc<dyn BaseStorage> + Send + Sync + 'static,
{
    /// Every storage that `inner` opens goes through `wrap`.
    pub fn new(inner: H, wrap: F) -> Self {
        Self { inner, wrap }
    }
}

#[async_trait]
impl<H, F> Harness for Wrapped<H, F>
where
    H: Harness,
    F: Fn(Arc<dyn BaseStorage>) -> Arc<dyn BaseStorage> + Send + Sync + 'static,
{
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.inner.open().await.map(&self.wrap)
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        Ok(self.inner.open_variant(variant).await?.map(&self.wrap))
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        Ok(self.inner.open_another().await?.map(&self.wrap))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        self.inner.clock()
    }

    fn tick(&self) -> Duration {
        self.inner.tick()
    }

    fn patience(&self) -> Duration {
        self.inner.patience()
    }

    async fn advance(&self, by: Duration) {
        self.inner.advance(by).await;
    }

    async fn break_down(&self) -> bool {
        self.inner.break_down().await
    }

    async fn mend(&self) -> bool {
        self.inner.mend().await
    }

    async fn corrupt(&self, key: &Key) -> bool {
        self.inner.corrupt(key).await
    }

    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        self.inner.foreign_array(key).await
    }

    async fn open_snapshot(&self, snapshot: &dyn SnapshotSource) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.inner.open_snapshot(snapshot).await
    }

    fn skips(&self, clause: &str) -> Option<&'static str> {
        self.inner.skips(clause)
    }
}
