use std::fmt;
use std::sync::Arc;

/// Where something of a configuration was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the file, counted from 1, columns in characters.
    Text { line: usize, column: usize },
    /// In this environment variable.
    Variable(Arc<str>),
}

impl Place {
    /// With the name of the file before it: `persist.yaml:7:5`.
    pub(crate) fn within(&self, file: &str) -> String {
        match self {
            Self::Text { line, column } => format!("{file}:{line}:{column}"),
            Self::Variable(name) => format!("environment variable {name}"),
        }
    }
}

/// A part of a configuration with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// What a part of a configuration is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Name, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// A text, number, truth value or nothing: the text decides once it is known what is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Not in quotes and no block, so that it may be something else than text.
    pub(crate) plain: bool,
    pub(crate) origin: Origin,
}

/// Who wrote a scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The author of the file.
    File,
    /// Variables of the environment that this text in the file names.
    Expanded(String),
    /// An environment variable that overrides the file.
    Override,
}

/// What a scalar is by the core schema of YAML 1.2, with `true` and `false` alone as truth values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plain<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl Scalar {
    /// Reads a scalar where anything may stand: quoted ones are text.
    pub(crate) fn plain(&self) -> Plain<'_> {
        if self.plain { resolve(&self.text) } else { Plain::Text(&self.text) }
    }

    /// True for nothing at all: `~`, `null` or an empty place.
    pub(crate) fn is_null(&self) -> bool {
        self.plain() == Plain::Null
    }
}

impl Node {
    /// The mapping's entries.
    pub(crate) fn entries(&self) -> Option<&[(Name, Node)]> {
        match &self.content {
            Content::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }

    /// Takes a key out of a mapping.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Node> {
        let Content::Map(entries) = &mut self.content else { return None };
        let index = entries.iter().position(|(name, _)| name.text == key)?;
        Some(entries.remove(index).1)
    }

    /// True for a scalar that is nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.is_null())
    }

    /// What it is, in words.
    pub(crate) fn noun(&self) -> &'static str {
        match &self.content {
            Content::Scalar(scalar) if scalar.is_null() => "nothing",
            Content::Scalar(_) => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => f.write_str(&persist_core::escape(value)),
        }
    }
}

/// Reads plain text by the core schema (YAML 1.2.2, section 10.3.2).
pub(crate) fn resolve(text: &str) -> Plain<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        _ => {}
    }
    if let Some(number) = unsigned(text) {
        return Plain::Unsigned(number);
    }
    if text.starts_with('-')
        && let Ok(number) = text.parse()
    {
        return Plain::Signed(number);
    }
    float(text).map_or(Plain::Text(text), Plain::Float)
}

fn unsigned(text: &str) -> Option<u64> {
    let (digits, radix) = match text.get(..2) {
        Some("0x") => (&text[2..], 16),
        Some("0o") => (&text[2..], 8),
        _ => (text.strip_prefix('+').unwrap_or(text), 10),
    };
    let all_digits = digits.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(digits, radix).ok().filter(|_| all_digits)
}

/// Finite numbers alone: no setting is infinite or not a number.
fn float(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_what_the_core_schema_says() {
        let cases = [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("null", Plain::Null),
            ("true", Plain::Bool(true)),
            ("False", Plain::Bool(false)),
            ("yes", Plain::Text("yes")),
            ("on", Plain::Text("on")),
            ("y", Plain::Text("y")),
            ("0", Plain::Unsigned(0)),
            ("+7", Plain::Unsigned(7)),
            ("007", Plain::Unsigned(7)),
            ("0x1F", Plain::Unsigned(31)),
            ("0o17", Plain::Unsigned(15)),
            ("-7", Plain::Signed(-7)),
            ("18446744073709551615", Plain::Unsigned(u64::MAX)),
            ("1.5", Plain::Float(1.5)),
            ("-1e3", Plain::Float(-1000.0)),
            ("++7", Plain::Text("++7")),
            ("0x", Plain::Text("0x")),
            ("0x-1", Plain::Text("0x-1")),
            ("1_000", Plain::Text("1_000")),
            (".inf", Plain::Text(".inf")),
            ("inf", Plain::Text("inf")),
            ("nan", Plain::Text("nan")),
            ("1h", Plain::Text("1h")),
            ("1e999", Plain::Text("1e999")),
        ];
        for (text, wanted) in cases {
            assert_eq!(resolve(text), wanted, "{text}");
        }
    }
}
