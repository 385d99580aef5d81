//! Ways of compressing a buffer.

use std::io::{self, Read, Write};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

/// The largest buffer that is asked for at once because a note says so; a larger one grows as the bytes come.
const AT_ONCE: usize = 16 << 20;

/// The largest context that is kept. One of the usual level takes a megabyte or two, one of level 19 a hundred.
const KEPT: usize = 4 << 20;

/// A way of compressing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// RFC 8878: small and quick; the default.
    #[default]
    Zstd,
    /// RFC 1952: what every tool reads.
    Gzip,
    /// LZ4 blocks: the quickest, and the least small.
    Lz4,
    /// Not at all.
    None,
}

impl Codec {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::None => "none",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Zstd, Self::Gzip, Self::Lz4, Self::None].into_iter().find(|codec| codec.as_str() == name)
    }

    /// Checks a level.
    pub(crate) fn check(self, level: Option<i32>) -> Result<(), String> {
        let most = match self {
            Self::Zstd => 19,
            Self::Gzip => 9,
            Self::Lz4 | Self::None => {
                return level.map_or(Ok(()), |_| Err(format!("{} has no levels", self.as_str())));
            }
        };
        match level {
            Some(level) if !(1..=most).contains(&level) => {
                Err(format!("`level` is {level}; {} has levels 1 to {most}", self.as_str()))
            }
            _ => Ok(()),
        }
    }
}

/// Contexts of zstd that nobody uses at the moment: to make one takes longer than to compress a small value.
#[derive(Default)]
pub(crate) struct Contexts {
    compressors: Mutex<Vec<Compressor<'static>>>,
    decompressors: Mutex<Vec<Decompressor<'static>>>,
}

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").finish_non_exhaustive()
    }
}

impl Contexts {
    /// Compresses a buffer.
    pub(crate) fn compress(&self, codec: Codec, data: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
        match codec {
            Codec::Zstd => self.zstd(data, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)),
            Codec::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                let mut writer = flate2::write::GzEncoder::new(Vec::with_capacity(data.len() / 2), level);
                writer.write_all(data)?;
                writer.finish()
            }
            Codec::Lz4 => Ok(lz4_flex::block::compress(data)),
            Codec::None => Ok(data.to_vec()),
        }
    }

    /// Gets a buffer of `size` bytes back. Not much more than that is ever held, whatever the data say.
    pub(crate) fn decompress(&self, codec: Codec, data: &[u8], size: usize) -> io::Result<Vec<u8>> {
        match codec {
            Codec::Zstd if size <= AT_ONCE => self.unzstd(data, size),
            Codec::Zstd => read_exactly(zstd::stream::read::Decoder::with_buffer(data)?, size),
            Codec::Gzip => read_exactly(flate2::bufread::GzDecoder::new(data), size),
            // A block says nothing of its size; at best it stands for 255 times as much.
            Codec::Lz4 if size / 255 > data.len() => Err(io::Error::other("too few bytes for their size")),
            Codec::Lz4 => lz4_flex::block::decompress(data, size).map_err(io::Error::other),
            Codec::None => Ok(data.to_vec()),
        }
    }

    fn zstd(&self, data: &[u8], level: i32) -> io::Result<Vec<u8>> {
        let kept = self.compressors.lock().pop();
        let mut compressor = match kept {
            Some(mut compressor) => {
                compressor.set_compression_level(level)?;
                compressor
            }
            None => Compressor::new(level)?,
        };
        let compressed = compressor.compress(data);
        if compressor.context_mut().sizeof() <= KEPT {
            self.compressors.lock().push(compressor);
        }
        compressed
    }

    fn unzstd(&self, data: &[u8], size: usize) -> io::Result<Vec<u8>> {
        let kept = self.decompressors.lock().pop();
        let mut decompressor = kept.map_or_else(Decompressor::new, Ok)?;
        let mut buffer = Vec::with_capacity(size);
        let decompressed = decompressor.decompress_to_buffer(data, &mut buffer);
        self.decompressors.lock().push(decompressor);
        decompressed.map(|_| buffer)
    }
}

/// Reads what must be `size` bytes.
pub(crate) fn read_exactly(reader: impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(size.min(AT_ONCE));
    reader.take(size as u64 + 1).read_to_end(&mut buffer)?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let contexts = Contexts::default();
        let bomb = vec![0_u8; 64 << 20];
        for codec in [Codec::Zstd, Codec::Gzip, Codec::Lz4] {
            let small = contexts.compress(codec, &bomb, None).unwrap();
            // It says that it has 1000 bytes: no more than one further is read.
            let read = contexts.decompress(codec, &small, 1000);
            assert!(read.is_err() || read.is_ok_and(|buffer| buffer.len() == 1001), "{codec:?}");
        }
        assert!(contexts.decompress(Codec::Lz4, &[1, 2, 3], usize::MAX).is_err());
    }

    #[test]
    fn contexts_serve_values_of_all_sizes_and_levels_in_turn() {
        let contexts = Contexts::default();
        let text: Vec<u8> = (0..20_u32 << 20).map(|at| (at / 7 % 251) as u8).collect();
        for (size, level) in [(100, 1), (0, 3), (AT_ONCE + 1, 1), (70_000, 19), (5000, 3), (text.len(), 1)] {
            for codec in [Codec::Zstd, Codec::Gzip, Codec::Lz4] {
                let level = (codec == Codec::Zstd).then_some(level);
                let small = contexts.compress(codec, &text[..size], level).unwrap();
                assert!(
                    contexts.decompress(codec, &small, size).unwrap() == text[..size],
                    "{codec:?} {size}"
                );
                if let Some(level) = level {
                    let fresh = zstd::bulk::compress(&text[..size], level).unwrap();
                    assert!(small == fresh, "{size} bytes are compressed with what the value before was");
                }
                if codec == Codec::Zstd && size > 0 {
                    let less = contexts.decompress(codec, &small, size - 1);
                    assert!(less.is_err() || less.is_ok_and(|less| less.len() != size - 1), "{size}");
                    assert!(contexts.decompress(codec, &small[..small.len() - 1], size).is_err(), "{size}");
                }
            }
        }
        assert!(contexts.compressors.lock().len() < 2, "one after the other needs no more than one");
    }
}
