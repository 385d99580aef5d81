//! What a caller asks of the writer, prepared as far as that needs no database.

use persist_core::{Condition, Descriptor, Expiry, Key, Metadata, Operation, StoreItem, Value, writing};

use crate::row::Notes;

/// A value about to be stored: hashed, with the metadata it will have if nothing is stored under its key.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) metadata: Metadata,
    pub(crate) notes: Notes,
    pub(crate) condition: Condition,
}

impl Draft {
    /// Hashes the value; takes about a millisecond for 4 MiB.
    pub(crate) fn new(descriptor: &Descriptor, item: StoreItem) -> Self {
        let metadata = descriptor.draft_metadata(&item.value, &item.options);
        let notes = Notes::of(&item.value, &metadata);
        Self { key: item.key, value: item.value, metadata, notes, condition: item.options.condition }
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
}

impl Step {
    /// A step of a transaction.
    pub(crate) fn of(descriptor: &Descriptor, operation: Operation) -> Self {
        match operation {
            Operation::Put(item) => Self::Put(Box::new(Draft::new(descriptor, item))),
            Operation::Delete(key, options) => Self::Delete { key, condition: options.condition },
            Operation::Check(key, condition) => Self::Check { key, condition },
        }
    }

    /// What must hold.
    pub(crate) fn condition(&self) -> Condition {
        match self {
            Self::Put(draft) => draft.condition,
            Self::Delete { condition, .. } | Self::Check { condition, .. } => *condition,
            Self::Touch { .. } => Condition::None,
        }
    }
}

/// Steps that one caller asked for with one call.
pub(crate) type Change = writing::Change<Step>;

impl writing::Step for Step {
    fn key(&self) -> &Key {
        match self {
            Self::Put(draft) => &draft.key,
            Self::Delete { key, .. } | Self::Touch { key, .. } | Self::Check { key, .. } => key,
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Self::Put(draft) => draft.metadata.size + 256,
            Self::Delete { .. } | Self::Touch { .. } | Self::Check { .. } => 256,
        }
    }
}
