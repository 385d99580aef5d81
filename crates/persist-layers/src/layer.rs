use std::fmt::Debug;
use std::sync::Arc;

use persist_core::{BaseStorage, OpenContext, Result, async_trait};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A layer that a configuration can name under `layers:`.
#[async_trait]
pub trait Layer: Send + Sync + 'static {
    /// What it is called there.
    const NAME: &'static str;

    /// True if the layer stores keys under other names than it is asked for. A snapshot then holds the names it is asked
    /// for, and a restore goes through the layer. Every other layer lets the snapshot of what lies below it pass, so that a
    /// copy holds exactly what is stored, encoded and encrypted as it is.
    const RENAMES_KEYS: bool = false;

    /// Its settings. They must refuse unknown keys (`#[serde(deny_unknown_fields)]`).
    type Config: DeserializeOwned + Serialize + JsonSchema + Debug + Send + 'static;

    /// Checks what the types of the settings cannot.
    ///
    /// # Errors
    /// What is wrong, in words, with the cure.
    fn check(config: &Self::Config) -> Result<(), String> {
        let _ = config;
        Ok(())
    }

    /// Puts the layer over a storage.
    ///
    /// # Errors
    /// `InvalidConfig` if it cannot stand over this storage.
    fn wrap(inner: Arc<dyn BaseStorage>, config: Self::Config) -> Result<Arc<dyn BaseStorage>>;

    /// Puts the layer over a storage where that takes time, or files of its own: what a configuration does. Others are
    /// wrapped.
    ///
    /// # Errors
    /// As [`wrap`](Self::wrap), and what it meets on its way.
    async fn open(
        inner: Arc<dyn BaseStorage>,
        config: Self::Config,
        context: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>> {
        let _ = context;
        Self::wrap(inner, config)
    }
}
