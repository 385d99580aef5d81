use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use persist_core::{BaseStorage, ErrorKind, Result, StorageError, Timestamp, escape};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::disk;
use crate::error::{damaged, system};
use crate::manifest::{self, FORMAT, Form, Manifest};
use crate::retention::Retention;
use crate::snapshot::Snapshot;
use crate::writer::{NEW, SnapshotWriter};

/// What the folder of a snapshot that is being removed begins with.
const OLD: &str = ".old-";

/// A folder of snapshots: `<storage>/<time>-<random>/`, which sorts by time.
///
/// Several processes may use one at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    path: PathBuf,
}

/// A folder that should be a snapshot and is none that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

/// What a [`Vault::prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The names of the snapshots that were removed, oldest first.
    pub removed: Vec<String>,
    /// Why some or all of those that should have been removed were not.
    pub notes: Vec<String>,
}

impl Vault {
    /// The vault in a folder, which is made when the first snapshot is taken.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a snapshot of a storage, while others go on using it. It is complete and on the disk when this returns;
    /// what was written of one that failed or was dropped is removed, at the latest by the next [`prune`](Self::prune).
    ///
    /// # Errors
    /// What the storage says; `Capacity`, `AccessDenied` and what else the disk says.
    pub async fn take(&self, storage: &dyn BaseStorage) -> Result<Snapshot> {
        let (descriptor, above) = (storage.describe(), self.folder(storage.describe().name())?);
        let created_at = descriptor.now().max(Timestamp::from_millis(0));
        let snapshot = snapshot_name(created_at);
        let name = snapshot.clone();
        let begun = spawn_blocking(move || SnapshotWriter::new(&above, name)).await;
        let mut writer = begun.map_err(StorageError::broken_task)??;
        let summary = storage.snapshot(&mut writer).await?;
        let manifest = Manifest {
            format: FORMAT,
            snapshot,
            storage: descriptor.name().to_owned(),
            backend: descriptor.backend().to_owned(),
            form: Form::Entries,
            consistency: summary.consistency,
            created_at,
            keys: summary.keys,
            bytes: summary.bytes,
            files: Vec::new(),
            checksum: None,
        };
        Snapshot::open(writer.finish(manifest).await?).await
    }

    /// The snapshots of a storage, oldest first, and what lies among them and is none.
    ///
    /// # Errors
    /// What keeps the folder from being read. One that does not exist holds none.
    pub async fn list(&self, storage: &str) -> Result<(Vec<Snapshot>, Vec<Unreadable>)> {
        let folder = self.folder(storage)?;
        spawn_blocking(move || list(&folder)).await.map_err(StorageError::broken_task)?
    }

    /// The names of the storages that have a folder here, in order.
    ///
    /// # Errors
    /// What keeps the folder from being read. One that does not exist holds none.
    pub async fn storages(&self) -> Result<Vec<String>> {
        let path = self.path.clone();
        let names = spawn_blocking(move || if path.is_dir() { disk::names(&path) } else { Ok(Vec::new()) });
        let mut names = names.await.map_err(StorageError::broken_task)??;
        names.retain(|name| check_name(name).is_ok() && self.path.join(name).is_dir());
        Ok(names)
    }

    /// A snapshot by name: `STORAGE/SNAPSHOT`, or `STORAGE` for its newest.
    ///
    /// # Errors
    /// `NotFound` naming what there is; as [`Snapshot::open`].
    pub async fn find(&self, name: &str) -> Result<Snapshot> {
        let (storage, snapshot) = name.split_once('/').map_or((name, None), |(a, b)| (a, Some(b)));
        let (mut snapshots, unreadable) = self.list(storage).await?;
        let Some(wanted) = snapshot else {
            return snapshots.pop().ok_or_else(|| self.none(storage));
        };
        let damaged =
            unreadable.iter().find(|other| other.path.file_name().is_some_and(|file| file == wanted));
        if let Some(found) = damaged {
            return Err(StorageError::new(ErrorKind::Corruption, found.message.clone()));
        }
        let at = snapshots.iter().position(|snapshot| snapshot.manifest().snapshot == wanted);
        at.map(|at| snapshots.swap_remove(at)).ok_or_else(|| match snapshots.last() {
            None => self.none(storage),
            Some(newest) => {
                let (wanted, newest) = (escape(wanted), newest.name());
                let message = format!("{storage} has no snapshot {wanted}; its newest is `{newest}`");
                StorageError::new(ErrorKind::NotFound, message)
            }
        })
    }

    fn none(&self, storage: &str) -> StorageError {
        let message = format!(
            "there is no snapshot of {} in `{}`; take one first",
            escape(storage),
            self.path.display()
        );
        StorageError::new(ErrorKind::NotFound, message)
    }

    /// Removes the snapshots of a storage that are not to be kept, and what dead processes left.
    ///
    /// Before anything is removed one of those that stay has been read and found good. A damaged snapshot, one that
    /// somebody is reading, and everything that is no snapshot stays. A clock that cannot be right removes nothing.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn prune(&self, storage: &str, retention: &Retention, now: Timestamp) -> Result<Pruned> {
        let (folder, retention) = (self.folder(storage)?, *retention);
        spawn_blocking(move || prune(&folder, &retention, now)).await.map_err(StorageError::broken_task)?
    }

    fn folder(&self, storage: &str) -> Result<PathBuf> {
        check_name(storage)?;
        Ok(self.path.join(storage))
    }
}

/// A name that cannot collide: two snapshots of one storage in one millisecond differ by chance.
fn snapshot_name(at: Timestamp) -> String {
    let time: String = at.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let random = RandomState::new().hash_one((std::process::id(), std::time::Instant::now()));
    format!("{time}-{:08x}", random as u32)
}

/// The name of a storage becomes the name of a folder.
fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    let message = format!(
        "{} cannot name a folder of snapshots; a storage with a backup is named with letters, digits, `_` and `-`",
        escape(name)
    );
    Err(StorageError::new(ErrorKind::InvalidConfig, message))
}

fn list(folder: &Path) -> Result<(Vec<Snapshot>, Vec<Unreadable>)> {
    let (mut snapshots, mut unreadable) = (Vec::new(), Vec::new());
    let names = if folder.is_dir() { disk::names(folder)? } else { Vec::new() };
    for name in names.into_iter().filter(|name| !name.starts_with('.')) {
        let path = folder.join(&name);
        match Snapshot::open_blocking(path.clone()).and_then(|found| in_place(folder, &name, found)) {
            Ok(snapshot) => snapshots.push(snapshot),
            // Removed meanwhile.
            Err(_) if !path.exists() => {}
            Err(error) => unreadable.push(Unreadable { path, message: error.to_string() }),
        }
    }
    snapshots.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok((snapshots, unreadable))
}

fn order(snapshot: &Snapshot) -> (Timestamp, &str) {
    (snapshot.manifest().created_at, &snapshot.manifest().snapshot)
}

/// A snapshot must lie where its manifest says; a copy under another name would be counted twice.
fn in_place(folder: &Path, name: &str, found: Snapshot) -> Result<Snapshot> {
    let manifest = found.manifest();
    let storage = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if manifest.snapshot == name && manifest.storage == storage {
        return Ok(found);
    }
    Err(damaged(found.path(), format!("it was made as `{}`", found.name())))
}

fn prune(folder: &Path, retention: &Retention, now: Timestamp) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    if !folder.is_dir() {
        return Ok(pruned);
    }
    sweep(folder)?;
    let (snapshots, _) = list(folder)?;
    let times: Vec<Timestamp> = snapshots.iter().map(|snapshot| snapshot.manifest().created_at).collect();
    let surplus = match retention.surplus(&times, now) {
        Ok(surplus) => surplus,
        Err(why) => {
            pruned.notes.push(why);
            0
        }
    };
    let (remove, keep) = snapshots.split_at(surplus);
    if remove.is_empty() {
        return Ok(pruned);
    }
    if !keep.iter().rev().any(|snapshot| is_good(snapshot, &mut pruned.notes)) {
        pruned.notes.push("none of the snapshots that would stay is good, so none is removed".to_owned());
        return Ok(pruned);
    }
    for snapshot in remove {
        match discard(snapshot.path())? {
            true => pruned.removed.push(snapshot.name()),
            false => pruned.notes.push(format!("`{}` is being read, so it stays", snapshot.name())),
        }
    }
    Ok(pruned)
}

fn is_good(snapshot: &Snapshot, notes: &mut Vec<String>) -> bool {
    let verified = match disk::lock(snapshot.path(), false) {
        Ok(Some(lock)) => snapshot.verify_blocking(&lock),
        Ok(None) => return false,
        Err(error) => Err(error),
    };
    notes.extend(verified.as_ref().err().map(ToString::to_string));
    verified.is_ok()
}

/// Takes away its name, then its files; false if somebody is reading it.
fn discard(path: &Path) -> Result<bool> {
    let Some(_lock) = disk::lock(path, true)? else { return Ok(false) };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let old = disk::parent(path).join(format!("{OLD}{name}"));
    disk::rename(path, &old)?;
    empty(&old)?;
    Ok(true)
}

/// Removes what a manifest lists, the manifest last, then the folder. What else lies in it keeps it from going.
fn empty(old: &Path) -> Result<()> {
    let removed = |path: PathBuf| match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(system("removed", &path, error)),
        _ => Ok(()),
    };
    if let Ok(bytes) = std::fs::read(old.join(manifest::NAME)) {
        for member in Manifest::decode(&bytes, old)?.files {
            removed(old.join(member.name))?;
        }
        removed(old.join(manifest::NAME))?;
    }
    std::fs::remove_dir(old).map_err(|error| system("removed", old, error))
}

/// Removes what was left by a process that died while it took or removed a snapshot.
fn sweep(folder: &Path) -> Result<()> {
    for name in disk::names(folder)? {
        let path = folder.join(&name);
        let left = match name.starts_with(NEW) || name.starts_with(OLD) {
            true => disk::lock(&path, true).unwrap_or_default(),
            false => None,
        };
        let Some(_lock) = left else { continue };
        let swept = match name.starts_with(NEW) {
            true => std::fs::remove_dir_all(&path).map_err(|error| system("removed", &path, error)),
            false => empty(&path),
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "what a dead process left is still there");
        }
    }
    disk::sync(folder)
}
