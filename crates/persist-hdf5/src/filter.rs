//! What the configuration says of filters, and what becomes of it for a value.

use persist_core::{ByteSize, DType, Key, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chunk::{Grid, Packed, chunk_shape, pack, pipeline};
use crate::codec::{Filter, Pipeline, encode};
use crate::ffi::Szip;

/// How the chunks of arrays are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all; without `fletcher32` and `chunk_shape` arrays lie in one piece.
    #[default]
    None,
    /// zlib, which every HDF5 reads.
    Gzip,
    /// szip (the CCSDS's lossless compression of numbers with few bits that change), where the HDF5 library of the program has it; coded by that
    /// library, one chunk at a time, so slowest of all. `level` and `shuffle` mean nothing to it, and complex numbers are not compressed.
    Szip,
    /// LZF, quick; h5py reads it.
    Lzf,
    /// zstd, quicker and smaller than gzip; h5py reads it with `hdf5plugin`. Needs the cargo feature `hdf5-zstd`.
    Zstd,
}

/// Whether the bytes of equal weight are put together before they are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shuffle {
    /// If that makes a sample of the array smaller.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How arrays and bytes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// How chunks are compressed; `none` unless set.
    #[serde(default)]
    pub codec: Codec,
    /// The level of gzip, 1 (quick) to 9 (small), or of zstd, 1 to 19; 4 unless set.
    #[serde(default = "default_level")]
    #[schemars(range(min = 1, max = 19))]
    pub level: u8,
    /// Whether the bytes of equal weight are put together first; `auto` unless set.
    #[serde(default)]
    pub shuffle: Shuffle,
    /// Adds a checksum of 32 bits to each chunk, which other tools verify. Persist verifies its own in any case.
    #[serde(default)]
    pub fletcher32: bool,
    /// The size of a chunk, at most; 1 MiB unless set.
    #[serde(default = "default_chunk")]
    pub chunk: ByteSize,
    /// The shape of chunks, for arrays with so many axes; others have it chosen for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_shape: Option<Vec<usize>>,
    /// Smaller values lie in one piece; 64 KiB unless set.
    #[serde(default = "default_at_least")]
    pub at_least: ByteSize,
}

/// Filters for the keys that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// How the keys begin, literally; the longest prefix counts.
    pub prefix: String,
    /// In place of the storage's own.
    pub filters: Filters,
}

fn default_level() -> u8 {
    4
}

fn default_chunk() -> ByteSize {
    ByteSize(1 << 20)
}

fn default_at_least() -> ByteSize {
    ByteSize(64 << 10)
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            level: default_level(),
            shuffle: Shuffle::default(),
            fletcher32: false,
            chunk: default_chunk(),
            chunk_shape: None,
            at_least: default_at_least(),
        }
    }
}

/// The largest chunk: HDF5 keeps its length in 32 bits.
const LARGEST_CHUNK: u64 = (4 << 30) - (1 << 20);

/// The largest chunk of an array that grows, unless its shape is given: the last one is written anew with each row.
const GROWING_CHUNK: usize = 256 << 10;

/// How many bytes of an array are tried out.
const SAMPLE: usize = 64 << 10;

impl Filters {
    /// What the types cannot say.
    ///
    /// # Errors
    /// What is wrong, in words, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.codec == Codec::Zstd && !cfg!(feature = "zstd") {
            return Err(
                "zstd is not built in; build with the cargo feature `hdf5-zstd`, or use gzip".to_owned()
            );
        }
        if self.codec == Codec::Szip && !Szip::is_there() {
            return Err(
                "szip is not in the HDF5 library of this program; link one that was built with libaec (Debian's libhdf5 is, \
                 `hdf5-static` is not), or use gzip"
                    .to_owned(),
            );
        }
        let levels = if self.codec == Codec::Zstd { 1..=19 } else { 1..=9 };
        if !levels.contains(&self.level) {
            return Err(format!("level is {}; use 1 (quick) to {} (small)", self.level, levels.end()));
        }
        if !(4096..=LARGEST_CHUNK).contains(&self.chunk.0) {
            return Err(format!(
                "chunk is {} bytes; use 4096 to {LARGEST_CHUNK}, usually 1MiB",
                self.chunk.0
            ));
        }
        let axes = self.chunk_shape.iter().flatten();
        if axes.clone().any(|len| *len == 0)
            || axes
                .map(|len| *len as u64)
                .try_fold(16, u64::checked_mul)
                .is_none_or(|bytes| bytes > LARGEST_CHUNK)
        {
            return Err(
                "chunk_shape must have no axis of 0, and no more elements than fit into 4 GiB".to_owned()
            );
        }
        Ok(())
    }

    /// Codes a value in chunks; `None` if it is to lie in one piece.
    pub(crate) fn pack(&self, value: &Value) -> Option<Packed> {
        self.chunks_for(value).map(|(grid, pipeline)| pack(grid, pipeline, value.buffer()))
    }

    /// Codes an array that will grow in chunks that leave room for more rows.
    pub(crate) fn pack_growing(&self, value: &Value) -> Option<Packed> {
        let target = usize::try_from(self.chunk.0).unwrap_or(usize::MAX).min(GROWING_CHUNK);
        let (shape, kind) = cut_of(value)?;
        let chunk = self.chunk_of(&shape, kind.size(), target, usize::MAX);
        let grid = Grid { shape, chunk, element: kind.size() };
        let pipeline = self.pipeline(Some(value.buffer()), kind, &grid);
        Some(pack(grid, pipeline, value.buffer()))
    }

    /// The chunks of a value and their filters; `None` if it is to lie in one piece.
    pub(crate) fn chunks_for(&self, value: &Value) -> Option<(Grid, Pipeline)> {
        let (shape, kind) = cut_of(value)?;
        self.chunks(&shape, kind, value.size(), Some(value.buffer()))
    }

    /// The same for an array of `size` bytes of which nothing can be tried out: bytes of equal weight are put together unless
    /// that is forbidden.
    pub(crate) fn chunks_of(&self, shape: &[usize], kind: DType, size: usize) -> Option<(Grid, Pipeline)> {
        self.chunks(shape, kind, size as u64, None)
    }

    fn chunks(
        &self,
        shape: &[usize],
        kind: DType,
        size: u64,
        sample: Option<&[u8]>,
    ) -> Option<(Grid, Pipeline)> {
        let plain = self.codec == Codec::None && !self.fletcher32 && self.chunk_shape.is_none();
        if plain || size < self.at_least.0.max(1) {
            return None;
        }
        let target = usize::try_from(self.chunk.0).unwrap_or(usize::MAX);
        let chunk = self.chunk_of(shape, kind.size(), target, 0);
        let grid = Grid { shape: shape.to_vec(), chunk, element: kind.size() };
        let pipeline = self.pipeline(sample, kind, &grid);
        Some((grid, pipeline))
    }

    fn chunk_of(&self, shape: &[usize], element: usize, target: usize, rows: usize) -> Vec<usize> {
        match &self.chunk_shape {
            Some(chunk) if chunk.len() == shape.len() => {
                // The first axis may grow.
                let clipped = chunk.iter().zip(shape).skip(1).map(|(chunk, len)| (*chunk).min(*len));
                chunk.iter().take(1).copied().chain(clipped).collect()
            }
            _ => {
                let mut grown = shape.to_vec();
                if let Some(first) = grown.first_mut() {
                    *first = (*first).max(rows);
                }
                chunk_shape(&grown, element, target)
            }
        }
    }

    /// `sample`: the elements, of which some are tried out.
    fn pipeline(&self, sample: Option<&[u8]>, kind: DType, grid: &Grid) -> Pipeline {
        let element = grid.element;
        let codec = match self.codec {
            Codec::Szip => {
                let row = grid.chunk.last().copied().unwrap_or(1);
                let suits = !matches!(kind, DType::Complex64 | DType::Complex128)
                    && grid.chunk.iter().product::<usize>() >= Szip::BLOCK;
                let codec = suits.then_some(Filter::Szip(Szip { element, row }));
                return pipeline(false, codec, self.fletcher32, element);
            }
            Codec::None => None,
            Codec::Gzip => Some(Filter::Gzip(self.level)),
            Codec::Lzf => Some(Filter::Lzf),
            Codec::Zstd => Some(Filter::Zstd(self.level)),
        };
        let of = |shuffle| pipeline(shuffle, codec, self.fletcher32, element);
        let sample = sample.map(|all| &all[..all.len().min(SAMPLE) / element * element]);
        let shuffle = match (self.shuffle, sample) {
            (Shuffle::On, _) | (Shuffle::Auto, None) => true,
            (Shuffle::Off, _) => false,
            (Shuffle::Auto, Some(sample)) => {
                encode(&of(true), sample.to_vec()).bytes.len()
                    < encode(&of(false), sample.to_vec()).bytes.len()
            }
        };
        of(shuffle)
    }
}

/// The filters of each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    default: Filters,
    /// The longest prefix first.
    rules: Vec<FilterRule>,
}

impl Choice {
    /// Orders the rules.
    pub(crate) fn new(default: Filters, mut rules: Vec<FilterRule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Self { default, rules }
    }

    /// The filters for a key.
    pub(crate) fn of(&self, key: &Key) -> &Filters {
        let rule = self.rules.iter().find(|rule| key.starts_with(&rule.prefix));
        rule.map_or(&self.default, |rule| &rule.filters)
    }
}

/// The shape and elements of what can be kept in chunks: JSON and arrays without axes cannot.
fn cut_of(value: &Value) -> Option<(Vec<usize>, DType)> {
    match value {
        Value::Array(array) if !array.shape().is_empty() && !array.data().is_empty() => {
            Some((array.shape().to_vec(), array.dtype()))
        }
        Value::Bytes(bytes) => Some((vec![bytes.len()], DType::U8)),
        Value::Array(_) | Value::Json(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use persist_core::Array;

    use super::*;

    #[test]
    fn the_longest_prefix_counts() {
        let rule = |prefix: &str, codec| FilterRule {
            prefix: prefix.to_owned(),
            filters: Filters { codec, ..Filters::default() },
        };
        let choice = Choice::new(Filters::default(), vec![rule("a/", Codec::Gzip), rule("a/b/", Codec::Lzf)]);
        for (key, codec) in [("a/x", Codec::Gzip), ("a/b/x", Codec::Lzf), ("b", Codec::None)] {
            assert_eq!(choice.of(&Key::new(key).unwrap()).codec, codec, "{key}");
        }
    }

    #[test]
    fn shuffle_is_used_where_it_helps() {
        let gzip = Filters { codec: Codec::Gzip, ..Filters::default() };
        let smooth =
            Array::from_vec(vec![100_000], (0..100_000).map(|at| f64::from(at) * 0.001).collect()).unwrap();
        let packed = gzip.pack(&Value::Array(smooth)).unwrap();
        assert_eq!(packed.pipeline, [Filter::Shuffle(8), Filter::Gzip(4)]);
        // Few words in no order: each is found again as a whole, and is not once its bytes are apart.
        let noise = crate::codec::tests::noise(50_000);
        let words: Vec<u8> =
            noise.iter().flat_map(|pick| noise[usize::from(pick % 16) * 8..][..8].to_vec()).collect();
        let array = Array::new(DType::U64, vec![noise.len()], words.into()).unwrap();
        assert_eq!(gzip.pack(&Value::Array(array)).unwrap().pipeline, [Filter::Gzip(4)]);
        assert!(gzip.pack(&Value::bytes(vec![0; 100])).is_none(), "it is small");
    }
}
