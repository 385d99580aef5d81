//! The text that `strace` writes, as calls.

use std::collections::HashMap;

/// One system call of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The thread.
    pub(super) thread: u32,
    /// The name of the call.
    pub(super) name: String,
    /// Its arguments as text.
    pub(super) arguments: Vec<String>,
    /// What it gave back; `None` if it never ended.
    pub(super) result: Option<i64>,
    /// The line on which it began.
    pub(super) start: usize,
    /// The line on which it ended.
    pub(super) end: usize,
}

/// All calls of a trace, in the order in which they ended.
///
/// # Errors
/// A line that cannot be read, in words.
pub(super) fn parse(text: &str) -> Result<Vec<Call>, String> {
    let mut open: HashMap<u32, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = split_thread(line) else {
            return Err(format!("line {number} names no thread: {}", shorten(line)));
        };
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, (number, begun.trim_end().to_owned()));
            continue;
        }
        let (start, whole) = match rest.strip_prefix("<... ") {
            None => (number, rest.to_owned()),
            Some(resumed) => join(thread, resumed, &mut open).ok_or_else(|| unreadable(number, line))?,
        };
        calls.push(parse_call(thread, &whole, start, number).ok_or_else(|| unreadable(number, line))?);
    }
    Ok(calls)
}

fn unreadable(number: usize, line: &str) -> String {
    format!("line {number} cannot be read: {}", shorten(line))
}

fn join(thread: u32, resumed: &str, open: &mut HashMap<u32, (usize, String)>) -> Option<(usize, String)> {
    let (start, begun) = open.remove(&thread)?;
    let (_, rest) = resumed.split_once("resumed>")?;
    Some((start, format!("{begun}{rest}")))
}

fn split_thread(line: &str) -> Option<(u32, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    Some((thread.parse().ok()?, rest.trim_start()))
}

fn parse_call(thread: u32, text: &str, start: usize, end: usize) -> Option<Call> {
    let (call, result) = text.rsplit_once(" = ")?;
    let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
    let word = result.split_whitespace().next()?;
    let result = match word.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    };
    Some(Call { thread, name: name.to_owned(), arguments: split_arguments(arguments), result, start, end })
}

/// Splits at commas that lie outside of quotes and brackets. Quoted text is all `\xNN`, so it holds no quote.
fn split_arguments(text: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let (mut depth, mut quoted, mut from) = (0_usize, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'(' | b'[' | b'{' if !quoted => depth += 1,
            b')' | b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            b',' if !quoted && depth == 0 => {
                arguments.push(text[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        arguments.push(text[from..].trim().to_owned());
    }
    arguments
}

/// The bytes of a quoted argument, `"\x61\x62"`; `None` if it is not one or was cut.
pub(super) fn unquote(argument: &str) -> Option<Vec<u8>> {
    let inner = argument.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len() / 4);
    for chunk in inner.as_bytes().chunks(4) {
        let hex = std::str::from_utf8(chunk.strip_prefix(b"\\x")?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
    }
    Some(bytes)
}

/// The bytes of all buffers of `[{iov_base="…", iov_len=5}, …]`, joined.
pub(super) fn unquote_vectors(argument: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in argument.split("iov_base=").skip(1) {
        bytes.extend(unquote(part.split_once(", iov_len")?.0)?);
    }
    Some(bytes)
}

pub(super) fn shorten(text: &str) -> &str {
    let end = text.char_indices().nth(300).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_are_joined() {
        let text = "7  unlinkat(3, \"\\x61\", 0 <unfinished ...>\n\
                    8  writev(4, [{iov_base=\"\\x61\\x62\", iov_len=2}, {iov_base=\"\\x63\", iov_len=1}], 2) = 3\n\
                    7  <... unlinkat resumed>)           = 0\n\
                    8  openat(3, \"\\x2c\", O_RDWR|O_CREAT, 0600) = -1 EEXIST (File exists)\n\
                    7  +++ exited with 0 +++\n";
        let calls = parse(text).unwrap();
        assert_eq!(calls.len(), 3);
        assert_eq!((calls[0].name.as_str(), calls[0].result), ("writev", Some(3)));
        assert_eq!(unquote_vectors(&calls[0].arguments[1]).unwrap(), b"abc");
        assert_eq!((calls[1].start, calls[1].end, calls[1].arguments.len()), (0, 2, 3));
        assert_eq!(unquote(&calls[2].arguments[1]).unwrap(), b",");
        assert_eq!(calls[2].result, Some(-1));
        assert_eq!(unquote("\"\\x61\"..."), None, "cut");
    }
}
