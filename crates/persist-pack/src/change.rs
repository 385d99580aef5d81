//! What a caller asks of the writer, prepared as far as that needs no pack: hashed and packed.

use persist_core::{Condition, Descriptor, Expiry, Key, Metadata, Operation, StoreItem, writing};

use crate::codec::Payload;
use crate::config::Compression;

/// A value about to be stored, with the metadata it will have if nothing is stored under its key.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) key: Key,
    pub(crate) metadata: Metadata,
    pub(crate) payload: Payload,
    pub(crate) condition: Condition,
}

impl Draft {
    /// Hashes and packs the value, which takes milliseconds where it is long.
    pub(crate) fn new(descriptor: &Descriptor, compression: Compression, item: StoreItem) -> Self {
        let metadata = descriptor.draft_metadata(&item.value, &item.options);
        let payload = Payload::of(&item.value, compression);
        Self { key: item.key, metadata, payload, condition: item.options.condition }
    }
}

/// One step of a change.
#[derive(Debug)]
pub(crate) enum Step {
    /// Store a value.
    Put(Box<Draft>),
    /// Make a key absent.
    Delete { key: Key, condition: Condition },
    /// Change when a key expires.
    Touch { key: Key, expiry: Expiry },
    /// Change nothing.
    Check { key: Key, condition: Condition },
    /// Make a key absent if it has expired.
    Sweep { key: Key },
}

impl Step {
    /// A step of a transaction.
    pub(crate) fn of(descriptor: &Descriptor, compression: Compression, operation: Operation) -> Self {
        match operation {
            Operation::Put(item) => Self::Put(Box::new(Draft::new(descriptor, compression, item))),
            Operation::Delete(key, options) => Self::Delete { key, condition: options.condition },
            Operation::Check(key, condition) => Self::Check { key, condition },
        }
    }

    /// What must hold.
    pub(crate) fn condition(&self) -> Condition {
        match self {
            Self::Put(draft) => draft.condition,
            Self::Delete { condition, .. } | Self::Check { condition, .. } => *condition,
            Self::Touch { .. } | Self::Sweep { .. } => Condition::None,
        }
    }
}

/// Steps that one caller asked for with one call.
pub(crate) type Change = writing::Change<Step>;

impl writing::Step for Step {
    fn key(&self) -> &Key {
        match self {
            Self::Put(draft) => &draft.key,
            Self::Delete { key, .. }
            | Self::Touch { key, .. }
            | Self::Check { key, .. }
            | Self::Sweep { key } => key,
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Self::Put(draft) => draft.payload.stored() + 256,
            _ => 256,
        }
    }
}
