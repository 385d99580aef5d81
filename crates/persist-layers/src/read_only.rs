use std::sync::Arc;

use async_trait::async_trait;
use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Expiry, Key, Maintenance, Metadata, Operation,
    Outcome, Result, StorageError, StoreItem, StoreOptions, Value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::derived::derived;

/// The settings of [`ReadOnly`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadOnlyConfig {}

/// Refuses every change with `ReadOnly`, whatever the storage below would allow.
#[derive(Debug)]
pub struct ReadOnly {
    inner: Arc<dyn BaseStorage>,
    descriptor: Descriptor,
}

impl ReadOnly {
    /// Lets only reads through to `inner`.
    pub fn new(inner: Arc<dyn BaseStorage>) -> Self {
        let capabilities = Capabilities { read_only: true, ..inner.describe().capabilities() };
        let descriptor = derived(&inner).with_capabilities(capabilities);
        Self { inner, descriptor }
    }

    /// The error for a change.
    fn refuse<T>(&self, operation: &'static str) -> Result<T> {
        // Once it was closed below, that is what counts.
        self.inner.describe().admit(operation)?;
        self.descriptor.admit_change(operation)?;
        let message = "the storage takes no changes";
        Err(self.descriptor.error(persist_core::ErrorKind::ReadOnly, operation, message))
    }

    fn refuse_key<T>(&self, operation: &'static str, key: &Key) -> Result<T> {
        self.refuse(operation).map_err(|error: StorageError| error.with_key(key))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for ReadOnly {
    forward!(inner: retrieve, list_keys, metadata, contains, retrieve_range, retrieve_many, flush, health, stats, verify);
    forward!(inner: snapshot, watch);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, _: Value, _: StoreOptions) -> Result<Metadata> {
        self.refuse_key("store", key)
    }

    async fn delete(&self, key: &Key, _: DeleteOptions) -> Result<bool> {
        self.refuse_key("delete", key)
    }

    async fn touch(&self, key: &Key, _: Expiry) -> Result<Option<Metadata>> {
        self.refuse_key("touch", key)
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        items.iter().map(|item| self.refuse_key("store", &item.key)).collect()
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        keys.iter().map(|key| self.refuse_key("delete", key)).collect()
    }

    async fn transact(&self, _: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.refuse("transact")
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.refuse("maintain")
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner.close().await
    }
}

impl Layer for ReadOnly {
    const NAME: &'static str = "read_only";
    type Config = ReadOnlyConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, _: ReadOnlyConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner)))
    }
}
