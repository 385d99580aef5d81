use std::sync::Arc;

use persist_core::{BaseStorage, Descriptor};

/// The descriptor of a layer that says something else of itself than the storage below: a copy to change. Name and type stay,
/// because to everybody else the layer is that storage.
pub(crate) fn derived(inner: &Arc<dyn BaseStorage>) -> Descriptor {
    let below = inner.describe();
    Descriptor::new(below.name(), below.backend())
        .with_capabilities(below.capabilities())
        .with_max_value_bytes(below.max_value_bytes())
        .with_default_ttl(below.default_ttl())
        .with_clock(Arc::clone(below.clock()))
}
