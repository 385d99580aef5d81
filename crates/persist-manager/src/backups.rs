use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use persist_backup::{Snapshot, Vault};
use persist_core::{BaseStorage, ErrorKind, Health, HealthStatus, Result, Stats, StorageError, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::BackupPlan;

/// A failed snapshot is tried again after this time, or when the next one is due if that is sooner.
const RETRY: Duration = Duration::from_secs(300);

/// How long to wait at most before looking again whether one is due: the wall clock may jump, and the machine sleep.
const LOOK: Duration = Duration::from_secs(600);

/// Takes snapshots of some storages when they are due, and removes old ones.
#[derive(Debug)]
pub(crate) struct Backups {
    shared: Arc<Shared>,
    /// Dropping it ends the task, and what it is doing.
    stop: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    plan: BackupPlan,
    vault: Vault,
    storages: Vec<Arc<dyn BaseStorage>>,
    records: Mutex<BTreeMap<String, Record>>,
}

/// How the snapshots of a storage went since it was opened.
#[derive(Clone, Debug, Default)]
struct Record {
    taken: u64,
    failed: u64,
    /// When the last one was taken.
    last: Option<Timestamp>,
    /// Why the last attempt failed, and when the next one is made at the earliest.
    failure: Option<(String, Instant)>,
}

impl Backups {
    /// Starts to take snapshots, unless that is turned off.
    ///
    /// # Errors
    /// `Unsupported` outside of a tokio runtime.
    pub(crate) fn start(plan: BackupPlan, vault: Vault, storages: Vec<Arc<dyn BaseStorage>>) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let enabled = plan.enabled;
        let shared = Arc::new(Shared { plan, vault, storages, records: Mutex::default() });
        let task = match Handle::try_current() {
            _ if !enabled => None,
            Ok(runtime) => Some(runtime.spawn(work(Arc::clone(&shared), stopped))),
            Err(_) => {
                let message =
                    "`backup` needs a tokio runtime; open the storages in one, or set enabled to false";
                return Err(StorageError::new(ErrorKind::Unsupported, message));
            }
        };
        Ok(Self { shared, stop, task: tokio::sync::Mutex::new(task) })
    }

    /// Takes a snapshot now.
    ///
    /// # Errors
    /// `InvalidConfig` if the section does not name the storage; why it cannot be taken.
    pub(crate) async fn take(&self, name: &str) -> Result<Snapshot> {
        let found = self.shared.storages.iter().find(|storage| storage.describe().name() == name);
        let Some(storage) = found else {
            let message = "the section `backup` does not name this storage; add it to `backup.storages`";
            return Err(StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name));
        };
        self.shared.take(storage.as_ref()).await
    }

    /// What a storage says of itself, and whether its last snapshot failed.
    pub(crate) fn judge(&self, name: &str, health: &mut Health) {
        let failure = self.shared.record(name).failure;
        if let (HealthStatus::Healthy, Some((why, _))) = (health.status, failure) {
            health.status = HealthStatus::Degraded;
            health.detail = format!("it works, but its last backup failed: {why}");
        }
    }

    /// Adds figures: `backups_taken` and `backups_failed` since it was opened, `backup_last_at` (milliseconds since 1970).
    pub(crate) fn count(&self, name: &str, stats: &mut Stats) {
        if !self.shared.storages.iter().any(|storage| storage.describe().name() == name) {
            return;
        }
        let record = self.shared.record(name);
        stats.counters.extend([("backups_taken", record.taken), ("backups_failed", record.failed)]);
        let last = record.last.and_then(|at| u64::try_from(at.as_millis()).ok());
        stats.counters.extend(last.map(|at| ("backup_last_at", at)));
    }

    /// Ends the task. A snapshot that is being taken is given up, and nothing of it stays.
    pub(crate) async fn stop(&self) {
        // The task may have ended already; then nobody listens, which is what was wanted.
        let _ = self.stop.send(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(failure) = task.await
        {
            tracing::error!(%failure, "the task that takes snapshots ended abnormally");
        }
    }
}

async fn work(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    // Whether told to stop or left alone by a dropped manager: the wait ends.
    while tokio::time::timeout(pause, stopped.changed()).await.is_err() {
        pause = tokio::select! {
            _ = stopped.changed() => return,
            pause = shared.round() => pause,
        };
    }
}

impl Shared {
    /// Takes every snapshot that is due; says how long there is nothing more to do.
    async fn round(&self) -> Duration {
        let mut pause = LOOK;
        for storage in &self.storages {
            let mut wait = self.due_in(storage.as_ref()).await;
            if wait.is_zero() {
                wait = match self.take(storage.as_ref()).await {
                    Ok(_) => self.plan.schedule.0,
                    Err(_) => self.retry(),
                };
            }
            pause = pause.min(wait);
        }
        // A wait that ends a moment early must not make a busy loop.
        pause.max(Duration::from_millis(10))
    }

    fn retry(&self) -> Duration {
        RETRY.min(self.plan.schedule.0)
    }

    /// How long until the next snapshot: the one that lies there decides, whoever took it. One of the future tells of a
    /// wrong clock and decides nothing.
    async fn due_in(&self, storage: &dyn BaseStorage) -> Duration {
        let name = storage.describe().name();
        if let Some((_, again)) = self.record(name).failure {
            return again.saturating_duration_since(Instant::now());
        }
        let now = storage.describe().now();
        let listed = match self.vault.list(name).await {
            Ok((snapshots, _)) => snapshots,
            Err(error) => {
                self.failed(name, &error, self.retry());
                return self.retry();
            }
        };
        let times = listed.iter().map(|snapshot| snapshot.manifest().created_at);
        let last = times.filter(|at| *at <= now).max();
        last.map_or(Duration::ZERO, |last| self.plan.schedule.0.saturating_sub(now.saturating_since(last)))
    }

    /// Takes a snapshot, then removes those that are not to be kept.
    async fn take(&self, storage: &dyn BaseStorage) -> Result<Snapshot> {
        let name = storage.describe().name();
        let taken = self.vault.take(storage).await;
        let snapshot = taken.inspect_err(|error| self.failed(name, error, self.retry()))?;
        tracing::info!(storage = name, snapshot = snapshot.name(), "backed up");
        self.taken(name, &snapshot);
        let (retention, now) = (self.plan.retention.retention(), storage.describe().now());
        match self.vault.prune(name, &retention, now).await {
            Ok(pruned) => pruned.notes.iter().for_each(|note| tracing::warn!(storage = name, "{note}")),
            // There is a new one all the same: the next comes when it is due.
            Err(error) => self.failed(name, &error, self.plan.schedule.0),
        }
        Ok(snapshot)
    }

    fn taken(&self, name: &str, snapshot: &Snapshot) {
        let mut records = self.records.lock();
        let record = records.entry(name.to_owned()).or_default();
        record.taken += 1;
        record.last = Some(snapshot.manifest().created_at);
        record.failure = None;
    }

    fn failed(&self, name: &str, error: &StorageError, again: Duration) {
        tracing::error!(storage = name, %error, "a backup failed");
        let mut records = self.records.lock();
        let record = records.entry(name.to_owned()).or_default();
        record.failed += 1;
        record.failure = Some((error.to_string(), Instant::now() + again));
    }

    fn record(&self, name: &str) -> Record {
        self.records.lock().get(name).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use persist_backup::Retention;
    use persist_core::{ManualClock, StorageExt};
    use persist_testkit::memory::{MemoryPlace, MemoryStorage};
    use tempfile::TempDir;

    use super::*;
    use crate::{Keep, Schedule};

    const HOUR: Duration = Duration::from_secs(3600);

    struct Scene {
        place: TempDir,
        memory: MemoryPlace,
        clock: Arc<ManualClock>,
        storage: Arc<MemoryStorage>,
    }

    impl Scene {
        async fn new() -> Self {
            let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
            let memory = MemoryPlace::new();
            let storage = Arc::new(MemoryStorage::builder("main").clock(clock.clone()).open(&memory));
            storage.put("k", &1).await.unwrap();
            Self { place: TempDir::new().unwrap(), memory, clock, storage }
        }

        /// As after a start of the program: nothing is remembered.
        fn shared(&self) -> Shared {
            let retention = Keep { count: Some(3), age: None };
            let plan = BackupPlan { schedule: Schedule(24 * HOUR), retention, ..BackupPlan::default() };
            let vault = Vault::new(self.place.path());
            let storages = vec![Arc::clone(&self.storage) as Arc<dyn BaseStorage>];
            Shared { plan, vault, storages, records: Mutex::default() }
        }

        async fn count(&self) -> usize {
            self.shared().vault.list("main").await.unwrap().0.len()
        }
    }

    #[tokio::test]
    async fn the_last_snapshot_decides_when_the_next_is_due_also_after_a_restart() {
        let scene = Scene::new().await;
        assert_eq!(scene.shared().due_in(scene.storage.as_ref()).await, Duration::ZERO);
        scene.shared().round().await;
        assert_eq!(scene.count().await, 1);
        scene.clock.advance(10 * HOUR);
        assert_eq!(scene.shared().due_in(scene.storage.as_ref()).await, 14 * HOUR);
        assert_eq!(scene.shared().round().await, LOOK);
        assert_eq!(scene.count().await, 1);
        // The program was not running when it was due.
        scene.clock.advance(100 * HOUR);
        scene.shared().round().await;
        assert_eq!(scene.count().await, 2);
    }

    #[tokio::test]
    async fn the_old_go_and_a_snapshot_of_the_future_decides_nothing() {
        let scene = Scene::new().await;
        for _ in 0..5 {
            scene.shared().round().await;
            scene.clock.advance(25 * HOUR);
        }
        assert_eq!(scene.count().await, 3);
        scene.clock.set_wall(Timestamp::from_millis(1_000_000_000_000));
        scene.shared().round().await;
        assert_eq!(scene.count().await, 4, "there is one more, and nothing is removed by a wrong clock");
        assert_eq!(scene.shared().due_in(scene.storage.as_ref()).await, 24 * HOUR);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_tried_again_later() {
        let scene = Scene::new().await;
        let shared = scene.shared();
        assert!(scene.memory.corrupt(&persist_core::Key::new("k").unwrap()));
        assert_eq!(shared.round().await, RETRY);
        assert!(shared.due_in(scene.storage.as_ref()).await > Duration::ZERO, "not at once");
        let record = shared.record("main");
        assert_eq!((record.taken, record.failed), (0, 1));
        assert!(record.failure.unwrap().0.contains("\"k\""));
        scene.storage.put("k", &2).await.unwrap();
        let snapshot = shared.take(scene.storage.as_ref()).await.unwrap();
        let record = shared.record("main");
        assert_eq!((record.taken, record.failed, record.failure.is_none()), (1, 1, true));
        assert_eq!(record.last, Some(snapshot.manifest().created_at));
        assert_eq!(shared.plan.retention.retention(), Retention::count(3));
    }
}
