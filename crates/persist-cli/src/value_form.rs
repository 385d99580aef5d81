//! Which kind a value is when it comes from a file, and what a file holds when it goes to one.

use std::path::Path;

use bytes::Bytes;
use clap::ValueEnum;
use persist_core::{Array, Kind, Value};

use crate::exit::{Failure, Result};

/// The kind that a value is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum As {
    /// JSON text; it is checked
    Json,
    /// Bytes, whatever they are
    Bytes,
    /// An n-dimensional array in .npy form
    Array,
}

impl From<As> for Kind {
    fn from(wanted: As) -> Self {
        match wanted {
            As::Json => Self::Json,
            As::Bytes => Self::Bytes,
            As::Array => Self::Array,
        }
    }
}

/// The kind that the extension of a file's name tells: `.json` and `.npy` in any case, bytes for all others.
pub(crate) fn guess(path: &Path) -> Kind {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.as_deref().and_then(|extension| extension.to_str()) {
        Some("json") => Kind::Json,
        Some("npy") => Kind::Array,
        _ => Kind::Bytes,
    }
}

/// Makes the content of a file a value of the kind asked for.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(content: Bytes, kind: Kind) -> Result<Value> {
    match kind {
        Kind::Json => Value::json_text(content).map_err(Failure::from),
        Kind::Bytes => Ok(Value::Bytes(content)),
        Kind::Array => Array::from_npy(&content)
            .map(Value::Array)
            .map_err(|error| Failure::new(format!("this is no .npy array: {error}"))),
    }
}

/// A value as a file holds it, in two parts: the header of an array, then the buffer. `b3sum` of the file is the
/// value's checksum.
pub(crate) fn file_form(value: &Value) -> (Vec<u8>, &Bytes) {
    let header = match value {
        Value::Array(array) => array.npy_header().encode(),
        Value::Json(_) | Value::Bytes(_) => Vec::new(),
    };
    (header, value.buffer())
}

#[cfg(test)]
mod tests {
    use persist_core::Checksum;

    use super::*;

    #[test]
    fn only_the_extension_tells() {
        for (name, kind) in [
            ("a.json", Kind::Json),
            ("A.JSON", Kind::Json),
            ("a.npy", Kind::Array),
            ("a.npz", Kind::Bytes),
            ("json", Kind::Bytes),
            (".json", Kind::Bytes),
            ("a.json.gz", Kind::Bytes),
        ] {
            assert_eq!(guess(Path::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn a_file_reads_back_as_the_value_and_hashes_like_it() {
        let array = Array::from_vec(vec![2, 2], vec![1.0_f64, f64::NAN, -0.0, 4.0]).unwrap();
        for value in [Value::Array(array), Value::bytes(&b"\0x"[..]), Value::json(&[1, 2]).unwrap()] {
            let (header, body) = file_form(&value);
            let file = Bytes::from([&header[..], body].concat());
            assert_eq!(Checksum::of(&[&file]), value.checksum());
            assert_eq!(parse(file, value.kind()).unwrap().checksum(), value.checksum());
        }
        assert!(parse(Bytes::from_static(b"{"), Kind::Json).unwrap_err().to_string().contains("not JSON"));
        assert!(parse(Bytes::from_static(b"{"), Kind::Array).unwrap_err().to_string().contains("no .npy"));
    }
}
