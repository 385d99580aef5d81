use std::fs::{File, OpenOptions, read_dir, rename};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use persist_core::Key;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;

use super::page_of;
use persist_bench_work::{Contender, Outcome};

/// Whether a write is forced to the disk before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// The file before it is renamed, and the folder after it.
    Yes,
    /// Neither.
    No,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A temp file beside the target, and the folder they are in.
fn beside(target: &Path) -> (PathBuf, PathBuf) {
    let folder = target.parent().map(Path::to_owned).unwrap_or_default();
    (folder.join(format!(".temp-{}", NEXT.fetch_add(1, Ordering::Relaxed))), folder)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// `std::fs` in `spawn_blocking`: what a service author writes by hand. Temp file and rename; with [`Sync::Yes`] the
/// file is synced before and the folder after.
#[derive(Debug)]
pub(crate) struct Blocking {
    root: PathBuf,
    sync: Sync,
}

impl Blocking {
    pub(crate) fn new(root: PathBuf, sync: Sync) -> Self {
        Self { root, sync }
    }
}

fn write_blocking(target: &Path, value: &[u8], sync: Sync) -> io::Result<()> {
    let (temp, folder) = beside(target);
    let created = OpenOptions::new().write(true).create_new(true).open(&temp);
    let mut file = match created {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(&folder)?;
            OpenOptions::new().write(true).create_new(true).open(&temp)?
        }
        created => created?,
    };
    file.write_all(value)?;
    if sync == Sync::Yes {
        file.sync_all()?;
    }
    rename(&temp, target)?;
    if sync == Sync::Yes {
        File::open(&folder)?.sync_all()?;
    }
    Ok(())
}

fn present<T>(result: io::Result<T>) -> Outcome<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Contender for Blocking {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        let (target, value, sync) = (self.root.join(key.as_str()), value.clone(), self.sync);
        Ok(spawn_blocking(move || write_blocking(&target, &value, sync)).await??)
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        let target = self.root.join(key.as_str());
        let read = spawn_blocking(move || std::fs::read(target)).await?;
        Ok(present(read)?.map(Bytes::from))
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let (root, after) = (self.root.clone(), after.cloned());
        spawn_blocking(move || Ok(page_of(names(&root)?, after.as_deref(), limit))).await?
    }
}

/// `tokio::fs` used as it suggests itself: each step a call of its own.
#[derive(Debug)]
pub(crate) struct TokioFiles {
    root: PathBuf,
    sync: Sync,
}

impl TokioFiles {
    pub(crate) fn new(root: PathBuf, sync: Sync) -> Self {
        Self { root, sync }
    }
}

impl Contender for TokioFiles {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        let target = self.root.join(key.as_str());
        let (temp, folder) = beside(&target);
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = match options.open(&temp).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tokio::fs::create_dir_all(&folder).await?;
                options.open(&temp).await?
            }
            created => created?,
        };
        file.write_all(value).await?;
        file.flush().await?;
        if self.sync == Sync::Yes {
            file.sync_all().await?;
        }
        tokio::fs::rename(&temp, &target).await?;
        if self.sync == Sync::Yes {
            tokio::fs::File::open(&folder).await?.sync_all().await?;
        }
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        Ok(present(tokio::fs::read(self.root.join(key.as_str())).await)?.map(Bytes::from))
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let (mut names, mut entries) = (Vec::new(), tokio::fs::read_dir(&self.root).await?);
        while let Some(entry) = entries.next_entry().await? {
            names.extend(entry.file_name().into_string());
        }
        Ok(page_of(names, after.map(Key::as_str), limit))
    }
}
