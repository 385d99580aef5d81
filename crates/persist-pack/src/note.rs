//! What a record says of itself: an extra field of its ZIP header, which other tools pass over.

use std::collections::BTreeMap;

use persist_core::{Checksum, Key, Kind, Metadata, Tags, Timestamp, Version};

use crate::codec::Layout;
use crate::wire::{Reader, Wrong, put_text, put_varint, put_zigzag};

/// The version of the note's form.
const FORM: u8 = 1;

/// More records of the same batch follow.
const MORE: u8 = 1;

/// The value has a lifetime.
const EXPIRES: u8 = 2;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The first record of a pack: what the pack is.
    Head = 1,
    /// A key, its metadata and its value.
    Value = 2,
    /// A key and its metadata; the value is that of another record with the same checksum.
    Reference = 3,
    /// A key that is absent from here on.
    Tombstone = 4,
    /// A value without a key, kept for references.
    Content = 5,
    /// The index of a sealed pack.
    Index = 6,
    /// The manifest of a sealed pack.
    Manifest = 7,
    /// The signature of a sealed pack.
    Signature = 8,
}

impl Role {
    fn of(byte: u8) -> Option<Self> {
        const ALL: [Role; 8] = [
            Role::Head,
            Role::Value,
            Role::Reference,
            Role::Tombstone,
            Role::Content,
            Role::Index,
            Role::Manifest,
            Role::Signature,
        ];
        ALL.into_iter().find(|role| *role as u8 == byte)
    }

    /// True for what stands before the index: the log.
    pub(crate) fn in_log(self) -> bool {
        !matches!(self, Self::Index | Self::Manifest | Self::Signature)
    }
}

/// What a record is about, by its role.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum About {
    /// The pack: head, index, manifest, signature.
    Pack,
    /// A key with its metadata: value and reference.
    Entry(Key, Metadata),
    /// A key that is absent, and the version of its deletion.
    Absence(Key, Version),
    /// A value without a key.
    Content(Checksum),
}

/// What a record says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    pub(crate) role: Role,
    /// More records of the same batch follow; a batch counts when its last record is there.
    pub(crate) more: bool,
    /// So many bytes of the pack were on the disk when this was written.
    pub(crate) synced: u64,
    /// Length of the data when unpacked.
    pub(crate) plain: u64,
    /// Length of the data as it lies in the file.
    pub(crate) stored: u64,
    /// CRC-32 of the data as it lies in the file; of the chunk table if there is one.
    pub(crate) data_crc: u32,
    pub(crate) about: About,
}

impl Note {
    /// The key concerned.
    pub(crate) fn key(&self) -> Option<&Key> {
        match &self.about {
            About::Entry(key, _) | About::Absence(key, _) => Some(key),
            About::Pack | About::Content(_) => None,
        }
    }

    /// The metadata of a value or a reference.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        match &self.about {
            About::Entry(_, metadata) => Some(metadata),
            _ => None,
        }
    }

    /// The checksum of the plain value that the record holds or refers to.
    pub(crate) fn checksum(&self) -> Option<Checksum> {
        match &self.about {
            About::Entry(_, metadata) => Some(metadata.checksum),
            About::Content(checksum) => Some(*checksum),
            About::Pack | About::Absence(..) => None,
        }
    }

    /// The version that the record gives its key.
    pub(crate) fn version(&self) -> Option<Version> {
        match &self.about {
            About::Entry(_, metadata) => Some(metadata.version),
            About::Absence(_, version) => Some(*version),
            About::Pack | About::Content(_) => None,
        }
    }

    /// How the data lies there.
    pub(crate) fn layout(&self) -> Layout {
        Layout { plain: self.plain, stored: self.stored, data_crc: self.data_crc }
    }

    /// The bytes of the note, without the CRC that follows them.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let expires = self.metadata().is_some_and(|metadata| metadata.expires_at.is_some());
        let flags = if self.more { MORE } else { 0 } | if expires { EXPIRES } else { 0 };
        to.extend([FORM, self.role as u8, flags]);
        for number in [self.synced, self.plain, self.stored] {
            put_varint(to, number);
        }
        to.extend(self.data_crc.to_le_bytes());
        match &self.about {
            About::Pack => {}
            About::Entry(key, metadata) => encode_entry(to, key, metadata),
            About::Absence(key, version) => {
                put_text(to, key);
                put_varint(to, version.as_u64());
            }
            About::Content(checksum) => to.extend(checksum.as_bytes()),
        }
    }
}

/// A note as it lies there, checked and not copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoteView<'b> {
    pub(crate) role: Role,
    pub(crate) more: bool,
    pub(crate) synced: u64,
    pub(crate) plain: u64,
    pub(crate) stored: u64,
    pub(crate) data_crc: u32,
    about: AboutView<'b>,
}

#[derive(Clone, Copy, Debug)]
enum AboutView<'b> {
    Pack,
    Entry(EntryView<'b>),
    Absence(&'b str, Version),
    Content(Checksum),
}

/// A key and its metadata as they lie there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryView<'b> {
    pub(crate) key: &'b str,
    version: Version,
    created_at: Timestamp,
    modified_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) checksum: Checksum,
    tags: Texts<'b>,
    encodings: Texts<'b>,
}

/// Texts in a row.
#[derive(Clone, Copy, Debug)]
struct Texts<'b>(&'b [u8]);

impl<'b> Texts<'b> {
    /// A number, and so many times `each` texts.
    fn read(from: &mut Reader<'b>, each: usize) -> Result<Self, Wrong> {
        let count = from.varint()?;
        let before = from.rest();
        for _ in 0..count {
            for _ in 0..each {
                from.text()?;
            }
        }
        Ok(Self(&before[..before.len() - from.rest().len()]))
    }

    fn iter(self) -> impl Iterator<Item = &'b str> {
        let mut from = Reader::new(self.0);
        std::iter::from_fn(move || if from.rest().is_empty() { None } else { from.text().ok() })
    }
}

impl<'b> EntryView<'b> {
    /// The user's tags, each once.
    pub(crate) fn tags(&self) -> BTreeMap<&'b str, &'b str> {
        let mut texts = self.tags.iter();
        std::iter::from_fn(|| Some((texts.next()?, texts.next()?))).collect()
    }

    /// What layers did to the value.
    pub(crate) fn encodings(&self) -> Vec<&'b str> {
        self.encodings.iter().collect()
    }

    fn metadata(&self) -> Metadata {
        let own = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
        Metadata {
            kind: self.kind,
            size: self.size,
            version: self.version,
            created_at: self.created_at,
            modified_at: self.modified_at,
            expires_at: self.expires_at,
            checksum: self.checksum,
            tags: Tags::from(self.tags().into_iter().map(own).collect::<BTreeMap<_, _>>()),
            encodings: self.encodings.iter().map(str::to_owned).collect(),
        }
    }
}

impl<'b> NoteView<'b> {
    /// Looks at the bytes of a note.
    pub(crate) fn decode(bytes: &'b [u8]) -> Result<Self, Wrong> {
        let mut from = Reader::new(bytes);
        if from.byte()? != FORM {
            return Err(Wrong("its note has an unknown form"));
        }
        let role = Role::of(from.byte()?).ok_or(Wrong("it has an unknown role"))?;
        let flags = from.byte()?;
        if flags & !(MORE | EXPIRES) != 0 {
            return Err(Wrong("it has an unknown flag"));
        }
        let (synced, plain, stored) = (from.varint()?, from.varint()?, from.varint()?);
        let data_crc = from.u32()?;
        let about = match role {
            Role::Value | Role::Reference => {
                AboutView::Entry(EntryView::decode(&mut from, flags & EXPIRES != 0)?)
            }
            Role::Tombstone => AboutView::Absence(key(&mut from)?, Version::from_u64(from.varint()?)),
            Role::Content => AboutView::Content(checksum(&mut from)?),
            Role::Head | Role::Index | Role::Manifest | Role::Signature => AboutView::Pack,
        };
        from.end()?;
        Ok(Self { role, more: flags & MORE != 0, synced, plain, stored, data_crc, about })
    }

    /// How the data lies there.
    pub(crate) fn layout(&self) -> Layout {
        Layout { plain: self.plain, stored: self.stored, data_crc: self.data_crc }
    }

    /// A copy.
    pub(crate) fn to_note(self) -> Result<Note, Wrong> {
        let own = |key: &str| Key::new(key).map_err(|_| NO_KEY);
        let about = match &self.about {
            AboutView::Pack => About::Pack,
            AboutView::Entry(entry) => About::Entry(own(entry.key)?, entry.metadata()),
            AboutView::Absence(key, version) => About::Absence(own(key)?, *version),
            AboutView::Content(checksum) => About::Content(*checksum),
        };
        let Self { role, more, synced, plain, stored, data_crc, .. } = self;
        Ok(Note { role, more, synced, plain, stored, data_crc, about })
    }

    /// The key concerned.
    pub(crate) fn key(&self) -> Option<&'b str> {
        match &self.about {
            AboutView::Entry(entry) => Some(entry.key),
            AboutView::Absence(key, _) => Some(key),
            AboutView::Pack | AboutView::Content(_) => None,
        }
    }

    /// The key with its metadata, of a value or a reference.
    pub(crate) fn entry(&self) -> Option<&EntryView<'b>> {
        match &self.about {
            AboutView::Entry(entry) => Some(entry),
            _ => None,
        }
    }

    /// The checksum of the plain value that the record holds or refers to.
    pub(crate) fn checksum(&self) -> Option<Checksum> {
        match &self.about {
            AboutView::Entry(entry) => Some(entry.checksum),
            AboutView::Content(checksum) => Some(*checksum),
            AboutView::Pack | AboutView::Absence(..) => None,
        }
    }

    /// The version that the record gives its key.
    pub(crate) fn version(&self) -> Option<Version> {
        match &self.about {
            AboutView::Entry(entry) => Some(entry.version),
            AboutView::Absence(_, version) => Some(*version),
            AboutView::Pack | AboutView::Content(_) => None,
        }
    }
}

fn encode_entry(to: &mut Vec<u8>, key: &Key, metadata: &Metadata) {
    put_text(to, key);
    put_varint(to, metadata.version.as_u64());
    put_zigzag(to, metadata.created_at.as_millis());
    put_zigzag(to, metadata.modified_at.as_millis());
    if let Some(end) = metadata.expires_at {
        put_zigzag(to, end.as_millis());
    }
    to.push(match metadata.kind {
        Kind::Json => b'j',
        Kind::Bytes => b'b',
        Kind::Array => b'a',
    });
    put_varint(to, metadata.size);
    to.extend(metadata.checksum.as_bytes());
    put_varint(to, metadata.tags.len() as u64);
    for (name, text) in metadata.tags.iter() {
        put_text(to, name);
        put_text(to, text);
    }
    put_varint(to, metadata.encodings.len() as u64);
    for encoding in &metadata.encodings {
        put_text(to, encoding);
    }
}

impl<'b> EntryView<'b> {
    fn decode(from: &mut Reader<'b>, expires: bool) -> Result<Self, Wrong> {
        let key = key(from)?;
        let version = Version::from_u64(from.varint()?);
        let (created_at, modified_at) = (time(from)?, time(from)?);
        let expires_at = if expires { Some(time(from)?) } else { None };
        let kind = match from.byte()? {
            b'j' => Kind::Json,
            b'b' => Kind::Bytes,
            b'a' => Kind::Array,
            _ => return Err(Wrong("it has an unknown kind of value")),
        };
        let size = from.varint()?;
        let checksum = checksum(from)?;
        let (tags, encodings) = (Texts::read(from, 2)?, Texts::read(from, 1)?);
        Ok(Self { key, version, created_at, modified_at, expires_at, kind, size, checksum, tags, encodings })
    }
}

const NO_KEY: Wrong = Wrong("its key is none");

fn key<'b>(from: &mut Reader<'b>) -> Result<&'b str, Wrong> {
    let key = from.text()?;
    if key.is_empty() || Key::check_prefix(key).is_err() { Err(NO_KEY) } else { Ok(key) }
}

fn time(from: &mut Reader<'_>) -> Result<Timestamp, Wrong> {
    from.zigzag().map(Timestamp::from_millis)
}

fn checksum(from: &mut Reader<'_>) -> Result<Checksum, Wrong> {
    from.array().map(Checksum::from_bytes)
}
