//! The lines that a worker writes and the oracle reads.
//!
//! A worker is a process that is going to be killed. It tells what it does in lines on its standard output, one system
//! call each, so that the reader knows exactly how far it came:
//!
//! | line | meaning |
//! |---|---|
//! | `O` | the storage is open, the faults may begin |
//! | `A key gen verb [batch]` | about to call; `verb` is `put`, `del` or `touch`; `batch` joins the members of a transaction |
//! | `K key gen [version]` | acknowledged, with the version that the storage gave it |
//! | `E key gen kind` | refused with an error; `kind?` means that the storage itself calls the outcome unknown |
//! | `R key seen` | read back by the living process: `-` absent, `!text` an error, else `gen expiry version` |
//! | `N text` | something other than a change failed (`flush`, `maintain`, `close`) |
//! | `D` | the workload is done and the storage was closed |
//! | `X text` | the worker itself cannot go on |
//!
//! `gen` (generation) is a number that grows with every change of a key and is never used twice; everything that is
//! stored is a function of the key and its generation (see [`sample`](super::sample)). Keys are percent-encoded, so
//! that a line splits at blanks.

use std::fmt;
use std::str::FromStr;

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The value of this generation is stored.
    Put,
    /// The key is deleted.
    Delete,
    /// The expiry of this generation is set, the value stays.
    Touch,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "del",
            Self::Touch => "touch",
        }
    }
}

/// One line of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The storage is open.
    Opened,
    /// About to call.
    Attempt {
        /// Which key.
        key: String,
        /// Which generation.
        generation: u64,
        /// What is done to it.
        verb: Verb,
        /// The transaction that it belongs to.
        batch: Option<String>,
    },
    /// Acknowledged.
    Acknowledged {
        /// Which key.
        key: String,
        /// Which generation.
        generation: u64,
        /// The version that the storage gave it, if it said one.
        version: Option<u64>,
    },
    /// Refused with an error.
    Failed {
        /// Which key.
        key: String,
        /// Which generation.
        generation: u64,
        /// The kind of the error.
        kind: String,
        /// The storage says that it does not know whether the change took place.
        unknown: bool,
    },
    /// Read back by the worker.
    Read {
        /// Which key.
        key: String,
        /// What was found.
        seen: Seen,
    },
    /// Something other than a change failed.
    Note(String),
    /// The workload is done.
    Done,
    /// The worker cannot go on.
    Broken(String),
}

/// What was found under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Absent,
    /// A value that is whole.
    Value(Held),
    /// Something that is not what any generation stored, or an error, in words.
    Broken(String),
}

/// A whole value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The generation that the value itself names.
    pub generation: u64,
    /// The moment of expiry in milliseconds since 1970.
    pub expires_at: Option<i64>,
    /// The version, if the storage keeps one.
    pub version: Option<u64>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("O"),
            Self::Attempt { key, generation, verb, batch } => {
                write!(f, "A {} {generation} {}", encode(key), verb.as_str())?;
                batch.as_ref().map_or(Ok(()), |batch| write!(f, " {batch}"))
            }
            Self::Acknowledged { key, generation, version } => {
                write!(f, "K {} {generation}", encode(key))?;
                version.map_or(Ok(()), |version| write!(f, " {version}"))
            }
            Self::Failed { key, generation, kind, unknown } => {
                write!(f, "E {} {generation} {kind}{}", encode(key), if *unknown { "?" } else { "" })
            }
            Self::Read { key, seen } => write!(f, "R {} {seen}", encode(key)),
            Self::Note(text) => write!(f, "N {}", encode(text)),
            Self::Done => f.write_str("D"),
            Self::Broken(text) => write!(f, "X {}", encode(text)),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("-"),
            Self::Broken(text) => write!(f, "!{}", encode(text)),
            Self::Value(held) => {
                let expires = held.expires_at.map_or("-".into(), |at| at.to_string());
                let version = held.version.map_or("-".into(), |version| version.to_string());
                write!(f, "{} {expires} {version}", held.generation)
            }
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split(' ').collect();
        parse(&words).ok_or_else(|| format!("not a line of the worker protocol: {line:?}"))
    }
}

fn parse(words: &[&str]) -> Option<Line> {
    match words {
        ["O"] => Some(Line::Opened),
        ["D"] => Some(Line::Done),
        ["N", text] => Some(Line::Note(decode(text)?)),
        ["X", text] => Some(Line::Broken(decode(text)?)),
        ["A", key, generation, verb, batch @ ..] => Some(Line::Attempt {
            key: decode(key)?,
            generation: generation.parse().ok()?,
            verb: parse_verb(verb)?,
            batch: batch.first().map(|batch| (*batch).to_owned()),
        }),
        ["K", key, generation, version @ ..] => Some(Line::Acknowledged {
            key: decode(key)?,
            generation: generation.parse().ok()?,
            version: version.first().and_then(|version| version.parse().ok()),
        }),
        ["E", key, generation, kind] => Some(Line::Failed {
            key: decode(key)?,
            generation: generation.parse().ok()?,
            kind: kind.trim_end_matches('?').to_owned(),
            unknown: kind.ends_with('?'),
        }),
        ["R", key, seen @ ..] => Some(Line::Read { key: decode(key)?, seen: parse_seen(seen)? }),
        _ => None,
    }
}

fn parse_verb(word: &str) -> Option<Verb> {
    [Verb::Put, Verb::Delete, Verb::Touch].into_iter().find(|verb| verb.as_str() == word)
}

fn parse_seen(words: &[&str]) -> Option<Seen> {
    match words {
        ["-"] => Some(Seen::Absent),
        [text] => Some(Seen::Broken(decode(text.strip_prefix('!')?)?)),
        [generation, expires, version] => Some(Seen::Value(Held {
            generation: generation.parse().ok()?,
            expires_at: expires.parse().ok(),
            version: version.parse().ok(),
        })),
        _ => None,
    }
}

/// Every byte but printable ASCII other than `%` as `%XX`; the empty text as `%`.
fn encode(text: &str) -> String {
    if text.is_empty() {
        return "%".into();
    }
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode(word: &str) -> Option<String> {
    if word == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The whole lines of what a worker wrote; a last line without its end was cut by the kill and counts as not written.
///
/// # Errors
/// A line that is none of the protocol, in words.
pub fn parse_lines(text: &str) -> Result<Vec<Line>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_round_trip() {
        let key = String::from("a b/%é\n");
        let held = Held { generation: 7, expires_at: None, version: Some(3) };
        let lines = [
            Line::Opened,
            Line::Attempt { key: key.clone(), generation: 1, verb: Verb::Touch, batch: Some("b1".into()) },
            Line::Acknowledged { key: key.clone(), generation: 1, version: Some(12) },
            Line::Acknowledged { key: key.clone(), generation: 1, version: None },
            Line::Failed { key: key.clone(), generation: 2, kind: "Capacity".into(), unknown: true },
            Line::Read { key: key.clone(), seen: Seen::Absent },
            Line::Read { key: key.clone(), seen: Seen::Value(held) },
            Line::Read { key, seen: Seen::Broken("torn at 7".into()) },
            Line::Broken(String::new()),
            Line::Note("flush: Capacity".into()),
            Line::Done,
        ];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(parse_lines(&text).unwrap(), lines);
        assert_eq!(parse_lines(&format!("{text}K cut 1")).unwrap().len(), lines.len());
        assert!(parse_lines("A key x put\n").is_err());
    }
}
