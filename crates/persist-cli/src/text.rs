//! How figures and keys are shown to people.

use std::fmt::Write as _;
use std::time::Duration;

use persist_core::ByteSize;

/// A key on a line of its own: as it is, or, if that would not be one plain line, quoted with JSON's escapes. A line
/// that begins with a quotation mark is always quoted, so every key has one reading.
pub(crate) fn key_line(key: &str) -> String {
    let plain = !key.starts_with('"') && !key.chars().any(is_hidden);
    if plain { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 8);
    shown.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                shown.push('\\');
                shown.push(c);
            }
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if is_hidden(c) => {
                let _ = write!(shown, "\\u{:04x}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown.push('"');
    shown
}

/// Control characters, and those that reorder or break lines: what could make a terminal show something else.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// True if a terminal shows these bytes as text and does nothing else.
pub(crate) fn is_printable(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_ok_and(|text| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')))
}

/// JSON text without the white space between its parts, so that it is one line.
pub(crate) fn one_line(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let is_kept = |c: &char| {
        let kept = quoted || !c.is_ascii_whitespace();
        quoted = if *c == '"' && !escaped { !quoted } else { quoted };
        escaped = *c == '\\' && !escaped;
        kept
    };
    json.chars().filter(is_kept).collect()
}

/// A size with its unit.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A number with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A number of things: `1 value`, `2 values`.
pub(crate) fn things(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// How long something took.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Rows with their columns in line; columns named in `right` are flushed right.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter().map(|row| table_row(row, &widths, right)).collect()
}

fn table_row(row: &[String], widths: &[usize], right: &[usize]) -> String {
    let mut line = String::new();
    for (column, cell) in row.iter().enumerate() {
        let width = widths[column];
        let _ = if right.contains(&column) {
            write!(line, "{cell:>width$}  ")
        } else {
            write!(line, "{cell:<width$}  ")
        };
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_reading_and_no_power_over_a_terminal() {
        assert_eq!(key_line("a b/ü"), "a b/ü");
        assert_eq!(key_line("a\nb"), r#""a\nb""#);
        assert_eq!(key_line("\"a\\nb\""), r#""\"a\\nb\"""#);
        assert_eq!(key_line("x\u{1b}[31m\u{202e}"), "\"x\\u001b[31m\\u202e\"");
        for key in ["a\nb", "\"q\"", "\u{1b}\u{9b}\u{7f}\\ \t\r\u{2028}"] {
            let back: String = serde_json::from_str(&key_line(key)).unwrap();
            assert_eq!(back, key);
        }
    }

    #[test]
    fn figures_and_tables() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(things(1, "value"), "1 value");
        assert_eq!(things(1000, "value"), "1,000 values");
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]];
        assert_eq!(table(&rows, &[1]), ["a      1", "long  22"]);
    }

    #[test]
    fn json_becomes_one_line_and_keeps_its_texts() {
        let text = " {\n \"a b\" : [ 1 ,\t\"\\\" x\\\\\" , \" y\" ] }\n";
        assert_eq!(one_line(text), r#"{"a b":[1,"\" x\\"," y"]}"#);
    }

    #[test]
    fn binary_is_told_from_text() {
        assert!(is_printable("a\nb\tü\r\n".as_bytes()));
        for binary in [&b"\x1b[2J"[..], b"\xff", b"a\0b", "\u{9b}31m".as_bytes()] {
            assert!(!is_printable(binary));
        }
    }
}
