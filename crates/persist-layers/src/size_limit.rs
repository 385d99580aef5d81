use std::sync::Arc;

use async_trait::async_trait;
use persist_core::{
    BaseStorage, ByteSize, Descriptor, Key, Metadata, Operation, Outcome, Result, StoreItem, StoreOptions,
    Value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::batch::{merge, split};
use crate::derived::derived;

/// The settings of [`SizeLimit`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeLimitConfig {
    /// The largest value, in bytes of its plain buffer.
    pub max_value: ByteSize,
}

impl SizeLimitConfig {
    /// Values of at most this many bytes.
    pub fn new(bytes: u64) -> Self {
        Self { max_value: ByteSize(bytes) }
    }
}

/// Refuses values over a size with `TooLarge` before they reach the storage.
#[derive(Debug)]
pub struct SizeLimit {
    inner: Arc<dyn BaseStorage>,
    descriptor: Descriptor,
}

impl SizeLimit {
    /// Refuses larger values than the settings allow; those that `inner` refuses stay refused.
    pub fn new(inner: Arc<dyn BaseStorage>, config: &SizeLimitConfig) -> Self {
        let limit = config.max_value.0.min(inner.describe().max_value_bytes());
        let descriptor = derived(&inner).with_max_value_bytes(limit);
        Self { inner, descriptor }
    }

    fn admit(&self, key: &Key, value: &Value) -> Result<()> {
        if value.size() <= self.descriptor.max_value_bytes() {
            return Ok(());
        }
        self.inner.describe().admit_change("store")?;
        self.descriptor.admit_store(key, value, &StoreOptions::new())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for SizeLimit {
    forward!(inner: retrieve, delete, list_keys, metadata, contains, touch, retrieve_range, retrieve_many, delete_many);
    forward!(inner: flush, health, stats, maintain, verify, snapshot, watch);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.admit(key, &value)?;
        self.inner.store(key, value, options).await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let admitted = items.into_iter().map(|item| self.admit(&item.key, &item.value).map(|()| item));
        let (passed, refused) = split(admitted);
        merge(refused, self.inner.store_many(passed).await)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        for operation in &operations {
            if let Operation::Put(item) = operation {
                self.admit(&item.key, &item.value)?;
            }
        }
        self.inner.transact(operations).await
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner.close().await
    }
}

impl Layer for SizeLimit {
    const NAME: &'static str = "size_limit";
    type Config = SizeLimitConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, config: SizeLimitConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, &config)))
    }
}
