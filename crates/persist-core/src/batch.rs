use std::collections::HashSet;

use crate::{Condition, DeleteOptions, ErrorKind, Key, Metadata, Result, StorageError, StoreOptions, Value};

/// One value of a `store_many`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreItem {
    /// Under which key.
    pub key: Key,
    /// What.
    pub value: Value,
    /// How.
    pub options: StoreOptions,
}

impl StoreItem {
    /// A value stored without options.
    pub fn new(key: Key, value: Value) -> Self {
        Self { key, value, options: StoreOptions::new() }
    }
}

/// One step of a `transact`.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Store a value, if its condition holds.
    Put(StoreItem),
    /// Delete a key, if its condition holds.
    Delete(Key, DeleteOptions),
    /// Change nothing, but let the batch take place only if this holds.
    Check(Key, Condition),
}

impl Operation {
    /// Store a value.
    pub fn put(key: Key, value: Value, options: StoreOptions) -> Self {
        Self::Put(StoreItem { key, value, options })
    }

    /// The key concerned.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(item) => &item.key,
            Self::Delete(key, _) | Self::Check(key, _) => key,
        }
    }

    /// What must hold for the batch to take place.
    pub fn condition(&self) -> Condition {
        match self {
            Self::Put(item) => item.options.condition,
            Self::Delete(_, options) => options.condition,
            Self::Check(_, condition) => *condition,
        }
    }
}

/// What one step of a `transact` did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The value is stored.
    Stored(Metadata),
    /// The key is absent now; true if it was there.
    Deleted(bool),
    /// The condition held.
    Checked,
}

/// Refuses a batch that names a key twice, as `transact` does.
///
/// # Errors
/// `InvalidKey` naming the key.
pub fn check_distinct(operations: &[Operation]) -> Result<()> {
    let mut seen = HashSet::with_capacity(operations.len());
    for operation in operations {
        if !seen.insert(operation.key()) {
            return Err(StorageError::new(
                ErrorKind::InvalidKey,
                "a transaction names this key twice; join the two steps into one",
            )
            .with_key(operation.key()));
        }
    }
    Ok(())
}
