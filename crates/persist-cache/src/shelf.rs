use std::sync::Arc;

use persist_core::Key;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use crate::record::Record;

/// How many parts the map has for each processor, so that readers and a writer rarely meet in one.
const PARTS_PER_PROCESSOR: usize = 8;

/// The map that readers look into. It is in many parts with a lock each, and a read takes one of them, shared.
///
/// It evicts nothing by itself: how much it holds and what has to go is decided for the whole cache in
/// [`Index`](crate::index::Index). `docs/decisions/0002-cache-engine.md` says why.
pub(crate) struct Shelf(Cache<Key, Arc<Record>>);

impl Shelf {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(4, usize::from);
        let parts = (processors * PARTS_PER_PROCESSOR).next_power_of_two();
        let mut options = OptionsBuilder::new();
        // The weight is out of reach, and it remembers nothing of what has left. (With fewer than 32 expected items
        // for each part it would make fewer parts.)
        options.shards(parts).estimated_items_capacity(parts * 32).weight_capacity(1 << 52);
        options.hot_allocation(1.0).ghost_allocation(0.0);
        match options.build() {
            Ok(options) => Self(Cache::with_options(
                options,
                UnitWeighter,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            )),
            Err(error) => unreachable!("all options are set: {error}"),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Record>> {
        self.0.peek(key)
    }

    pub(crate) fn put(&self, record: Arc<Record>) {
        self.0.insert(record.key.clone(), record);
    }

    pub(crate) fn remove(&self, key: &Key) {
        self.0.remove(key);
    }

    pub(crate) fn clear(&self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.0.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use persist_core::{Descriptor, Entry, StoreOptions, Value};

    use super::*;

    #[test]
    fn it_evicts_nothing_by_itself_whatever_the_sizes() {
        let shelf = Shelf::new();
        let names: Vec<Key> = (0..20_000).map(|i| Key::new(format!("{i:05}")).unwrap()).collect();
        for (i, key) in names.iter().enumerate() {
            let value = Value::bytes(vec![0; if i % 1000 == 0 { 1 << 20 } else { 10 }]);
            let metadata = Descriptor::new("c", "cache").draft_metadata(&value, &StoreOptions::new());
            shelf.put(Arc::new(Record::new(key.clone(), Entry::new(value, metadata), None)));
        }
        assert_eq!(shelf.keys(), names);
    }
}
