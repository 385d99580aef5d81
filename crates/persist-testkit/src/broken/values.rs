use bytes::Bytes;
use persist_core::{Array, DType, Json, Value};

use super::Bug;

/// What a bug makes of a value on its way in.
pub(super) fn mangled(bug: Option<Bug>, value: Value, old: Option<&Value>) -> Value {
    match (bug, &value) {
        (Some(Bug::KeepsOldTail), Value::Bytes(bytes)) => Value::Bytes(over(bytes, old)),
        (Some(Bug::CutsAtNul), Value::Bytes(bytes)) => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            Value::Bytes(bytes.slice(..end))
        }
        (Some(Bug::CutsLargeValues), Value::Bytes(bytes)) => {
            Value::Bytes(bytes.slice(..bytes.len().min(65_536)))
        }
        (Some(Bug::GuessesTheKind), Value::Bytes(bytes)) => {
            Json::parse(bytes.clone()).map_or(value, Value::Json)
        }
        (Some(Bug::ReformatsJson), Value::Json(json)) => {
            json.to::<serde_json::Value>().and_then(|tree| Value::json(&tree)).unwrap_or(value)
        }
        (Some(Bug::NumbersAsDoubles), Value::Json(json)) => {
            json.to::<f64>().and_then(|number| Value::json(&number)).unwrap_or(value)
        }
        (Some(bug), Value::Array(array)) => of_array(bug, array),
        _ => value,
    }
}

/// The new bytes, and what sticks out of the old ones behind them.
fn over(new: &Bytes, old: Option<&Value>) -> Bytes {
    let old = old.map_or(&[][..], |value| value.buffer());
    let tail = old.get(new.len()..).unwrap_or_default();
    [new, tail].concat().into()
}

fn of_array(bug: Bug, array: &Array) -> Value {
    let shaped = |shape| Array::new(array.dtype(), shape, array.data().clone());
    let changed = match bug {
        Bug::Flattens => shaped(vec![array.len()]),
        Bug::EmptyLosesShape if array.is_empty() => shaped(vec![0]),
        Bug::ScalarToVector if array.shape().is_empty() => shaped(vec![1]),
        Bug::Squeezes => shaped(array.shape().iter().copied().filter(|axis| *axis != 1).collect()),
        Bug::NanToZero => Array::new(array.dtype(), array.shape().to_vec(), without_nan(array)),
        Bug::ArraysAsBytes => return Value::Bytes(array.data().clone()),
        _ => return Value::Array(array.clone()),
    };
    Value::Array(changed.unwrap_or_else(|_| array.clone()))
}

fn without_nan(array: &Array) -> Bytes {
    match (array.dtype(), array.to_ndarray::<f64>()) {
        (DType::F64, Ok(elements)) => {
            elements.iter().map(|x| if x.is_nan() { 0.0 } else { *x }).flat_map(f64::to_le_bytes).collect()
        }
        _ => array.data().clone(),
    }
}
