//! Values are read through the library.

use std::ops::Range;

use persist_core::{ErrorKind, Result};

use super::Engine;
use crate::fetch::{Fetched, fetch_own};
use crate::foreign::{self, ForeignError};
use crate::record::{Record, State};

impl Engine {
    /// Reads a value through the library, or the part of an array that lies within some axes.
    ///
    /// # Errors
    /// `Corruption`; `Unsupported` for what is no value.
    pub(crate) fn fetch(
        &mut self,
        operation: &'static str,
        record: &Record,
        part: Option<&[Range<usize>]>,
    ) -> Result<Fetched> {
        let Some(file) = &self.file else { return Err(self.ended(operation)) };
        let limit = self.descriptor().max_value_bytes();
        let value = file.dataset(&record.path).map_err(ForeignError::from).and_then(|dataset| {
            Ok(match &record.state {
                State::Sound(metadata, form) => fetch_own(&dataset, form, metadata.size, part)?,
                State::Foreign | State::Damaged(_) => Fetched::Value(foreign::read(&dataset, limit)?),
            })
        });
        self.report().step(value.as_ref().map_or(0, Fetched::size));
        value.map_err(|error| match error {
            ForeignError::Library(error) => self.library_error(operation, "cannot read the dataset", error),
            ForeignError::Unsupported(why) => {
                let message = format!(
                    "the dataset {} cannot be read as a value: {why}; read it with another tool",
                    record.path
                );
                self.descriptor().error(ErrorKind::Unsupported, operation, message)
            }
            ForeignError::Filter(filter) => {
                let message = format!(
                    "the dataset {} needs the filter {filter}, which is not built in; read it with another tool, or write it \
                     anew with gzip, lzf or zstd (`h5repack`, h5py)",
                    record.path
                );
                self.descriptor().error(ErrorKind::Unsupported, operation, message)
            }
            ForeignError::TooLarge(bytes) => {
                let message = format!(
                    "the dataset {} has {bytes} bytes, and {limit} are allowed; raise max_value",
                    record.path
                );
                self.descriptor().error(ErrorKind::TooLarge, operation, message)
            }
        })
    }
}
