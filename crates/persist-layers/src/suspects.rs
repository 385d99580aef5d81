use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use persist_core::Key;

/// Keys whose copies may not be believed.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    any: AtomicBool,
    keys: Mutex<HashSet<Key>>,
}

impl Suspects {
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.any.load(Ordering::Acquire) && self.keys.lock().contains(key)
    }

    pub(crate) fn add(&self, key: &Key) {
        self.keys.lock().insert(key.clone());
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn clear(&self, key: &Key) {
        if self.any.load(Ordering::Acquire) {
            let mut keys = self.keys.lock();
            keys.remove(key);
            self.any.store(!keys.is_empty(), Ordering::Release);
        }
    }
}
