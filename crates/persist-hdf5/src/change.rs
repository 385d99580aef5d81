//! What a caller asks of the thread that writes, prepared as far as that needs no file.

use persist_core::{
    Condition, Descriptor, Expiry, Key, Metadata, Operation, StoreItem, Timestamp, Value, Version, writing,
};

use crate::chunk::Packed;
use crate::filter::Choice;
use crate::hashing::checksum_of;
use crate::record::Form;

/// A value about to be stored: hashed, with the metadata it will have if nothing is stored under its key.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) metadata: Metadata,
    pub(crate) condition: Condition,
    /// Its chunks, if it is not to lie in one piece.
    pub(crate) packed: Option<Packed>,
}

impl Draft {
    /// Hashes and compresses the value; hashing takes about a millisecond for 4 MiB.
    pub(crate) fn new(descriptor: &Descriptor, choice: &Choice, item: StoreItem) -> Self {
        let packed = choice.of(&item.key).pack(&item.value);
        Self { packed, ..Self::plain(descriptor, item) }
    }

    /// A value that is in chunks already, if it is to be.
    pub(crate) fn packed(descriptor: &Descriptor, item: StoreItem, packed: Option<Packed>) -> Self {
        Self { packed, ..Self::plain(descriptor, item) }
    }

    fn plain(descriptor: &Descriptor, item: StoreItem) -> Self {
        let (kind, size) = (item.value.kind(), item.value.size());
        let metadata = descriptor.hashed_metadata(
            kind,
            size,
            checksum_of(&Form::of(&item.value), item.value.buffer()),
            &item.options,
        );
        Self { key: item.key, value: item.value, metadata, condition: item.options.condition, packed: None }
    }
}

/// An array that grows: what it becomes, and the chunks with something new in them.
#[derive(Debug)]
pub(crate) struct Growth {
    pub(crate) key: Key,
    /// The version that grows.
    pub(crate) from: Version,
    pub(crate) form: Form,
    pub(crate) metadata: Metadata,
    pub(crate) packed: Packed,
}

/// A value that was written piece by piece and gets its name.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) key: Key,
    pub(crate) condition: Condition,
    pub(crate) form: Form,
    pub(crate) metadata: Metadata,
    /// The number of the transfer that has its dataset.
    pub(crate) transfer: u64,
}

/// What one caller asked for with one call.
pub(crate) type Change = writing::Change<Step>;

/// One step of a change.
#[derive(Debug)]
pub(crate) enum Step {
    /// Store a value.
    Put(Box<Draft>),
    /// Give the value of a transfer its name.
    Adopt(Box<Adoption>),
    /// Let an array grow along its first axis.
    Grow(Box<Growth>),
    /// Make a key absent.
    Delete { key: Key, condition: Condition },
    /// Make a key absent if it has expired, or was last changed before a moment.
    Sweep { key: Key, before: Option<Timestamp> },
    /// Change when a key expires.
    Touch { key: Key, expiry: Expiry },
    /// Change nothing.
    Check { key: Key, condition: Condition },
}

impl Step {
    /// A step of a transaction.
    pub(crate) fn of(descriptor: &Descriptor, choice: &Choice, operation: Operation) -> Self {
        match operation {
            Operation::Put(item) => Self::Put(Box::new(Draft::new(descriptor, choice, item))),
            Operation::Delete(key, options) => Self::Delete { key, condition: options.condition },
            Operation::Check(key, condition) => Self::Check { key, condition },
        }
    }

    /// What must hold.
    pub(crate) fn condition(&self) -> Condition {
        match self {
            Self::Put(draft) => draft.condition,
            Self::Grow(growth) => Condition::IfVersion(growth.from),
            Self::Adopt(adoption) => adoption.condition,
            Self::Delete { condition, .. } | Self::Check { condition, .. } => *condition,
            Self::Touch { .. } | Self::Sweep { .. } => Condition::None,
        }
    }
}

impl writing::Step for Step {
    fn key(&self) -> &Key {
        match self {
            Self::Put(draft) => &draft.key,
            Self::Grow(growth) => &growth.key,
            Self::Adopt(adoption) => &adoption.key,
            Self::Delete { key, .. }
            | Self::Sweep { key, .. }
            | Self::Touch { key, .. }
            | Self::Check { key, .. } => key,
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Self::Put(draft) => draft.metadata.size + 1024,
            Self::Grow(growth) => growth.packed.bytes() + 1024,
            _ => 1024,
        }
    }
}
