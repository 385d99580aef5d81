//! What proptest makes up: keys, values and tags that storages get wrong, for tests of any program.

use bytes::Bytes;
use persist_core::{Array, DType, Key, Tags, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::hostile;

/// Any key: hostile ones, paths of a few short levels that are much alike, and random Unicode up to the limit.
pub fn key() -> BoxedStrategy<Key> {
    let path = vec("[abA%_]{1,2}", 1..4).prop_map(|levels| levels.join("/"));
    // Four bytes a character at most.
    let unicode = vec(any::<char>().prop_filter("NUL", |c| *c != '\0'), 1..256).prop_map(String::from_iter);
    let made_up = prop_oneof![path, unicode].prop_filter_map("no key", |text| Key::new(text).ok());
    prop_oneof![2 => select(hostile::keys()), 1 => made_up].boxed()
}

/// Any value, mostly small: every kind, empty ones, and arrays of every dtype with empty axes and NaN.
pub fn value() -> BoxedStrategy<Value> {
    let json = json_text().prop_filter_map("no JSON", |text| Value::json_text(text).ok());
    let bytes = vec(any::<u8>(), 0..200).prop_map(Value::bytes);
    let large = (any::<u8>(), 4000..70_000_usize).prop_map(|(byte, len)| Value::bytes(vec![byte; len]));
    let plain =
        select(vec!["null", "\"\"", "{}"]).prop_filter_map("no JSON", |text| Value::json_text(text).ok());
    let nothing = Just(Value::bytes(Bytes::new()));
    prop_oneof![4 => json, 4 => bytes, 4 => array(), 1 => large, 1 => plain, 1 => nothing].boxed()
}

/// JSON text, a few levels deep.
pub fn json_text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "0", "-0.0", "1e2", "18446744073709551615", "\"\"", "{}", "[]"])
            .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::Value::String(text).to_string()),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let member = (any::<String>(), inner.clone())
            .prop_map(|(name, value)| format!("{} : {value}", serde_json::Value::String(name)));
        prop_oneof![
            vec(inner, 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
    .boxed()
}

/// An array of any dtype and up to four axes of up to four elements, with any bits in it.
pub fn array() -> BoxedStrategy<Value> {
    let form = (select(DType::ALL.to_vec()), vec(0..5_usize, 0..5));
    form.prop_flat_map(|(dtype, shape)| {
        let len = shape.iter().product::<usize>() * dtype.size();
        (Just(dtype), Just(shape), vec(any::<u8>(), len))
    })
    .prop_filter_map("no array", |(dtype, shape, data)| {
        let data: Vec<u8> =
            if dtype == DType::Bool { data.iter().map(|byte| byte & 1).collect() } else { data };
        Array::new(dtype, shape, Bytes::from(data)).ok().map(Value::Array)
    })
    .boxed()
}

/// A few tags with any characters, within the limit.
pub fn tags() -> BoxedStrategy<Tags> {
    vec((any::<String>(), any::<String>()), 0..3)
        .prop_map(Tags::from_iter)
        .prop_filter("too large", |tags| tags.byte_size() <= persist_core::MAX_TAG_BYTES)
        .boxed()
}
