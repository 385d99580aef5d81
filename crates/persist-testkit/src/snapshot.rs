use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use persist_core::{Entry, ErrorKind, Key, Result, SnapshotSink, SnapshotSource, StorageError};
use tempfile::TempDir;
use tokio::sync::Notify;

/// A snapshot for tests: entries in memory, files in a folder that removes itself. What a storage wrote into it can be
/// read from it.
#[derive(Debug, Default)]
pub struct TestSnapshot {
    /// The entries, in the order in which they came or are still to be read.
    pub entries: VecDeque<(Key, Entry)>,
    folder: Option<TempDir>,
    files: BTreeMap<String, PathBuf>,
}

impl TestSnapshot {
    /// A snapshot of these entries, which come in the byte order of their keys.
    pub fn of(entries: Vec<(Key, Entry)>) -> Self {
        Self { entries: entries.into(), ..Self::default() }
    }

    /// The names of its files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

#[async_trait]
impl SnapshotSink for TestSnapshot {
    async fn entry(&mut self, key: Key, entry: Entry) -> Result<()> {
        self.entries.push_back((key, entry));
        Ok(())
    }

    fn file(&mut self, name: &str) -> Result<PathBuf> {
        let failed = |error: std::io::Error| {
            let message = format!("a test has no folder for the files of a snapshot: {error}");
            StorageError::new(ErrorKind::Internal, message)
        };
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => TempDir::new().map_err(failed)?,
        };
        let path = folder.path().join(name);
        self.folder = Some(folder);
        self.files.insert(name.to_owned(), path.clone());
        Ok(path)
    }
}

#[async_trait]
impl SnapshotSource for TestSnapshot {
    async fn next(&mut self) -> Result<Option<(Key, Entry)>> {
        Ok(self.entries.pop_front())
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.files.get(name).cloned()
    }
}

/// Gives its entries, and then fails, or never answers.
#[derive(Debug)]
pub struct FailingSource {
    /// What it gives first.
    pub entries: TestSnapshot,
    /// How it fails; `None`: it never answers.
    pub failure: Option<ErrorKind>,
}

#[async_trait]
impl SnapshotSource for FailingSource {
    async fn next(&mut self) -> Result<Option<(Key, Entry)>> {
        match (self.entries.next().await?, self.failure) {
            (Some(entry), _) => Ok(Some(entry)),
            (None, Some(kind)) => Err(StorageError::new(kind, "the source failed")),
            (None, None) => std::future::pending().await,
        }
    }

    fn file(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

/// Says when it is asked for its first entry, and gives it when it is told to.
#[derive(Debug)]
pub struct HeldSource {
    entries: TestSnapshot,
    released: bool,
    /// Notified when the first entry is asked for.
    pub asked: Arc<Notify>,
    /// Lets it go on.
    pub go: Arc<Notify>,
}

impl HeldSource {
    /// A source of these entries.
    pub fn of(entries: Vec<(Key, Entry)>) -> Self {
        Self {
            entries: TestSnapshot::of(entries),
            released: false,
            asked: Arc::default(),
            go: Arc::default(),
        }
    }
}

#[async_trait]
impl SnapshotSource for HeldSource {
    async fn next(&mut self) -> Result<Option<(Key, Entry)>> {
        if !self.released {
            self.asked.notify_one();
            self.go.notified().await;
            self.released = true;
        }
        self.entries.next().await
    }

    fn file(&self, _: &str) -> Option<PathBuf> {
        None
    }
}
