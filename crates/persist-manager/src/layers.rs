use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use persist_core::{BaseStorage, OpenContext, Result, async_trait};
use persist_layers::{Layer, check_order};
use schemars::{Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config_error::ConfigError;
use crate::context::Context;
use crate::deserializer::{NodeDeserializer, read};
use crate::nearest::hint;
use crate::node::{Content, Node, Place};

/// The key of a storage under which its layers stand.
pub(crate) const LAYERS: &str = "layers";

/// A layer that comes with persist, as far as it is known without being compiled in.
struct BuiltIn {
    name: &'static str,
    /// The cargo feature that brings it; `None`: it is always there.
    feature: Option<&'static str>,
}

/// One line for each layer that comes with persist: its cargo feature, if it has one, its name, and the layer.
macro_rules! built_in {
    ($($(#[$feature:literal])? $name:literal $layer:path;)*) => {
        /// The layers that come with persist, compiled in or not.
        const BUILT_IN: &[BuiltIn] = &[$(BuiltIn { name: $name, feature: built_in!(@ $($feature)?) }),*];

        impl Default for LayerRegistry {
            fn default() -> Self {
                let mut registry = Self::new();
                $(
                    $(#[cfg(feature = $feature)])?
                    registry.register::<$layer>();
                )*
                registry
            }
        }
    };
    (@ $feature:literal) => { Some($feature) };
    (@) => { None };
}

built_in! {
    "circuit_breaker" persist_layers::CircuitBreaker;
    #["compress"] "compress" persist_layers::Compress;
    "concurrency" persist_layers::Concurrency;
    "dedup" persist_layers::Dedup;
    #["encrypt"] "encrypt" persist_layers::Encrypt;
    "evict" persist_layers::Evict;
    "fault" persist_layers::Fault;
    #["metrics"] "metrics" persist_layers::Metrics;
    "namespace" persist_layers::Namespace;
    "rate_limit" persist_layers::RateLimit;
    "read_only" persist_layers::ReadOnly;
    "retry" persist_layers::Retry;
    "size_limit" persist_layers::SizeLimit;
    "timeout" persist_layers::Timeout;
    "tracing" persist_layers::Trace;
    "ttl_clamp" persist_layers::TtlClamp;
    "verify" persist_layers::Verify;
    "write_behind" persist_layers::WriteBehind;
}

/// Which layers a configuration may name, and what serves each.
#[derive(Clone)]
pub(crate) struct LayerRegistry(BTreeMap<&'static str, Arc<dyn LayerKind>>);

impl LayerRegistry {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn register<L: Layer>(&mut self) {
        self.0.insert(L::NAME, Arc::new(LayerKindOf::<L>(PhantomData)));
    }

    /// What serves each layer, in the order of their names.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &dyn LayerKind> {
        self.0.values().map(AsRef::as_ref)
    }

    /// What serves a layer.
    ///
    /// # Errors
    /// In words: the cargo feature that is missing, or the nearest layer that is there.
    fn kind(&self, name: &str) -> Result<&dyn LayerKind, String> {
        if let Some(kind) = self.0.get(name) {
            return Ok(kind.as_ref());
        }
        match BUILT_IN.iter().find(|built_in| built_in.name == name) {
            Some(BuiltIn { feature: Some(feature), .. }) => Err(format!(
                "the layer `{name}` is not compiled into this program; build it with the cargo feature `{feature}`"
            )),
            Some(BuiltIn { feature: None, .. }) => Err(format!(
                "the layer `{name}` is not registered by this program; it should begin with `Registry::default()`"
            )),
            None => Err(format!("unknown layer `{name}`{}", hint(name, self.0.keys().copied()))),
        }
    }

    /// Reads the layers of a storage and checks their order.
    pub(crate) fn read(&self, node: &Node, context: &Context<'_>) -> Result<Layers, ConfigError> {
        if node.is_null() {
            return Ok(Layers::default());
        }
        let Content::List(items) = &node.content else {
            let message = format!("{} was given where a list of layers is wanted", node.noun());
            return Err(ConfigError::new(&node.place, message).under(LAYERS));
        };
        let mut layers = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let layer = self.read_one(item, context);
            layers.push(layer.map_err(|error| error.under(&format!("[{index}]")).under(LAYERS))?);
        }
        let names: Vec<&str> = layers.iter().map(|layer| layer.name).collect();
        if let Err(misplaced) = check_order(&names) {
            let place = items.get(misplaced.index).map_or(&node.place, |item| &item.place);
            let index = format!("[{}]", misplaced.index);
            return Err(ConfigError::new(place, misplaced.message).under(&index).under(LAYERS));
        }
        Ok(Layers(layers))
    }

    /// One layer: its name alone, or its name and its settings.
    fn read_one(&self, item: &Node, context: &Context<'_>) -> Result<PlannedLayer, ConfigError> {
        let (name, settings, place) = match &item.content {
            Content::Scalar(_) => (read::<String>(item, context)?, None, &item.place),
            Content::Map(entries) if entries.len() == 1 => {
                let (name, settings) = &entries[0];
                (name.text.clone(), Some(settings).filter(|settings| !settings.is_null()), &name.place)
            }
            Content::Map(_) | Content::List(_) => {
                let message = "a layer is its name, or a mapping from its name to its settings";
                return Err(ConfigError::new(&item.place, message));
            }
        };
        let kind = self.kind(&name).map_err(|message| ConfigError::new(place, message))?;
        let none = Node { place: place.clone(), content: Content::Map(Vec::new()) };
        kind.read(settings.unwrap_or(&none), context).map_err(|error| error.under(kind.name()))
    }

    /// The schema of a list of layers.
    pub(crate) fn schema(&self, generator: &mut SchemaGenerator) -> Value {
        let names: Vec<&str> = self.kinds().map(LayerKind::name).collect();
        let mut forms = vec![serde_json::json!({ "enum": names })];
        for kind in self.kinds() {
            forms.push(serde_json::json!({
                "type": "object",
                "properties": { kind.name(): Value::from(kind.schema(generator)) },
                "required": [kind.name()],
                "additionalProperties": false
            }));
        }
        serde_json::json!({
            "description": "What stands over the storage, from the outside to the inside.",
            "type": "array",
            "items": { "oneOf": forms }
        })
    }
}

/// The layers of one storage, from the outside to the inside, read and checked.
#[derive(Default)]
pub(crate) struct Layers(Vec<PlannedLayer>);

/// A layer whose settings were read and checked.
pub(crate) struct PlannedLayer {
    name: &'static str,
    renames_keys: bool,
    settings: Box<dyn LayerSettings>,
}

impl Layers {
    /// Puts them over a storage, the innermost first.
    ///
    /// # Errors
    /// Why one of them cannot stand over it.
    pub(crate) async fn wrap(
        self,
        storage: Arc<dyn BaseStorage>,
        context: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>> {
        let mut storage = storage;
        for layer in self.0.into_iter().rev() {
            storage = layer.settings.wrap(storage, context).await?;
        }
        Ok(storage)
    }

    /// Those that a restore goes through.
    pub(crate) fn for_restore(self) -> Self {
        Self(self.0.into_iter().filter(|layer| layer.renames_keys).collect())
    }

    /// True if there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that was set, defaults included, as a list that can be read again; secrets are redacted by their types.
    pub(crate) fn show(&self, place: &Place) -> Result<Value, ConfigError> {
        let show = |layer: &PlannedLayer| {
            let settings = layer.settings.show().map_err(|why| {
                ConfigError::new(place, format!("cannot be shown: {why}")).under(layer.name).under(LAYERS)
            })?;
            Ok(Value::Object(Map::from_iter([(layer.name.to_owned(), settings)])))
        };
        self.0.iter().map(show).collect::<Result<Vec<_>, _>>().map(Value::Array)
    }
}

/// A layer without its types.
pub(crate) trait LayerKind: Send + Sync {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Reads and checks its settings.
    fn read(&self, settings: &Node, context: &Context<'_>) -> Result<PlannedLayer, ConfigError>;

    /// The schema of its settings.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
}

/// Settings of a layer that were read and checked.
#[async_trait]
pub(crate) trait LayerSettings: Send {
    async fn wrap(
        self: Box<Self>,
        inner: Arc<dyn BaseStorage>,
        context: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>>;

    fn show(&self) -> Result<Value, serde_json::Error>;
}

struct LayerKindOf<L>(PhantomData<fn() -> L>);

impl<L: Layer> LayerKind for LayerKindOf<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn read(&self, settings: &Node, context: &Context<'_>) -> Result<PlannedLayer, ConfigError> {
        let config = L::Config::deserialize(NodeDeserializer::new(settings, context))?;
        L::check(&config).map_err(|message| ConfigError::new(&settings.place, message))?;
        let settings = Box::new(LayerSettingsOf::<L>(config));
        Ok(PlannedLayer { name: L::NAME, renames_keys: L::RENAMES_KEYS, settings })
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<L::Config>()
    }
}

struct LayerSettingsOf<L: Layer>(L::Config);

#[async_trait]
impl<L: Layer> LayerSettings for LayerSettingsOf<L> {
    async fn wrap(
        self: Box<Self>,
        inner: Arc<dyn BaseStorage>,
        context: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>> {
        L::open(inner, self.0, context).await
    }

    fn show(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table knows the names of layers that are not compiled in; it must say the same as the layers.
    #[test]
    fn the_table_says_what_the_layers_say() {
        let registry = LayerRegistry::default();
        let said: Vec<&str> = registry.kinds().map(LayerKind::name).collect();
        for built_in in BUILT_IN.iter().filter(|built_in| built_in.feature.is_none()) {
            assert!(said.contains(&built_in.name), "{}", built_in.name);
        }
        for name in said {
            assert!(BUILT_IN.iter().any(|built_in| built_in.name == name), "{name}");
        }
    }
}
