//! The bugs of snapshots.

use persist_core::{BaseStorage, Consistency, Entry, ErrorKind, Key, Result, SnapshotSink, SnapshotSummary};

use super::{BrokenStorage, Bug, let_others_in};

impl BrokenStorage {
    /// The keys that a bug puts into a snapshot; `None`: it concerns no snapshot.
    pub(super) fn snapshot_mangled(&self) -> Option<Vec<Key>> {
        let mut keys = self.place.keys();
        match self.bug? {
            Bug::SnapshotSkips => drop(keys.pop()),
            Bug::SnapshotShowsExpired | Bug::SnapshotTears | Bug::SnapshotSkipsDamage => {}
            _ => return None,
        }
        if !self.is(Bug::SnapshotShowsExpired) {
            keys.retain(|key| self.live(key).is_some());
        }
        Some(keys)
    }

    pub(super) async fn snapshot_of(
        &self,
        keys: Vec<Key>,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotSummary> {
        let mut summary = SnapshotSummary { keys: 0, bytes: 0, consistency: Consistency::EachValue };
        for key in keys {
            let Some(entry) = self.snapshot_entry(&key).await? else { continue };
            summary.keys += 1;
            summary.bytes += entry.metadata.size;
            sink.entry(key, entry).await?;
        }
        Ok(summary)
    }

    async fn snapshot_entry(&self, key: &Key) -> Result<Option<Entry>> {
        if self.is(Bug::SnapshotShowsExpired) {
            return Ok(self.place.peek(key));
        }
        let mut found = match self.inner.retrieve(key).await {
            Err(error) if self.is(Bug::SnapshotSkipsDamage) && error.kind() == ErrorKind::Corruption => None,
            found => found?,
        };
        if let (true, Some(entry)) = (self.is(Bug::SnapshotTears), &mut found) {
            let_others_in().await;
            if let Some(later) = self.inner.metadata(key).await? {
                entry.metadata = later;
            }
        }
        Ok(found)
    }
}
