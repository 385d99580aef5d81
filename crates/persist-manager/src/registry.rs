use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use persist_core::{
    Backend, BaseStorage, ErrorKind, OpenContext, Restored, Result, SnapshotSource, StorageError,
};
use persist_layers::{Composite, Fallback, Layer, Replicated, Router, Sharded, Tiered};
use schemars::{Schema, SchemaGenerator};
use serde::Deserialize;

use crate::config_error::ConfigError;
use crate::context::Context;
use crate::deserializer::NodeDeserializer;
use crate::layers::{LayerKind, LayerRegistry};
use crate::nearest::hint;
use crate::node::Node;

/// A backend that comes with persist, as far as it is known without being compiled in.
struct BuiltIn {
    feature: &'static str,
    compiled: bool,
    /// What may stand after `type:`.
    types: &'static [&'static str],
}

/// One line for each backend that comes with persist: its cargo feature, the types it serves, and the backend.
macro_rules! built_in {
    ($($feature:literal $types:tt $backend:path;)*) => {
        /// The backends that come with persist, compiled in or not.
        const BUILT_IN: &[BuiltIn] =
            &[$(BuiltIn { feature: $feature, compiled: cfg!(feature = $feature), types: &$types }),*];

        impl Default for Registry {
            /// Every backend, every composite and every layer that is compiled in.
            fn default() -> Self {
                let mut registry = Self { layers: LayerRegistry::default(), ..Self::new() };
                registry.register_composite::<Fallback>();
                registry.register_composite::<Replicated>();
                registry.register_composite::<Router>();
                registry.register_composite::<Sharded>();
                registry.register_composite::<Tiered>();
                $(
                    #[cfg(feature = $feature)]
                    registry.register::<$backend>();
                )*
                registry
            }
        }
    };
}

built_in! {
    "cache" ["cache", "memory", "ttl_cache"] persist_cache::CacheBackend;
    "file" ["file", "files", "fs"] persist_file::FileBackend;
    "hdf5" ["hdf5", "h5"] persist_hdf5::Hdf5Backend;
    "pack" ["pack", "packs"] persist_pack::PackBackend;
    "redis" ["redis", "valkey"] persist_redis::RedisBackend;
    "sqlite" ["sqlite", "database", "sqlite3"] persist_sqlite::SqliteBackend;
}

/// Which types a configuration may name, and what serves each.
///
/// A program adds its own backend with one call:
///
/// ```
/// # fn example<MyBackend: persist_core::Backend>() {
/// let mut registry = persist_manager::Registry::default();
/// registry.register::<MyBackend>();
/// let options = persist_manager::LoadOptions::new().registry(registry);
/// # }
/// ```
#[derive(Clone)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Arc<dyn Kind>>,
    layers: LayerRegistry,
}

impl Registry {
    /// No types and no layers at all.
    pub fn new() -> Self {
        Self { kinds: BTreeMap::new(), layers: LayerRegistry::new() }
    }

    /// Lets a backend serve its type and its aliases; what served them before no longer does.
    pub fn register<B: Backend>(&mut self) -> &mut Self {
        let kind: Arc<dyn Kind> = Arc::new(KindOf::<B>(PhantomData));
        for name in B::ALIASES.iter().chain([&B::TYPE]) {
            self.kinds.insert(name, Arc::clone(&kind));
        }
        self
    }

    /// Lets a layer serve its name under `layers:`; what served it before no longer does.
    pub fn register_layer<L: Layer>(&mut self) -> &mut Self {
        self.layers.register::<L>();
        self
    }

    /// Lets a composite serve its type; what served it before no longer does.
    pub fn register_composite<C: Composite>(&mut self) -> &mut Self {
        self.kinds.insert(C::TYPE, Arc::new(CompositeKindOf::<C>(PhantomData)));
        self
    }

    /// The layers that can be named, in alphabetical order.
    pub fn layers(&self) -> impl Iterator<Item = &'static str> {
        self.layers.kinds().map(LayerKind::name)
    }

    /// What reads the layers of a configuration.
    pub(crate) fn layer_registry(&self) -> &LayerRegistry {
        &self.layers
    }

    /// The types that can be named, without aliases, in alphabetical order.
    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().filter(|(name, kind)| kind.name() == **name).map(|(name, _)| *name)
    }

    /// The JSON Schema of the configurations that it can read, for editors.
    pub fn schema(&self) -> serde_json::Value {
        crate::schema::schema(self)
    }

    /// What serves a type.
    ///
    /// # Errors
    /// In words: the cargo feature that is missing, or the nearest type that is there.
    pub(crate) fn kind(&self, name: &str) -> Result<&dyn Kind, String> {
        if let Some(kind) = self.kinds.get(name) {
            return Ok(kind.as_ref());
        }
        match BUILT_IN.iter().find(|built_in| built_in.types.contains(&name)) {
            Some(BuiltIn { compiled: true, .. }) => Err(format!(
                "the type `{name}` is not registered by this program; it should begin with `Registry::default()`"
            )),
            Some(BuiltIn { feature, .. }) => Err(format!(
                "the type `{name}` is not compiled into this program; build it with the cargo feature `{feature}`"
            )),
            None => Err(format!("unknown type `{name}`{}", hint(name, self.kinds.keys().copied()))),
        }
    }

    /// What serves each type, without aliases.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &dyn Kind> {
        self.types().map(|name| self.kinds[name].as_ref())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (types, layers): (Vec<_>, Vec<_>) = (self.types().collect(), self.layers().collect());
        f.debug_struct("Registry").field("types", &types).field("layers", &layers).finish()
    }
}

/// A backend without its types.
pub(crate) trait Kind: Send + Sync {
    /// What stands after `type:`.
    fn name(&self) -> &'static str;

    /// Other words for it.
    fn aliases(&self) -> &'static [&'static str];

    /// True if it is made of other storages.
    fn is_composite(&self) -> bool {
        false
    }

    /// Reads and checks a section from which `type` was taken out.
    fn read(&self, section: &Node, context: &Context<'_>) -> Result<Box<dyn Settings>, ConfigError>;

    /// Opens the files that a storage of this type wrote into a snapshot; `None` if there are none.
    fn open_snapshot<'a>(
        &self,
        name: &'a str,
        source: &'a dyn SnapshotSource,
        context: &'a OpenContext,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn BaseStorage>>>>;

    /// The schema of a section without `type`.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
}

/// A section that was read and checked.
pub(crate) trait Settings: Send {
    /// The names of the storages that it is made of; none but for a composite.
    fn members(&self) -> Vec<String> {
        Vec::new()
    }

    /// Opens the storage, which is made of these others.
    fn open<'a>(
        self: Box<Self>,
        name: &'a str,
        members: Vec<Arc<dyn BaseStorage>>,
        context: &'a OpenContext,
    ) -> BoxFuture<'a, Result<Arc<dyn BaseStorage>>>;

    /// Replaces everything in the storage, which is not open, by what a snapshot holds.
    fn restore<'a>(
        self: Box<Self>,
        name: &'a str,
        context: &'a OpenContext,
        source: &'a mut dyn SnapshotSource,
    ) -> BoxFuture<'a, Result<Restored>>;

    /// All that was set, defaults included; secrets are redacted by their types.
    fn show(&self) -> Result<serde_json::Value, serde_json::Error>;
}

struct KindOf<B>(PhantomData<fn() -> B>);

impl<B: Backend> Kind for KindOf<B> {
    fn name(&self) -> &'static str {
        B::TYPE
    }

    fn aliases(&self) -> &'static [&'static str] {
        B::ALIASES
    }

    fn read(&self, section: &Node, context: &Context<'_>) -> Result<Box<dyn Settings>, ConfigError> {
        let config = B::Config::deserialize(NodeDeserializer::new(section, context))?;
        B::check(&config).map_err(|message| ConfigError::new(&section.place, message))?;
        Ok(Box::new(SettingsOf::<B>(config)))
    }

    fn open_snapshot<'a>(
        &self,
        name: &'a str,
        source: &'a dyn SnapshotSource,
        context: &'a OpenContext,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn BaseStorage>>>> {
        B::open_snapshot(name, source, context)
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<B::Config>()
    }
}

struct SettingsOf<B: Backend>(B::Config);

impl<B: Backend> Settings for SettingsOf<B> {
    fn open<'a>(
        self: Box<Self>,
        name: &'a str,
        _: Vec<Arc<dyn BaseStorage>>,
        context: &'a OpenContext,
    ) -> BoxFuture<'a, Result<Arc<dyn BaseStorage>>> {
        async move { B::open(name, self.0, context).await }.boxed()
    }

    fn restore<'a>(
        self: Box<Self>,
        name: &'a str,
        context: &'a OpenContext,
        source: &'a mut dyn SnapshotSource,
    ) -> BoxFuture<'a, Result<Restored>> {
        async move { B::restore(name, self.0, context, source).await }.boxed()
    }

    fn show(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(&self.0)
    }
}

struct CompositeKindOf<C>(PhantomData<fn() -> C>);

impl<C: Composite> Kind for CompositeKindOf<C> {
    fn name(&self) -> &'static str {
        C::TYPE
    }

    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    fn is_composite(&self) -> bool {
        true
    }

    fn read(&self, section: &Node, context: &Context<'_>) -> Result<Box<dyn Settings>, ConfigError> {
        let config = C::Config::deserialize(NodeDeserializer::new(section, context))?;
        C::check(&config).map_err(|message| ConfigError::new(&section.place, message))?;
        Ok(Box::new(CompositeSettingsOf::<C>(config)))
    }

    fn open_snapshot<'a>(
        &self,
        _: &'a str,
        _: &'a dyn SnapshotSource,
        _: &'a OpenContext,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn BaseStorage>>>> {
        async { Ok(None) }.boxed()
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<C::Config>()
    }
}

struct CompositeSettingsOf<C: Composite>(C::Config);

impl<C: Composite> Settings for CompositeSettingsOf<C> {
    fn members(&self) -> Vec<String> {
        C::members(&self.0)
    }

    fn open<'a>(
        self: Box<Self>,
        name: &'a str,
        members: Vec<Arc<dyn BaseStorage>>,
        _: &'a OpenContext,
    ) -> BoxFuture<'a, Result<Arc<dyn BaseStorage>>> {
        async move { C::open(name, self.0, members) }.boxed()
    }

    fn restore<'a>(
        self: Box<Self>,
        _: &'a str,
        _: &'a OpenContext,
        _: &'a mut dyn SnapshotSource,
    ) -> BoxFuture<'a, Result<Restored>> {
        let members = C::members(&self.0).join("`, `");
        async move {
            let message = format!(
                "it has no place of its own; restore the storage that keeps its values (`{members}`)"
            );
            Err(StorageError::new(ErrorKind::InvalidConfig, message))
        }
        .boxed()
    }

    fn show(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table knows the types of a backend that is not compiled in; it must say the same as the backend.
    #[test]
    fn the_table_says_what_the_backends_say() {
        for kind in Registry::default().kinds().filter(|kind| !kind.is_composite()) {
            let mut said: Vec<&str> =
                [kind.name()].into_iter().chain(kind.aliases().iter().copied()).collect();
            let entry = BUILT_IN.iter().find(|built_in| built_in.types.contains(&kind.name()));
            let mut listed = entry.map(|built_in| built_in.types.to_vec()).unwrap_or_default();
            said.sort_unstable();
            listed.sort_unstable();
            assert_eq!(listed, said);
        }
    }
}
