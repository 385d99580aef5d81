use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use persist_core::{
    BaseStorage, Capabilities, Descriptor, Entry, ErrorKind, Event, Expiry, Key, Metadata, Operation,
    Outcome, Result, Stats, StorageError, StoreItem, StoreOptions, Value, Verification, Watch, verify_values,
};

use crate::batch::{merge, split};
use crate::derived::derived;
use crate::plain::Plain;

/// Values over this many bytes are encoded and decoded on a thread that may block.
const INLINE: u64 = 128 << 10;

/// What a note says.
pub(crate) struct Described {
    /// What the value was.
    pub(crate) plain: Plain,
    /// The notes of others that it holds, because nobody below may read them.
    pub(crate) hidden: Vec<String>,
}

impl Described {
    /// Says in the metadata what the value was.
    fn put_into(self, metadata: &mut Metadata) {
        metadata.encodings.extend(self.hidden);
        self.plain.put_into(metadata);
    }
}

/// What a value was before it was stored encoded, to answer with.
struct Given {
    /// `None`: it was stored as it is.
    plain: Option<Plain>,
    notes: Vec<String>,
}

impl Given {
    /// The metadata of the plain value from those of what was stored.
    fn answer(self, mut metadata: Metadata) -> Metadata {
        metadata.encodings = self.notes;
        if let Some(plain) = self.plain {
            plain.put_into(&mut metadata);
        }
        metadata
    }
}

/// Why something cannot be encoded or decoded.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) ErrorKind, pub(crate) String);

impl Refusal {
    /// What is stored is not what an encoder made.
    pub(crate) fn damaged(what: &str) -> Self {
        Self(ErrorKind::Corruption, format!("{what}; restore it from a backup or delete the key"))
    }
}

/// How values are changed on their way in, and changed back on their way out.
pub(crate) trait Encoder: Send + Sync + std::fmt::Debug + 'static {
    /// What a note among the encodings begins with. It has a space at its end.
    const MARK: &'static str;

    /// The largest value that can be stored, if that many bytes can be stored below.
    fn max_value_bytes(&self, below: u64) -> u64 {
        below
    }

    /// Encodes a value and adds its note, with the mark, to those of others; gives what is stored in place of the value, as
    /// bytes, and what it was. `None`: it is stored as it is, without a note. That must not be where the last note already has the mark.
    fn encode(
        &self,
        key: &Key,
        value: &Value,
        notes: &mut Vec<String>,
    ) -> Result<Option<(Bytes, Plain)>, Refusal>;

    /// What a value was, from its note alone (without the mark).
    fn describe(&self, key: &Key, note: &str) -> Result<Described, Refusal>;

    /// A value from its note and its body, and what it was.
    fn decode(&self, key: &Key, note: &str, body: &Bytes) -> Result<(Described, Value), Refusal>;

    /// About how many bytes must be gone through to decode a value.
    fn decoding_cost(&self, note: &str, body: &Bytes) -> u64 {
        let _ = note;
        body.len() as u64
    }

    /// Lets a value be read that was not encoded.
    fn admit_plain(&self, key: &Key) -> Result<(), Refusal> {
        let _ = key;
        Ok(())
    }

    /// True for a note that should be made anew, with other settings than it was made with.
    #[cfg(feature = "encrypt")]
    fn is_stale(&self, key: &Key, note: Option<&str>) -> bool {
        let _ = (key, note);
        false
    }
}

/// A storage whose values an [`Encoder`] changes. To everybody above, kind, size and checksum are those of the plain value.
///
/// What was done stands in one entry of the metadata's encodings, which every storage keeps atomically with the value, and which
/// is taken out again on the way out: it is never guessed from what is stored. A value without such an entry is a plain one.
#[derive(Debug)]
pub(crate) struct Encoded<E> {
    inner: Arc<dyn BaseStorage>,
    descriptor: Descriptor,
    encoder: Arc<E>,
}

impl<E: Encoder> Encoded<E> {
    pub(crate) fn new(inner: Arc<dyn BaseStorage>, encoder: E) -> Self {
        let below = inner.describe();
        let capabilities =
            Capabilities { native_ranges: false, native_arrays: false, ..below.capabilities() };
        let limit = encoder.max_value_bytes(below.max_value_bytes());
        let descriptor = derived(&inner).with_capabilities(capabilities).with_max_value_bytes(limit);
        Self { inner, descriptor, encoder: Arc::new(encoder) }
    }

    fn error(&self, operation: &'static str, key: &Key, Refusal(kind, message): Refusal) -> StorageError {
        self.descriptor.error(kind, operation, message).with_key(key)
    }

    /// Does what may take long where it holds up nobody.
    async fn work<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce(&E) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        if bytes <= INLINE {
            return work(&self.encoder);
        }
        let encoder = Arc::clone(&self.encoder);
        let done = tokio::task::spawn_blocking(move || work(&encoder)).await;
        done.unwrap_or_else(|_| {
            Err(Refusal(ErrorKind::Internal, "encoding ended without an answer".to_owned()))
        })
    }

    /// The value and the options with which it is stored below.
    async fn encode(
        &self,
        key: &Key,
        value: Value,
        mut options: StoreOptions,
    ) -> Result<(Value, StoreOptions, Given)> {
        self.inner.describe().admit_change("store")?;
        self.descriptor.admit_store(key, &value, &options)?;
        let (named, plain, mut notes) = (key.clone(), value.clone(), options.encodings.clone());
        let coded = self
            .work(value.size(), move |encoder| {
                let coded = encoder.encode(&named, &plain, &mut notes)?;
                Ok((coded, notes))
            })
            .await;
        let (coded, notes) = coded.map_err(|refusal| self.error("store", key, refusal))?;
        let notes = std::mem::replace(&mut options.encodings, notes);
        let (value, plain) = match coded {
            Some((body, plain)) => (Value::Bytes(body), Some(plain)),
            None => (value, None),
        };
        Ok((value, options, Given { plain, notes }))
    }

    async fn encode_item(&self, StoreItem { key, value, options }: StoreItem) -> Result<(StoreItem, Given)> {
        let (value, options, given) = self.encode(&key, value, options).await?;
        Ok((StoreItem { key, value, options }, given))
    }

    /// Takes the layer's own note out of the metadata.
    fn take_note(metadata: &mut Metadata) -> Option<String> {
        let note = metadata.encodings.last()?.strip_prefix(E::MARK)?.to_owned();
        metadata.encodings.pop();
        Some(note)
    }

    /// The metadata of the plain value.
    fn plain(&self, operation: &'static str, key: &Key, mut metadata: Metadata) -> Result<Metadata> {
        let refused = |refusal| self.error(operation, key, refusal);
        match Self::take_note(&mut metadata) {
            None => self.encoder.admit_plain(key).map_err(refused)?,
            Some(note) => self.encoder.describe(key, &note).map_err(refused)?.put_into(&mut metadata),
        }
        Ok(metadata)
    }

    async fn decode(
        &self,
        operation: &'static str,
        key: &Key,
        entry: Option<Entry>,
    ) -> Result<Option<Entry>> {
        let Some(Entry { value, mut metadata }) = entry else { return Ok(None) };
        let refused = |refusal| self.error(operation, key, refusal);
        let Some(note) = Self::take_note(&mut metadata) else {
            self.encoder.admit_plain(key).map_err(refused)?;
            return Ok(Some(Entry { value, metadata }));
        };
        let Value::Bytes(body) = value else {
            return Err(refused(Refusal::damaged("the stored value is not of the kind that was stored")));
        };
        let (named, cost) = (key.clone(), self.encoder.decoding_cost(&note, &body));
        let decoded = self.work(cost, move |encoder| encoder.decode(&named, &note, &body)).await;
        let (described, decoded) = decoded.map_err(refused)?;
        described.put_into(&mut metadata);
        Ok(Some(Entry { value: decoded, metadata }))
    }

    /// Stores every value anew that was encoded otherwise than it would be now; gives how many those were.
    ///
    /// Each is stored over the version that was read, so that nothing newer is lost. What is done is done: stopped and begun
    /// again, it goes on with the rest.
    #[cfg(feature = "encrypt")]
    pub(crate) async fn renew(&self) -> Result<u64> {
        let (mut renewed, mut after) = (0, None);
        loop {
            let options = persist_core::ListOptions::new().after(after).limit(persist_core::MAX_PAGE);
            let page = self.inner.list_keys("", options).await?;
            for key in &page.keys {
                renewed += u64::from(self.renew_one(key).await?);
            }
            after = page.next;
            if after.is_none() {
                return Ok(renewed);
            }
        }
    }

    #[cfg(feature = "encrypt")]
    async fn renew_one(&self, key: &Key) -> Result<bool> {
        let Some(below) = self.inner.metadata(key).await? else { return Ok(false) };
        let note = below.encodings.last().and_then(|note| note.strip_prefix(E::MARK));
        if !self.encoder.is_stale(key, note) {
            return Ok(false);
        }
        let Some(Entry { value, metadata }) =
            self.decode("renew", key, self.inner.retrieve(key).await?).await?
        else {
            return Ok(false);
        };
        let options = StoreOptions {
            expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
            condition: persist_core::Condition::IfVersion(metadata.version),
            tags: metadata.tags,
            encodings: metadata.encodings,
        };
        let (value, options, _) = self.encode(key, value, options).await?;
        match self.inner.store(key, value, options).await {
            Ok(_) => Ok(true),
            // Somebody stored or deleted it meanwhile, which makes it new too.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<E: Encoder> BaseStorage for Encoded<E> {
    forward!(inner: delete, list_keys, contains, delete_many, flush, health, maintain, snapshot);

    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let (value, options, given) = self.encode(key, value, options).await?;
        Ok(given.answer(self.inner.store(key, value, options).await?))
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.decode("retrieve", key, self.inner.retrieve(key).await?).await
    }

    /// Reads nothing but the metadata below.
    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        let found = self.inner.metadata(key).await?;
        found.map(|metadata| self.plain("metadata", key, metadata)).transpose()
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let touched = self.inner.touch(key, expiry).await?;
        touched.map(|metadata| self.plain("touch", key, metadata)).transpose()
    }

    /// Decodes the whole value.
    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let found = self.inner.retrieve(key).await.map_err(|error| error.with_operation("retrieve_range"))?;
        Ok(self.decode("retrieve_range", key, found).await?.map(|entry| entry.value.range(range)))
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        let mut encoded = Vec::with_capacity(items.len());
        for item in items {
            encoded.push(self.encode_item(item).await);
        }
        let (passed, refused) = split(encoded.into_iter());
        let (items, givens): (Vec<_>, Vec<_>) = passed.into_iter().unzip();
        let answers = self.inner.store_many(items).await.into_iter().zip(givens);
        merge(refused, answers.map(|(answer, given)| Ok(given.answer(answer?))).collect())
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let mut decoded = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(self.inner.retrieve_many(keys).await) {
            decoded.push(match found {
                Ok(entry) => self.decode("retrieve", key, entry).await,
                Err(error) => Err(error),
            });
        }
        decoded
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let (mut encoded, mut givens) = (Vec::with_capacity(operations.len()), Vec::new());
        for operation in operations {
            encoded.push(match operation {
                Operation::Put(item) => {
                    let (item, given) = self.encode_item(item).await?;
                    givens.push(given);
                    Operation::Put(item)
                }
                other => other,
            });
        }
        let (outcomes, mut givens) = (self.inner.transact(encoded).await?, givens.into_iter());
        let plain = |outcome| match outcome {
            Outcome::Stored(metadata) => match givens.next() {
                Some(given) => Outcome::Stored(given.answer(metadata)),
                None => Outcome::Stored(metadata),
            },
            other => other,
        };
        Ok(outcomes.into_iter().map(plain).collect())
    }

    /// The figures of the storage below; its bytes are those of encoded values, and given as `encoded_bytes`.
    async fn stats(&self) -> Result<Stats> {
        let mut stats = self.inner.stats().await?;
        if let Some(bytes) = stats.bytes.take() {
            stats.counters.insert("encoded_bytes", bytes);
        }
        Ok(stats)
    }

    /// What the storage below finds, and whatever cannot be decoded. Every value is read twice.
    async fn verify(&self) -> Result<Verification> {
        let below = self.inner.verify().await?;
        let mut found = verify_values(self).await?;
        for problem in below.problems {
            if !found.problems.iter().any(|known| known.key == problem.key) {
                found.problems.push(problem);
            }
        }
        Ok(found)
    }

    /// What the storage below tells, of the plain values.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        let events = self.inner.watch(prefix).await?;
        Ok(Watch::new(events.map(|event| match event? {
            Event::Stored { key, metadata } => {
                let metadata = self.plain("watch", &key, metadata)?;
                Ok(Event::Stored { key, metadata })
            }
            other => Ok(other),
        })))
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.inner.close().await
    }
}

/// Adds what a renewal did to what `maintain` did below.
#[cfg(feature = "encrypt")]
pub(crate) fn note_renewed(done: &mut persist_core::Maintenance, renewed: u64, what: &str) {
    if renewed > 0 {
        done.notes.push(format!("{renewed} values {what}"));
    }
}
