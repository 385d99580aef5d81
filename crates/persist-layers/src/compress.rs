use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use persist_core::{BaseStorage, ByteSize, ErrorKind, Key, Result, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::encoded::{Described, Encoded, Encoder, Refusal};
use crate::plain::Plain;
use crate::rules::longest;

/// The settings of [`Compress`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompressConfig {
    /// How values are compressed.
    pub codec: Codec,
    /// How hard: zstd 1 to 19 (3), gzip 1 to 9 (6). lz4 has no levels.
    pub level: Option<i32>,
    /// Smaller values stay as they are.
    pub threshold: ByteSize,
    /// The largest value that is decompressed; what says that it is larger is refused as damaged.
    pub max_value: ByteSize,
    /// Other codecs for keys with some prefixes; the longest prefix counts.
    pub rules: Vec<CompressRule>,
}

impl Default for CompressConfig {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            level: None,
            threshold: ByteSize(256),
            max_value: ByteSize(1 << 30),
            rules: Vec::new(),
        }
    }
}

/// How values under a prefix are compressed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressRule {
    /// What the keys begin with, literally.
    pub prefix: String,
    /// Their codec.
    pub codec: Codec,
    /// Their level.
    #[serde(default)]
    pub level: Option<i32>,
}

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
    fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::None => "none",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Zstd, Self::Gzip, Self::Lz4, Self::None].into_iter().find(|codec| codec.as_str() == name)
    }

    /// Checks a level.
    fn check(self, level: Option<i32>) -> Result<(), String> {
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

    fn compress(self, data: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(data, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)),
            Self::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                let mut writer = flate2::write::GzEncoder::new(Vec::with_capacity(data.len() / 2), level);
                writer.write_all(data)?;
                writer.finish()
            }
            Self::Lz4 => Ok(lz4_flex::block::compress(data)),
            Self::None => Ok(data.to_vec()),
        }
    }

    /// Gets a buffer of `size` bytes back. No more than that is ever held, whatever the data say.
    fn decompress(self, data: &[u8], size: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => read_exactly(zstd::stream::read::Decoder::with_buffer(data)?, size),
            Self::Gzip => read_exactly(flate2::bufread::GzDecoder::new(data), size),
            // A block says nothing of its size; at best it stands for 255 times as much.
            Self::Lz4 if size / 255 > data.len() => Err(io::Error::other("too few bytes for their size")),
            Self::Lz4 => lz4_flex::block::decompress(data, size).map_err(io::Error::other),
            Self::None => Ok(data.to_vec()),
        }
    }
}

/// Reads what must be `size` bytes. A buffer of more than 16 MiB grows as the bytes come.
fn read_exactly(reader: impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(size.min(16 << 20));
    reader.take(size as u64 + 1).read_to_end(&mut buffer)?;
    Ok(buffer)
}

/// Compresses values that become smaller by it.
///
/// Kind, size and checksum stay those of the plain value. The codec stands in the metadata below and is never guessed; a
/// value that was stored plain, before the layer was there or because it would not have become smaller, is read as it is. Ranges
/// decompress the whole value. Compressed text and its encryption tell by their length how well they could be compressed.
#[derive(Debug)]
pub struct Compress(Encoded<Compressor>);

impl Compress {
    /// Compresses what is stored in `inner`.
    pub fn new(inner: Arc<dyn BaseStorage>, config: CompressConfig) -> Self {
        Self(Encoded::new(inner, Compressor(config)))
    }
}

forward_all!(Compress);

#[derive(Debug)]
struct Compressor(CompressConfig);

impl Compressor {
    fn codec(&self, key: &Key) -> (Codec, Option<i32>) {
        let rule = longest(&self.0.rules, |rule| &rule.prefix, key);
        rule.map_or((self.0.codec, self.0.level), |rule| (rule.codec, rule.level))
    }

    fn parse(&self, note: &str) -> Result<(Codec, Plain), Refusal> {
        let damaged = || Refusal::damaged("the note about the compression of the value is damaged");
        let (codec, plain) = note.split_once(' ').ok_or_else(damaged)?;
        let plain: Plain = plain.parse().map_err(|_| damaged())?;
        let codec = Codec::parse(codec).ok_or_else(|| {
            let message = format!(
                "the value is compressed with {codec}, which this version does not know; use a newer one"
            );
            Refusal(ErrorKind::Unsupported, message)
        })?;
        Ok((codec, plain))
    }
}

impl Encoder for Compressor {
    const MARK: &'static str = "persist-compress/1 ";

    fn encode(&self, key: &Key, value: &Value, notes: &mut Vec<String>) -> Result<Option<Bytes>, Refusal> {
        let (mut codec, level) = self.codec(key);
        let data = value.buffer();
        let mut body = None;
        if codec != Codec::None
            && value.size() >= self.0.threshold.0.max(1)
            && value.size() <= self.0.max_value.0
        {
            let compressed = codec.compress(data, level);
            let failed =
                |why: io::Error| Refusal(ErrorKind::Internal, format!("{} failed: {why}", codec.as_str()));
            body = Some(compressed.map_err(failed)?).filter(|body| body.len() < data.len()).map(Bytes::from);
        }
        // Somebody above notes what only this layer may note: its own note comes after that, so that the last one counts.
        if body.is_none() && notes.last().is_some_and(|note| note.starts_with(Self::MARK)) {
            codec = Codec::None;
            body = Some(data.clone());
        }
        if body.is_some() {
            notes.push(format!("{}{} {}", Self::MARK, codec.as_str(), Plain::of(value)));
        }
        Ok(body)
    }

    fn describe(&self, _: &Key, note: &str) -> Result<Described, Refusal> {
        self.parse(note).map(|(_, plain)| Described { plain, hidden: Vec::new() })
    }

    fn decode(&self, _: &Key, note: &str, body: &Bytes) -> Result<(Described, Value), Refusal> {
        let (codec, plain) = self.parse(note)?;
        let damaged = || Refusal::damaged("the stored value cannot be decompressed to what was stored");
        if plain.size() > self.0.max_value.0 && codec != Codec::None {
            let message = format!(
                "the compressed value says that it has {} bytes, and `max_value` allows {}; raise it if that is right",
                plain.size(),
                self.0.max_value
            );
            return Err(Refusal(ErrorKind::Corruption, message));
        }
        let size = usize::try_from(plain.size()).map_err(|_| damaged())?;
        let buffer = match codec {
            Codec::None => body.clone(),
            codec => codec.decompress(body, size).map(Bytes::from).map_err(|_| damaged())?,
        };
        let value = plain.value(buffer).ok_or_else(damaged)?;
        if Plain::of(&value) == plain {
            Ok((Described { plain, hidden: Vec::new() }, value))
        } else {
            Err(damaged())
        }
    }

    fn decoding_cost(&self, note: &str, body: &Bytes) -> u64 {
        self.parse(note).map_or(0, |(_, plain)| plain.size()).max(body.len() as u64)
    }
}

impl Layer for Compress {
    const NAME: &'static str = "compress";
    type Config = CompressConfig;

    fn check(config: &CompressConfig) -> Result<(), String> {
        config.codec.check(config.level)?;
        for rule in &config.rules {
            rule.codec.check(rule.level).map_err(|why| format!("the rule for `{}`: {why}", rule.prefix))?;
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: CompressConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::new(inner, config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let bomb = vec![0_u8; 64 << 20];
        for codec in [Codec::Zstd, Codec::Gzip, Codec::Lz4] {
            let small = codec.compress(&bomb, None).unwrap();
            // It says that it has 1000 bytes: no more than one further is read.
            let read = codec.decompress(&small, 1000);
            assert!(read.is_err() || read.is_ok_and(|buffer| buffer.len() == 1001), "{codec:?}");
        }
        assert!(Codec::Lz4.decompress(&[1, 2, 3], usize::MAX).is_err());
    }

    #[test]
    fn levels_are_checked() {
        let check =
            |codec, level| Compress::check(&CompressConfig { codec, level, ..CompressConfig::default() });
        assert!(check(Codec::Zstd, Some(19)).is_ok() && check(Codec::Gzip, Some(9)).is_ok());
        assert!(check(Codec::Zstd, Some(20)).unwrap_err().contains("1 to 19"));
        assert!(check(Codec::Lz4, Some(1)).unwrap_err().contains("no levels"));
    }
}
