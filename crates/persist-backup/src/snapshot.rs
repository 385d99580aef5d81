use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use persist_core::{ErrorKind, Result, SnapshotSource, StorageError};
use tokio::task::spawn_blocking;

use crate::disk;
use crate::entries::{EntriesReader, ReadError};
use crate::error::{damaged, system};
use crate::manifest::{self, Form, Manifest};
use crate::source::SnapshotReader;
use crate::writer::{ENTRIES, hash};

/// A complete snapshot: its manifest was read and is as it was written. [`verify`](Self::verify) reads the rest.
#[derive(Clone, Debug)]
pub struct Snapshot {
    path: PathBuf,
    manifest: Manifest,
}

impl Snapshot {
    /// Opens the folder of a snapshot.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Corruption` if its manifest is damaged or does not name the files of the folder;
    /// `Unsupported` for a newer format; what the disk says.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        spawn_blocking(move || Self::open_blocking(path)).await.map_err(StorageError::broken_task)?
    }

    pub(crate) fn open_blocking(path: PathBuf) -> Result<Self> {
        let file = path.join(manifest::NAME);
        let mut bytes = Vec::new();
        let read = disk::open(&file)?.take(manifest::MAX_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| system("read", &file, error))?;
        let manifest = Manifest::decode(&bytes, &path)?;
        let listed = manifest.files.iter().map(|member| member.name.as_str()).chain([manifest::NAME]);
        let (listed, found): (BTreeSet<_>, _) = (listed.collect(), disk::names(&path)?);
        if let Some(extra) = found.iter().find(|name| !listed.contains(name.as_str())) {
            let extra = persist_core::escape(extra);
            return Err(damaged(&path, format!("{extra} lies in it and is not in its {}", manifest::NAME)));
        }
        if let Some(missing) = listed.iter().find(|name| !found.iter().any(|found| found == *name)) {
            return Err(damaged(&path, format!("its file `{missing}` is missing")));
        }
        Ok(Self { path, manifest })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The name by which it is asked for: that of its storage and its own.
    pub fn name(&self) -> String {
        format!("{}/{}", self.manifest.storage, self.manifest.snapshot)
    }

    /// How many bytes its files take.
    pub fn size(&self) -> u64 {
        self.manifest.files.iter().map(|member| member.size).sum()
    }

    /// Reads all of it and checks every byte.
    ///
    /// # Errors
    /// `Corruption` if it is not as it was written; `Locked` if it is being removed; what the disk says.
    pub async fn verify(&self) -> Result<()> {
        let snapshot = self.clone();
        spawn_blocking(move || snapshot.verify_blocking(&snapshot.hold()?))
            .await
            .map_err(StorageError::broken_task)?
    }

    /// Verifies it and gives it as the source of a restore. It cannot be removed meanwhile.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn source(&self) -> Result<impl SnapshotSource + use<>> {
        let snapshot = self.clone();
        let opened = spawn_blocking(move || {
            let lock = snapshot.hold()?;
            snapshot.verify_blocking(&lock)?;
            let entries = match snapshot.manifest.form {
                Form::Entries => Some(snapshot.entries()?),
                Form::Native => None,
            };
            Ok(SnapshotReader::new(snapshot, lock, entries))
        });
        opened.await.map_err(StorageError::broken_task)?
    }

    /// Keeps others from removing it until the answer is dropped.
    fn hold(&self) -> Result<File> {
        disk::lock(&self.path, false)?.ok_or_else(|| {
            let message = format!("the snapshot `{}` is being removed; use another one", self.path.display());
            StorageError::new(ErrorKind::Locked, message)
        })
    }

    /// Checks every file; the lock shows that nobody removes them meanwhile.
    pub(crate) fn verify_blocking(&self, _lock: &File) -> Result<()> {
        for member in &self.manifest.files {
            let path = self.path.join(&member.name);
            let (size, blake3) = hash(disk::open(&path)?).map_err(|error| system("read", &path, error))?;
            if size != member.size {
                let what = format!("its file `{}` has {size} bytes and had {}", member.name, member.size);
                return Err(damaged(&self.path, what));
            }
            if blake3 != member.blake3 {
                return Err(damaged(&self.path, format!("its file `{}` was changed", member.name)));
            }
        }
        if self.manifest.form == Form::Entries { self.verify_entries() } else { Ok(()) }
    }

    fn verify_entries(&self) -> Result<()> {
        let (mut reader, mut last, mut keys) = (self.entries()?, None, 0);
        while let Some((key, _)) = reader.next().map_err(|error| self.read_error(error))? {
            if last.is_some_and(|last| last >= key) {
                return Err(damaged(&self.path, format!("{key:?} is out of order")));
            }
            last = Some(key);
            keys += 1;
        }
        if keys != self.manifest.keys {
            let what = format!("it holds {keys} keys and should hold {}", self.manifest.keys);
            return Err(damaged(&self.path, what));
        }
        Ok(())
    }

    fn entries(&self) -> Result<EntriesReader> {
        EntriesReader::new(disk::open(&self.path.join(ENTRIES))?).map_err(|error| self.read_error(error))
    }

    pub(crate) fn read_error(&self, error: ReadError) -> StorageError {
        match error {
            ReadError::System(error) => system("read", &self.path, error),
            ReadError::Damage(what) => damaged(&self.path, what),
        }
    }
}
