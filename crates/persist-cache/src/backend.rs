use std::sync::Arc;

use persist_core::{Backend, BaseStorage, OpenContext, Result, async_trait};

use crate::{CacheConfig, CacheStorage};

/// `type: cache`, also written `memory` or `ttl_cache`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheBackend;

#[async_trait]
impl Backend for CacheBackend {
    const TYPE: &'static str = "cache";
    const ALIASES: &'static [&'static str] = &["memory", "ttl_cache"];

    type Config = CacheConfig;

    fn check(config: &CacheConfig) -> Result<(), String> {
        config.check()
    }

    async fn open(name: &str, config: CacheConfig, context: &OpenContext) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(CacheStorage::open(name, &config, context)?))
    }
}
