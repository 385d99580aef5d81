//! What persist knows of a value, as the file and the index have it.

use std::sync::Arc;

use persist_core::{Array, Checksum, DType, Json, Key, Kind, Metadata, Timestamp, Value, Version};
use serde::{Deserialize, Serialize};

use crate::buffer::Buffer;
use crate::ffi::Shape;

/// The version of a dataset that persist did not write.
const FOREIGN_VERSION: Version = Version::from_u64(1);

/// What the bytes of a value are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Bytes,
    Array(DType, Box<[usize]>),
}

impl Form {
    /// The form of a value.
    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Json(_) => Self::Json,
            Value::Bytes(_) => Self::Bytes,
            Value::Array(array) => Self::Array(array.dtype(), array.shape().into()),
        }
    }

    /// The type and shape of a dataset for it; `len` is how long it is, for what has no shape.
    pub(crate) fn shape<'a>(&'a self, len: &'a [usize; 1]) -> Shape<'a> {
        match self {
            Self::Json => Shape::text(len[0]),
            Self::Bytes => Shape::bytes(len),
            Self::Array(dtype, dims) => Shape { dtype: Some(*dtype), text: 0, dims },
        }
    }

    /// The value that has these bytes; `None`: none has.
    pub(crate) fn value(&self, bytes: Buffer) -> Option<Value> {
        Some(match self {
            Self::Json => Value::Json(Json::from_stored(bytes.into())),
            Self::Bytes => Value::bytes(bytes),
            Self::Array(dtype, shape) => Value::Array(Array::new(*dtype, shape.to_vec(), bytes.into()).ok()?),
        })
    }
}

/// The type and shape of the dataset that holds a value. `len` is where its length is kept meanwhile.
pub(crate) fn shape<'a>(value: &'a Value, len: &'a mut [usize; 1]) -> Shape<'a> {
    *len = [value.buffer().len()];
    match value {
        Value::Json(json) => Shape::text(json.as_bytes().len()),
        Value::Bytes(_) => Shape::bytes(len),
        Value::Array(array) => Shape::array(array),
    }
}

/// A value that the index knows.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Where its dataset lies.
    pub(crate) path: Arc<str>,
    /// Where in the file its bytes lie, if they lie there in one piece, as they are.
    pub(crate) offset: Option<u64>,
    pub(crate) state: State,
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Persist wrote it.
    Sound(Box<Metadata>, Form),
    /// Somebody else wrote it; all that is known is in the dataset.
    Foreign,
    /// What stands beside it is not as persist wrote it.
    Damaged(String),
}

impl Record {
    /// Its metadata, as far as they are known without reading it.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        match &self.state {
            State::Sound(metadata, _) => Some(metadata),
            State::Foreign | State::Damaged(_) => None,
        }
    }

    /// True if the two say the same of a value; where it lies does not count.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (&self.state, &other.state) {
            (State::Sound(one, form), State::Sound(another, of)) => one == another && form == of,
            (State::Foreign, State::Foreign) | (State::Damaged(_), State::Damaged(_)) => {
                self.path == other.path
            }
            _ => false,
        }
    }

    /// When it ceases to exist.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        self.metadata().and_then(|metadata| metadata.expires_at)
    }

    /// How many bytes it has, if that is known.
    pub(crate) fn size(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.size)
    }
}

/// The metadata of a value that somebody else wrote.
pub(crate) fn foreign_metadata(value: &Value) -> Metadata {
    Metadata { size: value.size(), checksum: value.checksum(), ..unread_metadata(value.kind()) }
}

/// The same before it was read.
pub(crate) fn unread_metadata(kind: Kind) -> Metadata {
    Metadata {
        kind,
        size: 0,
        version: FOREIGN_VERSION,
        created_at: Timestamp::from_millis(0),
        modified_at: Timestamp::from_millis(0),
        expires_at: None,
        checksum: Checksum::from_bytes([0; 32]),
        tags: Default::default(),
        encodings: Vec::new(),
    }
}

/// The text of the attribute.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dtype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<usize>>,
    seal: Checksum,
}

impl Note {
    /// Covers the key and all that the note says, the checksum of the value among it.
    fn sealed(mut self, key: &Key) -> Result<Self, serde_json::Error> {
        self.seal = Checksum::from_bytes([0; 32]);
        let text = serde_json::to_vec(&self)?;
        self.seal = Checksum::of(&[key.as_bytes(), &[0], &text]);
        Ok(self)
    }
}

/// Writes down what is known of a value.
///
/// # Errors
/// What the serialiser says.
pub(crate) fn encode(key: &Key, metadata: &Metadata, form: &Form) -> Result<String, serde_json::Error> {
    let (dtype, shape) = match form {
        Form::Array(dtype, shape) => (Some(dtype.to_string()), Some(shape.to_vec())),
        Form::Json | Form::Bytes => (None, None),
    };
    let seal = Checksum::from_bytes([0; 32]);
    let note = Note { metadata: metadata.clone(), dtype, shape, seal }.sealed(key)?;
    serde_json::to_string(&note)
}

/// Reads what is known of a value.
pub(crate) fn decode(key: &Key, text: &[u8]) -> State {
    read(key, text).unwrap_or_else(|what| State::Damaged(what.to_owned()))
}

fn read(key: &Key, text: &[u8]) -> Result<State, &'static str> {
    let note: Note = serde_json::from_slice(text).map_err(|_| "its attribute `persist` cannot be read")?;
    let seal = note.seal;
    let note = note.sealed(key).map_err(|_| "its attribute `persist` cannot be read")?;
    if note.seal != seal {
        return Err("its attribute `persist` is that of another key, or was changed");
    }
    let form = match (note.metadata.kind, note.dtype, note.shape) {
        (Kind::Json, None, None) => Form::Json,
        (Kind::Bytes, None, None) => Form::Bytes,
        (Kind::Array, Some(dtype), Some(shape)) => {
            Form::Array(dtype.parse().map_err(|_| "its dtype is unknown")?, shape.into())
        }
        _ => return Err("its attribute `persist` contradicts itself"),
    };
    Ok(State::Sound(Box::new(note.metadata), form))
}

/// What is known of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// The version of the format.
    pub(crate) format: u32,
    /// No version up to this one may be given to a key that is absent: a deleted key may have had it.
    pub(crate) floor: u64,
}

/// The version of the format that is written here.
pub(crate) const FORMAT: u32 = 1;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

    use super::*;

    fn sound() -> (Key, Metadata, Form) {
        let value = Value::Array(Array::from_vec(vec![2, 0], Vec::<f64>::new()).unwrap());
        let metadata =
            Metadata { tags: persist_core::Tags::default().with("a", "ü\"\n"), ..foreign_metadata(&value) };
        (Key::new("k/ä").unwrap(), metadata, Form::of(&value))
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let (key, metadata, form) = sound();
        let text = encode(&key, &metadata, &form).unwrap();
        let State::Sound(read, of) = decode(&key, text.as_bytes()) else { panic!("{text}") };
        assert_eq!((*read, of), (metadata, form));
    }

    #[test]
    fn every_changed_byte_and_another_key_are_noticed() {
        let (key, metadata, form) = sound();
        let text = encode(&key, &metadata, &form).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let State::Sound(read, of) = decode(&key, &changed) else { continue };
            // Where an escape may be spelled in two ways, nothing that is read has changed.
            assert_eq!((*read, of), (metadata.clone(), form.clone()), "byte {at} of {text}");
        }
        assert!(matches!(decode(&Key::new("k/b").unwrap(), text.as_bytes()), State::Damaged(_)));
    }
}
