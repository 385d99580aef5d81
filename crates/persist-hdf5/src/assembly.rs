//! Large values in chunks on their way out of the file: while the thread that uses the library reads some chunks, those before are
//! decoded and hashed on all cores.

use std::ops::Range;

use persist_core::Checksum;

use crate::buffer::Buffer;
use crate::chunk::{Packed, unpack_into};
use crate::decoder::Decoders;
use crate::hashing::Sums;
use crate::record::Form;

/// A value of which the rows come in their order.
pub(crate) struct Assembly {
    bytes: Buffer,
    /// How many of them are there.
    done: usize,
    sums: Sums,
    decoders: Decoders,
}

impl Assembly {
    /// Nothing yet of a value of `size` bytes; `None`: there is no room for it.
    pub(crate) fn new(form: &Form, size: u64) -> Option<Self> {
        let bytes = Buffer::in_large_pages(size)?;
        let sums = Sums::new(form, bytes.len());
        Some(Self { bytes, done: 0, sums, decoders: Decoders::default() })
    }

    /// Decodes the chunks of the rows that come next; `None`: one is damaged, or there are more than the value has.
    pub(crate) fn add(&mut self, packed: Packed, part: &[Range<usize>]) -> Option<()> {
        let len = part.iter().map(Range::len).product::<usize>() * packed.grid.element;
        let (from, rest) = (self.done, self.bytes.get_mut(self.done..)?);
        let (sums, band) = (&self.sums, rest.get_mut(..len)?);
        let hash = |place: usize, strip: &[u8]| sums.within(from + place, strip);
        let hashed = unpack_into(packed, part, &self.decoders, band, hash)?;
        hashed.into_iter().for_each(|some| self.sums.add(some));
        self.done += len;
        Some(())
    }

    /// The value and its checksum; `None`: some of it is missing.
    pub(crate) fn finish(self) -> Option<(Buffer, Checksum)> {
        (self.done == self.bytes.len()).then(|| {
            let checksum = self.sums.finish(&self.bytes);
            (self.bytes, checksum)
        })
    }
}
