use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use persist_backup::Snapshot;
use persist_core::{
    BaseStorage, DeleteOptions, Entry, ErrorKind, Expiry, Failures, Health, IntoKey, Key, ListOptions,
    Maintenance, Metadata, Operation, Outcome, Page, Result, Stats, StorageError, StoreItem, StoreOptions,
    Value, Verification,
};

use crate::backups::Backups;
use crate::nearest::{listed, nearest};
use crate::upkeep::Upkeep;
use crate::{LoadOptions, Plan, Router};

/// The storages of a configuration, by name, by route and by default.
///
/// ```
/// # async fn example() -> persist_core::Result<()> {
/// use persist_core::{StorageExt, StoreOptions, Value};
/// use persist_manager::StorageManager;
///
/// let manager = StorageManager::from_file("config/persist.yaml").await?;
/// manager.store("hello", Value::json(&"world")?, StoreOptions::new()).await?;
/// let greeting: Option<String> = manager.router().get("hello").await?;
/// manager.storage("docs")?.put("notes/1", &["by", "name"]).await?;
/// manager.close().await?;
/// # Ok(()) }
/// ```
///
/// Close it when you are done: closing makes durable what is not yet, in the reverse order of opening, and reports
/// every error. Dropping it only ends its background maintenance
/// and its snapshots.
#[derive(Debug)]
pub struct StorageManager {
    /// In the order of the configuration.
    storages: Vec<Arc<dyn BaseStorage>>,
    /// In the order of opening.
    opened: Vec<Arc<dyn BaseStorage>>,
    default: Arc<dyn BaseStorage>,
    router: Arc<Router>,
    upkeep: Option<Upkeep>,
    backups: Option<Backups>,
}

impl StorageManager {
    /// Opens every storage of a plan, in the order of the configuration, but the members of a composite before it. If one cannot be opened, those opened before
    /// are closed again.
    ///
    /// # Errors
    /// Why a storage cannot be opened; it is named.
    pub async fn open(mut plan: Plan) -> Result<Self> {
        for warning in plan.warnings() {
            tracing::warn!("{warning}");
        }
        let names: Vec<String> = plan.opening_order().map(str::to_owned).collect();
        let mut opened: Vec<Arc<dyn BaseStorage>> = Vec::with_capacity(names.len());
        for name in &names {
            match plan.open_storage(name).await {
                Ok(storage) => opened.push(storage),
                Err(error) => return Err(undo(&opened, error).await),
            }
        }
        match Self::assemble(&plan, &opened) {
            Ok(manager) => Ok(manager),
            Err(error) => Err(undo(&opened, error).await),
        }
    }

    /// Reads a configuration file with the usual [`LoadOptions`] and opens it.
    ///
    /// # Errors
    /// As [`Plan::from_file`] and [`open`](Self::open).
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(Plan::from_file(path, &LoadOptions::new())?).await
    }

    /// Reads a configuration with the usual [`LoadOptions`] and opens it; relative paths start at the working folder.
    ///
    /// # Errors
    /// As [`Plan::from_yaml`] and [`open`](Self::open).
    pub async fn from_yaml(text: &str) -> Result<Self> {
        Self::open(Plan::from_yaml(text, &LoadOptions::new())?).await
    }

    fn assemble(plan: &Plan, opened: &[Arc<dyn BaseStorage>]) -> Result<Self> {
        let named = |name: &str| find(opened, name);
        let storages = plan.names().map(named).collect::<Result<Vec<_>>>()?;
        let default = named(plan.default_storage())?;
        let mut routes = Vec::new();
        for (prefix, name) in plan.routes() {
            routes.push((prefix.to_owned(), named(name)?));
        }
        let router = Arc::new(Router::new("router", Arc::clone(&default), routes)?);
        let upkeep = plan.maintenance_interval().map(|interval| Upkeep::start(interval, storages.clone()));
        let backups = plan.backup().map(|backup| {
            let copied: Result<Vec<_>> = match &backup.storages {
                Some(names) => names.iter().map(|name| named(name)).collect(),
                None => Ok(plan
                    .storages
                    .iter()
                    .zip(&storages)
                    // The members of a composite are copied, and so are its values.
                    .filter(|(planned, storage)| !planned.composite && survives(storage))
                    .map(|(_, storage)| Arc::clone(storage))
                    .collect()),
            };
            Backups::start(backup.clone(), plan.vault(), copied?)
        });
        let (upkeep, backups) = (upkeep.transpose()?, backups.transpose()?);
        Ok(Self { storages, opened: opened.to_vec(), default, router, upkeep, backups })
    }

    /// The names of the storages in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.storages().map(|storage| storage.describe().name())
    }

    /// The storages in the order of the configuration.
    pub fn storages(&self) -> impl DoubleEndedIterator<Item = &Arc<dyn BaseStorage>> {
        self.storages.iter()
    }

    /// A storage by name.
    ///
    /// # Errors
    /// `NotFound` with the nearest name and all names that there are.
    pub fn storage(&self, name: &str) -> Result<Arc<dyn BaseStorage>> {
        find(&self.storages, name)
    }

    /// The storage that takes what no route claims.
    pub fn default_storage(&self) -> Arc<dyn BaseStorage> {
        Arc::clone(&self.default)
    }

    /// The storage that a key belongs to.
    pub fn route(&self, key: &Key) -> Arc<dyn BaseStorage> {
        Arc::clone(self.router.route(key))
    }

    /// The routes and the default as one storage. Closing that closes the storages it leads to.
    pub fn router(&self) -> Arc<dyn BaseStorage> {
        Arc::clone(&self.router) as Arc<dyn BaseStorage>
    }

    /// As [`BaseStorage::store`] of the storage that the key belongs to.
    ///
    /// # Errors
    /// As there; `InvalidKey`.
    pub async fn store(&self, key: impl IntoKey, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.router.store(&key.into_key()?, value, options).await
    }

    /// As [`BaseStorage::retrieve`] of the storage that the key belongs to.
    ///
    /// # Errors
    /// As there; `InvalidKey`.
    pub async fn retrieve(&self, key: impl IntoKey) -> Result<Option<Entry>> {
        self.router.retrieve(&key.into_key()?).await
    }

    /// As [`BaseStorage::delete`] of the storage that the key belongs to.
    ///
    /// # Errors
    /// As there; `InvalidKey`.
    pub async fn delete(&self, key: impl IntoKey, options: DeleteOptions) -> Result<bool> {
        self.router.delete(&key.into_key()?, options).await
    }

    /// As [`BaseStorage::list_keys`], over all storages that keys with this prefix belong to, in byte order.
    ///
    /// # Errors
    /// As there.
    pub async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.router.list_keys(prefix, options).await
    }

    /// As [`BaseStorage::metadata`] of the storage that the key belongs to.
    ///
    /// # Errors
    /// As there; `InvalidKey`.
    pub async fn metadata(&self, key: impl IntoKey) -> Result<Option<Metadata>> {
        self.router.metadata(&key.into_key()?).await
    }

    /// As [`BaseStorage::contains`] of the storage that the key belongs to.
    ///
    /// # Errors
    /// As there; `InvalidKey`.
    pub async fn contains(&self, key: impl IntoKey) -> Result<bool> {
        self.router.contains(&key.into_key()?).await
    }

    /// As [`BaseStorage::touch`] of the storage that the key belongs to.
    ///
    /// # Errors
    /// As there; `InvalidKey`.
    pub async fn touch(&self, key: impl IntoKey, expiry: Expiry) -> Result<Option<Metadata>> {
        self.router.touch(&key.into_key()?, expiry).await
    }

    /// As [`BaseStorage::store_many`], each in the storage that its key belongs to.
    pub async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        self.router.store_many(items).await
    }

    /// As [`BaseStorage::retrieve_many`], each from the storage that its key belongs to.
    pub async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        self.router.retrieve_many(keys).await
    }

    /// As [`BaseStorage::delete_many`], each in the storage that its key belongs to.
    pub async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        self.router.delete_many(keys).await
    }

    /// As [`BaseStorage::transact`] of the one storage that all keys belong to.
    ///
    /// # Errors
    /// As there; `Unsupported` if the keys belong to several storages.
    pub async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.router.transact(operations).await
    }

    /// As [`BaseStorage::store`] of the named storage, whatever the routes say.
    ///
    /// # Errors
    /// As there; `NotFound` for an unknown name, `InvalidKey`.
    pub async fn store_in(
        &self,
        name: &str,
        key: impl IntoKey,
        value: Value,
        options: StoreOptions,
    ) -> Result<Metadata> {
        self.storage(name)?.store(&key.into_key()?, value, options).await
    }

    /// As [`BaseStorage::retrieve`] of the named storage, whatever the routes say.
    ///
    /// # Errors
    /// As there; `NotFound` for an unknown name, `InvalidKey`.
    pub async fn retrieve_from(&self, name: &str, key: impl IntoKey) -> Result<Option<Entry>> {
        self.storage(name)?.retrieve(&key.into_key()?).await
    }

    /// As [`BaseStorage::delete`] of the named storage, whatever the routes say.
    ///
    /// # Errors
    /// As there; `NotFound` for an unknown name, `InvalidKey`.
    pub async fn delete_from(&self, name: &str, key: impl IntoKey, options: DeleteOptions) -> Result<bool> {
        self.storage(name)?.delete(&key.into_key()?, options).await
    }

    /// As [`BaseStorage::list_keys`] of the named storage, whatever the routes say.
    ///
    /// # Errors
    /// As there; `NotFound` for an unknown name.
    pub async fn list_keys_in(&self, name: &str, prefix: &str, options: ListOptions) -> Result<Page> {
        self.storage(name)?.list_keys(prefix, options).await
    }

    /// How well each storage is, by name. One whose last snapshot failed is degraded.
    pub async fn health(&self) -> BTreeMap<String, Health> {
        let mut answers = self.ask(|storage| storage.health()).await;
        if let Some(backups) = &self.backups {
            answers.iter_mut().for_each(|(name, health)| backups.judge(name, health));
        }
        answers
    }

    /// The figures of each storage, by name; one that cannot tell does not hide the others. With a section `backup` those
    /// that it copies also count `backups_taken` and `backups_failed` (since they were opened), and say when the last one
    /// was taken: `backup_last_at`, in milliseconds since 1970.
    pub async fn stats(&self) -> BTreeMap<String, Result<Stats>> {
        let mut answers = self.ask(|storage| storage.stats()).await;
        if let Some(backups) = &self.backups {
            let told = answers.iter_mut().filter_map(|(name, stats)| Some((name, stats.as_mut().ok()?)));
            told.for_each(|(name, stats)| backups.count(name, stats));
        }
        answers
    }

    /// Takes a snapshot of a storage now, into the folder of the section `backup`, and removes those that are not to be
    /// kept. It is complete and on the disk when this returns.
    ///
    /// # Errors
    /// `InvalidConfig` without that section, or if it does not name the storage; why no snapshot can be taken.
    pub async fn backup(&self, name: &str) -> Result<Snapshot> {
        match &self.backups {
            Some(backups) => backups.take(name).await,
            None => {
                let message = "the configuration has no section `backup`; add one, or use a `Vault`";
                Err(StorageError::new(ErrorKind::InvalidConfig, message).with_storage(name))
            }
        }
    }

    /// Tidies up every storage, and says what each did, by name.
    pub async fn maintain(&self) -> BTreeMap<String, Result<Maintenance>> {
        self.ask(|storage| storage.maintain()).await
    }

    /// Reads every value of every storage back and checks it, by name.
    pub async fn verify(&self) -> BTreeMap<String, Result<Verification>> {
        self.ask(|storage| storage.verify()).await
    }

    /// Returns when every change acknowledged before is as durable as its storage promises. All are tried.
    ///
    /// # Errors
    /// Every error: one as it is, several in one message.
    pub async fn flush(&self) -> Result<()> {
        Failures::collect(self.ask(|storage| storage.flush()).await.into_values()).into_result()
    }

    /// Ends the maintenance and the snapshots and closes every storage, the last opened first. All are tried. Closing twice is no error.
    ///
    /// # Errors
    /// Every error: one as it is, several in one message.
    pub async fn close(&self) -> Result<()> {
        if let Some(upkeep) = &self.upkeep {
            upkeep.stop().await;
        }
        if let Some(backups) = &self.backups {
            backups.stop().await;
        }
        self.router.describe().close();
        let mut failures = Failures::default();
        for storage in self.opened.iter().rev() {
            failures.note(storage.close().await);
        }
        failures.into_result()
    }

    async fn ask<'a, T, F>(&'a self, question: impl Fn(&'a dyn BaseStorage) -> F) -> BTreeMap<String, T>
    where
        F: Future<Output = T> + 'a,
    {
        let answers = join_all(self.storages().map(|storage| question(storage.as_ref()))).await;
        self.names().map(str::to_owned).zip(answers).collect()
    }
}

fn find(storages: &[Arc<dyn BaseStorage>], name: &str) -> Result<Arc<dyn BaseStorage>> {
    let found = storages.iter().find(|storage| storage.describe().name() == name);
    found
        .cloned()
        .ok_or_else(|| unknown_storage(name, storages.iter().map(|storage| storage.describe().name())))
}

/// The error for a storage that nobody configured.
pub(crate) fn unknown_storage<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> StorageError {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = nearest(name, known.iter().copied())
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let message = format!(
        "no storage named {} is configured{hint} (there are: {})",
        persist_core::escape(name),
        listed(known)
    );
    StorageError::new(ErrorKind::NotFound, message)
}

/// Whether there is something in a storage that is worth a copy.
fn survives(storage: &Arc<dyn BaseStorage>) -> bool {
    storage.describe().capabilities().durable
}

/// Closes what was opened before an error, and gives that error with what the closing met.
async fn undo(opened: &[Arc<dyn BaseStorage>], error: StorageError) -> StorageError {
    for storage in opened.iter().rev() {
        if let Err(failure) = storage.close().await {
            tracing::warn!(storage = storage.describe().name(), error = %failure, "closing it again failed");
        }
    }
    error
}
