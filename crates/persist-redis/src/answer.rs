//! Reads what a server answers.

use bytes::Bytes;
use persist_core::Version;
use redis::Value;

use crate::fault::Fault;

/// An array of answers.
pub(crate) fn array(value: Value) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        other => Err(unexpected("an array", &other)),
    }
}

/// Names and contents, in either protocol.
pub(crate) fn map(value: Value) -> Result<Vec<(Value, Value)>, Fault> {
    match value {
        Value::Map(pairs) => Ok(pairs),
        other => {
            let values = array(other)?;
            if values.len() % 2 != 0 {
                return Err(Fault::garbled("a name without a content"));
            }
            let mut values = values.into_iter();
            let mut pairs = Vec::new();
            while let (Some(name), Some(content)) = (values.next(), values.next()) {
                pairs.push((name, content));
            }
            Ok(pairs)
        }
    }
}

/// Bytes, or nothing.
pub(crate) fn bytes(value: Value) -> Result<Option<Bytes>, Fault> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        Value::SimpleString(text) => Ok(Some(text.into_bytes().into())),
        other => Err(unexpected("a string", &other)),
    }
}

/// Text, empty for nothing.
pub(crate) fn text(value: Value) -> Result<String, Fault> {
    let bytes = bytes(value)?.unwrap_or_default();
    String::from_utf8(bytes.into()).map_err(|_| Fault::garbled("text that is no UTF-8"))
}

/// A whole number.
pub(crate) fn integer(value: Value) -> Result<i64, Fault> {
    match value {
        Value::Int(number) => Ok(number),
        other => text(other)?.parse().map_err(|_| Fault::garbled("no number")),
    }
}

/// A version, 0 for nothing.
pub(crate) fn version(value: Value) -> Result<Version, Fault> {
    match value {
        Value::Nil => Ok(Version::from_u64(0)),
        other => text(other)?.parse().map(Version::from_u64).map_err(|_| Fault::garbled("no version")),
    }
}

fn unexpected(wanted: &str, found: &Value) -> Fault {
    let kind = match found {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "a string",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::ServerError(_) => "an error",
        _ => "something else",
    };
    Fault::garbled(&format!("{kind} instead of {wanted}"))
}
