//! The log becomes a sealed pack.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use persist_core::Result;

use super::Engine;
use super::batch::Failure;
use crate::core::Report;
use crate::fault::{damage, system};
use crate::map::map;
use crate::rows::Rows;
use crate::sealed::{Opened, Sealed};
use crate::tail::{Extras, Tail};

impl Engine {
    pub(super) fn seal_if_full(&mut self) {
        if self.log.as_ref().is_some_and(|log| log.end >= log.full_at) {
            self.seal_or_go_on();
        }
    }

    /// Seals the log. If that fails it goes on as it is, and is tried again when it has grown by a quarter; nothing of
    /// what was acknowledged depends on it.
    pub(super) fn seal_or_go_on(&mut self) {
        if let Err(error) = self.seal() {
            tracing::warn!(storage = self.core.descriptor.name(), %error, "a pack cannot be sealed now");
            let step = self.core.config.pack_size.0 / 4 + 1;
            if let Some(log) = &mut self.log {
                log.full_at = log.end + step;
            }
        }
    }

    /// Makes the log a sealed pack; the next change begins a new one.
    ///
    /// # Errors
    /// Why it cannot be sealed; the log is as it was then.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.flush()?;
        let Some(log) = &self.log else { return Ok(()) };
        let descriptor = Arc::clone(&self.core.descriptor);
        let fail = |error| system(&descriptor, "seal", "the pack cannot be sealed", error);
        let state = self.core.state.read();
        let Some((pack, start, guide)) =
            state.log.as_ref().map(|log| (log.pack.clone(), log.start, log.memory.guide()))
        else {
            return Ok(());
        };
        drop(state);
        let tail = {
            let bytes = map(&log.file).map_err(fail)?;
            let len = usize::try_from(log.end).unwrap_or(usize::MAX).min(bytes.len());
            let extras =
                Extras { compression: self.core.config.compression.of_manifest(), ..Extras::default() };
            Rows::read(&bytes[..len], &pack, start, &guide)
                .and_then(|rows| Tail::of_rows(&rows, &pack, log.end, &extras))
        };
        let tail = tail.map_err(|(_, wrong)| damage(&descriptor, "seal", wrong))?;
        if let Err(error) = log.file.write_all_at(&tail.bytes, log.end) {
            let (Failure::Undone(error) | Failure::Unknown(error)) = self.undo(error);
            return Err(fail(error));
        }
        if let Err(error) = log.file.sync_data() {
            self.core.report.poison.set(&error);
            return Err(fail(error));
        }
        let root = crate::manifest::hex(&tail.seal.root);
        tracing::debug!(storage = descriptor.name(), %root, items = tail.seal.items, "sealed a pack");
        self.exchange()
    }

    /// Takes the file that was sealed into the packs.
    fn exchange(&mut self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let path = self.core.folder.pack(log.span);
        let opened = File::open(&path)
            .map_err(crate::fault::Fault::from)
            .and_then(|file| Sealed::open(&path, &file))
            .map_err(|fault| self.core.fault("seal", None, fault));
        match opened {
            Ok(Opened::Sealed(sealed)) => {
                let mut state = self.core.state.write();
                state.packs.push(sealed.into());
                state.log = None;
                self.log = None;
                Report::count(&self.core.report.sealed, 1);
                Ok(())
            }
            // It was written, and cannot be read: the log must not grow behind it.
            Ok(Opened::Unsealed) | Err(_) => {
                let error = io::Error::other("the pack that was just sealed cannot be read");
                self.core.report.poison.set(&error);
                Err(system(&self.core.descriptor, "seal", "the pack cannot be sealed", error))
            }
        }
    }
}
