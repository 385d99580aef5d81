use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use persist_core::{
    BaseStorage, Descriptor, Expiry, HumanDuration, Key, Metadata, Operation, Outcome, Result, StoreItem,
    StoreOptions, Value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::derived::derived;

/// The settings of [`TtlClamp`].
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TtlClampConfig {
    /// The shortest lifetime. A value that is to be gone at once (zero, or a moment that has passed) is gone at once.
    pub min: Option<HumanDuration>,
    /// The longest lifetime; it also ends what should live for ever.
    pub max: Option<HumanDuration>,
    /// The lifetime of what is stored without one; left out: that of the storage below, within the bounds.
    pub default: Option<HumanDuration>,
}

/// Keeps the lifetimes of values within bounds.
#[derive(Debug)]
pub struct TtlClamp {
    inner: Arc<dyn BaseStorage>,
    descriptor: Descriptor,
    min: Duration,
    max: Option<Duration>,
}

impl TtlClamp {
    /// Keeps the lifetimes of what is stored in `inner` within bounds.
    pub fn new(inner: Arc<dyn BaseStorage>, config: &TtlClampConfig) -> Self {
        let min = config.min.map_or(Duration::ZERO, |HumanDuration(min)| min);
        let max = config.max.map(|HumanDuration(max)| max);
        let wanted = config.default.map(|HumanDuration(default)| default).or(inner.describe().default_ttl());
        let default = wanted.map(|lifetime| within(lifetime, min, max)).or(max);
        let descriptor = derived(&inner).with_default_ttl(default);
        Self { inner, descriptor, min, max }
    }

    fn clamp(&self, expiry: Expiry) -> Expiry {
        match expiry {
            Expiry::Default => self.descriptor.default_ttl().map_or(Expiry::Default, Expiry::After),
            Expiry::Never => self.max.map_or(Expiry::Never, Expiry::After),
            Expiry::After(lifetime) => Expiry::After(within(lifetime, self.min, self.max)),
            Expiry::At(moment) => {
                let now = self.descriptor.now();
                if moment <= now {
                    return expiry;
                }
                let earliest = now.saturating_add(self.min);
                let latest = self.max.map(|max| now.saturating_add(max));
                let moment = moment.max(earliest);
                Expiry::At(latest.map_or(moment, |latest| moment.min(latest)))
            }
        }
    }

    fn options(&self, options: StoreOptions) -> StoreOptions {
        StoreOptions { expiry: self.clamp(options.expiry), ..options }
    }

    fn item(&self, item: StoreItem) -> StoreItem {
        StoreItem { options: self.options(item.options), ..item }
    }
}

/// A lifetime within bounds; zero stays zero.
fn within(lifetime: Duration, min: Duration, max: Option<Duration>) -> Duration {
    if lifetime.is_zero() {
        return lifetime;
    }
    let lifetime = lifetime.max(min);
    max.map_or(lifetime, |max| lifetime.min(max))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for TtlClamp {
    forward!(inner: retrieve, delete, list_keys, metadata, contains, retrieve_range, retrieve_many, delete_many, flush);
    forward!(inner: health, stats, maintain, verify, snapshot, watch);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.inner.store(key, value, self.options(options)).await
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.inner.touch(key, self.clamp(expiry)).await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        self.inner.store_many(items.into_iter().map(|item| self.item(item)).collect()).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let clamped = operations.into_iter().map(|operation| match operation {
            Operation::Put(item) => Operation::Put(self.item(item)),
            other => other,
        });
        self.inner.transact(clamped.collect()).await
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner.close().await
    }
}

impl Layer for TtlClamp {
    const NAME: &'static str = "ttl_clamp";
    type Config = TtlClampConfig;

    fn check(config: &TtlClampConfig) -> Result<(), String> {
        if config.min.is_none() && config.max.is_none() && config.default.is_none() {
            return Err("it bounds nothing; give `min`, `max` or `default`".to_owned());
        }
        if let (Some(min), Some(max)) = (config.min, config.max)
            && min > max
        {
            return Err(format!("`min` ({min}) is longer than `max` ({max})"));
        }
        if config.max.is_some_and(|HumanDuration(max)| max.is_zero()) {
            return Err("`max` is zero, so nothing would be kept".to_owned());
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: TtlClampConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, &config)))
    }
}
