use std::ops::Range;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::{Entry, Value};
use serde_json::json;
use serde_json::value::RawValue;

use crate::address::KeyAddress;
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::local_file::LocalFile;
use crate::spot::{StoredKey, blocking};
use crate::storages::Access;
use crate::text;
use crate::value_form;

/// Write a value to standard output or to a file
///
/// JSON is written as the text that was stored, bytes as they are, an array as a .npy file. With --json the answer
/// holds the metadata and the value: JSON as itself, the other kinds in base64.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The key
    #[arg(value_name = "NAME:KEY", value_parser = OsStringValueParser::new().try_map(KeyAddress::parse))]
    address: KeyAddress,
    /// The file to write, replaced whole; - is standard output
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A part of the buffer: 0..100, 100.. or ..100 (of an array: of its elements, without the header)
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range, conflicts_with = "meta")]
    range: Option<Range<u64>>,
    /// The metadata as JSON instead of the value
    #[arg(long)]
    meta: bool,
}

impl Get {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let place = app.key(&self.address, Access::Read).await?;
        if self.meta {
            let metadata = place.storage.metadata(&place.key).await?.ok_or_else(|| self.absent())?;
            let text = serde_json::to_vec(&metadata).map_err(|error| Failure::new(error.to_string()))?;
            return self.emit(app, text.into(), true).await;
        }
        if let Some(range) = self.range.clone() {
            let part = place.storage.retrieve_range(&place.key, range).await?.ok_or_else(|| self.absent())?;
            return self.part(app, part).await;
        }
        let entry = place.storage.retrieve(&place.key).await?.ok_or_else(|| self.absent())?;
        if app.out.is_json() {
            return self.envelope(app, &place, &entry);
        }
        let (header, body) = value_form::file_form(&entry.value);
        let content = if header.is_empty() { body.clone() } else { [&header[..], body].concat().into() };
        self.emit(app, content, matches!(entry.value, Value::Json(_))).await
    }

    fn absent(&self) -> Failure {
        Failure::absent(format!("there is nothing at {}", self.address))
    }

    async fn part(&self, app: &App, part: Bytes) -> Result<()> {
        if app.out.is_json() {
            let key = &self.address.key;
            return app
                .out
                .json(&json!({ "key": key, "size": part.len(), "base64": STANDARD.encode(&part) }));
        }
        self.emit(app, part, false).await
    }

    async fn emit(&self, app: &App, content: Bytes, is_line: bool) -> Result<()> {
        match &self.file {
            Some(file) if file.as_os_str() != "-" => {
                let file = LocalFile::named(file);
                blocking(move || file.write(&[&content], false)).await
            }
            asked => {
                if app.out.is_terminal() && asked.is_none() && !text::is_printable(&content) {
                    return Err(Failure::refused(
                        "the value is binary and would garble the terminal; name a FILE, or - to see it anyway",
                    ));
                }
                app.out.bytes(&content)?;
                if is_line && app.out.is_terminal() && !content.ends_with(b"\n") {
                    app.out.line("")?;
                }
                app.out.flush()
            }
        }
    }

    fn envelope(&self, app: &App, place: &StoredKey, entry: &Entry) -> Result<()> {
        let mut answer = json!({
            "storage": place.storage.describe().name(),
            "key": place.key,
            "metadata": entry.metadata,
        });
        let value = match &entry.value {
            // The text as it was stored: a number that no float holds stays exact.
            Value::Json(json) => {
                let text = RawValue::from_string(text::one_line(&json.as_str()))
                    .map_err(|error| Failure::corruption(format!("{}: {error}", self.address)))?;
                return app.out.json(&Enveloped { rest: &answer, value: &text });
            }
            Value::Bytes(bytes) => STANDARD.encode(bytes),
            Value::Array(array) => {
                answer["dtype"] = array.dtype().as_str().into();
                answer["shape"] = array.shape().into();
                STANDARD.encode(array.data())
            }
        };
        answer["base64"] = value.into();
        app.out.json(&answer)
    }
}

#[derive(serde::Serialize)]
struct Enveloped<'a> {
    #[serde(flatten)]
    rest: &'a serde_json::Value,
    value: &'a RawValue,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || "write a range as FROM..TO, FROM.. or ..TO, in bytes".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let bound =
        |text: &str, default| if text.is_empty() { Ok(default) } else { text.parse().map_err(|_| wrong()) };
    let range = bound(from, 0)?..bound(to, u64::MAX)?;
    if range.start > range.end {
        return Err("a range must not end before it begins".to_owned());
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("1..5"), Ok(1..5));
        assert_eq!(parse_range("1.."), Ok(1..u64::MAX));
        assert_eq!(parse_range("..5"), Ok(0..5));
        for bad in ["5", "5..1", "a..b", "-1..2", "1...2"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
