use std::fmt::{self, Display, Write as _};

use persist_core::{ErrorKind, StorageError, escape};
use serde::de;

use crate::nearest::hint;
use crate::node::Place;
use crate::redact::redact;

/// A shorter text is hidden only where it stands in quotes: it keeps no secret, and may be a part of any other word.
const MIN_HIDDEN: usize = 4;

/// What is wrong with a configuration, and where.
///
/// It is built from the inside out: the place is that of the innermost part, the path grows on the way out.
#[derive(Debug)]
pub(crate) struct ConfigError {
    pub(crate) message: String,
    place: Option<Place>,
    storage: Option<String>,
    path: Vec<String>,
    about_key: bool,
}

impl ConfigError {
    pub(crate) fn new(place: &Place, message: impl Into<String>) -> Self {
        Self { place: Some(place.clone()), ..Self::text(message) }
    }

    fn text(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, storage: None, path: Vec::new(), about_key: false }
    }

    /// An unknown key, with the nearest known one.
    pub(crate) fn unknown_key<'a>(
        place: &Place,
        key: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self::new(place, format!("unknown key `{key}`{}", hint(key, known)))
    }

    /// Says where it is, if nobody nearer has said so.
    pub(crate) fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    /// True if it is about the key that was read last.
    pub(crate) fn is_about_key(&self) -> bool {
        self.about_key
    }

    /// Says that it is inside this key.
    pub(crate) fn under(mut self, key: &str) -> Self {
        let joint = self.path.first().is_some_and(|inner| !inner.starts_with('['));
        if joint {
            self.path.insert(0, ".".to_owned());
        }
        self.path.insert(0, key.to_owned());
        self
    }

    /// Says which storage it is about, if nobody has said so.
    pub(crate) fn in_storage(mut self, name: &str) -> Self {
        self.storage.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Shows `written` wherever the message shows `text`, which came from the environment.
    pub(crate) fn hide(mut self, text: &str, written: &str) -> Self {
        // Some readers quote what is left without the space around it.
        for text in [text, text.trim()] {
            self.message = self.message.replace(&escape(text), &escape(written));
            if text.len() >= MIN_HIDDEN {
                self.message = self.message.replace(text, written);
            }
        }
        self
    }

    /// The whole line: place, storage, key and message, without passwords.
    pub(crate) fn line(&self, file: &str) -> String {
        let mut line = self.place.as_ref().map_or_else(|| file.to_owned(), |place| place.within(file));
        // Writing into a string cannot fail.
        if let Some(storage) = &self.storage {
            let _ = write!(line, ": storage {}", escape(storage));
        }
        if !self.path.is_empty() {
            let _ = write!(line, ": `{}`", self.path.concat());
        }
        let _ = write!(line, ": {}", redact(&self.message));
        line
    }
}

/// All that is wrong with a configuration, as one error with a line for each.
pub(crate) fn invalid_config(file: &str, errors: &[ConfigError]) -> StorageError {
    let lines: Vec<String> = errors.iter().map(|error| error.line(file)).collect();
    StorageError::new(ErrorKind::InvalidConfig, lines.join("\n"))
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl de::Error for ConfigError {
    fn custom<T: Display>(message: T) -> Self {
        Self::text(message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::text(format!("{} was given where {} is wanted", noun(found), plainly(wanted)))
    }

    fn invalid_value(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::invalid_type(found, wanted)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::text(format!("unknown key `{field}`{}", hint(field, known.iter().copied())))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let all = crate::nearest::listed(known.iter().copied());
        let near = crate::nearest::nearest(variant, known.iter().copied());
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Self::text(format!("{} is not one of {all}{near}", escape(variant)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::text(format!("the key `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        let message = format!("the key `{field}` is given twice, once under another name; keep one");
        Self { about_key: true, ..Self::text(message) }
    }
}

fn noun(found: de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Str(text) => escape(text),
        de::Unexpected::Unsigned(number) => number.to_string(),
        de::Unexpected::Signed(number) => number.to_string(),
        de::Unexpected::Float(number) => number.to_string(),
        de::Unexpected::Bool(value) => value.to_string(),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing".to_owned(),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a mapping".to_owned(),
        other => other.to_string(),
    }
}

/// What serde expects, in the words of somebody who does not write Rust.
fn plainly(wanted: &dyn de::Expected) -> String {
    let wanted = wanted.to_string();
    match wanted.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "a borrowed string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        text if text.starts_with("struct ") => "a mapping".to_owned(),
        _ => wanted,
    }
}
