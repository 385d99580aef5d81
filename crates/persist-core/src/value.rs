use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Array, Checksum, ErrorKind, Json, Result, StorageError};

/// The three kinds of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// JSON text.
    Json,
    /// Opaque bytes.
    Bytes,
    /// An n-dimensional array.
    Array,
}

impl Kind {
    /// The name used in documents and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Bytes => "bytes",
            Self::Array => "array",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "json" => Ok(Self::Json),
            "bytes" => Ok(Self::Bytes),
            "array" => Ok(Self::Array),
            _ => Err(StorageError::new(
                ErrorKind::InvalidValue,
                format!("{} is no kind of value; use json, bytes or array", crate::escape(text)),
            )),
        }
    }
}

/// What a storage holds: a tag and a buffer. Cloning is cheap, the buffer is shared.
///
/// JSON `null`, an empty buffer and an empty array are values; absent is `None`.
///
/// ```
/// use persist_core::Value;
///
/// let value = Value::json(&serde_json::json!({ "name": "Ada" }))?;
/// assert_eq!(value.to::<serde_json::Value>()?["name"], "Ada");
/// assert_eq!(Value::bytes(&b"\x00\x01"[..]).size(), 2);
/// # Ok::<(), persist_core::StorageError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// JSON text, checked.
    Json(Json),
    /// Opaque bytes.
    Bytes(Bytes),
    /// An n-dimensional array.
    Array(Array),
}

impl Value {
    /// Serialises to JSON, once.
    ///
    /// # Errors
    /// `InvalidValue` as [`Json::serialize`].
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Json::serialize(value).map(Self::Json)
    }

    /// Checks JSON text and takes it as it is.
    ///
    /// # Errors
    /// `InvalidValue` as [`Json::parse`].
    pub fn json_text(text: impl Into<Bytes>) -> Result<Self> {
        Json::parse(text).map(Self::Json)
    }

    /// Opaque bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// Json, bytes or array.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Json(_) => Kind::Json,
            Self::Bytes(_) => Kind::Bytes,
            Self::Array(_) => Kind::Array,
        }
    }

    /// The buffer: JSON text, bytes, or the elements of the array.
    pub fn buffer(&self) -> &Bytes {
        match self {
            Self::Json(json) => json.as_bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Array(array) => array.data(),
        }
    }

    /// Length of the buffer in bytes.
    pub fn size(&self) -> u64 {
        self.buffer().len() as u64
    }

    /// BLAKE3 of the plain value; see [`Checksum`] for what it covers.
    pub fn checksum(&self) -> Checksum {
        match self {
            Self::Json(_) | Self::Bytes(_) => Checksum::of(&[self.buffer()]),
            Self::Array(array) => Checksum::of(&[&array.npy_header().encode(), array.data()]),
        }
    }

    /// A part of the buffer; what lies beyond its end is left out.
    pub fn range(&self, range: Range<u64>) -> Bytes {
        let clamp = |at: u64| usize::try_from(at.min(self.size())).unwrap_or(usize::MAX);
        let (start, end) = (clamp(range.start), clamp(range.end));
        self.buffer().slice(start..end.max(start))
    }

    /// Deserialises a JSON value.
    ///
    /// # Errors
    /// `InvalidValue` if it is not JSON or does not fit `T`.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        self.as_json()?.to()
    }

    /// The JSON text.
    ///
    /// # Errors
    /// `InvalidValue` if it is another kind of value.
    pub fn as_json(&self) -> Result<&Json> {
        match self {
            Self::Json(json) => Ok(json),
            other => Err(other.mismatch(Kind::Json)),
        }
    }

    /// The opaque bytes.
    ///
    /// # Errors
    /// `InvalidValue` if it is another kind of value.
    pub fn as_bytes(&self) -> Result<&Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.mismatch(Kind::Bytes)),
        }
    }

    /// The array.
    ///
    /// # Errors
    /// `InvalidValue` if it is another kind of value.
    pub fn as_array(&self) -> Result<&Array> {
        match self {
            Self::Array(array) => Ok(array),
            other => Err(other.mismatch(Kind::Array)),
        }
    }

    fn mismatch(&self, wanted: Kind) -> StorageError {
        StorageError::new(
            ErrorKind::InvalidValue,
            format!("the value is {}, not {wanted}; read it as what it is", self.kind()),
        )
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        Self::Json(json)
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clamped() {
        let value = Value::bytes(&b"0123456789"[..]);
        assert_eq!(&value.range(2..5)[..], b"234");
        assert_eq!(&value.range(8..u64::MAX)[..], b"89");
        assert_eq!(&value.range(10..20)[..], b"");
        assert_eq!(&value.range(50..60)[..], b"");
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = value.range(5..2);
        assert_eq!(&reversed[..], b"");
    }

    #[test]
    fn checksums_cover_dtype_and_shape() {
        let flat = Value::Array(Array::from_vec(vec![4], vec![1_u8, 2, 3, 4]).unwrap());
        let square = Value::Array(Array::from_vec(vec![2, 2], vec![1_u8, 2, 3, 4]).unwrap());
        let signed = Value::Array(Array::from_vec(vec![4], vec![1_i8, 2, 3, 4]).unwrap());
        assert_eq!(flat.buffer(), square.buffer());
        assert_ne!(flat.checksum(), square.checksum());
        assert_ne!(flat.checksum(), signed.checksum());
    }

    #[test]
    fn a_wrong_kind_says_what_it_is() {
        let error = Value::bytes(&b"x"[..]).to::<u8>().unwrap_err();
        assert_eq!(error.to_string(), "the value is bytes, not json; read it as what it is");
    }
}
