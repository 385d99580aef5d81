//! What the library reads of a value, and what it is decoded to on other threads.

use std::ops::Range;

use persist_core::Value;

use crate::buffer::Buffer;
use crate::chunk::{Grid, Packed, unpack};
use crate::ffi::{Dataset, H5Error, Layout};
use crate::foreign::read_own;
use crate::record::Form;

/// What the library read.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// A value that somebody else wrote.
    Value(Value),
    /// All bytes of a value.
    Bytes(Buffer),
    /// The chunks that hold the part that was wanted.
    Packed(Packed),
}

impl Fetched {
    /// How many bytes were read.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Value(value) => value.size(),
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Packed(packed) => packed.bytes(),
        }
    }

    /// The bytes of a part, if it has that many axes, else of the whole value; `None` if they are damaged. May take its time.
    pub(crate) fn bytes(self, part: &[Range<usize>]) -> Option<Buffer> {
        match self {
            Self::Value(_) => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Packed(packed) => {
                let part = if part.is_empty() { packed.grid.all() } else { part.to_vec() };
                unpack(packed, &part)
            }
        }
    }
}

/// Reads a value of persist's own, or the chunks that hold a part of it.
///
/// # Errors
/// What the library says; also if the dataset is not as the value was written.
pub(crate) fn fetch_own(
    dataset: &Dataset,
    form: &Form,
    size: u64,
    part: Option<&[Range<usize>]>,
) -> Result<Fetched, H5Error> {
    let (shape, element) = match form {
        Form::Array(dtype, shape) => (shape.to_vec(), dtype.size()),
        Form::Bytes => (vec![usize::try_from(size).unwrap_or(usize::MAX)], 1),
        Form::Json => return read_own(dataset, form, size).map(Fetched::Bytes),
    };
    if dataset.layout()? != Layout::Chunked || dataset.shape()?.as_ref() != Some(&shape) {
        return read_own(dataset, form, size).map(Fetched::Bytes);
    }
    let (chunk, pipeline) = dataset.chunking()?;
    let Some(pipeline) = pipeline else { return read_own(dataset, form, size).map(Fetched::Bytes) };
    let bytes = chunk.iter().try_fold(element, |product, len| product.checked_mul(*len).filter(|_| *len > 0));
    let Some(bytes) = bytes.filter(|_| chunk.len() == shape.len()) else {
        return Err(H5Error::new("the chunks of the dataset do not fit its shape"));
    };
    let grid = Grid { shape, chunk, element };
    let wanted = part.map_or_else(|| grid.all(), <[_]>::to_vec);
    let mut chunks = Vec::new();
    for at in grid.chunks(&wanted) {
        // Twice as long as it can be, and some more, in case somebody else's compression made it longer.
        if let Some(coded) = dataset.read_chunk(&at, bytes.saturating_mul(2).saturating_add(4096))? {
            chunks.push((at, coded));
        }
    }
    Ok(Fetched::Packed(Packed { grid, pipeline, chunks }))
}
