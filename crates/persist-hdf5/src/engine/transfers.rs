//! Values are written piece by piece, before they have a name.

use persist_core::Result;

use super::Engine;
use super::failure::Failure;
use crate::error::{given_up, system};
use crate::ffi::H5Error;
use crate::medium::CommitError;
use crate::transfer::{Layout, Piece};

impl Engine {
    /// Makes a dataset that has no name yet, for a value that is written piece by piece.
    ///
    /// # Errors
    /// What the library says; as for a change.
    pub(crate) fn begin_transfer(&mut self, layout: &Layout) -> Result<u64> {
        self.report().admit(self.descriptor(), "store")?;
        // Room that was given up since the last time can be written directly then; if that is not possible it goes through the log.
        let _ = self.checkpoint();
        let Some(file) = &self.file else { return Err(self.ended("store")) };
        let len = [usize::try_from(layout.size).unwrap_or(usize::MAX)];
        let shape = layout.form.shape(&len);
        let dataset = match &layout.chunks {
            Some((grid, pipeline)) => file.create_chunked(&shape, grid, pipeline),
            None => file.create_unnamed(&shape),
        };
        match dataset {
            Ok(dataset) => Ok(self.transfers.insert(dataset, layout.size)),
            Err(error) => Err(self.undo("store", error, &[]).error("store")),
        }
    }

    /// Writes a piece of a value.
    ///
    /// # Errors
    /// `Unavailable` if what was written of it before is gone; what the library and the disk say, which undoes all of it.
    pub(crate) fn write_piece(&mut self, number: u64, piece: &Piece) -> Result<()> {
        let Some(dataset) = self.transfers.get(number) else {
            return Err(given_up(self.descriptor(), "store"));
        };
        let written = match piece {
            Piece::Bytes(at, bytes) => {
                self.report().step(bytes.len() as u64);
                let place = dataset.offset().and_then(|offset| offset.checked_add(*at));
                place
                    .map(|place| self.site.session.lock().write(place, bytes))
                    .ok_or_else(|| H5Error::new("the dataset has no place in the file"))
            }
            Piece::Chunks(packed) => {
                self.report().step(packed.bytes());
                packed.chunks.iter().try_for_each(|(at, coded)| dataset.write_chunk(at, coded))
            }
        };
        if let Err(error) = written {
            return Err(self.undo("store", error, &[]).error("store"));
        }
        let Some(error) = self.site.session.lock().take_failure() else { return Ok(()) };
        let failure = match self.site.medium.parts().has_failed() {
            true => self.judge(CommitError::Sync(error)),
            false => Failure::Undone(system(self.descriptor(), "store", "nothing was changed", error)),
        };
        Err(self.give_up(failure, &[]).error("store"))
    }

    /// Lets go of the dataset of a transfer; if it got no name it is gone.
    pub(crate) fn end_transfer(&mut self, number: u64) {
        self.transfers.remove(number);
    }
}
