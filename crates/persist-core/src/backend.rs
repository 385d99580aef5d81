use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{BaseStorage, Clock, Restored, Result, SnapshotSource, SystemClock, restore_entries};

/// How a section of the configuration becomes a storage. A manager keeps a registry of these, and a program adds its
/// own with one call.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What stands after `type:`.
    const TYPE: &'static str;

    /// Other words for it.
    const ALIASES: &'static [&'static str] = &[];

    /// Its section without `type`; refuses unknown keys (`#[serde(deny_unknown_fields)]`).
    type Config: DeserializeOwned + Serialize + JsonSchema + Debug + Send + 'static;

    /// Checks what the types of the section cannot say; nothing is opened.
    ///
    /// # Errors
    /// What is wrong, in words, and what to write instead.
    fn check(config: &Self::Config) -> Result<(), String> {
        let _ = config;
        Ok(())
    }

    /// Opens the storage.
    ///
    /// # Errors
    /// Why it cannot be opened.
    async fn open(name: &str, config: Self::Config, context: &OpenContext) -> Result<Arc<dyn BaseStorage>>;

    /// Replaces everything in a storage, which nobody has open, by what a snapshot holds. The snapshot has been verified;
    /// if it is in files, a storage of this type wrote them.
    ///
    /// The default opens the storage and restores key by key ([`restore_entries`]). A backend that can do better builds
    /// the new storage beside the old one, verifies it, and exchanges the two in one step.
    ///
    /// # Errors
    /// `Locked` if somebody has the storage open and that matters; why it cannot be restored.
    async fn restore(
        name: &str,
        config: Self::Config,
        context: &OpenContext,
        source: &mut dyn SnapshotSource,
    ) -> Result<Restored> {
        let storage = Self::open(name, config, context).await?;
        let restored = restore_entries(storage.as_ref(), source).await;
        let closed = storage.close().await;
        restored.and_then(|restored| closed.map(|()| restored))
    }

    /// Opens the files that a storage of this type wrote into a snapshot, for reading alone; `None` for a type that
    /// writes none.
    ///
    /// # Errors
    /// Why they cannot be opened.
    async fn open_snapshot(
        name: &str,
        source: &dyn SnapshotSource,
        context: &OpenContext,
    ) -> Result<Option<Arc<dyn BaseStorage>>> {
        let _ = (name, source, context);
        Ok(None)
    }
}

/// What a backend is opened with beside its own section.
#[derive(Clone, Debug)]
pub struct OpenContext {
    /// Where relative paths start: the folder of the configuration file or the working folder.
    pub base: PathBuf,
    /// Open everything for reading only, also where the section does not say so.
    pub read_only: bool,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl OpenContext {
    /// Relative paths start at `base`; time comes from the system.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), read_only: false, clock: Arc::new(SystemClock) }
    }

    /// A path of the configuration, made absolute or relative to the working folder.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
}

impl Default for OpenContext {
    fn default() -> Self {
        Self::new("")
    }
}
