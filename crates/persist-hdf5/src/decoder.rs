//! Undoing the filters of chunks, outside the library and its lock.

use flate2::{Decompress, FlushDecompress, Status};
use parking_lot::Mutex;

use crate::codec::{Coded, Filter, unfletcher32};
use crate::lzf;
use crate::shuffle::unshuffle;

/// As many decoders as there were chunks at a time.
#[derive(Default)]
pub(crate) struct Decoders(Mutex<Vec<Decoder>>);

impl Decoders {
    /// As [`Decoder::decode`].
    pub(crate) fn decode(&self, pipeline: &[Filter], coded: &Coded, into: &mut [u8]) -> Option<()> {
        let free = self.0.lock().pop();
        let mut decoder = free.unwrap_or_default();
        let decoded = decoder.decode(pipeline, coded, into);
        self.0.lock().push(decoder);
        decoded
    }
}

/// Undoes filters. What that needs is kept for the next chunk: to ask for memory anew each time would take longer than some codecs do.
#[derive(Default)]
pub(crate) struct Decoder {
    inflate: Option<Decompress>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    /// What a chunk is between two filters.
    between: Vec<Vec<u8>>,
}

impl Decoder {
    /// Undoes all filters that were not left out; `None` if the chunk is damaged, or does not have that many bytes.
    pub(crate) fn decode(&mut self, pipeline: &[Filter], coded: &Coded, into: &mut [u8]) -> Option<()> {
        let used = |(at, filter): (usize, &Filter)| (coded.skipped & (1 << at) == 0).then_some(*filter);
        let filters: Vec<Filter> = pipeline.iter().enumerate().filter_map(used).collect();
        let mut between = std::mem::take(&mut self.between);
        between.resize_with(filters.len().max(between.len()), Vec::new);
        let decoded = self.undo_all(&filters, &coded.bytes, &mut between, into);
        self.between = between;
        decoded
    }

    /// The last filter is undone first; what comes of the first one goes where it is wanted.
    fn undo_all(
        &mut self,
        filters: &[Filter],
        chunk: &[u8],
        between: &mut [Vec<u8>],
        into: &mut [u8],
    ) -> Option<()> {
        match filters.split_last() {
            None => (chunk.len() == into.len()).then(|| into.copy_from_slice(chunk)),
            Some((Filter::Fletcher32, before)) => self.undo_all(before, unfletcher32(chunk)?, between, into),
            Some((filter, [])) => (self.undo(*filter, chunk, into)? == into.len()).then_some(()),
            Some((filter, before)) => {
                let (room, between) = between.split_first_mut()?;
                // A chunk is followed by four bytes where a checksum comes before the compression.
                room.resize(into.len() + 4, 0);
                let len = self.undo(*filter, chunk, room)?;
                self.undo_all(before, &room[..len], between, into)
            }
        }
    }

    /// Undoes a filter that changes bytes; how many there were.
    pub(crate) fn undo(&mut self, filter: Filter, chunk: &[u8], into: &mut [u8]) -> Option<usize> {
        match filter {
            Filter::Shuffle(size) => unshuffle(chunk, size, into.get_mut(..chunk.len())?),
            Filter::Gzip(_) => return self.ungzip(chunk, into),
            Filter::Szip(szip) => return szip.decode(chunk, into),
            Filter::Lzf => return lzf::decompress(chunk, into),
            Filter::Zstd(_) => return self.unzstd(chunk, into),
            Filter::Fletcher32 => into.get_mut(..chunk.len())?.copy_from_slice(chunk),
        }
        Some(chunk.len())
    }

    fn ungzip(&mut self, chunk: &[u8], into: &mut [u8]) -> Option<usize> {
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(true));
        inflate.reset(true);
        let status = inflate.decompress(chunk, into, FlushDecompress::Finish).ok()?;
        (status == Status::StreamEnd).then(|| usize::try_from(inflate.total_out()).ok())?
    }

    #[cfg(feature = "zstd")]
    fn unzstd(&mut self, chunk: &[u8], into: &mut [u8]) -> Option<usize> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Decompressor::new().ok();
        }
        self.zstd.as_mut()?.decompress_to_buffer(chunk, into).ok()
    }

    #[cfg(not(feature = "zstd"))]
    fn unzstd(&mut self, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
}
