use std::fmt::Write;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, ErrorKind, Key, Maintenance, OpenContext, Result, Secret, StorageError, Value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::encoded::{Described, Encoded, Encoder, Refusal, note_renewed};
use crate::envelope::{Envelopes, KeyWrapper, LocalWrapper};
use crate::key_names::SealedNames;
use crate::keyring::Keyring;
use crate::plain::Plain;
use crate::record::{Envelope, NOT_OPENED, Record};
use crate::renamed::Renamed;
use crate::reserved::Hidden;
use crate::rules::longest;

/// The settings of [`Encrypt`]. At least one key is needed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptConfig {
    /// The keys. The first one encrypts what no rule gives to another; all of them decrypt.
    #[serde(default)]
    pub keys: Vec<EncryptKey>,
    /// Keys that wrap data keys, in place of `keys`: the first one wraps, all of them unwrap. The data keys are made by the layer and lie in the
    /// storage, wrapped, so that a new key here costs one record and not every value.
    #[serde(default)]
    pub envelope: Vec<EncryptKey>,
    /// Other keys for values under some prefixes; the longest prefix counts.
    #[serde(default)]
    pub rules: Vec<EncryptRule>,
    /// The name of the key that the names of values are encrypted with too; left out: they are not. It cannot be changed later. Then a page of a
    /// listing reads all keys below the last `/` of its prefix.
    #[serde(default)]
    pub key_names: Option<String>,
    /// Read values that were stored before the layer was there. Otherwise they are refused, because whoever can write to the
    /// storage below could put them there.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Let `maintain` encrypt everything anew that is not encrypted with the key it should have, plaintext included.
    #[serde(default)]
    pub rotate: bool,
}

/// A key by its name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptKey {
    /// What is written beside every value that it encrypted: 1 to 32 letters, digits, `-`, `_` and `.`. It is no secret, and
    /// must never be given to another key.
    pub id: String,
    /// 32 random bytes, as 64 hex digits: `env:NAME` or `file:PATH`.
    pub secret: Secret,
}

/// Which key values under a prefix are encrypted with.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptRule {
    /// What the keys of the values begin with, literally.
    pub prefix: String,
    /// The name of the key.
    pub key: String,
}

/// Encrypts values with AES-256-GCM, each with a key of its own.
///
/// What is protected: the value, its kind, checksum, dtype and shape. What is not: the key it is stored under (unless the
/// settings say so), its length, its times and its tags. A value opens only under the name, and in the storage, where it was stored; a changed, cut or swapped one does
/// not open at all. An *older* value of the same key that somebody puts back, whole and with its metadata, does open.
///
/// The format is described in `docs/formats/encryption.md`.
#[derive(Debug)]
pub struct Encrypt {
    encoded: Encoded<Encryptor>,
    rotate: bool,
}

impl Encrypt {
    /// Encrypts what is stored in `inner`. Its name is bound to every value.
    ///
    /// # Errors
    /// `InvalidConfig` for keys that are none, two of one name, or a rule for a key that is not there.
    pub fn new(inner: Arc<dyn BaseStorage>, config: EncryptConfig) -> Result<Self> {
        if !config.envelope.is_empty() {
            return Err(invalid("data keys lie in the storage; use `Encrypt::open`".to_owned()));
        }
        let keyring = keyring(&config).map_err(invalid)?;
        Self::with_keyring(inner, config, keyring)
    }

    /// As [`new`](Self::new), and with the data keys that the keys of `envelope` wrap, if there are some.
    ///
    /// # Errors
    /// `InvalidConfig` as [`new`](Self::new); `AccessDenied` if data keys are wrapped with a key that is not there; `Corruption` if
    /// they were changed; what the storage below meets.
    pub async fn open(inner: Arc<dyn BaseStorage>, config: EncryptConfig) -> Result<Self> {
        if config.envelope.is_empty() {
            return Self::new(inner, config);
        }
        let wrapper = wrapper(&config).map_err(invalid)?;
        Self::open_with(inner, config, &wrapper).await
    }

    /// Encrypts with data keys that somebody else wraps. The settings need neither `keys` nor `envelope`.
    ///
    /// # Errors
    /// As [`open`](Self::open), and what the wrapper meets.
    pub async fn open_with(
        inner: Arc<dyn BaseStorage>,
        config: EncryptConfig,
        wrapper: &dyn KeyWrapper,
    ) -> Result<Self> {
        let named = config.rules.iter().map(|rule| &rule.key).chain(&config.key_names);
        let named: Vec<&str> = named.map(String::as_str).collect();
        let keyring = Envelopes { storage: &inner, wrapper }.open(&named).await?;
        Self::with_keyring(Arc::new(Renamed::new(inner, Hidden)), config, keyring)
    }

    /// Makes a new data key in a storage, which encrypts what no rule gives to another from the next opening on; gives its id. With `rotate`
    /// everything is then encrypted anew. Whoever has the storage open cannot read what the new key encrypted before he opens it again.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn add_data_key(inner: &Arc<dyn BaseStorage>, wrapper: &dyn KeyWrapper) -> Result<String> {
        Envelopes { storage: inner, wrapper }.add().await
    }

    /// As [`add_data_key`](Self::add_data_key), with the keys of `envelope`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn add_data_key_of(inner: &Arc<dyn BaseStorage>, config: &EncryptConfig) -> Result<String> {
        let wrapper = wrapper(config).map_err(invalid)?;
        Self::add_data_key(inner, &wrapper).await
    }

    fn with_keyring(inner: Arc<dyn BaseStorage>, config: EncryptConfig, keyring: Keyring) -> Result<Self> {
        let storage = inner.describe().name().to_owned();
        let inner = match config.key_names.as_ref().and_then(|id| keyring.get(id)) {
            Some(master) => Arc::new(Renamed::new(inner, SealedNames::new(master, &storage)?)),
            None => inner,
        };
        let (rules, allow_plaintext) = (config.rules, config.allow_plaintext);
        let encryptor = Encryptor { storage, keyring, rules, allow_plaintext };
        Ok(Self { encoded: Encoded::new(inner, encryptor), rotate: config.rotate })
    }

    /// Encrypts every value anew that is not encrypted with the key it should have; gives how many those were. It may be
    /// stopped at any time and begun again, while others read and write. Once it has come to its end, the old key can go.
    ///
    /// # Errors
    /// `Corruption` naming a value that cannot be opened; what the storage below meets.
    pub async fn rotate(&self) -> Result<u64> {
        self.encoded.renew().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Encrypt {
    forward!(encoded: describe, store, retrieve, delete, list_keys, metadata, contains, touch, retrieve_range, store_many);
    forward!(encoded: retrieve_many, delete_many, transact, flush, health, stats, verify, snapshot, watch, close);

    /// As the storage below, and then [`rotate`](Encrypt::rotate) if the settings say so.
    async fn maintain(&self) -> Result<Maintenance> {
        let mut done = self.encoded.maintain().await?;
        if self.rotate {
            note_renewed(&mut done, self.rotate().await?, "encrypted anew");
        }
        Ok(done)
    }
}

fn invalid(why: String) -> StorageError {
    StorageError::new(ErrorKind::InvalidConfig, why)
}

/// What wraps data keys by the settings.
///
/// # Errors
/// What is wrong with the keys, in words that hold no secret.
fn wrapper(config: &EncryptConfig) -> Result<LocalWrapper, String> {
    if !config.keys.is_empty() {
        return Err("`keys` and `envelope` are both given; keep one".to_owned());
    }
    let mut keyring = Keyring::default();
    for EncryptKey { id, secret } in &config.envelope {
        keyring.add(id, secret.expose())?;
    }
    let mut named = config.rules.iter().map(|rule| &rule.key).chain(&config.key_names);
    named.try_for_each(|id| Keyring::check_id(id))?;
    Ok(LocalWrapper::new(keyring))
}

/// The keys of the settings.
///
/// # Errors
/// What is wrong with them, in words that hold no secret.
fn keyring(config: &EncryptConfig) -> Result<Keyring, String> {
    let mut keyring = Keyring::default();
    for EncryptKey { id, secret } in &config.keys {
        keyring.add(id, secret.expose())?;
    }
    if keyring.first().is_none() {
        return Err("`keys` is empty; name at least one key, or let `envelope` wrap data keys".to_owned());
    }
    if let Some(id) = config.key_names.as_ref().filter(|id| keyring.get(id).is_none()) {
        return Err(format!("`key_names` names the key `{id}`, which is not in `keys`"));
    }
    match config.rules.iter().find(|rule| keyring.get(&rule.key).is_none()) {
        Some(rule) => Err(format!(
            "the rule for `{}` names the key `{}`, which is not in `keys`",
            rule.prefix, rule.key
        )),
        None => Ok(keyring),
    }
}

#[derive(Debug)]
struct Encryptor {
    storage: String,
    keyring: Keyring,
    rules: Vec<EncryptRule>,
    allow_plaintext: bool,
}

impl Encryptor {
    /// The name of the key that a value is encrypted with now.
    fn key_id(&self, key: &Key) -> &str {
        let rule = longest(&self.rules, |rule| &rule.prefix, key);
        rule.map_or_else(|| self.keyring.first().unwrap_or_default(), |rule| &rule.key)
    }

    fn opened(&self, key: &Key, note: &str) -> Result<(Record, Envelope), Refusal> {
        let envelope: Envelope = note.parse().map_err(|_| Refusal::damaged(NOT_OPENED))?;
        let Some(master) = self.keyring.get(&envelope.key_id) else {
            let message = format!(
                "the value is encrypted with the key `{}`, which is not in `keys`; add it to read the value",
                persist_core::escape(&envelope.key_id)
            );
            return Err(Refusal(ErrorKind::AccessDenied, message));
        };
        let record = Record::open(master, &envelope, &self.storage, key);
        record.map(|record| (record, envelope)).map_err(|_| Refusal::damaged(NOT_OPENED))
    }
}

impl Encoder for Encryptor {
    const MARK: &'static str = "persist-encrypt/1 ";

    fn max_value_bytes(&self, below: u64) -> u64 {
        crate::record::plain_limit(below)
    }

    fn encode(
        &self,
        key: &Key,
        value: &Value,
        notes: &mut Vec<String>,
    ) -> Result<Option<(Bytes, Plain)>, Refusal> {
        let failed = |_| Refusal(ErrorKind::Internal, "the system gave no random numbers".to_owned());
        let key_id = self.key_id(key);
        let Some(master) = self.keyring.get(key_id) else {
            return Err(Refusal(ErrorKind::Internal, format!("there is no key `{key_id}`")));
        };
        let plain = Plain::of(value);
        let description = described(&plain, notes);
        let (record, envelope) =
            Record::create(master, key_id, &self.storage, key, &description).map_err(failed)?;
        let body = record.seal(value.buffer()).map_err(failed)?;
        // What the layers above noted is in the envelope, where nobody can read it.
        *notes = vec![format!("{}{envelope}", Self::MARK)];
        Ok(Some((Bytes::from(body), plain)))
    }

    fn describe(&self, key: &Key, note: &str) -> Result<Described, Refusal> {
        let (record, envelope) = self.opened(key, note)?;
        description(&record, &envelope)
    }

    fn decode(&self, key: &Key, note: &str, body: &Bytes) -> Result<(Described, Value), Refusal> {
        let (record, envelope) = self.opened(key, note)?;
        let described = description(&record, &envelope)?;
        let damaged = || Refusal::damaged(NOT_OPENED);
        let buffer = record.unseal(body).map_err(|_| damaged())?;
        // Every bit of it was authenticated, so its checksum need not be made again.
        let value = described.plain.value(Bytes::from(buffer)).ok_or_else(damaged)?;
        Ok((described, value))
    }

    fn admit_plain(&self, _: &Key) -> Result<(), Refusal> {
        if self.allow_plaintext {
            return Ok(());
        }
        let message = "the value is not encrypted; if it was stored before this layer was there, set `allow_plaintext`, \
                       and `rotate` to encrypt it; otherwise somebody else has put it there";
        Err(Refusal(ErrorKind::Corruption, message.to_owned()))
    }

    fn is_stale(&self, key: &Key, note: Option<&str>) -> bool {
        let envelope = note.map(str::parse::<Envelope>);
        match envelope {
            None => true,
            Some(Ok(envelope)) => envelope.key_id != self.key_id(key),
            // What is damaged is found by reading it.
            Some(Err(_)) => true,
        }
    }
}

/// What is sealed in the envelope: what the value is, and after a line break the notes of others, each with its length.
fn described(plain: &Plain, notes: &[String]) -> String {
    let mut text = format!("{plain}\n");
    for note in notes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{}:{note}", note.len());
    }
    text
}

fn description(record: &Record, envelope: &Envelope) -> Result<Described, Refusal> {
    let damaged = || Refusal::damaged(NOT_OPENED);
    let text = record.description(envelope).map_err(|_| damaged())?;
    let (plain, mut rest) = text.split_once('\n').ok_or_else(damaged)?;
    let plain = plain.parse().map_err(|_| damaged())?;
    let mut hidden = Vec::new();
    while !rest.is_empty() {
        let (length, notes) = rest.split_once(':').ok_or_else(damaged)?;
        let (note, others) =
            length.parse().ok().and_then(|length| notes.split_at_checked(length)).ok_or_else(damaged)?;
        hidden.push(note.to_owned());
        rest = others;
    }
    Ok(Described { plain, hidden })
}

#[async_trait]
impl Layer for Encrypt {
    const NAME: &'static str = "encrypt";
    type Config = EncryptConfig;

    fn check(config: &EncryptConfig) -> Result<(), String> {
        if config.envelope.is_empty() { keyring(config).map(drop) } else { wrapper(config).map(drop) }
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: EncryptConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, config)?))
    }

    async fn open(
        inner: Arc<dyn BaseStorage>,
        config: EncryptConfig,
        _: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::open(inner, config).await?))
    }
}
