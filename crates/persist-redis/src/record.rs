use std::fmt;
use std::str::{FromStr, SplitN};

use persist_core::{Checksum, Kind, Metadata, Tags, Timestamp, Value, Version};
use serde::{Deserialize, Serialize};

/// What stands for "never" in the column of the expiry.
pub(crate) const NEVER: &str = "-";

/// The metadata of an entry as it lies in Redis, in one line of text; see `docs/formats/redis.md`.
///
/// `1 VERSION EXPIRES CREATED NONCE MODIFIED KIND SIZE PARTS HEADER CHECKSUM REST`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) metadata: Metadata,
    /// Which call wrote it.
    pub(crate) nonce: String,
    /// In how many parts the value lies.
    pub(crate) parts: usize,
    /// How many bytes of it come before the elements of an array.
    pub(crate) header: usize,
}

/// What most values do not have.
#[derive(Default, Serialize, Deserialize)]
struct Rest {
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    tags: Tags,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    encodings: Vec<String>,
}

/// A record that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord;

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the metadata of the entry is damaged")
    }
}

impl std::error::Error for BadRecord {}

impl Record {
    /// The columns that a value brings along: all but version, expiry, times and nonce.
    pub(crate) fn columns(draft: &Metadata, parts: usize, header: usize) -> String {
        let Metadata { kind, size, checksum, tags, encodings, .. } = draft;
        let rest = if tags.is_empty() && encodings.is_empty() {
            NEVER.to_owned()
        } else {
            let rest = Rest { tags: tags.clone(), encodings: encodings.clone() };
            serde_json::to_string(&rest).unwrap_or_else(|_| NEVER.to_owned())
        };
        format!("{kind} {size} {parts} {header} {checksum} {rest}")
    }

    /// Reads the line.
    pub(crate) fn decode(line: &[u8]) -> Result<Self, BadRecord> {
        let line = std::str::from_utf8(line).map_err(|_| BadRecord)?;
        let mut columns = Columns(line.splitn(12, ' '));
        if columns.text()? != "1" {
            return Err(BadRecord);
        }
        let version = Version::from_u64(columns.read()?);
        let expires_at = match columns.text()? {
            NEVER => None,
            millis => Some(Timestamp::from_millis(millis.parse().map_err(|_| BadRecord)?)),
        };
        let created_at = Timestamp::from_millis(columns.read()?);
        let nonce = columns.text()?.to_owned();
        let modified_at = Timestamp::from_millis(columns.read()?);
        let kind: Kind = columns.read()?;
        let size = columns.read()?;
        let (parts, header) = (columns.read()?, columns.read()?);
        let checksum: Checksum = columns.read()?;
        let Rest { tags, encodings } = match columns.text()? {
            NEVER => Rest::default(),
            json => serde_json::from_str(json).map_err(|_| BadRecord)?,
        };
        let metadata =
            Metadata { kind, size, version, created_at, modified_at, expires_at, checksum, tags, encodings };
        Ok(Self { metadata, nonce, parts, header })
    }
}

struct Columns<'a>(SplitN<'a, char>);

impl<'a> Columns<'a> {
    fn text(&mut self) -> Result<&'a str, BadRecord> {
        self.0.next().ok_or(BadRecord)
    }

    fn read<T: FromStr>(&mut self) -> Result<T, BadRecord> {
        self.text()?.parse().map_err(|_| BadRecord)
    }
}

/// The column of an expiry.
pub(crate) fn expires(moment: Option<Timestamp>) -> String {
    moment.map_or_else(|| NEVER.to_owned(), |moment| moment.as_millis().to_string())
}

/// The plain value of a stored buffer; `None` if it cannot be one of that kind.
pub(crate) fn value(kind: Kind, stored: bytes::Bytes) -> Option<Value> {
    match kind {
        Kind::Json => Some(persist_core::Json::from_stored(stored).into()),
        Kind::Bytes => Some(Value::Bytes(stored)),
        Kind::Array => persist_core::Array::from_npy(&stored).ok().map(Value::Array),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        Metadata {
            kind: Kind::Json,
            size: 2,
            version: Version::from_u64(7),
            created_at: Timestamp::from_millis(-5),
            modified_at: Timestamp::from_millis(9),
            expires_at: Some(Timestamp::from_millis(i64::MAX)),
            checksum: Checksum::of(&[b"{}"]),
            tags: Tags::new().with("a b", "\n"),
            encodings: vec!["zstd".into()],
        }
    }

    fn line(metadata: &Metadata) -> String {
        let columns = Record::columns(metadata, 1, 0);
        format!("1 7 {} -5 n.1 9 {columns}", expires(metadata.expires_at))
    }

    #[test]
    fn records_are_read_back() {
        let plain = Metadata { tags: Tags::new(), encodings: Vec::new(), expires_at: None, ..sample() };
        for metadata in [sample(), plain] {
            let record = Record::decode(line(&metadata).as_bytes()).unwrap();
            assert_eq!((record.metadata, record.nonce.as_str()), (metadata, "n.1"));
        }
    }

    #[test]
    fn what_is_no_record_is_damage() {
        let line = line(&sample());
        for end in 0..line.len() {
            // Cut anywhere it is no record, or (within the checksum or the JSON) cannot be read as one.
            assert_eq!(Record::decode(&line.as_bytes()[..end]), Err(BadRecord), "{end}");
        }
        assert_eq!(Record::decode(b"2 7 - 1 n 1 json 2 1 0 00 -"), Err(BadRecord));
        assert_eq!(Record::decode(b"\xff"), Err(BadRecord));
    }
}
