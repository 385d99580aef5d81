use persist_core::{
    BaseStorage, Checksum, DeleteOptions, ErrorKind, Expiry, Key, Operation, Result, StorageError,
    StoreOptions, Value, Version,
};
use serde::{Deserialize, Serialize};

/// What the keys of tombstones begin with, in every replica.
pub(crate) const PREFIX: &str = ".persist/deleted/";

/// What a replica keeps of a key that was deleted or has a value with an end: what is not newer is no more. So a replica that
/// missed the change does not bring the old value back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) key: Key,
    /// The greatest version that is no more, or a greater one.
    pub(crate) version: u64,
}

impl Tombstone {
    pub(crate) fn new(key: &Key, version: Version) -> Self {
        Self { key: key.clone(), version: version.as_u64() }
    }

    /// Where that of a key lies.
    pub(crate) fn place(key: &Key) -> Result<Key> {
        Key::new(format!("{PREFIX}{}", Checksum::of(&[key.as_bytes()])))
    }

    pub(crate) fn version(&self) -> Version {
        Version::from_u64(self.version)
    }

    /// That of a key in one replica.
    pub(crate) async fn read(replica: &dyn BaseStorage, key: &Key) -> Result<Option<Self>> {
        let Some(entry) = replica.retrieve(&Self::place(key)?).await? else { return Ok(None) };
        let tombstone: Self = entry.to()?;
        if tombstone.key != *key {
            let message = "its tombstone is that of another key; delete it";
            return Err(StorageError::new(ErrorKind::Corruption, message).with_key(key));
        }
        Ok(Some(tombstone))
    }

    /// The step that leaves this.
    pub(crate) fn step(&self) -> Result<Operation> {
        let options = StoreOptions { expiry: Expiry::Never, ..StoreOptions::new() };
        Ok(Operation::put(Self::place(&self.key)?, Value::json(self)?, options))
    }

    /// The steps that delete the key and leave this.
    pub(crate) fn steps(&self) -> Result<[Operation; 2]> {
        Ok([self.step()?, Operation::Delete(self.key.clone(), DeleteOptions::new())])
    }

    /// Deletes the key in one replica and leaves this.
    pub(crate) async fn put(&self, replica: &dyn BaseStorage) -> Result<()> {
        replica.transact(self.steps()?.to_vec()).await.map(drop)
    }
}
