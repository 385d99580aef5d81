//! Data as it lies in a pack: stored, deflated or packed with zstd, in chunks that can be unpacked alone.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use persist_core::Value;

use crate::config::Compression;
use crate::note::{About, Note, Role};
use crate::parallel::in_parallel;
use crate::record::TABLE_ENTRY;
use crate::wire::{Reader, Wrong};

/// Data is packed in chunks of so many plain bytes. Each can be unpacked without those before it, so that a range costs
/// what it holds.
pub(crate) const CHUNK: u64 = 256 << 10;

/// So many chunks are unpacked at once, on all processors.
const GROUP: usize = 16;

/// Shorter data is not packed.
const MIN_BYTES: usize = 64;

/// How many bytes are looked at to guess whether data shrinks.
const SAMPLE: u16 = 512;

/// Data whose sample has more bits of information a byte than this is not packed: it is packed already, or noise.
const MAX_BITS: f32 = 7.2;

/// How hard deflate tries, 1 to 9: low, because values are packed while somebody waits.
const DEFLATE_LEVEL: u32 = 2;

/// How hard zstd tries, 1 to 22.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;

/// How an entry of a ZIP file is packed, by the number that ZIP gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Stored = 0,
    Deflate = 8,
    Zstd = 93,
}

impl Method {
    pub(crate) fn of(number: u16) -> Option<Self> {
        [Self::Stored, Self::Deflate, Self::Zstd].into_iter().find(|method| *method as u16 == number)
    }
}

/// How many chunks data of this length has.
pub(crate) fn chunks_of(plain: u64) -> u64 {
    plain.div_ceil(CHUNK).max(1)
}

/// How the data of a record lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Length when unpacked.
    pub(crate) plain: u64,
    /// Length in the file.
    pub(crate) stored: u64,
    /// CRC-32 as it lies there; of the table of chunks if there is one.
    pub(crate) data_crc: u32,
}

/// Data, ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) method: Method,
    pub(crate) plain: u64,
    /// The data as it lies in the file, in two pieces, so that the header of an array is not copied together with it.
    pub(crate) pieces: [Bytes; 2],
    pub(crate) crc32: u32,
    /// Where each chunk ends, and its CRC; empty for a single chunk.
    pub(crate) table: Vec<u8>,
    pub(crate) data_crc: u32,
}

impl Payload {
    /// No data.
    pub(crate) fn empty() -> Self {
        Self::of_bytes(Bytes::new(), Compression::None)
    }

    /// A value in the form that other tools read: JSON text, bytes, or an `.npy` file.
    pub(crate) fn of(value: &Value, compression: Compression) -> Self {
        let head = match value {
            Value::Array(array) => array.npy_header().encode().into(),
            Value::Json(_) | Value::Bytes(_) => Bytes::new(),
        };
        Self::new(head, value.buffer().clone(), compression)
    }

    /// Any bytes.
    pub(crate) fn of_bytes(data: Bytes, compression: Compression) -> Self {
        Self::new(Bytes::new(), data, compression)
    }

    fn new(head: Bytes, body: Bytes, compression: Compression) -> Self {
        let plain = (head.len() + body.len()) as u64;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(&body);
        let crc32 = crc.finalize();
        if compression != Compression::None && looks_packable(&head, &body) {
            let whole = join(&head, &body);
            if let Some(packed) = pack(&whole, compression, crc32) {
                return packed;
            }
        }
        let (table, data_crc) = if plain <= CHUNK { (Vec::new(), crc32) } else { stored_table(&head, &body) };
        Self { method: Method::Stored, plain, pieces: [head, body], crc32, table, data_crc }
    }

    /// Length of the data as it lies in the file.
    pub(crate) fn stored(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// How it will lie in the file.
    pub(crate) fn layout(&self) -> Layout {
        Layout { plain: self.plain, stored: self.stored(), data_crc: self.data_crc }
    }

    /// The note of a record with this data.
    pub(crate) fn note(&self, role: Role, about: About) -> Note {
        let Layout { plain, stored, data_crc } = self.layout();
        Note { role, more: false, synced: 0, plain, stored, data_crc, about }
    }
}

fn join<'b>(head: &'b [u8], body: &'b [u8]) -> Cow<'b, [u8]> {
    if head.is_empty() { Cow::Borrowed(body) } else { Cow::Owned([head, body].concat()) }
}

/// The table of data that is not packed, and its CRC.
fn stored_table(head: &[u8], body: &[u8]) -> (Vec<u8>, u32) {
    let whole = join(head, body);
    let chunk = usize::try_from(CHUNK).unwrap_or(usize::MAX);
    let mut table = Table::default();
    whole.chunks(chunk).for_each(|chunk| table.add(chunk));
    table.finish()
}

/// A table of chunks in the making.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    end: u64,
}

impl Table {
    fn add(&mut self, chunk: &[u8]) {
        self.end += chunk.len() as u64;
        self.bytes.extend(self.end.to_le_bytes());
        self.bytes.extend(crc32fast::hash(chunk).to_le_bytes());
    }

    fn finish(self) -> (Vec<u8>, u32) {
        let crc = crc32fast::hash(&self.bytes);
        (self.bytes, crc)
    }
}

/// What a byte that is seen so many times in a sample adds to its information: n log2(n).
static INFORMATION: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let of = |count: u16| if count == 0 { 0.0 } else { f32::from(count) * f32::from(count).log2() };
    (0..=SAMPLE).map(of).collect()
});

/// A guess from the frequencies of the bytes of a sample (Shannon's entropy), which costs less than trying.
fn looks_packable(head: &[u8], body: &[u8]) -> bool {
    if head.len() + body.len() < MIN_BYTES {
        return false;
    }
    let data = if body.len() < MIN_BYTES { head } else { body };
    // An odd step looks at every byte of numbers in turn, not always at the same one.
    let step = (data.len() / usize::from(SAMPLE)) | 1;
    let mut counts = [0_u16; 256];
    let mut total = 0_u16;
    for byte in data.iter().step_by(step).take(SAMPLE.into()) {
        counts[usize::from(*byte)] += 1;
        total += 1;
    }
    let known: f32 = counts.iter().map(|count| INFORMATION[usize::from(*count)]).sum();
    let total = f32::from(total);
    let bits = total.log2() - known / total;
    // A short sample has fewer different bytes than there are, and seems to shrink.
    bits < MAX_BITS.min(total.log2() - 0.8)
}

/// Packs data; `None` if it does not shrink by a sixteenth.
fn pack(data: &[u8], compression: Compression, crc32: u32) -> Option<Payload> {
    let (method, packed, table, data_crc) = match compression {
        Compression::None => return None,
        Compression::Deflate => {
            let (packed, table, crc) = deflate(data)?;
            (Method::Deflate, packed, table, crc)
        }
        Compression::Zstd => {
            let (packed, table, crc) = zstd_pack(data)?;
            (Method::Zstd, packed, table, crc)
        }
    };
    if packed.len() > data.len() - data.len() / 16 {
        return None;
    }
    let pieces = [packed.into(), Bytes::new()];
    Some(Payload { method, plain: data.len() as u64, pieces, crc32, table, data_crc })
}

/// One deflate stream that other tools read at a go, whose chunks ours can begin with: each is packed on its own, on all
/// processors, and ends where a byte ends.
fn deflate(data: &[u8]) -> Option<(Vec<u8>, Vec<u8>, u32)> {
    let chunks: Vec<&[u8]> = data.chunks(usize::try_from(CHUNK).unwrap_or(usize::MAX)).collect();
    let numbered: Vec<(usize, &[u8])> = chunks.iter().copied().enumerate().collect();
    let last = chunks.len() - 1;
    let (mut packed, mut table) = (Vec::new(), Table::default());
    for chunk in in_parallel(&numbered, |(at, chunk)| deflate_chunk(chunk, *at == last)) {
        let chunk = chunk?;
        table.add(&chunk);
        if packed.is_empty() { packed = chunk } else { packed.extend(chunk) }
    }
    Some(finish_table(packed, table, chunks.len()))
}

fn finish_table(packed: Vec<u8>, table: Table, count: usize) -> (Vec<u8>, Vec<u8>, u32) {
    if count == 1 {
        let crc = crc32fast::hash(&packed);
        return (packed, Vec::new(), crc);
    }
    let (table, crc) = table.finish();
    (packed, table, crc)
}

fn deflate_chunk(chunk: &[u8], last: bool) -> Option<Vec<u8>> {
    let mut stream = Compress::new(flate2::Compression::new(DEFLATE_LEVEL), false);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Full };
    let mut packed = Vec::with_capacity(chunk.len() / 2 + 64);
    loop {
        let taken = usize::try_from(stream.total_in()).ok()?;
        let rest = chunk.get(taken..)?;
        packed.reserve(rest.len() / 2 + 256);
        let status = stream.compress_vec(rest, &mut packed, flush).ok()?;
        let is_taken = usize::try_from(stream.total_in()).ok()? == chunk.len();
        let room = packed.len() < packed.capacity();
        match status {
            Status::StreamEnd => return Some(packed),
            // A flush is complete when there was room left for more of it.
            Status::Ok | Status::BufError if !last && is_taken && room => return Some(packed),
            Status::Ok | Status::BufError => {}
        }
    }
}

fn inflate(chunk: &[u8], plain: usize, last: bool) -> Result<Vec<u8>, Wrong> {
    const BAD: Wrong = Wrong("its data cannot be unpacked");
    let mut stream = Decompress::new(false);
    // One byte more than it should be, to notice if it is longer.
    let mut data = Vec::with_capacity(plain + 1);
    let flush = if last { FlushDecompress::Finish } else { FlushDecompress::Sync };
    let status = stream.decompress_vec(chunk, &mut data, flush).map_err(|_| BAD)?;
    let ended = status == Status::StreamEnd;
    if data.len() != plain || ended != last { Err(BAD) } else { Ok(data) }
}

#[cfg(feature = "zstd")]
fn zstd_pack(data: &[u8]) -> Option<(Vec<u8>, Vec<u8>, u32)> {
    let mut packed = Vec::new();
    let mut table = Table::default();
    let chunk = usize::try_from(CHUNK).unwrap_or(usize::MAX);
    let count = data.chunks(chunk).len();
    for part in data.chunks(chunk) {
        let frame = zstd::bulk::compress(part, ZSTD_LEVEL).ok()?;
        table.add(&frame);
        packed.extend(frame);
    }
    Some(finish_table(packed, table, count))
}

#[cfg(not(feature = "zstd"))]
fn zstd_pack(_data: &[u8]) -> Option<(Vec<u8>, Vec<u8>, u32)> {
    // The configuration is refused before it comes to this.
    None
}

#[cfg(feature = "zstd")]
fn zstd_unpack(chunk: &[u8], plain: usize) -> Result<Vec<u8>, Wrong> {
    let data = zstd::bulk::decompress(chunk, plain).map_err(|_| Wrong("its data cannot be unpacked"))?;
    if data.len() == plain { Ok(data) } else { Err(Wrong("its data cannot be unpacked")) }
}

#[cfg(not(feature = "zstd"))]
fn zstd_unpack(_chunk: &[u8], _plain: usize) -> Result<Vec<u8>, Wrong> {
    Err(Wrong("it is packed with zstd, which was not built in (cargo feature pack-zstd)"))
}

fn unpack_chunk(method: Method, chunk: Bytes, plain: usize, last: bool) -> Result<Bytes, Wrong> {
    match method {
        Method::Stored if chunk.len() == plain => Ok(chunk),
        Method::Stored => Err(Wrong("its data has another length than it should have")),
        Method::Deflate => inflate(&chunk, plain, last).map(Bytes::from),
        Method::Zstd => zstd_unpack(&chunk, plain).map(Bytes::from),
    }
}

/// Where the data of a record can be read from: bytes of the record after its head.
pub(crate) trait Source: Sync {
    /// Why it cannot be read, or is damaged.
    type Error: From<Wrong> + Send;

    /// A part of the data as it lies in the file.
    fn stored(&self, start: u64, len: u64) -> Result<Bytes, Self::Error>;

    /// The table of chunks.
    fn table(&self, len: u64) -> Result<Bytes, Self::Error>;
}

/// Unpacks all data of a record. Nothing is allocated beyond the length that the note says.
pub(crate) fn unpack<S: Source>(source: &S, method: Method, layout: Layout) -> Result<Bytes, S::Error> {
    unpack_range(source, method, layout, 0, layout.plain)
}

/// Unpacks a part of the data of a record, and the chunks around it; the part lies within the data.
pub(crate) fn unpack_range<S: Source>(
    source: &S,
    method: Method,
    layout: Layout,
    start: u64,
    end: u64,
) -> Result<Bytes, S::Error> {
    let chunks = Chunks::read(source, layout)?;
    if method == Method::Stored && layout.stored != layout.plain {
        return Err(Wrong("its data has another length than it should have").into());
    }
    let last_chunk = chunks.count - 1;
    let first = (start / CHUNK).min(last_chunk);
    let last = (end.saturating_sub(1).max(start) / CHUNK).min(last_chunk);
    let cut = |bytes: Bytes, first: u64| {
        let at = |position: u64| usize::try_from(position - first * CHUNK).unwrap_or(usize::MAX);
        bytes.slice(at(start).min(bytes.len())..at(end).min(bytes.len()))
    };
    if method == Method::Stored {
        // In one piece, so that mapped data is not copied.
        let from = chunks.start(first)?;
        let len = chunks.end(last)?.checked_sub(from).ok_or(Wrong("its table of chunks is wrong"))?;
        let bytes = source.stored(from, len)?;
        chunks.check(&bytes, first, last)?;
        return Ok(cut(bytes, first));
    }
    if first == last {
        return Ok(cut(chunks.unpack(source, method, first)?, first));
    }
    let mut whole = Vec::new();
    let total = usize::try_from((last + 1 - first) * CHUNK).unwrap_or(usize::MAX);
    whole
        .try_reserve_exact(total.min(usize::try_from(layout.plain).unwrap_or(usize::MAX)))
        .map_err(|_| Wrong("there is not enough memory to unpack it"))?;
    let numbers: Vec<u64> = (first..=last).collect();
    for group in numbers.chunks(GROUP) {
        for chunk in in_parallel(group, |chunk| chunks.unpack(source, method, *chunk)) {
            whole.extend(chunk?);
        }
    }
    Ok(cut(whole.into(), first))
}

/// The chunks of a record: where they lie and their CRCs.
struct Chunks {
    count: u64,
    layout: Layout,
    table: Bytes,
}

impl Chunks {
    fn read<S: Source>(source: &S, layout: Layout) -> Result<Self, S::Error> {
        let count = chunks_of(layout.plain);
        let is_short = layout.plain <= CHUNK;
        let table = if is_short { Bytes::new() } else { source.table(count * TABLE_ENTRY as u64)? };
        if !table.is_empty() && crc32fast::hash(&table) != layout.data_crc {
            return Err(Wrong("its table of chunks does not match its CRC").into());
        }
        Ok(Self { count, layout, table })
    }

    fn entry(&self, chunk: u64) -> Result<(u64, u32), Wrong> {
        if self.table.is_empty() {
            return Ok((self.layout.stored, self.layout.data_crc));
        }
        let at = usize::try_from(chunk).unwrap_or(usize::MAX).saturating_mul(TABLE_ENTRY);
        let mut from = Reader::new(self.table.get(at..).unwrap_or_default());
        let (end, crc) = (from.u64()?, from.u32()?);
        if end > self.layout.stored || (chunk + 1 == self.count && end != self.layout.stored) {
            return Err(Wrong("its table of chunks is wrong"));
        }
        Ok((end, crc))
    }

    fn start(&self, chunk: u64) -> Result<u64, Wrong> {
        if chunk == 0 { Ok(0) } else { self.end(chunk - 1) }
    }

    fn end(&self, chunk: u64) -> Result<u64, Wrong> {
        self.entry(chunk).map(|(end, _)| end)
    }

    fn plain_len(&self, chunk: u64) -> usize {
        usize::try_from((self.layout.plain - chunk * CHUNK).min(CHUNK)).unwrap_or(usize::MAX)
    }

    /// Checks the CRCs of chunks that lie in a row.
    fn check(&self, bytes: &[u8], first: u64, last: u64) -> Result<(), Wrong> {
        let mut rest = bytes;
        for chunk in first..=last {
            let (end, crc) = self.entry(chunk)?;
            let len = end.checked_sub(self.start(chunk)?).and_then(|len| usize::try_from(len).ok());
            let front = len.and_then(|len| rest.split_at_checked(len));
            let (front, after) = front.ok_or(Wrong("its table of chunks is wrong"))?;
            if crc32fast::hash(front) != crc {
                return Err(Wrong("its data does not match its CRC"));
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(Wrong("its table of chunks is wrong")) }
    }

    fn unpack<S: Source>(&self, source: &S, method: Method, chunk: u64) -> Result<Bytes, S::Error> {
        let (start, end) = (self.start(chunk)?, self.end(chunk)?);
        let len = end.checked_sub(start).ok_or(Wrong("its table of chunks is wrong"))?;
        let bytes = source.stored(start, len)?;
        self.check(&bytes, chunk, chunk)?;
        Ok(unpack_chunk(method, bytes, self.plain_len(chunk), chunk + 1 == self.count)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;

    struct Memory {
        data: Bytes,
        table: Bytes,
    }

    impl Source for Memory {
        type Error = Wrong;

        fn stored(&self, start: u64, len: u64) -> Result<Bytes, Wrong> {
            let (start, len) = (start as usize, len as usize);
            if start + len > self.data.len() {
                return Err(Wrong("cut"));
            }
            Ok(self.data.slice(start..start + len))
        }

        fn table(&self, len: u64) -> Result<Bytes, Wrong> {
            if len as usize == self.table.len() { Ok(self.table.clone()) } else { Err(Wrong("cut")) }
        }
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|at| b"persist keeps the state of a program "[(at + at / 100) % 37]).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn packed(data: &[u8], compression: Compression) -> (Memory, Method, Layout, u64) {
        let payload = Payload::of_bytes(data.to_vec().into(), compression);
        let note = payload.layout();
        let memory = Memory { data: payload.pieces.concat().into(), table: payload.table.clone().into() };
        (memory, payload.method, note, payload.stored())
    }

    fn compressions() -> Vec<Compression> {
        let mut all = vec![Compression::None, Compression::Deflate];
        if cfg!(feature = "zstd") {
            all.push(Compression::Zstd);
        }
        all
    }

    #[test]
    fn every_length_and_range_comes_back() {
        let chunk = CHUNK as usize;
        for compression in compressions() {
            for len in [0, 1, 63, 64, 1000, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 7] {
                let data = text(len);
                let (source, method, note, _) = packed(&data, compression);
                assert_eq!(unpack(&source, method, note).unwrap(), data, "{compression:?} {len}");
                for start in [0, 1, len / 2, chunk - 1, chunk, len.saturating_sub(1), len] {
                    for end in [start, start + 1, start + chunk, len] {
                        let (start, end) = (start.min(len), end.min(len).max(start.min(len)));
                        let part = unpack_range(&source, method, note, start as u64, end as u64).unwrap();
                        assert_eq!(part, data[start..end], "{compression:?} {len} {start}..{end}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored() {
        for compression in compressions() {
            assert_eq!(packed(&noise(1024), compression).1, Method::Stored);
            assert_eq!(packed(&noise(600_000), compression).1, Method::Stored);
            assert_eq!(packed(&text(40), compression).1, Method::Stored, "too short");
        }
        let (_, method, _, stored) = packed(&text(10_000), Compression::Deflate);
        assert_eq!(method, Method::Deflate);
        assert!(stored < 2_000, "{stored}");
    }

    #[test]
    fn every_flipped_byte_of_packed_data_is_found() {
        for compression in compressions() {
            for data in [text(700), text(CHUNK as usize + 100)] {
                let (good, method, note, _) = packed(&data, compression);
                let step = (good.data.len() / 500).max(1);
                for at in (0..good.data.len()).step_by(step) {
                    let mut bad = good.data.to_vec();
                    bad[at] ^= 0x10;
                    let bad = Memory { data: bad.into(), table: good.table.clone() };
                    assert!(unpack(&bad, method, note).is_err(), "{compression:?} byte {at}");
                }
                for at in 0..good.table.len() {
                    let mut bad = good.table.to_vec();
                    bad[at] ^= 1;
                    let bad = Memory { data: good.data.clone(), table: bad.into() };
                    assert!(unpack(&bad, method, note).is_err(), "{compression:?} table byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_false_length_allocates_nothing_beyond_it() {
        let (source, method, mut note, _) = packed(&text(700), Compression::Deflate);
        note.plain = 10;
        assert!(unpack(&source, method, note).is_err(), "longer than it says");
        note.plain = 900;
        assert!(unpack(&source, method, note).is_err(), "shorter than it says");
    }

    #[test]
    fn one_deflate_stream_for_other_tools() {
        let data = text(3 * CHUNK as usize + 9);
        let (source, method, _, _) = packed(&data, Compression::Deflate);
        assert_eq!(method, Method::Deflate);
        assert_eq!(inflate(&source.data, data.len(), true).unwrap(), data);
    }
}
