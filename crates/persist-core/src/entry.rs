use crate::{Metadata, Result, Value};

/// A value with its metadata, as a storage gives it back.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// What is known of it.
    pub metadata: Metadata,
}

impl Entry {
    /// Puts the two together.
    pub fn new(value: Value, metadata: Metadata) -> Self {
        Self { value, metadata }
    }

    /// Deserialises a JSON value.
    ///
    /// # Errors
    /// `InvalidValue` if it is not JSON or does not fit `T`.
    pub fn to<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.value.to()
    }
}
