use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use persist_core::{ErrorKind, Result, StorageError};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

/// What a trained dictionary begins with (RFC 8878, section 5); its id follows, 32 bits, little-endian.
const MAGIC: [u8; 4] = [0x37, 0xA4, 0x30, 0xEC];

/// The largest dictionary that is read.
const LARGEST: u64 = 16 << 20;

/// A trained dictionary of zstd, prepared for one level.
pub(crate) struct Dictionary {
    id: u32,
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

impl Dictionary {
    /// Reads a file that `zstd --train` made.
    ///
    /// # Errors
    /// `InvalidConfig` if it cannot be read or is no trained dictionary.
    pub(crate) fn read(path: &Path, level: i32) -> Result<Self> {
        let invalid = |why: String| {
            let message = format!("the dictionary {} {why}", path.display());
            StorageError::new(ErrorKind::InvalidConfig, message)
        };
        let file =
            std::fs::File::open(path).map_err(|error| invalid(format!("cannot be opened: {error}")))?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| invalid(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > LARGEST {
            return Err(invalid(format!("has more than {LARGEST} bytes")));
        }
        Self::new(&bytes, level).ok_or_else(|| invalid("was not made by `zstd --train`".to_owned()))
    }

    fn new(bytes: &[u8], level: i32) -> Option<Self> {
        let id = bytes.strip_prefix(&MAGIC)?.first_chunk().map(|id| u32::from_le_bytes(*id))?;
        let (encoder, decoder) = (EncoderDictionary::copy(bytes, level), DecoderDictionary::copy(bytes));
        Some(Self { id, encoder, decoder })
    }

    /// By which it is found again.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn compress(&self, data: &[u8]) -> io::Result<Vec<u8>> {
        zstd::bulk::Compressor::with_prepared_dictionary(&self.encoder)?.compress(data)
    }

    /// A reader of what was compressed with it.
    pub(crate) fn reader<'a>(&'a self, data: &'a [u8]) -> io::Result<impl Read + 'a> {
        zstd::stream::read::Decoder::with_prepared_dictionary(data, &self.decoder)
    }
}

/// Its id alone: what was trained on may be in it.
impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dictionary").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_trained_is_no_dictionary() {
        let trained = include_bytes!("../tests/data/records.dict");
        assert!(Dictionary::new(trained, 3).is_some_and(|dictionary| dictionary.id() != 0));
        assert!(Dictionary::new(&trained[1..], 3).is_none());
        assert!(Dictionary::new(&trained[..7], 3).is_none());
        assert!(Dictionary::new(b"", 3).is_none());
    }
}
