//! Builds a pack that is in no folder: the same content gives the same bytes, on every machine and every day.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use persist_core::{Entry, ErrorKind, Key, Metadata, Result, StorageError, Tags, Timestamp, Value, Version};

use crate::codec::Payload;
use crate::config::Compression;
use crate::fault::{damage_of, system_of};
use crate::head::PackHead;
use crate::map::map;
use crate::merkle::Hash;
use crate::name::Names;
use crate::note::{About, Role};
use crate::record::{Place, encode_head};
use crate::signature::SigningKey;
use crate::tail::{Extras, Tail};

/// What was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// How many entries.
    pub items: u64,
    /// How many bytes of plain values.
    pub bytes: u64,
    /// How long the file is.
    pub file_bytes: u64,
    /// The root over all entries.
    pub root: Hash,
}

/// A pack in the making: a sealed one that is in no folder, with nothing in it but the entries: no time, no version, no
/// name of a machine. Dropping it before [`finish`](Self::finish) leaves nothing behind.
///
/// Without compression the bytes follow from the entries alone. With deflate or zstd they follow from the entries and the
/// version of the codec, so that another version of persist may give other bytes and the same root.
#[derive(Debug)]
pub struct PackBuilder {
    to: BufWriter<File>,
    unfinished: PathBuf,
    path: PathBuf,
    compression: Compression,
    pack: PackHead,
    start: u64,
    at: u64,
    names: Names,
    last: Option<Key>,
    items: u64,
    bytes: u64,
    is_finished: bool,
}

/// The only version in a built pack.
const VERSION: Version = Version::from_u64(1);

impl PackBuilder {
    /// Begins a pack that will lie at `path`, over a file that may be there.
    ///
    /// # Errors
    /// `Unsupported` for zstd if it was not built in; what the disk says.
    pub fn create(path: &Path, compression: Compression) -> Result<Self> {
        if compression == Compression::Zstd && cfg!(not(feature = "zstd")) {
            let message = "zstd was not built in; use deflate, or build persist with the feature pack-zstd";
            return Err(StorageError::new(ErrorKind::Unsupported, message));
        }
        let pack = PackHead::new(0, 0, 0, 0);
        let bytes = pack.encode().map_err(damage_of)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let unfinished = PathBuf::from(name);
        let fail = |error| system_of(&format!("cannot write {}", unfinished.display()), error);
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(true).open(&unfinished).map_err(fail)?;
        let mut builder = Self {
            to: BufWriter::with_capacity(1 << 20, file),
            path: path.to_owned(),
            compression,
            pack,
            start: bytes.len() as u64,
            at: bytes.len() as u64,
            names: Names::default(),
            last: None,
            items: 0,
            bytes: 0,
            is_finished: false,
            unfinished,
        };
        builder.put(&bytes)?;
        Ok(builder)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to
            .write_all(bytes)
            .map_err(|error| system_of(&format!("cannot write {}", self.unfinished.display()), error))
    }

    /// Adds an entry. They must come in the byte order of their keys. Version and times of the entry are left out.
    ///
    /// # Errors
    /// `InvalidKey` for a key out of order; what the disk says.
    pub fn add(&mut self, key: &Key, entry: &Entry) -> Result<()> {
        let Entry { value, metadata } = entry;
        self.add_value(key, value, metadata.expires_at, metadata.tags.clone(), metadata.encodings.clone())
    }

    /// Adds a value; see [`add`](Self::add).
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_value(
        &mut self,
        key: &Key,
        value: &Value,
        expires_at: Option<Timestamp>,
        tags: Tags,
        encodings: Vec<String>,
    ) -> Result<()> {
        if self.last.as_ref().is_some_and(|last| last >= key) {
            let message = "the keys of a pack must be added in their order, each once";
            return Err(StorageError::new(ErrorKind::InvalidKey, message).with_key(key));
        }
        let metadata = Metadata {
            kind: value.kind(),
            size: value.size(),
            version: VERSION,
            created_at: Timestamp::from_millis(0),
            modified_at: Timestamp::from_millis(0),
            expires_at,
            checksum: value.checksum(),
            tags,
            encodings,
        };
        let name = self.names.take(key, metadata.kind);
        let payload = Payload::of(value, self.compression);
        let note = payload.note(Role::Value, About::Entry(key.clone(), metadata));
        let place = Place { salt: self.pack.salt, at: self.at };
        let mut head = Vec::with_capacity(256);
        let len = encode_head(&mut head, place, name, note, &payload)
            .map_err(|wrong| StorageError::new(ErrorKind::InvalidValue, wrong.0).with_key(key))?
            .record_len();
        self.put(&head)?;
        for piece in &payload.pieces {
            self.put(piece)?;
        }
        self.put(&payload.table)?;
        self.at += len;
        self.items += 1;
        self.bytes += value.size();
        self.last = Some(key.clone());
        Ok(())
    }

    /// Seals the pack, signs it if there is a key, and puts it in its place; it is on the disk when this returns.
    ///
    /// # Errors
    /// What the disk says; then nothing is in its place.
    pub fn finish(mut self, key: Option<&SigningKey>) -> Result<Built> {
        let shown = self.unfinished.display().to_string();
        let fail = |error: io::Error| system_of(&format!("cannot write {shown}"), error);
        self.to.flush().map_err(fail)?;
        let file = self.to.get_ref().try_clone().map_err(fail)?;
        let tail = self.tail(&file, key, fail)?;
        (&file).write_all(&tail.bytes).and_then(|()| file.sync_all()).map_err(fail)?;
        fs::rename(&self.unfinished, &self.path).map_err(fail)?;
        self.is_finished = true;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let synced = File::open(parent.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        synced.map_err(|error| system_of("cannot sync the folder of the pack", error))?;
        let file_bytes = self.at + tail.bytes.len() as u64;
        Ok(Built { items: self.items, bytes: self.bytes, file_bytes, root: tail.seal.root })
    }

    fn tail(
        &self,
        file: &File,
        key: Option<&SigningKey>,
        fail: impl Fn(io::Error) -> StorageError,
    ) -> Result<Tail> {
        let bytes = map(file).map_err(fail)?;
        let extras = Extras { compression: self.compression.of_manifest(), ..Extras::default() };
        let tail =
            Tail::of(&bytes, &self.pack, self.start, &extras).map_err(|(_, wrong)| damage_of(wrong))?;
        let Some(key) = key else { return Ok(tail) };
        // What is signed is known only now.
        let signature = key.sign(&tail.seal.root).to_json();
        let extras = Extras { signature: Some(signature.as_bytes()), ..extras };
        Tail::of(&bytes, &self.pack, self.start, &extras).map_err(|(_, wrong)| damage_of(wrong))
    }
}

impl Drop for PackBuilder {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed lies beside the pack under a name that says what it is.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}
