use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use persist_core::{ErrorKind, Result, StorageError};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

/// What a trained dictionary begins with (RFC 8878, section 5); its id follows, 32 bits, little-endian.
const MAGIC: [u8; 4] = [0x37, 0xA4, 0x30, 0xEC];

/// The largest dictionary that is read.
const LARGEST: u64 = 16 << 20;

/// The fewest samples that anything can be learned from.
const FEWEST: usize = 100;

/// Trains a dictionary of at most `size` bytes for [`Compress`](crate::Compress) from values like those that it will compress, as
/// `zstd --train` does. 110 KiB are usual; a hundred times as many bytes of samples teach about all that fits.
///
/// ```
/// # fn main() -> Result<(), persist_core::StorageError> {
/// let records = (0..2_000).map(|id| format!(r#"{{"id": {id}, "kind": "measurement", "unit": "kelvin"}}"#));
/// let dictionary = persist_layers::train_dictionary(&records.collect::<Vec<_>>(), 4096)?;
/// assert!(dictionary.len() <= 4096);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidValue` if there are fewer than 100 samples, or too little in them for a dictionary of that size.
pub fn train_dictionary(samples: &[impl AsRef<[u8]>], size: usize) -> Result<Vec<u8>> {
    let invalid = |why: String| {
        Err(StorageError::new(ErrorKind::InvalidValue, format!("cannot train a dictionary: {why}")))
    };
    if samples.len() < FEWEST {
        return invalid(format!("{} values are too few; give at least {FEWEST}", samples.len()));
    }
    zstd::dict::from_samples(samples, size).or_else(|error| {
        let bytes: usize = samples.iter().map(|sample| sample.as_ref().len()).sum();
        invalid(format!(
            "{} values of {bytes} bytes: {error}; give more of them or a smaller size",
            samples.len()
        ))
    })
}

/// A trained dictionary of zstd, prepared for one level.
pub(crate) struct Dictionary {
    id: u32,
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

impl Dictionary {
    /// Reads a file that [`train_dictionary`] or `zstd --train` made.
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
        Self::new(&bytes, level)
            .ok_or_else(|| invalid("was not made by `persist dictionary` or `zstd --train`".to_owned()))
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

    fn record(number: u32) -> String {
        let noise = number.wrapping_mul(2_654_435_761);
        format!(
            r#"{{"sensor": "hall {}", "kind": "temperature", "unit": "kelvin", "value": {noise}}}"#,
            noise % 7
        )
    }

    #[test]
    fn what_was_trained_makes_small_records_smaller() {
        let samples: Vec<String> = (0..3_000).map(record).collect();
        let trained = train_dictionary(&samples, 8 << 10).unwrap();
        let dictionary = Dictionary::new(&trained, 3).unwrap();
        let unseen = record(1_000_000);
        let alone = zstd::bulk::compress(unseen.as_bytes(), 3).unwrap();
        let packed = dictionary.compress(unseen.as_bytes()).unwrap();
        assert!(packed.len() * 2 < alone.len(), "{} and {}", packed.len(), alone.len());
        let mut plain = String::new();
        dictionary.reader(&packed).unwrap().read_to_string(&mut plain).unwrap();
        assert_eq!(plain, unseen);
    }

    #[test]
    fn what_teaches_nothing_is_refused() {
        let few = vec![record(1); 99];
        let error = train_dictionary(&few, 4096).unwrap_err();
        assert_eq!(
            (error.kind(), error.message().contains("99 values are too few")),
            (ErrorKind::InvalidValue, true)
        );
        let error = train_dictionary(&vec![""; 1_000], 4096).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue, "{error}");
    }

    #[test]
    fn what_was_not_trained_is_no_dictionary() {
        let trained = include_bytes!("../tests/data/records.dict");
        assert!(Dictionary::new(trained, 3).is_some_and(|dictionary| dictionary.id() != 0));
        assert!(Dictionary::new(&trained[1..], 3).is_none());
        assert!(Dictionary::new(&trained[..7], 3).is_none());
        assert!(Dictionary::new(b"", 3).is_none());
    }
}
