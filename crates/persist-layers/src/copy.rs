use std::time::Duration;

use bytes::Bytes;
use persist_core::{Descriptor, Entry, Expiry, Metadata, StoreOptions, Timestamp, Value, Version};

/// What the note about a copy begins with.
const MARK: &str = "persist-copy/1 ";

/// What it says of an absence.
const ABSENT: &str = "absent";

/// A copy of an entry, or of its absence, as it lies in an upper tier.
///
/// A tier gives its own version and times to what it stores. Those of the entry are in a note, the last of its encodings:
/// `persist-copy/1 VERSION CREATED MODIFIED EXPIRES`, times in milliseconds since 1970, `-` for never; `persist-copy/1 absent`.
#[derive(Debug)]
pub(crate) enum Copied {
    Present(Entry),
    Absent { ttl: Duration },
}

impl Copied {
    pub(crate) fn of(entry: &Entry) -> Self {
        Self::Present(entry.clone())
    }

    pub(crate) fn absent(ttl: Duration) -> Self {
        Self::Absent { ttl }
    }

    /// What lies in a tier; `None`: it is no copy, or has expired by the clock of the composite.
    pub(crate) fn read(entry: Entry, composite: &Descriptor) -> Option<Self> {
        let Entry { value, metadata } = entry;
        Some(match Self::read_metadata(metadata, composite)? {
            Some(metadata) => Self::Present(Entry { value, metadata }),
            None => Self::Absent { ttl: Duration::ZERO },
        })
    }

    /// The same of the metadata alone.
    pub(crate) fn read_metadata(metadata: Metadata, composite: &Descriptor) -> Option<Option<Metadata>> {
        let metadata = match original(metadata) {
            Ok(metadata) => metadata,
            Err(copy) => {
                let is_absence = copy.encodings.last()?.strip_prefix(MARK)? == ABSENT;
                return is_absence.then_some(None);
            }
        };
        // What never expires need not ask what time it is.
        let expired = metadata.expires_at.is_some() && metadata.is_expired(composite.now());
        (!expired).then_some(Some(metadata))
    }

    /// What was copied; `None`: nothing was there.
    pub(crate) fn into_entry(self) -> Option<Entry> {
        match self {
            Self::Present(entry) => Some(entry),
            Self::Absent { .. } => None,
        }
    }

    /// The value and the options to store in a tier; `None`: it cannot be there. It lives no longer than the tier lets
    /// things live by default, and than the entry does.
    pub(crate) fn item(&self, tier: &Descriptor) -> Option<(Value, StoreOptions)> {
        let now = tier.now();
        let default = tier.default_ttl().map(|ttl| now.saturating_add(ttl));
        let (value, end, options) = match self {
            Self::Present(Entry { value, metadata }) => {
                let mut encodings = metadata.encodings.clone();
                encodings.push(note(metadata));
                let options = StoreOptions { tags: metadata.tags.clone(), encodings, ..StoreOptions::new() };
                (value.clone(), metadata.expires_at, options)
            }
            // A copy of a copy of an absence would live too long.
            Self::Absent { ttl } if ttl.is_zero() => return None,
            Self::Absent { ttl } => {
                let options =
                    StoreOptions { encodings: vec![format!("{MARK}{ABSENT}")], ..StoreOptions::new() };
                (Value::Bytes(Bytes::new()), Some(now.saturating_add(*ttl)), options)
            }
        };
        let end = [end, default].into_iter().flatten().min();
        Some((value, StoreOptions { expiry: end.map_or(Expiry::Never, Expiry::At), ..options }))
    }
}

/// The metadata of what was copied, from those of its copy; if there is no note, it is no copy, and they come back as they are.
pub(crate) fn original(mut metadata: Metadata) -> Result<Metadata, Metadata> {
    let Some(noted) = metadata.encodings.last().and_then(|note| Noted::read(note)) else {
        return Err(metadata);
    };
    metadata.encodings.pop();
    metadata.version = noted.version;
    metadata.created_at = noted.created_at;
    metadata.modified_at = noted.modified_at;
    metadata.expires_at = noted.expires_at;
    Ok(metadata)
}

/// What a note says.
struct Noted {
    version: Version,
    created_at: Timestamp,
    modified_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl Noted {
    fn read(note: &str) -> Option<Self> {
        let mut words = note.strip_prefix(MARK)?.split(' ');
        Some(Self {
            version: Version::from_u64(words.next()?.parse().ok()?),
            created_at: moment(words.next()?)?,
            modified_at: moment(words.next()?)?,
            expires_at: match words.next()? {
                "-" => None,
                text => Some(moment(text)?),
            },
        })
    }
}

/// The note about an entry.
pub(crate) fn note(metadata: &Metadata) -> String {
    let expires = metadata.expires_at.map_or_else(|| "-".to_owned(), |end| end.as_millis().to_string());
    format!(
        "{MARK}{} {} {} {expires}",
        metadata.version,
        metadata.created_at.as_millis(),
        metadata.modified_at.as_millis()
    )
}

fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use persist_core::ManualClock;
    use std::sync::Arc;

    use super::*;

    fn metadata() -> Metadata {
        let descriptor = Descriptor::new("s", "memory").with_clock(Arc::new(ManualClock::default()));
        descriptor.draft_metadata(&Value::bytes("v"), &StoreOptions::new())
    }

    #[test]
    fn every_moment_and_version_comes_back() {
        let moments = [0, 1, -1, 1_700_000_000_000, i64::MAX, i64::MIN].map(Timestamp::from_millis);
        for version in [0, 7, u64::MAX].map(Version::from_u64) {
            for created_at in moments {
                for expires_at in moments.map(Some).into_iter().chain([None]) {
                    let entry =
                        Metadata { version, created_at, modified_at: created_at, expires_at, ..metadata() };
                    let copy = Metadata { encodings: vec!["other".to_owned(), note(&entry)], ..metadata() };
                    let expected = Metadata { encodings: vec!["other".to_owned()], ..entry };
                    assert_eq!(original(copy).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn what_is_no_note_is_no_copy() {
        for text in [
            "persist-copy/1 absent",
            "persist-copy/1 ",
            "persist-copy/1 1 2",
            "persist-copy/1 1 2 3 ",
            "persist-copy/1 1 2 3 x",
            "persist-copy/1 18446744073709551616 2 3 -",
            "persist-copy/1 1 9223372036854775808 3 -",
            "persist-copy/1 -1 2 3 -",
            "persist-copy/2 1 2 3 -",
        ] {
            let copy = Metadata { encodings: vec![text.to_owned()], ..metadata() };
            assert_eq!(original(copy.clone()).unwrap_err(), copy, "{text}");
        }
    }
}
