use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use persist_core::{
    BaseStorage, ByteSize, ErrorKind, Key, OpenContext, Result, StorageError, Value, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Layer;
use crate::codec::{Codec, Contexts, read_exactly};
use crate::dictionary::Dictionary;
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
    /// Files that `zstd --train` made: the first is used by `codec` where that is zstd, all of them to read what was compressed with them. Worth it
    /// for values of a few hundred bytes that are alike.
    pub dictionaries: Vec<PathBuf>,
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
            dictionaries: Vec::new(),
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

/// Compresses values that become smaller by it.
///
/// Kind, size and checksum stay those of the plain value. The codec stands in the metadata below and is never guessed; a
/// value that was stored plain, before the layer was there or because it would not have become smaller, is read as it is. Ranges
/// decompress the whole value. Compressed text and its encryption tell by their length how well they could be compressed.
#[derive(Debug)]
pub struct Compress(Encoded<Compressor>);

impl Compress {
    /// Compresses what is stored in `inner`, without the dictionaries that the settings name: see [`open`](Self::open).
    pub fn new(inner: Arc<dyn BaseStorage>, config: CompressConfig) -> Self {
        Self(Encoded::new(inner, Compressor::new(config, Vec::new())))
    }

    /// Compresses what is stored in `inner`, with the dictionaries that the settings name; their paths begin at `base`.
    ///
    /// # Errors
    /// `InvalidConfig` for a dictionary that cannot be read or was not trained, and for two with one id.
    pub fn open(inner: Arc<dyn BaseStorage>, config: CompressConfig, base: &Path) -> Result<Self> {
        let level =
            config.level.filter(|_| config.codec == Codec::Zstd).unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
        let mut dictionaries: Vec<Dictionary> = Vec::new();
        for path in &config.dictionaries {
            let dictionary = Dictionary::read(&base.join(path), level)?;
            if dictionaries.iter().any(|known| known.id() == dictionary.id()) {
                let message =
                    format!("two dictionaries have the id {}; train one of them anew", dictionary.id());
                return Err(StorageError::new(ErrorKind::InvalidConfig, message));
            }
            dictionaries.push(dictionary);
        }
        Ok(Self(Encoded::new(inner, Compressor::new(config, dictionaries))))
    }
}

forward_all!(Compress);

#[derive(Debug)]
struct Compressor {
    config: CompressConfig,
    dictionaries: Vec<Dictionary>,
    contexts: Contexts,
}

/// How a value was compressed, as its note says: a codec, or `zstd:ID` with the id of a dictionary.
#[derive(Clone, Copy)]
enum Means<'a> {
    Codec(Codec),
    Dictionary(&'a Dictionary),
}

impl Means<'_> {
    fn compress(self, contexts: &Contexts, data: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
        match self {
            Self::Codec(codec) => contexts.compress(codec, data, level),
            Self::Dictionary(dictionary) => dictionary.compress(data),
        }
    }

    fn decompress(self, contexts: &Contexts, data: &[u8], size: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Codec(codec) => contexts.decompress(codec, data, size),
            Self::Dictionary(dictionary) => read_exactly(dictionary.reader(data)?, size),
        }
    }
}

impl fmt::Display for Means<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(codec) => f.write_str(codec.as_str()),
            Self::Dictionary(dictionary) => write!(f, "{}:{}", Codec::Zstd.as_str(), dictionary.id()),
        }
    }
}

impl Compressor {
    fn new(config: CompressConfig, dictionaries: Vec<Dictionary>) -> Self {
        Self { config, dictionaries, contexts: Contexts::default() }
    }

    fn means(&self, key: &Key) -> (Means<'_>, Option<i32>) {
        match longest(&self.config.rules, |rule| &rule.prefix, key) {
            Some(rule) => (Means::Codec(rule.codec), rule.level),
            None => {
                let dictionary = self.dictionaries.first().filter(|_| self.config.codec == Codec::Zstd);
                (dictionary.map_or(Means::Codec(self.config.codec), Means::Dictionary), self.config.level)
            }
        }
    }

    /// The word for the means, and what the value was.
    fn parse(note: &str) -> Result<(&str, Plain), Refusal> {
        let damaged = || Refusal::damaged("the note about the compression of the value is damaged");
        let (means, plain) = note.split_once(' ').ok_or_else(damaged)?;
        Ok((means, plain.parse().map_err(|_| damaged())?))
    }

    fn find(&self, means: &str) -> Result<Means<'_>, Refusal> {
        if let Some(codec) = Codec::parse(means) {
            return Ok(Means::Codec(codec));
        }
        let Some(id) = means.strip_prefix("zstd:") else {
            let message = format!(
                "the value is compressed with {means}, which this version does not know; use a newer one"
            );
            return Err(Refusal(ErrorKind::Unsupported, message));
        };
        let found = self.dictionaries.iter().find(|dictionary| id.parse() == Ok(dictionary.id()));
        found.map(Means::Dictionary).ok_or_else(|| {
            let message = format!(
                "the value is compressed with the dictionary of id {id}, which is not in `dictionaries`; add it to read the value"
            );
            Refusal(ErrorKind::AccessDenied, message)
        })
    }
}

impl Encoder for Compressor {
    const MARK: &'static str = "persist-compress/1 ";

    fn encode(
        &self,
        key: &Key,
        value: &Value,
        notes: &mut Vec<String>,
    ) -> Result<Option<(Bytes, Plain)>, Refusal> {
        let (mut means, level) = self.means(key);
        let data = value.buffer();
        let mut body = None;
        if !matches!(means, Means::Codec(Codec::None))
            && value.size() >= self.config.threshold.0.max(1)
            && value.size() <= self.config.max_value.0
        {
            let compressed = means.compress(&self.contexts, data, level);
            let failed = |why: io::Error| Refusal(ErrorKind::Internal, format!("{means} failed: {why}"));
            body = Some(compressed.map_err(failed)?).filter(|body| body.len() < data.len()).map(Bytes::from);
        }
        // Somebody above notes what only this layer may note: its own note comes after that, so that the last one counts.
        if body.is_none() && notes.last().is_some_and(|note| note.starts_with(Self::MARK)) {
            means = Means::Codec(Codec::None);
            body = Some(data.clone());
        }
        Ok(body.map(|body| {
            let plain = Plain::of(value);
            notes.push(format!("{}{means} {plain}", Self::MARK));
            (body, plain)
        }))
    }

    fn describe(&self, _: &Key, note: &str) -> Result<Described, Refusal> {
        Self::parse(note).map(|(_, plain)| Described { plain, hidden: Vec::new() })
    }

    fn decode(&self, _: &Key, note: &str, body: &Bytes) -> Result<(Described, Value), Refusal> {
        let (word, plain) = Self::parse(note)?;
        let means = self.find(word)?;
        let is_plain = matches!(means, Means::Codec(Codec::None));
        let damaged = || Refusal::damaged("the stored value cannot be decompressed to what was stored");
        if plain.size() > self.config.max_value.0 && !is_plain {
            let message = format!(
                "the compressed value says that it has {} bytes, and `max_value` allows {}; raise it if that is right",
                plain.size(),
                self.config.max_value
            );
            return Err(Refusal(ErrorKind::Corruption, message));
        }
        let size = usize::try_from(plain.size()).map_err(|_| damaged())?;
        let buffer = if is_plain {
            body.clone()
        } else {
            means.decompress(&self.contexts, body, size).map(Bytes::from).map_err(|_| damaged())?
        };
        let value = plain.value(buffer).ok_or_else(damaged)?;
        if Plain::of(&value) == plain {
            Ok((Described { plain, hidden: Vec::new() }, value))
        } else {
            Err(damaged())
        }
    }

    fn decoding_cost(&self, note: &str, body: &Bytes) -> u64 {
        Self::parse(note).map_or(0, |(_, plain)| plain.size()).max(body.len() as u64)
    }
}

#[async_trait]
impl Layer for Compress {
    const NAME: &'static str = "compress";
    type Config = CompressConfig;

    fn check(config: &CompressConfig) -> Result<(), String> {
        config.codec.check(config.level)?;
        if !config.dictionaries.is_empty() && config.codec != Codec::Zstd {
            return Err(format!("`dictionaries` are for zstd, and `codec` is {}", config.codec.as_str()));
        }
        for rule in &config.rules {
            rule.codec.check(rule.level).map_err(|why| format!("the rule for `{}`: {why}", rule.prefix))?;
        }
        Ok(())
    }

    fn wrap(inner: Arc<dyn BaseStorage>, config: CompressConfig) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::open(inner, config, Path::new(""))?))
    }

    async fn open(
        inner: Arc<dyn BaseStorage>,
        config: CompressConfig,
        context: &OpenContext,
    ) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(Self::open(inner, config, &context.base)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        let check =
            |codec, level| Compress::check(&CompressConfig { codec, level, ..CompressConfig::default() });
        assert!(check(Codec::Zstd, Some(19)).is_ok() && check(Codec::Gzip, Some(9)).is_ok());
        assert!(check(Codec::Zstd, Some(20)).unwrap_err().contains("1 to 19"));
        assert!(check(Codec::Lz4, Some(1)).unwrap_err().contains("no levels"));
    }
}
