use std::sync::Arc;

use bytes::Bytes;
use persist_core::{
    BaseStorage, DeleteOptions, Entry, ErrorKind, Key, ListOptions, Result, StorageError, StoreOptions, Value,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::canonical::canonical_json;
use super::id::{ContentHash, ContentId};

/// Contents under their hashes in any storage: who puts the same twice stores it once, and what is got is what its id says.
///
/// ```
/// # use std::sync::Arc;
/// # use persist_core::BaseStorage;
/// use persist_layers::ContentStore;
///
/// # async fn example(storage: Arc<dyn BaseStorage>) -> persist_core::Result<()> {
/// let contents = ContentStore::new(storage).under("contents/");
/// let id = contents.put_json(&serde_json::json!({ "b": 1, "a": 2 })).await?;
/// assert_eq!(id, contents.put_json(&serde_json::json!({ "a": 2, "b": 1 })).await?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ContentStore {
    storage: Arc<dyn BaseStorage>,
    prefix: String,
    hash: ContentHash,
}

impl ContentStore {
    /// Contents in a storage, named by BLAKE3.
    pub fn new(storage: Arc<dyn BaseStorage>) -> Self {
        Self { storage, prefix: String::new(), hash: ContentHash::default() }
    }

    /// Their keys begin with a prefix.
    #[must_use]
    pub fn under(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// New contents are named by another hash. Those that are there are found by either.
    #[must_use]
    pub fn hashed(self, hash: ContentHash) -> Self {
        Self { hash, ..self }
    }

    /// Stores a content, unless it is there; gives its id. It never expires.
    ///
    /// # Errors
    /// What the storage meets.
    pub async fn put(&self, value: impl Into<Value>) -> Result<ContentId> {
        let value = value.into();
        let id = ContentId::of(&value, self.hash);
        let key = id.key(&self.prefix)?;
        let options = StoreOptions { expiry: persist_core::Expiry::Never, ..StoreOptions::new() };
        match self.storage.store(&key, value.clone(), options.clone().if_absent()).await {
            Ok(_) => Ok(id),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                // What lies there may be damaged; whoever has the content mends it.
                if self.look(&key, &id).await.is_err() {
                    self.storage.store(&key, value, options).await?;
                }
                Ok(id)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores a value as canonical JSON (RFC 8785), so that the order of members makes no difference to its id.
    ///
    /// # Errors
    /// As [`canonical_json`] and [`put`](Self::put).
    pub async fn put_json<T: Serialize + ?Sized>(&self, value: &T) -> Result<ContentId> {
        let text = canonical_json(value)?;
        self.put(Value::Json(persist_core::Json::from_stored(text))).await
    }

    /// A content; `None` if there is none of this id.
    ///
    /// # Errors
    /// `Corruption` if what is stored is not what the id says; what the storage meets.
    pub async fn get(&self, id: &ContentId) -> Result<Option<Value>> {
        self.look(&id.key(&self.prefix)?, id).await
    }

    /// The bytes of a content; see [`get`](Self::get).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_bytes(&self, id: &ContentId) -> Result<Option<Bytes>> {
        Ok(self.get(id).await?.map(|value| value.buffer().clone()))
    }

    /// A content that is JSON, deserialised.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `InvalidValue` if it does not fit `T`.
    pub async fn get_json<T: DeserializeOwned>(&self, id: &ContentId) -> Result<Option<T>> {
        self.get(id).await?.map(|value| value.to()).transpose()
    }

    /// Whether a content is there; it is not read.
    ///
    /// # Errors
    /// What the storage meets.
    pub async fn contains(&self, id: &ContentId) -> Result<bool> {
        self.storage.contains(&id.key(&self.prefix)?).await
    }

    /// Removes a content, whoever put it; true if it was there.
    ///
    /// # Errors
    /// What the storage meets.
    pub async fn remove(&self, id: &ContentId) -> Result<bool> {
        self.storage.delete(&id.key(&self.prefix)?, DeleteOptions::new()).await
    }

    /// One page of the ids, and what to give as `after` for the next one.
    ///
    /// # Errors
    /// What the storage meets.
    pub async fn list(
        &self,
        after: Option<&ContentId>,
        limit: usize,
    ) -> Result<(Vec<ContentId>, Option<ContentId>)> {
        let after = after.map(|id| id.key(&self.prefix)).transpose()?;
        let page = self.storage.list_keys(&self.prefix, ListOptions::new().after(after).limit(limit)).await?;
        let id = |key: &Key| key.strip_prefix(self.prefix.as_str()).and_then(|name| name.parse().ok());
        Ok((page.keys.iter().filter_map(id).collect(), page.next.as_ref().and_then(id)))
    }

    async fn look(&self, key: &Key, id: &ContentId) -> Result<Option<Value>> {
        let Some(Entry { value, metadata }) = self.storage.retrieve(key).await? else { return Ok(None) };
        // The storage has verified the checksum, which is BLAKE3 of the same bytes.
        let same = match id.hash() {
            ContentHash::Blake3 => metadata.checksum.as_bytes() == id.as_bytes(),
            ContentHash::Sha256 => ContentId::of(&value, ContentHash::Sha256) == *id,
        };
        if same {
            return Ok(Some(value));
        }
        let message = "another content lies there than its id says; put it again or restore it from a backup";
        let error = StorageError::new(ErrorKind::Corruption, message).with_operation("retrieve");
        Err(error.with_storage(self.storage.describe().name()).with_key(key))
    }
}
