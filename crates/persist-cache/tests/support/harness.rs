//! A place for a cache, for the suite and the model test.

// Every test binary uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;

use persist_cache::{CacheBackend, CacheConfig};
use persist_core::{Backend, BaseStorage, ManualClock, OpenContext, Result, async_trait};
use persist_testkit::{Harness, Variant};

#[derive(Default)]
pub(crate) struct Cache {
    clock: Arc<ManualClock>,
    config: CacheConfig,
}

impl Cache {
    pub(crate) fn with(config: CacheConfig) -> Self {
        Self { clock: Arc::default(), config }
    }

    async fn open_with(&self, config: CacheConfig, read_only: bool) -> Result<Arc<dyn BaseStorage>> {
        let context = OpenContext { read_only, clock: self.clock.clone(), ..OpenContext::default() };
        CacheBackend::open("cache", config, &context).await
    }
}

#[async_trait]
impl Harness for Cache {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.open_with(self.config.clone(), false).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let config = self.config.clone();
        let storage = match variant {
            Variant::DefaultTtl(lifetime) => self.open_with(config.ttl(lifetime), false).await?,
            Variant::ReadOnly => self.open_with(config, true).await?,
            Variant::Small => self.open_with(config.max_bytes(170 << 10), false).await?,
            Variant::MaxValueBytes(bytes) => self.open_with(config.max_value(bytes), false).await?,
        };
        Ok(Some(storage))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }
}
