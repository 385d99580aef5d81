use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, Capabilities, Descriptor, Entry, Key, Result, SnapshotSink, SnapshotSummary,
};
use persist_core::{Verification, verify_values};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::derived::derived;

/// The settings of [`Verify`].
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// Read the whole value for a range of it, and check that. Otherwise a range is as the storage below gives it.
    pub ranges: bool,
}

/// Checks every value against the checksum in its metadata once it has come through all layers below: what was stored is
/// what the program gets, whatever decoded it on its way.
#[derive(Debug)]
pub struct Verify {
    inner: Arc<dyn BaseStorage>,
    descriptor: Descriptor,
    ranges: bool,
}

impl Verify {
    /// Checks what `inner` gives.
    pub fn new(inner: Arc<dyn BaseStorage>, config: &VerifyConfig) -> Self {
        let below = inner.describe().capabilities();
        let capabilities = Capabilities { native_ranges: below.native_ranges && !config.ranges, ..below };
        let descriptor = derived(&inner).with_capabilities(capabilities);
        Self { inner, descriptor, ranges: config.ranges }
    }

    fn checked(&self, key: &Key, entry: Option<Entry>) -> Result<Option<Entry>> {
        if let Some(Entry { value, metadata }) = &entry {
            self.descriptor.check_integrity("retrieve", key, value, metadata)?;
        }
        Ok(entry)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Verify {
    forward!(inner: store, delete, list_keys, metadata, contains, touch, store_many, delete_many, transact, flush, health);
    forward!(inner: stats, maintain, watch);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.checked(key, self.inner.retrieve(key).await?)
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        if !self.ranges {
            return self.inner.retrieve_range(key, range).await;
        }
        let entry = self.inner.retrieve(key).await.map_err(|error| error.with_operation("retrieve_range"))?;
        Ok(self.checked(key, entry)?.map(|entry| entry.value.range(range)))
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let answers = self.inner.retrieve_many(keys).await;
        keys.iter().zip(answers).map(|(key, answer)| self.checked(key, answer?)).collect()
    }

    /// What the storage below finds, and whatever does not match its checksum after all layers.
    async fn verify(&self) -> Result<Verification> {
        let mut below = self.inner.verify().await?;
        let above = verify_values(self).await?;
        for problem in above.problems {
            if !below.problems.iter().any(|known| known.key == problem.key) {
                below.problems.push(problem);
            }
        }
        Ok(below)
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.inner.snapshot(sink).await
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner.close().await
    }
}

impl Layer for Verify {
    const NAME: &'static str = "verify";
    type Config = VerifyConfig;

    fn wrap(inner: Arc<dyn BaseStorage>, config: VerifyConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, &config)))
    }
}
