//! Reads values: finds the newest record of a key, the record that holds its value, and checks what it holds.

use std::ops::Range;

use bytes::Bytes;
use persist_core::{Entry, Key, ListOptions, Metadata, Page, Result, StorageError, Timestamp};

use crate::core::Core;
use crate::fault::Fault;
use crate::state::{Found, value_of};

/// The longest header of an array: its shape has at most 32 axes.
pub(crate) const MAX_ARRAY_HEADER: u64 = 4096;

/// A record with the metadata of a key, and the one with its value.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) metadata: Metadata,
    pub(crate) holder: Found,
}

impl Core {
    fn error_of(&self, operation: &'static str, key: &Key, fault: impl Into<Fault>) -> StorageError {
        self.fault(operation, Some(key), fault.into())
    }

    /// The metadata of a key; `None`: it is absent or has expired.
    pub(crate) fn metadata(&self, operation: &'static str, key: &Key) -> Result<Option<Metadata>> {
        let found = self.look().map_err(|fault| self.error_of(operation, key, fault))?.find(key);
        let found = found.map_err(|wrong| self.error_of(operation, key, wrong))?;
        let now = self.descriptor.now();
        Ok(found.and_then(|found| found.metadata().filter(|metadata| !metadata.is_expired(now)).cloned()))
    }

    /// Where the value of a key is; `None`: it is absent or has expired.
    pub(crate) fn locate(&self, operation: &'static str, key: &Key) -> Result<Option<Located>> {
        let located = self.look().and_then(|state| {
            let Some(found) = state.find(key)? else { return Ok(None) };
            let Some(metadata) = found.metadata().cloned() else { return Ok(None) };
            if metadata.is_expired(self.descriptor.now()) {
                return Ok(None);
            }
            let holder = state.holder(&found)?;
            Ok(Some(Located { metadata, holder }))
        });
        located.map_err(|fault| self.error_of(operation, key, fault))
    }

    /// Reads and checks the value at a place.
    pub(crate) fn read(&self, operation: &'static str, key: &Key, located: Located) -> Result<Entry> {
        let Located { metadata, holder } = located;
        let limit = self.config.max_value.0.saturating_add(MAX_ARRAY_HEADER);
        let data = holder.data(limit).map_err(|fault| self.error_of(operation, key, fault))?;
        let value = value_of(metadata.kind, data).map_err(|wrong| self.damage(operation, key, wrong))?;
        self.descriptor.check_integrity(operation, key, &value, &metadata)?;
        Ok(Entry::new(value, metadata))
    }

    /// Reads a part of the value at a place; the chunks around it are checked.
    pub(crate) fn range(
        &self,
        operation: &'static str,
        key: &Key,
        located: &Located,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let part = located.holder.range(&located.metadata, range);
        part.map_err(|fault| self.error_of(operation, key, fault))
    }

    /// A page of keys.
    pub(crate) fn page(&self, prefix: &str, options: &ListOptions, limit: usize) -> Result<Page> {
        let now = self.descriptor.now();
        let after = options.after.as_deref().filter(|after| *after >= prefix);
        let mut keys = Vec::with_capacity(limit.min(1024) + 1);
        let walked = self.look().and_then(|state| {
            let start = after.unwrap_or(prefix);
            state.walk(start, after.is_some(), |_, known| {
                if !known.key.starts_with(prefix) {
                    return Ok(false);
                }
                if !known.is_tombstone && !is_over(known.expires_at, now) {
                    keys.push(known.key);
                }
                Ok(keys.len() <= limit)
            })?;
            Ok(())
        });
        walked.map_err(|fault| self.fault("list_keys", None, fault))?;
        Ok(Page::collect(keys, limit))
    }
}

fn is_over(expires_at: Option<i64>, now: Timestamp) -> bool {
    expires_at.is_some_and(|end| end <= now.as_millis())
}

/// The value of a key, verified; `None`: it is absent or has expired.
pub(crate) fn value(core: &Core, operation: &'static str, key: &Key) -> Result<Option<Entry>> {
    let Some(located) = core.locate(operation, key)? else { return Ok(None) };
    core.read(operation, key, located).map(Some)
}
