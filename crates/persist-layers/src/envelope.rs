use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use persist_core::{
    BaseStorage, Condition, ErrorKind, Expiry, Key, Result, StorageError, StoreOptions, Value, Version,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keyring::Keyring;
use crate::reserved::OWN;

/// What a keyring record says of itself.
const FORMAT: &str = "persist-keyring/1";

/// Bytes of a nonce.
const NONCE: usize = 12;

/// Wraps data keys with a key that does not leave its place: a key management service, a hardware module.
///
/// It is asked when a storage is opened, for each data key once, and when a data key is made.
#[async_trait]
pub trait KeyWrapper: Send + Sync + Debug + 'static {
    /// The name of the key that wraps now.
    fn id(&self) -> &str;

    /// Wraps a data key, bound to a context that must be the same for unwrapping.
    ///
    /// # Errors
    /// Why it cannot.
    async fn wrap(&self, key: &[u8; 32], context: &str) -> Result<Vec<u8>>;

    /// Unwraps what a key of this name wrapped.
    ///
    /// # Errors
    /// `AccessDenied` for a name that it has no key for; `Corruption` if the wrapped key was changed or belongs elsewhere.
    async fn unwrap(&self, id: &str, wrapped: &[u8], context: &str) -> Result<Zeroizing<[u8; 32]>>;
}

/// Wraps with keys from the configuration: AES-256-GCM with a random nonce, which stands before the sealed key.
#[derive(Debug)]
pub(crate) struct LocalWrapper(Keyring);

impl LocalWrapper {
    /// The first key wraps, all unwrap.
    pub(crate) fn new(keys: Keyring) -> Self {
        Self(keys)
    }

    fn sealer(&self, id: &str) -> Result<LessSafeKey> {
        let Some(key) = self.0.get(id) else {
            let message = format!(
                "data keys are wrapped with the key `{}`, which is not in `envelope`; add it to read the values",
                persist_core::escape(id)
            );
            return Err(StorageError::new(ErrorKind::AccessDenied, message));
        };
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| no_random())?;
        Ok(LessSafeKey::new(key))
    }
}

fn no_random() -> StorageError {
    StorageError::new(ErrorKind::Internal, "the system gave no random numbers")
}

#[async_trait]
impl KeyWrapper for LocalWrapper {
    fn id(&self) -> &str {
        self.0.first().unwrap_or_default()
    }

    async fn wrap(&self, key: &[u8; 32], context: &str) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        SystemRandom::new().fill(&mut nonce).map_err(|_| no_random())?;
        let mut sealed = key.to_vec();
        let aad = Aad::from(context.as_bytes());
        self.sealer(self.id())?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .map_err(|_| no_random())?;
        Ok([&nonce[..], &sealed[..]].concat())
    }

    async fn unwrap(&self, id: &str, wrapped: &[u8], context: &str) -> Result<Zeroizing<[u8; 32]>> {
        let sealer = self.sealer(id)?;
        let changed = || {
            let message = "a data key cannot be unwrapped: it was changed or moved, or the key is another one than it was wrapped \
                           with; restore the keyring from a backup";
            StorageError::new(ErrorKind::Corruption, message)
        };
        let (nonce, sealed) = wrapped.split_at_checked(NONCE).ok_or_else(changed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| changed())?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        let plain =
            sealer.open_in_place(nonce, Aad::from(context.as_bytes()), &mut opened).map_err(|_| changed())?;
        let mut key = Zeroizing::new([0; 32]);
        if plain.len() != key.len() {
            return Err(changed());
        }
        key.copy_from_slice(plain);
        Ok(key)
    }
}

/// The wrapped data keys, as they lie in the storage; the last one encrypts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: String,
    keys: Vec<WrappedKey>,
}

/// A data key that only its wrapper can read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedKey {
    id: String,
    /// The name of the key that wrapped it.
    by: String,
    /// In base64 (RFC 4648, section 5, no padding).
    wrapped: String,
}

/// The data keys of a storage, which lie in it under a key that no program can use, each wrapped.
pub(crate) struct Envelopes<'a> {
    pub(crate) storage: &'a Arc<dyn BaseStorage>,
    pub(crate) wrapper: &'a dyn KeyWrapper,
}

impl Envelopes<'_> {
    /// The keys, unwrapped, with those that are named, which are made if they are not there; and at least one. What was wrapped with an
    /// older key is wrapped anew.
    pub(crate) async fn open(&self, named: &[&str]) -> Result<Keyring> {
        loop {
            let found = self.load().await?;
            let condition =
                found.as_ref().map_or(Condition::IfAbsent, |(_, version)| Condition::IfVersion(*version));
            let mut record = found
                .map_or_else(|| Record { format: FORMAT.to_owned(), keys: Vec::new() }, |(record, _)| record);
            let mut changed = false;
            for id in named.iter().copied().filter(|id| !id.is_empty()) {
                if !record.keys.iter().any(|key| key.id == id) {
                    // Before the others, so that it does not become the one that encrypts what no rule names.
                    record.keys.insert(0, self.new_key(id).await?);
                    changed = true;
                }
            }
            if record.keys.iter().all(|key| named.contains(&key.id.as_str())) {
                record.keys.push(self.new_key("data-1").await?);
                changed = true;
            }
            let keyring = self.unwrap(&mut record, &mut changed).await?;
            if !changed || self.save(&record, condition).await? {
                return Ok(keyring);
            }
        }
    }

    /// Adds a data key, which encrypts from the next opening on; gives its id.
    pub(crate) async fn add(&self) -> Result<String> {
        loop {
            let Some((mut record, version)) = self.load().await? else {
                self.open(&[]).await?;
                continue;
            };
            let numbers =
                record.keys.iter().filter_map(|key| key.id.strip_prefix("data-")?.parse::<u64>().ok());
            let id = format!("data-{}", numbers.max().unwrap_or(0) + 1);
            record.keys.push(self.new_key(&id).await?);
            if self.save(&record, Condition::IfVersion(version)).await? {
                return Ok(id);
            }
        }
    }

    async fn unwrap(&self, record: &mut Record, changed: &mut bool) -> Result<Keyring> {
        let mut keyring = Keyring::default();
        let damaged = |_| self.damaged();
        // The last one encrypts, and a keyring's first one does.
        for wrapped in record.keys.iter_mut().rev() {
            let sealed = BASE64.decode(&wrapped.wrapped).map_err(|_| self.damaged())?;
            let context = self.context(&wrapped.id);
            let key = self
                .wrapper
                .unwrap(&wrapped.by, &sealed, &context)
                .await
                .map_err(|error| self.place(error))?;
            if wrapped.by != self.wrapper.id() {
                *wrapped = self.wrapped(&wrapped.id, &key).await?;
                *changed = true;
            }
            keyring.add_key(&wrapped.id, key).map_err(damaged)?;
        }
        Ok(keyring)
    }

    async fn new_key(&self, id: &str) -> Result<WrappedKey> {
        let mut key = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(key.as_mut_slice()).map_err(|_| no_random())?;
        self.wrapped(id, &key).await
    }

    async fn wrapped(&self, id: &str, key: &[u8; 32]) -> Result<WrappedKey> {
        let wrapped = self.wrapper.wrap(key, &self.context(id)).await.map_err(|error| self.place(error))?;
        Ok(WrappedKey {
            id: id.to_owned(),
            by: self.wrapper.id().to_owned(),
            wrapped: BASE64.encode(wrapped),
        })
    }

    /// What a wrapped key is bound to. The lengths keep two contexts from being the same text.
    fn context(&self, id: &str) -> String {
        let storage = self.storage.describe().name();
        format!("{FORMAT} {}:{storage} {}:{id}", storage.len(), id.len())
    }

    async fn load(&self) -> Result<Option<(Record, Version)>> {
        let found = self.storage.retrieve(&record_key()?).await?;
        let Some(entry) = found else { return Ok(None) };
        let record: Record = entry.to().map_err(|_| self.damaged())?;
        if record.format != FORMAT || record.keys.is_empty() {
            return Err(self.damaged());
        }
        Ok(Some((record, entry.metadata.version)))
    }

    /// False if somebody else was faster.
    async fn save(&self, record: &Record, condition: Condition) -> Result<bool> {
        let options = StoreOptions { condition, expiry: Expiry::Never, ..StoreOptions::new() };
        match self.storage.store(&record_key()?, Value::json(record)?, options).await {
            Ok(_) => self.storage.flush().await.map(|()| true),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn place(&self, error: StorageError) -> StorageError {
        error.with_operation("open").with_storage(self.storage.describe().name())
    }

    fn damaged(&self) -> StorageError {
        let message = "the keyring is damaged; restore it from a backup: without it no value can be read";
        self.storage.describe().error(ErrorKind::Corruption, "open", message)
    }
}

fn record_key() -> Result<Key> {
    Key::new(format!("{OWN}encrypt/keyring"))
}
