use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use persist_core::{
    BaseStorage, Checksum, Condition, DeleteOptions, Expiry, Key, Kind, Metadata, StoreOptions, Tags, Value,
    Version,
};

use crate::exit::{Failure, Result};
use crate::local_file::{self, LocalFile, Look};
use crate::output::Output;
use crate::text::key_line;
use crate::value_form;

/// The place of one value: a local file, a key of a storage, or one of the standard streams.
#[derive(Clone, Debug)]
pub(crate) enum Spot {
    /// Standard input or output.
    Stdio,
    /// A local file.
    File(LocalFile),
    /// A key of a storage.
    Key(StoredKey),
}

/// A key of an opened storage.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    /// The storage.
    pub(crate) storage: Arc<dyn BaseStorage>,
    /// What the user calls the storage; empty for the routes.
    pub(crate) name: String,
    /// The key.
    pub(crate) key: Key,
}

/// A value on its way, with what goes along.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) value: Value,
    pub(crate) expiry: Expiry,
    pub(crate) tags: Tags,
    /// How its place looked when it was read.
    pub(crate) state: State,
    /// Something the user should know about how it was read.
    pub(crate) note: Option<String>,
}

/// How a place looked when it was read, so that it is emptied later only if it still does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    Stream,
    File(Option<Look>),
    Key(Version),
}

/// How files become values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The kind asked for; else the extension tells.
    pub(crate) kind: Option<Kind>,
    /// What is not what its extension says is taken as bytes.
    pub(crate) lenient: bool,
    /// The largest value that the target accepts.
    pub(crate) limit: u64,
}

/// What is known of a value without having it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// `None` for a local file.
    pub(crate) kind: Option<Kind>,
    /// Of a local file: with the header of an array.
    pub(crate) bytes: u64,
    /// `None` for a local file.
    pub(crate) checksum: Option<Checksum>,
}

impl Spot {
    /// What is there, cheaply; `None`: nothing.
    pub(crate) async fn know(&self) -> Result<Option<Known>> {
        match self {
            Self::Stdio => Ok(None),
            Self::File(file) => {
                Ok(file.look()?.map(|look| Known { kind: None, bytes: look.bytes(), checksum: None }))
            }
            Self::Key(place) => Ok(place.storage.metadata(&place.key).await?.map(|metadata| Known {
                kind: Some(metadata.kind),
                bytes: metadata.size,
                checksum: Some(metadata.checksum),
            })),
        }
    }

    /// The checksum of what is there; local files are read for it.
    pub(crate) async fn checksum(&self) -> Result<Option<Checksum>> {
        match self {
            Self::File(file) if file.look()?.is_some() => {
                let file = file.clone();
                blocking(move || file.checksum()).await.map(Some)
            }
            _ => Ok(self.know().await?.and_then(|known| known.checksum)),
        }
    }

    /// The value there; `None`: nothing.
    pub(crate) async fn read(&self, reading: Reading) -> Result<Option<Piece>> {
        match self {
            Self::Stdio => {
                let content = blocking(move || {
                    local_file::read_all(std::io::stdin().lock(), reading.limit, Path::new("standard input"))
                });
                let kind = reading.kind.unwrap_or(Kind::Bytes);
                Ok(Some(Piece::new(value_form::parse(content.await?, kind)?, State::Stream)))
            }
            Self::File(file) => {
                let file = file.clone();
                blocking(move || read_file(&file, reading)).await.map(Some)
            }
            Self::Key(place) => place.read().await,
        }
    }

    /// Puts a value there. With `durable`, a local file survives a power cut from here on; storages have their own
    /// promise.
    pub(crate) async fn write(
        &self,
        piece: &Piece,
        condition: Condition,
        durable: bool,
        out: &Output,
    ) -> Result<Option<Metadata>> {
        let (header, body) = value_form::file_form(&piece.value);
        match self {
            Self::Stdio => {
                out.bytes(&header)?;
                out.bytes(body)?;
                out.flush().map(|()| None)
            }
            Self::File(file) => {
                let (file, body) = (file.clone(), body.clone());
                blocking(move || file.write(&[&header, &body], durable)).await.map(|()| None)
            }
            Self::Key(place) => {
                let tags = piece.tags.clone();
                let options = StoreOptions { expiry: piece.expiry, condition, tags, encodings: Vec::new() };
                Ok(Some(place.storage.store(&place.key, piece.value.clone(), options).await?))
            }
        }
    }

    /// Makes it empty, if it still looks as it did when it was read.
    pub(crate) async fn remove(&self, state: Option<State>) -> Result<()> {
        match (self, state) {
            (Self::Stdio, _) => Ok(()),
            (Self::File(file), Some(State::File(look))) => file.remove(look),
            (Self::File(file), _) => file.remove(None),
            (Self::Key(place), Some(State::Key(version))) => {
                place.storage.delete(&place.key, DeleteOptions::new().if_version(version)).await?;
                Ok(())
            }
            (Self::Key(place), _) => {
                place.storage.delete(&place.key, DeleteOptions::new()).await?;
                Ok(())
            }
        }
    }

    /// The largest value that it accepts.
    pub(crate) fn limit(&self) -> u64 {
        match self {
            Self::Key(place) => place.storage.describe().max_value_bytes(),
            Self::Stdio | Self::File(_) => u64::MAX,
        }
    }

    /// Its address as the user would write it.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Stdio => "-".to_owned(),
            Self::File(file) => key_line(&file.path().to_string_lossy()),
            Self::Key(place) => format!("{}:{}", place.name, key_line(&place.key)),
        }
    }
}

impl StoredKey {
    async fn read(&self) -> Result<Option<Piece>> {
        let Some(entry) = self.storage.retrieve(&self.key).await? else { return Ok(None) };
        let metadata = entry.metadata;
        Ok(Some(Piece {
            value: entry.value,
            expiry: metadata.expires_at.map_or(Expiry::Never, Expiry::At),
            tags: metadata.tags,
            state: State::Key(metadata.version),
            note: None,
        }))
    }
}

impl Piece {
    /// A value without expiry or tags of its own.
    pub(crate) fn new(value: Value, state: State) -> Self {
        Self { value, expiry: Expiry::Default, tags: Tags::new(), state, note: None }
    }
}

fn read_file(file: &LocalFile, reading: Reading) -> Result<Piece> {
    let look = file.look()?;
    let content = file.read(reading.limit)?;
    let guessed = reading.kind.is_none();
    let kind = reading.kind.unwrap_or_else(|| value_form::guess(file.path()));
    match value_form::parse(content.clone(), kind) {
        Ok(value) => Ok(Piece::new(value, State::File(look))),
        Err(failure) if guessed && reading.lenient => Ok(as_bytes(content, look, file.path(), &failure)),
        Err(failure) if guessed => Err(Failure::new(format!(
            "{} has the extension of a {kind} value, but {failure}; mend it, or store it as it is with --as bytes",
            file.path().display()
        ))),
        Err(failure) => Err(Failure::new(format!("{}: {failure}", file.path().display()))),
    }
}

fn as_bytes(content: Bytes, look: Option<Look>, path: &Path, failure: &Failure) -> Piece {
    let note = format!("{} is taken as bytes: {failure}", path.display());
    Piece { note: Some(note), ..Piece::new(Value::Bytes(content), State::File(look)) }
}

/// Runs what waits for the disk beside the async tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(format!("a task ended abnormally: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use persist_core::StorageExt;
    use persist_testkit::memory::MemoryStorage;

    use super::*;

    const READING: Reading = Reading { kind: None, lenient: false, limit: u64::MAX };

    #[tokio::test]
    async fn what_changed_since_it_was_read_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = LocalFile::named(folder.path().join("f"));
        let storage: Arc<dyn BaseStorage> = Arc::new(MemoryStorage::new("main"));
        let key = Key::new("k").unwrap();
        let stored = StoredKey { storage: Arc::clone(&storage), name: "main".to_owned(), key: key.clone() };
        for spot in [Spot::File(file.clone()), Spot::Key(stored)] {
            file.write(&[b"one"], false).unwrap();
            storage.put_bytes(&key, "one".into()).await.unwrap();
            let read = spot.read(READING).await.unwrap().unwrap();
            file.write(&[b"other"], false).unwrap();
            storage.put_bytes(&key, "other".into()).await.unwrap();
            spot.remove(Some(read.state)).await.unwrap_err();
            let read = spot.read(READING).await.unwrap().unwrap();
            assert_eq!(&read.value.buffer()[..], b"other", "{}", spot.show());
            spot.remove(Some(read.state)).await.unwrap();
            assert!(spot.know().await.unwrap().is_none());
        }
    }
}
