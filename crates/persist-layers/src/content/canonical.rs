use std::fmt::Write;

use bytes::Bytes;
use persist_core::{ErrorKind, Result, StorageError, Value};
use serde::Serialize;

/// The integers that a double holds exactly: up to 2^53.
const EXACT: u64 = 1 << 53;

/// JSON in its canonical form, RFC 8785: members ordered by the UTF-16 of their names, numbers as ECMAScript writes them, no white space. Equal
/// contents give equal texts.
///
/// ```
/// let text = persist_layers::canonical_json(&serde_json::json!({ "b": 1.50, "a": [1e3, "é"] }))?;
/// assert_eq!(text, r#"{"a":[1000,"é"],"b":1.5}"#);
/// # Ok::<(), persist_core::StorageError>(())
/// ```
///
/// # Errors
/// `InvalidValue` for what JSON cannot say, and for an integer above 2^53, which the form would round.
pub fn canonical_json<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    // Refuses infinities and what is not a number, which `to_value` would make `null`.
    let checked = Value::json(value)?;
    let tree = serde_json::to_value(value).map_err(|error| {
        let message = format!("the value cannot be written as JSON: {error}");
        StorageError::new(ErrorKind::InvalidValue, message)
    })?;
    let mut text = String::with_capacity(usize::try_from(checked.size()).unwrap_or_default());
    write(&mut text, &tree)?;
    Ok(text.into())
}

fn write(text: &mut String, value: &serde_json::Value) -> Result<()> {
    match value {
        serde_json::Value::Null => text.push_str("null"),
        serde_json::Value::Bool(true) => text.push_str("true"),
        serde_json::Value::Bool(false) => text.push_str("false"),
        serde_json::Value::Number(number) => write_number(text, number)?,
        serde_json::Value::String(string) => write_string(text, string),
        serde_json::Value::Array(items) => {
            text.push('[');
            for (place, item) in items.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                write(text, item)?;
            }
            text.push(']');
        }
        serde_json::Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            text.push('{');
            for (place, (name, member)) in members.into_iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                write_string(text, name);
                text.push(':');
                write(text, member)?;
            }
            text.push('}');
        }
    }
    Ok(())
}

/// RFC 8785, section 3.2.2.3: as ECMAScript's `Number::toString`.
fn write_number(text: &mut String, number: &serde_json::Number) -> Result<()> {
    let exact = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs)).is_none_or(|n| n <= EXACT);
    let double = number.as_f64().filter(|double| exact && double.is_finite());
    let double = double.ok_or_else(|| {
        let message =
            format!("the number {number} has no exact canonical form; write integers above 2^53 as text");
        StorageError::new(ErrorKind::InvalidValue, message)
    })?;
    text.push_str(ryu_js::Buffer::new().format_finite(double));
    Ok(())
}

/// RFC 8785, section 3.2.2.2: the short escapes where there are any, `\u00xx` for other control characters, all else as it is.
fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            control if control < ' ' => {
                // Writing into a string cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        let tree: serde_json::Value = serde_json::from_str(json).unwrap();
        String::from_utf8(canonical_json(&tree).unwrap().to_vec()).unwrap()
    }

    /// RFC 8785, sections 3.2.2 to 3.2.4.
    #[test]
    fn the_example_of_the_specification() {
        let given = serde_json::json!({
            "numbers": [333_333_333.333_333_3, 1E30, 4.50, 2e-3, 0.000_000_000_000_000_000_000_000_001],
            "string": "\u{20ac}$\u{F}\u{a}A'\u{42}\u{22}\u{5c}\\\"/",
            "literals": [null, true, false]
        });
        let expected = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical_json(&given).unwrap(), expected);
    }

    /// RFC 8785, section 3.2.3: by UTF-16, which is not the order of UTF-8.
    #[test]
    fn members_are_ordered_by_utf_16() {
        let given = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
            "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let text = canonical(given);
        let places: Vec<usize> = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"]
            .iter()
            .map(|word| text.find(word).unwrap())
            .collect();
        assert!(places.is_sorted(), "{text}");
    }

    /// RFC 8785, appendix B: the bits of a double and its text.
    #[test]
    fn numbers_are_those_of_the_specification() {
        for (bits, expected) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let number = f64::from_bits(bits);
            assert_eq!(canonical_json(&number).unwrap(), expected, "{bits:x}");
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for refused in [
            canonical_json(&f64::NAN),
            canonical_json(&[f64::INFINITY]),
            canonical_json(&(EXACT + 1)),
            canonical_json(&i64::MIN),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidValue);
        }
        assert_eq!(canonical_json(&EXACT).unwrap(), "9007199254740992");
    }
}
