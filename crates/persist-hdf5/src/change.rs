//! What a caller asks of the thread that writes, prepared as far as that needs no file.

use persist_core::{Condition, Descriptor, Expiry, Key, Metadata, Operation, StoreItem, Value};

use crate::chunk::Packed;
use crate::filter::Choice;

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

    /// A value that is in chunks already.
    pub(crate) fn packed(descriptor: &Descriptor, item: StoreItem, packed: Packed) -> Self {
        Self { packed: Some(packed), ..Self::plain(descriptor, item) }
    }

    fn plain(descriptor: &Descriptor, item: StoreItem) -> Self {
        let metadata = descriptor.draft_metadata(&item.value, &item.options);
        Self { key: item.key, value: item.value, metadata, condition: item.options.condition, packed: None }
    }
}

/// One step of a change.
#[derive(Debug)]
pub(crate) enum Step {
    /// Store a value.
    Put(Box<Draft>),
    /// Let an array grow along its first axis: the draft has all of it, and in its chunks what is new.
    Grow(Box<Draft>),
    /// Make a key absent.
    Delete { key: Key, condition: Condition },
    /// Make a key absent if it has expired.
    Sweep { key: Key },
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

    /// The key concerned.
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Put(draft) | Self::Grow(draft) => &draft.key,
            Self::Delete { key, .. }
            | Self::Sweep { key }
            | Self::Touch { key, .. }
            | Self::Check { key, .. } => key,
        }
    }

    /// What must hold.
    pub(crate) fn condition(&self) -> Condition {
        match self {
            Self::Put(draft) | Self::Grow(draft) => draft.condition,
            Self::Delete { condition, .. } | Self::Check { condition, .. } => *condition,
            Self::Touch { .. } | Self::Sweep { .. } => Condition::None,
        }
    }

    /// How many bytes it writes, about.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::Put(draft) | Self::Grow(draft) => draft.metadata.size + 1024,
            _ => 1024,
        }
    }
}

/// What a step did.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    /// The value is stored.
    Stored(Metadata),
    /// The key is absent; true if it was there.
    Deleted(bool),
    /// The expired value of so many bytes is gone; `None`: it had not expired.
    Swept(Option<u64>),
    /// The expiry is changed; `None`: the key is absent.
    Touched(Option<Metadata>),
    /// The condition held.
    Checked,
}

/// Steps that one caller asked for with one call.
#[derive(Debug)]
pub(crate) struct Change {
    /// The verb, for messages.
    pub(crate) operation: &'static str,
    pub(crate) steps: Vec<Step>,
    /// All or nothing; else each step on its own.
    pub(crate) together: bool,
}

impl Change {
    /// A single step.
    pub(crate) fn one(operation: &'static str, step: Step) -> Self {
        Self { operation, steps: vec![step], together: true }
    }

    /// How many bytes it writes, about.
    pub(crate) fn weight(&self) -> u64 {
        self.steps.iter().map(Step::weight).sum()
    }
}

/// An answer for each step; for a change that is all or nothing, an error of one is the error of the whole.
pub(crate) type Answer = Vec<persist_core::Result<Done>>;
