use std::time::Duration;

use bytes::Bytes;
use persist_core::{Descriptor, Entry, Expiry, Metadata, StoreOptions, Timestamp, Value, Version};

/// What the note about a copy begins with.
const MARK: &str = "persist-copy/1 ";

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
    pub(crate) fn read_metadata(mut metadata: Metadata, composite: &Descriptor) -> Option<Option<Metadata>> {
        let note = metadata.encodings.pop()?;
        let note = note.strip_prefix(MARK)?;
        if note == "absent" {
            return Some(None);
        }
        let mut words = note.split(' ');
        metadata.version = Version::from_u64(words.next()?.parse().ok()?);
        metadata.created_at = moment(words.next()?)?;
        metadata.modified_at = moment(words.next()?)?;
        metadata.expires_at = match words.next()? {
            "-" => None,
            text => Some(moment(text)?),
        };
        (!metadata.is_expired(composite.now())).then_some(Some(metadata))
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
                    StoreOptions { encodings: vec![format!("{MARK}absent")], ..StoreOptions::new() };
                (Value::Bytes(Bytes::new()), Some(now.saturating_add(*ttl)), options)
            }
        };
        let end = [end, default].into_iter().flatten().min();
        Some((value, StoreOptions { expiry: end.map_or(Expiry::Never, Expiry::At), ..options }))
    }
}

fn note(metadata: &Metadata) -> String {
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
