//! A small storage that keeps one file a key, right unless it is told to make one certain mistake.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};
use persist_core::{
    Array, BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Key, Kind, ListOptions,
    Metadata, Page, Result, StorageError, StoreOptions, Value, async_trait,
};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use serde::{Deserialize, Serialize};

/// The mistakes that the tools must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// None: temp file, attributes, fsync, rename, fsync of the folder.
    None,
    /// Cuts the file and writes it anew, in small pieces as a serialiser without a buffer does.
    InPlace,
    /// Renames a file that was not synced.
    NoFsync,
    /// Does not sync the folder after a rename or a deletion.
    NoFolderSync,
    /// Does not sync the parent of its own new folder.
    NoParentSync,
    /// Writes the attributes after the fsync.
    LateAttributes,
    /// Uses `fdatasync`, which leaves out attributes.
    DataSync,
    /// Acknowledges before it writes.
    EarlyAnswer,
    /// Claims atomic transactions and makes them one by one.
    FalseAtomic,
    /// Takes a failed fsync for a success.
    SwallowsSync,
    /// Goes on after a failed fsync.
    GoesOn,
    /// None: writers share syncs of the whole file system; each waits for one that begins after its change.
    SharesSync,
    /// Writers share syncs, but join one that already runs.
    JoinsSync,
    /// Deletes the old file before it renames the new one.
    DeleteFirst,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    flaw: Flaw,
    descriptor: Descriptor,
    writer: Mutex<()>,
    temps: AtomicU64,
    failed: AtomicBool,
    syncs: Mutex<Syncs>,
    synced: Condvar,
}

/// How many shared syncs have begun, and how many have ended.
#[derive(Debug, Default)]
struct Syncs {
    begun: u64,
    ended: u64,
}

/// The storage.
#[derive(Clone, Debug)]
pub(crate) struct FolderStore(Arc<Inner>);

/// What lies in the attribute of each file.
#[derive(Serialize, Deserialize)]
struct Label {
    key: Key,
    metadata: Metadata,
}

const ATTRIBUTE: &str = "user.calibration";

impl FolderStore {
    /// Opens it, making the folder if it is not there, removing what earlier workers left half done.
    pub(crate) fn open(root: PathBuf, flaw: Flaw) -> Result<Arc<dyn BaseStorage>> {
        let capabilities =
            Capabilities { durable: true, atomic_transact: flaw == Flaw::FalseAtomic, ..Capabilities::NONE };
        let descriptor = Descriptor::new("calibration", "folder").with_capabilities(capabilities);
        let failed = AtomicBool::new(false);
        let inner = Inner {
            root,
            flaw,
            descriptor,
            writer: Mutex::new(()),
            temps: AtomicU64::new(0),
            failed,
            syncs: Mutex::default(),
            synced: Condvar::new(),
        };
        inner.prepare().map_err(|error| inner.fail("open", &error))?;
        Ok(Arc::new(Self(Arc::new(inner))))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(self.0.descriptor.error(ErrorKind::Internal, "run", error.to_string())),
        }
    }
}

impl Inner {
    fn prepare(&self) -> std::io::Result<()> {
        if !self.root.exists() {
            std::fs::create_dir(&self.root)?;
            let parent = self.root.parent().unwrap_or(Path::new("/"));
            if self.flaw != Flaw::NoParentSync {
                File::open(parent)?.sync_all()?;
            }
        }
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "tmp") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn fail(&self, operation: &'static str, error: &std::io::Error) -> StorageError {
        self.descriptor.error(ErrorKind::Unavailable, operation, error.to_string())
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(blake3::hash(key.as_bytes()).to_hex().as_str())
    }

    fn read(&self, path: &Path) -> std::io::Result<Option<(Label, Vec<u8>)>> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut label = vec![0; 16_384];
        let length = fgetxattr(&file, ATTRIBUTE, &mut label)?;
        let label = serde_json::from_slice(&label[..length])?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some((label, bytes)))
    }

    fn load(&self, operation: &'static str, key: &Key) -> Result<Option<Entry>> {
        self.descriptor.admit(operation)?;
        let found = self.read(&self.path(key)).map_err(|error| self.fail(operation, &error))?;
        let Some((label, bytes)) = found else { return Ok(None) };
        let damaged =
            || self.descriptor.error(ErrorKind::Corruption, operation, "not what was stored").with_key(key);
        let value = match label.metadata.kind {
            Kind::Bytes => Value::bytes(bytes),
            Kind::Json => Value::json_text(bytes).map_err(|_| damaged())?,
            Kind::Array => Value::from(Array::from_npy(&bytes.into()).map_err(|_| damaged())?),
        };
        self.descriptor.check_integrity(operation, key, &value, &label.metadata)?;
        Ok(Some(Entry::new(value, label.metadata))
            .filter(|entry| !entry.metadata.is_expired(self.descriptor.now())))
    }

    fn store(&self, key: &Key, value: &Value, options: &StoreOptions) -> Result<Metadata> {
        self.descriptor.admit_store(key, value, options)?;
        let _writer = self.lock_unless_shared();
        self.refuse_if_failed()?;
        let stored = self.load("store", key)?.map(|entry| entry.metadata);
        let metadata = self.descriptor.next_metadata(key, stored.as_ref(), value, options)?;
        let label = Label { key: key.clone(), metadata: metadata.clone() };
        let label = serde_json::to_vec(&label).map_err(|error| self.fail("store", &error.into()))?;
        let temp = self.root.join(format!("{}.tmp", self.temps.fetch_add(1, Ordering::Relaxed)));
        let path = self.path(key);
        if self.flaw == Flaw::InPlace {
            self.write(&path, &label, value).map_err(|error| self.fail("store", &error))?;
            return Ok(metadata);
        }
        let written = self.write(&temp, &label, value).and_then(|()| self.put_in_place(&temp, &path));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temp);
            return Err(self.fail("store", &error));
        }
        self.sync_folder("store").map(|()| metadata)
    }

    /// One writer at a time; where syncs are shared, the callers own their keys.
    fn lock_unless_shared(&self) -> Option<MutexGuard<'_, ()>> {
        let shared = matches!(self.flaw, Flaw::SharesSync | Flaw::JoinsSync);
        (!shared).then(|| self.writer.lock())
    }

    fn put_in_place(&self, temp: &Path, path: &Path) -> std::io::Result<()> {
        if self.flaw == Flaw::DeleteFirst && path.exists() {
            std::fs::remove_file(path)?;
        }
        std::fs::rename(temp, path)
    }

    fn write(&self, path: &Path, label: &[u8], value: &Value) -> std::io::Result<()> {
        let mut file = File::create(path)?;
        let npy = value.as_array().map(Array::to_npy).ok();
        let bytes = npy.as_ref().unwrap_or(value.buffer());
        let piece = if self.flaw == Flaw::InPlace { 64 } else { bytes.len().max(1) };
        bytes.chunks(piece).try_for_each(|piece| file.write_all(piece))?;
        if self.flaw == Flaw::LateAttributes {
            self.sync_file(&file)?;
        }
        fsetxattr(&file, ATTRIBUTE, label, XattrFlags::empty())?;
        if self.flaw != Flaw::LateAttributes { self.sync_file(&file) } else { Ok(()) }
    }

    fn sync_file(&self, file: &File) -> std::io::Result<()> {
        match self.flaw {
            Flaw::NoFsync => Ok(()),
            Flaw::SharesSync | Flaw::JoinsSync => self.share_sync(),
            Flaw::DataSync => self.remember(file.sync_data()),
            _ => self.remember(file.sync_all()),
        }
    }

    fn remember(&self, result: std::io::Result<()>) -> std::io::Result<()> {
        match result {
            Err(_) if self.flaw == Flaw::SwallowsSync => Ok(()),
            Err(error) => {
                self.failed.store(self.flaw != Flaw::GoesOn, Ordering::Release);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn sync_folder(&self, operation: &'static str) -> Result<()> {
        if self.flaw == Flaw::NoFolderSync {
            return Ok(());
        }
        if matches!(self.flaw, Flaw::SharesSync | Flaw::JoinsSync) {
            return self.share_sync().map_err(|error| self.fail(operation, &error).with_outcome_unknown());
        }
        let synced = File::open(&self.root).and_then(|folder| self.remember(folder.sync_all()));
        synced.map_err(|error| self.fail(operation, &error).with_outcome_unknown())
    }

    /// Makes everything durable that was written before the call, or waits until another writer has done so.
    fn share_sync(&self) -> std::io::Result<()> {
        let mut syncs = self.syncs.lock();
        let running = syncs.begun > syncs.ended;
        let wanted = if self.flaw == Flaw::JoinsSync && running { syncs.begun } else { syncs.begun + 1 };
        while syncs.ended < wanted {
            if syncs.begun > syncs.ended {
                self.synced.wait(&mut syncs);
                continue;
            }
            syncs.begun += 1;
            let result = MutexGuard::unlocked(&mut syncs, || {
                File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?))
            });
            syncs.ended = syncs.begun;
            self.synced.notify_all();
            self.remember(result)?;
        }
        Ok(())
    }

    fn refuse_if_failed(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(self.descriptor.error(
                ErrorKind::Unavailable,
                "store",
                "an fsync failed; open it again",
            ));
        }
        Ok(())
    }

    fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.descriptor.admit_change("delete")?;
        let _writer = self.lock_unless_shared();
        self.refuse_if_failed()?;
        let stored = self.load("delete", key)?.map(|entry| entry.metadata);
        self.descriptor.check_condition("delete", options.condition, key, stored.as_ref())?;
        if stored.is_some() {
            std::fs::remove_file(self.path(key)).map_err(|error| self.fail("delete", &error))?;
            self.sync_folder("delete")?;
        }
        Ok(stored.is_some())
    }

    fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page> {
        let limit = self.descriptor.admit_list(prefix, options)?;
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(|error| self.fail("list_keys", &error))? {
            let path = entry.map_err(|error| self.fail("list_keys", &error))?.path();
            let found = self.read(&path).map_err(|error| self.fail("list_keys", &error))?;
            keys.extend(found.map(|(label, _)| label.key));
        }
        keys.retain(|key| key.starts_with(prefix) && options.after.as_ref().is_none_or(|after| key > after));
        keys.sort();
        Ok(Page::collect(keys, limit))
    }
}

#[async_trait]
impl BaseStorage for FolderStore {
    fn describe(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let key = key.clone();
        if self.0.flaw == Flaw::EarlyAnswer {
            let metadata = self.0.descriptor.draft_metadata(&value, &options);
            drop(tokio::task::spawn_blocking({
                let inner = Arc::clone(&self.0);
                move || inner.store(&key, &value, &options)
            }));
            return Ok(metadata);
        }
        self.run(move |inner| inner.store(&key, &value, &options)).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        let key = key.clone();
        self.run(move |inner| inner.load("retrieve", &key)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let key = key.clone();
        self.run(move |inner| inner.delete(&key, options)).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let prefix = prefix.to_owned();
        self.run(move |inner| inner.list(&prefix, &options)).await
    }
}
