use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;

use async_trait::async_trait;
use persist_core::{Entry, Key, Result, SnapshotSource, StorageError};
use tokio::task::spawn_blocking;

use crate::Snapshot;
use crate::entries::EntriesReader;

/// How many bytes of values, and how many entries, are read at a time.
const BATCH: (u64, usize) = (1 << 20, 256);

/// A verified snapshot that is being read.
pub(crate) struct SnapshotReader {
    snapshot: Snapshot,
    /// Nobody removes it while this is held.
    _lock: File,
    queue: VecDeque<(Key, Entry)>,
    /// `None`: all entries were read, or there are none.
    entries: Option<EntriesReader>,
}

impl SnapshotReader {
    pub(crate) fn new(snapshot: Snapshot, lock: File, entries: Option<EntriesReader>) -> Self {
        Self { snapshot, _lock: lock, queue: VecDeque::new(), entries }
    }
}

#[async_trait]
impl SnapshotSource for SnapshotReader {
    async fn next(&mut self) -> Result<Option<(Key, Entry)>> {
        if self.queue.is_empty()
            && let Some(reader) = self.entries.take()
        {
            let snapshot = self.snapshot.clone();
            let read = spawn_blocking(move || read_batch(&snapshot, reader)).await;
            (self.queue, self.entries) = read.map_err(StorageError::broken_task)??;
        }
        Ok(self.queue.pop_front())
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        let listed = self.snapshot.manifest().files.iter().any(|member| member.name == name);
        listed.then(|| self.snapshot.path().join(name))
    }
}

type Read = (VecDeque<(Key, Entry)>, Option<EntriesReader>);

fn read_batch(snapshot: &Snapshot, mut reader: EntriesReader) -> Result<Read> {
    let (mut batch, mut bytes) = (VecDeque::new(), 0);
    while bytes < BATCH.0 && batch.len() < BATCH.1 {
        match reader.next().map_err(|error| snapshot.read_error(error))? {
            Some((key, entry)) => {
                bytes += entry.metadata.size;
                batch.push_back((key, entry));
            }
            None => return Ok((batch, None)),
        }
    }
    Ok((batch, Some(reader)))
}
