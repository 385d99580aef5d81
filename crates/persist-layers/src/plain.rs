use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use persist_core::{Array, Checksum, DType, Json, Kind, MAX_RANK, Metadata, Value};

/// What a value is before a layer encodes it: what its metadata says of it, and what makes a buffer that value again.
///
/// Its text form is `json 17 HASH`, `bytes 17 HASH` or `array 96 HASH float64 3x4` (`-` for rank 0), with the checksum in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    kind: Kind,
    size: u64,
    checksum: Checksum,
    form: Option<(DType, Vec<usize>)>,
}

impl Plain {
    /// What a value is.
    pub(crate) fn of(value: &Value) -> Self {
        let form = value.as_array().ok().map(|array| (array.dtype(), array.shape().to_vec()));
        Self { kind: value.kind(), size: value.size(), checksum: value.checksum(), form }
    }

    /// The length of its buffer in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Says in the metadata what the value is, in place of what it was encoded to.
    pub(crate) fn put_into(self, metadata: &mut Metadata) {
        metadata.kind = self.kind;
        metadata.size = self.size;
        metadata.checksum = self.checksum;
    }

    /// The value with this buffer; `None` if the buffer cannot be that of this value.
    pub(crate) fn value(&self, buffer: Bytes) -> Option<Value> {
        if buffer.len() as u64 != self.size {
            return None;
        }
        match (self.kind, &self.form) {
            (Kind::Json, _) => Some(Value::Json(Json::from_stored(buffer))),
            (Kind::Bytes, _) => Some(Value::Bytes(buffer)),
            (Kind::Array, Some((dtype, shape))) => {
                Array::new(*dtype, shape.clone(), buffer).ok().map(Value::Array)
            }
            (Kind::Array, None) => None,
        }
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.size, self.checksum)?;
        let Some((dtype, shape)) = &self.form else { return Ok(()) };
        write!(f, " {} ", dtype.as_str())?;
        if shape.is_empty() {
            return f.write_str("-");
        }
        for (axis, length) in shape.iter().enumerate() {
            let cross = if axis == 0 { "" } else { "x" };
            write!(f, "{cross}{length}")?;
        }
        Ok(())
    }
}

/// It is no such text.
#[derive(Debug)]
pub(crate) struct NotPlain;

impl FromStr for Plain {
    type Err = NotPlain;

    fn from_str(text: &str) -> Result<Self, NotPlain> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(NotPlain);
        let kind: Kind = word()?.parse().map_err(|_| NotPlain)?;
        let size = word()?.parse().map_err(|_| NotPlain)?;
        let checksum = word()?.parse().map_err(|_| NotPlain)?;
        let form = match kind {
            Kind::Array => Some((dtype(word()?)?, shape(word()?)?)),
            Kind::Json | Kind::Bytes => None,
        };
        if words.next().is_some() {
            return Err(NotPlain);
        }
        Ok(Self { kind, size, checksum, form })
    }
}

fn dtype(name: &str) -> Result<DType, NotPlain> {
    DType::ALL.into_iter().find(|dtype| dtype.as_str() == name).ok_or(NotPlain)
}

fn shape(text: &str) -> Result<Vec<usize>, NotPlain> {
    if text == "-" {
        return Ok(Vec::new());
    }
    let shape: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    shape.ok().filter(|shape| shape.len() <= MAX_RANK).ok_or(NotPlain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back_from_its_text_and_its_buffer() {
        let values = [
            Value::json(&[1, 2]).unwrap(),
            Value::bytes(""),
            Value::Array(Array::from_vec(vec![2, 3], vec![1.5_f64; 6]).unwrap()),
            Value::Array(Array::from_vec(Vec::new(), vec![7_u8]).unwrap()),
            Value::Array(Array::from_vec(vec![3, 0, 2], Vec::<i32>::new()).unwrap()),
        ];
        for value in values {
            let plain = Plain::of(&value);
            let again: Plain = plain.to_string().parse().unwrap();
            assert_eq!(again, plain);
            assert_eq!(again.value(value.buffer().clone()), Some(value));
        }
    }

    #[test]
    fn what_is_damaged_is_no_description() {
        let hash = "0".repeat(64);
        for text in [
            "".to_owned(),
            "json".to_owned(),
            format!("json -1 {hash}"),
            format!("json 1 {hash} float64 1"),
            format!("array 1 {hash}"),
            format!("array 1 {hash} float65 1"),
            format!("array 1 {hash} float64 1x"),
            format!("array 1 {hash} float64 {}1", "1x".repeat(MAX_RANK)),
            "bytes 1 xyz".to_owned(),
        ] {
            assert!(text.parse::<Plain>().is_err(), "{text}");
        }
        // A shape that does not fit its buffer makes no value.
        let plain: Plain = format!("array 8 {hash} float64 2").parse().unwrap();
        assert_eq!(plain.value(Bytes::from_static(&[0; 8])), None);
        let plain: Plain = format!("array 8 {hash} float64 {0}x{0}", u64::MAX).parse().unwrap();
        assert_eq!(plain.value(Bytes::from_static(&[0; 8])), None);
    }
}
