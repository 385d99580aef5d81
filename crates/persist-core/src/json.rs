use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::finite::Finite;
use crate::{ErrorKind, Result, StorageError};

/// How deep arrays and objects may be nested in a JSON value.
pub const MAX_JSON_DEPTH: usize = 127;

/// JSON text, checked once and then kept as it is.
///
/// UTF-8, one value, at most [`MAX_JSON_DEPTH`] levels deep (RFC 8259 leaves the limit to the implementation). Numbers
/// and white space stay as they were written; NaN and infinities do not exist in JSON and are refused. An object that
/// names a member twice is kept as text; reading it into a map takes the last one.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    /// Serialises a value.
    ///
    /// # Errors
    /// `InvalidValue` if it holds NaN or an infinity, a map key that is no string, or cannot be serialised.
    pub fn serialize<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self> {
        let mut text = Vec::with_capacity(128);
        value
            .serialize(Finite(&mut serde_json::Serializer::new(&mut text)))
            .map_err(|error| invalid("the value cannot be written as JSON", error))?;
        check_depth(&text)?;
        Ok(Self(text.into()))
    }

    /// Checks text and takes it as it is.
    ///
    /// # Errors
    /// `InvalidValue` if it is not JSON in UTF-8, or nested too deeply.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self> {
        let text = text.into();
        let utf8 = std::str::from_utf8(&text).map_err(|error| invalid("JSON must be UTF-8", error))?;
        serde_json::from_str::<Checked>(utf8).map_err(|error| invalid("this is not JSON", error))?;
        Ok(Self(text))
    }

    /// Takes text that was checked when it was stored and whose checksum was verified since; for backends.
    pub fn from_stored(text: Bytes) -> Self {
        Self(text)
    }

    /// Deserialises it.
    ///
    /// # Errors
    /// `InvalidValue` if it does not fit `T`.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.0)
            .map_err(|error| invalid(&format!("the JSON does not fit {}", std::any::type_name::<T>()), error))
    }

    /// The text as bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text, with what is not UTF-8 (which only a damaged storage can hold) replaced.
    pub fn as_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({})", crate::escape(&self.as_str()))
    }
}

fn invalid(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    StorageError::new(ErrorKind::InvalidValue, format!("{what}: {error}")).with_source(error)
}

/// Counts brackets outside strings. The text is known to be JSON.
fn check_depth(text: &[u8]) -> Result<()> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth -= 1,
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err(StorageError::new(
                ErrorKind::InvalidValue,
                format!("the value is nested more than {MAX_JSON_DEPTH} levels deep; flatten it"),
            ));
        }
    }
    Ok(())
}

/// Any JSON value, read and forgotten: serde_json checks the syntax, the strings, the range of numbers and the depth.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let error = Json::parse(text.to_owned()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        error.to_string()
    }

    #[test]
    fn text_is_checked_and_kept() {
        let text = " {\"a\": [1, 2.50, \"\\u00e9\", null, true], \"a\": 12345678901234567890123} ";
        let json = Json::parse(text).unwrap();
        assert_eq!(json.as_str(), text);
        for bad in ["", "NaN", "{\"a\":}", "[1,]", "1 2", "\"\u{1}\"", "1e999", "{1:2}", "Infinity"] {
            refused(bad);
        }
        assert!(Json::parse(&b"\"\xff\""[..]).is_err());
    }

    /// The parser of numbers is quick and a unit off in the last place, unless it is built not to be.
    #[test]
    fn doubles_come_back_bit_for_bit() {
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
        let random = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from_bits(bits.rotate_left(17))
        });
        let known = [333_333_333.333_333_3, f64::MIN_POSITIVE, f64::MAX, 5e-324, -0.0];
        for number in known.into_iter().chain(random.take(20_000)).filter(|number| number.is_finite()) {
            let back: f64 = Json::serialize(&number).unwrap().to().unwrap();
            assert_eq!(back.to_bits(), number.to_bits(), "{number:e}");
        }
    }

    #[test]
    fn depth_is_bounded_both_ways() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(MAX_JSON_DEPTH)).is_ok());
        assert!(refused(&nested(MAX_JSON_DEPTH + 1)).contains("recursion limit"));
        refused(&nested(100_000));
        let mut value = serde_json::Value::Null;
        for _ in 0..MAX_JSON_DEPTH {
            value = serde_json::Value::Array(vec![value]);
        }
        assert!(Json::serialize(&value).is_ok());
        value = serde_json::Value::Array(vec![value]);
        assert!(Json::serialize(&value).unwrap_err().to_string().contains("levels deep"));
        assert!(Json::serialize(&"[[[\\\"".repeat(200)).is_ok());
    }

    #[test]
    fn nan_and_infinity_are_refused_wherever_they_hide() {
        #[derive(serde::Serialize)]
        enum Shape {
            Unit,
            New(f32),
            Tuple(u8, f64),
            Struct { x: Option<f64> },
        }
        let good = (Shape::Unit, Shape::New(1.5), Shape::Tuple(1, 2.0), Shape::Struct { x: None });
        assert_eq!(
            Json::serialize(&good).unwrap().as_str(),
            r#"["Unit",{"New":1.5},{"Tuple":[1,2.0]},{"Struct":{"x":null}}]"#
        );
        let bad: [Box<dyn Fn() -> Result<Json>>; 6] = [
            Box::new(|| Json::serialize(&f64::NAN)),
            Box::new(|| Json::serialize(&vec![Some(1.0), Some(f64::INFINITY)])),
            Box::new(|| Json::serialize(&Shape::New(f32::NEG_INFINITY))),
            Box::new(|| Json::serialize(&Shape::Tuple(0, f64::NAN))),
            Box::new(|| Json::serialize(&Shape::Struct { x: Some(f64::NAN) })),
            Box::new(|| Json::serialize(&std::collections::BTreeMap::from([("k", f64::NAN)]))),
        ];
        for attempt in bad {
            let error = attempt().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue);
            assert!(error.to_string().contains("NaN or an infinity"), "{error}");
        }
    }
}
