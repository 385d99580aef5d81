//! Records that are written together, and the log that they are appended to.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use persist_core::{ErrorKind, Key, Result};

use super::Engine;
use super::steps::Plan;
use crate::codec::Payload;
use crate::config::Durability;
use crate::core::Report;
use crate::folder::Span;
use crate::log::Log;
use crate::memory::{Contents, Slot};
use crate::name::Names;
use crate::note::Role;
use crate::record::{Place, encode_head};

/// Pieces of data up to this length are copied into one buffer before they are written.
const COPIED_BYTES: usize = 64 << 10;

/// A buffer up to this length is kept for the next batch.
const KEPT_BYTES: usize = 32 << 20;

/// What the thread that writes knows of the log.
#[derive(Debug)]
pub(super) struct Appending {
    pub(super) file: Arc<File>,
    pub(super) span: Span,
    salt: u64,
    pub(super) end: u64,
    /// So many bytes are on the disk.
    pub(super) synced: u64,
    pub(super) names: Names,
    /// The length at which it is sealed.
    pub(super) full_at: u64,
}

impl Appending {
    /// Goes on behind a log that is on the disk.
    pub(super) fn to(log: &Log, names: Names, full_at: u64) -> Self {
        let (file, span, salt, end) = (Arc::clone(&log.file), log.span, log.pack.salt, log.end);
        Self { file, span, salt, end, synced: end, names, full_at }
    }
}

/// Records that are written together, and what they change.
#[derive(Default)]
pub(super) struct Batch {
    /// In order; small pieces are joined.
    pieces: Vec<Bytes>,
    buffer: Vec<u8>,
    /// Where the next record begins.
    at: u64,
    slots: Vec<Slot>,
    pub(super) keys: HashMap<Key, Slot>,
    pub(super) contents: Contents<()>,
}

impl Batch {
    /// What is to be appended to a log; `buffer` is used again.
    pub(super) fn behind(log: Option<&Appending>, buffer: Vec<u8>) -> Self {
        Self { at: log.map_or(0, |log| log.end), buffer, ..Self::default() }
    }

    fn push(&mut self, head: &[u8], payload: Payload, slot: Slot) {
        self.at += slot.head.record_len();
        self.buffer.extend_from_slice(head);
        for piece in payload.pieces {
            if piece.len() <= COPIED_BYTES {
                self.buffer.extend_from_slice(&piece);
            } else {
                self.flush_buffer();
                self.pieces.push(piece);
            }
        }
        self.buffer.extend(payload.table);
        let note = &slot.head.note;
        if let Some(key) = note.key() {
            self.keys.insert(key.clone(), slot.clone());
        }
        if let (Some(checksum), Role::Value) = (note.checksum(), note.role) {
            self.contents.insert(checksum, ());
        }
        self.slots.push(slot);
    }

    fn flush_buffer(&mut self) {
        if !self.buffer.is_empty() {
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }
}

/// Why records were not written.
pub(super) enum Failure {
    /// Nothing of them was.
    Undone(io::Error),
    /// Nobody knows.
    Unknown(io::Error),
}

impl Engine {
    /// Adds records to a batch, as one that counts as a whole.
    pub(super) fn add(&self, operation: &'static str, plans: Vec<Plan>, batch: &mut Batch) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let last = plans.len().saturating_sub(1);
        let (mut heads, mut records) = (Vec::with_capacity(256), Vec::with_capacity(plans.len()));
        let mut at = batch.at;
        for (number, Plan { about, role, name, payload }) in plans.into_iter().enumerate() {
            let mut note = payload.note(role, about);
            (note.more, note.synced) = (number != last, log.synced);
            let (key, start) = (note.key().cloned(), heads.len());
            let place = Place { salt: log.salt, at };
            let head = encode_head(&mut heads, place, name, note, &payload).map_err(|wrong| {
                let error = self.core.descriptor.error(ErrorKind::InvalidValue, operation, wrong.0);
                key.iter().fold(error, |error, key| error.with_key(key))
            })?;
            let slot = Slot { at, head: Arc::new(head) };
            at += slot.head.record_len();
            records.push((start..heads.len(), payload, slot));
        }
        for (range, payload, slot) in records {
            batch.push(&heads[range], payload, slot);
        }
        Ok(())
    }

    /// Appends a batch to the log, makes it durable and then visible.
    pub(super) fn write(&mut self, mut batch: Batch) -> std::result::Result<(), Failure> {
        let written = self.append(&batch);
        if written.is_ok() {
            self.show(std::mem::take(&mut batch.slots));
        }
        batch.buffer.clear();
        if batch.buffer.capacity() <= KEPT_BYTES {
            self.buffer = batch.buffer;
        }
        written
    }

    fn append(&mut self, batch: &Batch) -> std::result::Result<(), Failure> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if batch.slots.is_empty() {
            return Ok(());
        }
        let mut at = log.end;
        let pieces = batch.pieces.iter().map(|piece| &piece[..]);
        for piece in pieces.chain([&batch.buffer[..]]) {
            if let Err(error) = log.file.write_all_at(piece, at) {
                return Err(self.undo(error));
            }
            at += piece.len() as u64;
        }
        if self.core.config.durability == Durability::Strict {
            if let Err(error) = log.file.sync_data() {
                // The kernel forgets what it could not write: nothing that is written later could be trusted.
                self.core.report.poison.set(&error);
                return Err(Failure::Unknown(error));
            }
            log.synced = at;
        }
        log.end = at;
        Report::count(&self.core.report.commits, 1);
        Ok(())
    }

    /// Lets readers see what was appended.
    fn show(&self, slots: Vec<Slot>) {
        let Some(end) = self.log.as_ref().map(|log| log.end) else { return };
        if let Some(log) = &mut self.core.state.write().log {
            slots.into_iter().for_each(|slot| log.memory.add(slot));
            log.end = end;
        }
    }

    /// Cuts off what was written of a batch.
    pub(super) fn undo(&mut self, error: io::Error) -> Failure {
        let Some(log) = &self.log else { return Failure::Undone(error) };
        match log.file.set_len(log.end) {
            Ok(()) => Failure::Undone(error),
            Err(worse) => {
                self.core.report.poison.set(&worse);
                Failure::Unknown(error)
            }
        }
    }
}
