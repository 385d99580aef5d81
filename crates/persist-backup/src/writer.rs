use std::fs::File;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use persist_core::{ChecksumBuilder, Entry, ErrorKind, Key, Result, SnapshotSink, StorageError};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::disk;
use crate::entries::EntriesWriter;
use crate::error::system;
use crate::manifest::{self, Form, Manifest, Member};

/// The file of a snapshot that is not in a form of its own.
pub(crate) const ENTRIES: &str = "entries";

/// What the folder of a snapshot in the making begins with.
pub(crate) const NEW: &str = ".new-";

/// How many bytes of values, and how many entries, are handed to the thread that writes at a time.
const BATCH: (u64, usize) = (1 << 20, 256);

type Batch = Vec<(Key, Entry)>;

/// A snapshot in the making: a folder with a name that nobody takes for a snapshot, locked while it is written.
pub(crate) struct SnapshotWriter {
    folder: PathBuf,
    name: String,
    _lock: File,
    batch: Batch,
    batch_bytes: u64,
    /// The thread that writes the entries, if there are any.
    entries: Option<(mpsc::Sender<Batch>, JoinHandle<Result<Member>>)>,
    files: Vec<String>,
    done: bool,
}

impl SnapshotWriter {
    /// Begins the snapshot `name` in the folder of a storage, which is made if it is missing.
    pub(crate) fn new(above: &Path, name: String) -> Result<Self> {
        disk::make_folder(above)?;
        let folder = above.join(format!("{NEW}{name}"));
        disk::make_folder(&folder)?;
        let lock = disk::lock(&folder, true)?;
        // Somebody who sweeps may have been faster than the lock.
        let lock = lock.filter(|_| folder.is_dir()).ok_or_else(|| {
            let message = format!("somebody else writes into `{}`; try again", folder.display());
            StorageError::new(ErrorKind::Locked, message)
        })?;
        Ok(Self {
            folder,
            name,
            _lock: lock,
            batch: Batch::new(),
            batch_bytes: 0,
            entries: None,
            files: Vec::new(),
            done: false,
        })
    }

    /// Completes it: everything and the manifest is forced to the disk, then the folder gets its name. Gives its path.
    pub(crate) async fn finish(mut self, mut manifest: Manifest) -> Result<PathBuf> {
        (manifest.form, manifest.files) = match self.files.is_empty() {
            true => (Form::Entries, vec![self.finish_entries().await?]),
            false => (Form::Native, self.finish_files().await?),
        };
        spawn_blocking(move || self.publish(&manifest)).await.map_err(StorageError::broken_task)?
    }

    fn publish(mut self, manifest: &Manifest) -> Result<PathBuf> {
        let path = self.folder.join(manifest::NAME);
        let mut file = disk::create(&path)?;
        let written = std::io::Write::write_all(&mut file, &manifest.encode()).and_then(|()| file.sync_all());
        written.map_err(|error| system("written", &path, error))?;
        disk::sync(&self.folder)?;
        let target = disk::parent(&self.folder).join(&self.name);
        disk::rename(&self.folder, &target)?;
        self.done = true;
        Ok(target)
    }

    async fn finish_entries(&mut self) -> Result<Member> {
        self.send().await?;
        let Some((sender, task)) = self.entries.take() else {
            return Err(StorageError::new(ErrorKind::Internal, "nobody writes the entries of the snapshot"));
        };
        drop(sender);
        task.await.map_err(StorageError::broken_task)?
    }

    async fn finish_files(&mut self) -> Result<Vec<Member>> {
        let paths: Vec<(String, PathBuf)> =
            self.files.drain(..).map(|name| (name.clone(), self.folder.join(name))).collect();
        let task = spawn_blocking(move || {
            let mut members = Vec::with_capacity(paths.len());
            for (name, path) in paths {
                members.push(seal(name, &path)?);
            }
            members.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(members)
        });
        task.await.map_err(StorageError::broken_task)?
    }

    /// Hands the batch to the thread that writes.
    async fn send(&mut self) -> Result<()> {
        let (batch, folder) = (std::mem::take(&mut self.batch), &self.folder);
        self.batch_bytes = 0;
        let (sender, _) = self.entries.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(2);
            let path = folder.join(ENTRIES);
            (sender, spawn_blocking(move || write_entries(&path, receiver)))
        });
        if sender.send(batch).await.is_ok() {
            return Ok(());
        }
        // It ended before its time, and knows why.
        match self.entries.take() {
            Some((_, task)) => task.await.map_err(StorageError::broken_task)?.map(drop),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl SnapshotSink for SnapshotWriter {
    async fn entry(&mut self, key: Key, entry: Entry) -> Result<()> {
        self.batch_bytes += entry.metadata.size;
        self.batch.push((key, entry));
        let (bytes, count) = BATCH;
        if self.batch_bytes >= bytes || self.batch.len() >= count { self.send().await } else { Ok(()) }
    }

    fn file(&mut self, name: &str) -> Result<PathBuf> {
        if !manifest::is_name(name) || name == ENTRIES || self.files.iter().any(|file| file == name) {
            let message = format!("{} cannot name a file of a snapshot", persist_core::escape(name));
            return Err(StorageError::new(ErrorKind::InvalidKey, message));
        }
        self.files.push(name.to_owned());
        Ok(self.folder.join(name))
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed now is removed by the next `prune`.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn write_entries(path: &Path, mut batches: mpsc::Receiver<Batch>) -> Result<Member> {
    let failed = |error| system("written", path, error);
    let mut writer = EntriesWriter::new(disk::create(path)?).map_err(failed)?;
    while let Some(batch) = batches.blocking_recv() {
        for (key, entry) in batch {
            writer.add(&key, &entry).map_err(failed)?;
        }
    }
    let (size, blake3) = writer.finish().map_err(failed)?;
    Ok(Member { name: ENTRIES.to_owned(), size, blake3 })
}

/// Forces a file to the disk, for the owner alone, and says what it is.
fn seal(name: String, path: &Path) -> Result<Member> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error| system("written", path, error);
    let file = disk::open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let (size, blake3) = hash(file).map_err(failed)?;
    Ok(Member { name, size, blake3 })
}

/// The length and the hash of an open file.
pub(crate) fn hash(mut file: File) -> std::io::Result<(u64, persist_core::Checksum)> {
    use std::io::Read;
    let (mut size, mut hash, mut piece) = (0, ChecksumBuilder::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((size, hash.finish())),
            Ok(read) => {
                hash.update(&piece[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
