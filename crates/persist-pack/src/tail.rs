//! What makes a log a sealed pack: index, manifest, central directory and seal. All of it follows from the log, so that it
//! can be made anew and compared.

use bytes::Bytes;

use crate::codec::Payload;
use crate::config::Compression;
use crate::directory::Directory;
use crate::guide::Guide;
use crate::head::PackHead;
use crate::index::{self, Entry};
use crate::manifest::{self, ItemView, Manifest};
use crate::note::{About, Role};
use crate::parallel::{both, in_parallel};
use crate::record::{HeadView, Place, encode_head, view_head};
use crate::rows::{Damaged, Row, Rows, shown};
use crate::seal::Seal;
use crate::wire::Wrong;

/// The name of the index in the pack.
pub(crate) const INDEX_NAME: &str = ".persist/index";

/// The name of the signature in the pack.
pub(crate) const SIGNATURE_NAME: &str = ".persist/signature.json";

/// How many keys or entries are worked on at a time.
const PORTION: usize = 4096;

/// What a tail has beside what follows from the log.
#[derive(Debug, Default)]
pub(crate) struct Extras<'b> {
    /// The text of the signature.
    pub(crate) signature: Option<&'b [u8]>,
    /// How the manifest is packed.
    pub(crate) compression: Compression,
    /// The manifest as it was packed before, with its text: taken over if the text is the same, so that a tail can be
    /// compared with one that another version of the codec packed.
    pub(crate) manifest: Option<(Bytes, Payload)>,
}

impl Extras<'_> {
    fn packed(&self, text: Vec<u8>) -> Payload {
        match &self.manifest {
            Some((before, payload)) if *before == text => payload.clone(),
            _ => Payload::of_bytes(text.into(), self.compression),
        }
    }
}

/// The part of a sealed pack after its log.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) bytes: Vec<u8>,
    pub(crate) seal: Seal,
}

impl Tail {
    /// Makes the tail of a whole log that begins with `pack`, whose second record is at `start`.
    ///
    /// # Errors
    /// What is damaged.
    pub(crate) fn of(log: &[u8], pack: &PackHead, start: u64, extras: &Extras<'_>) -> Result<Self, Damaged> {
        Self::of_rows(&Rows::read(log, pack, start, &Guide::default())?, pack, log.len() as u64, extras)
    }

    /// As [`of`](Self::of), with the records of the log, which ends at `end`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_rows(
        rows: &Rows<'_>,
        pack: &PackHead,
        end: u64,
        extras: &Extras<'_>,
    ) -> Result<Self, Damaged> {
        let failed = |wrong| (end, wrong);
        let Listed { entries, manifest, shown } = Listed::of(rows)?;
        let items = manifest.count();
        let (index, (manifest, root)) = both(
            || Payload::of_bytes(index::build(&entries, &rows.contents).into(), Compression::None),
            || {
                let (text, root) = manifest.finish();
                (extras.packed(text), root)
            },
        );
        let mut tail = Writing { salt: pack.salt, start: end, bytes: Vec::new(), own: Vec::new() };
        tail.record(INDEX_NAME, Role::Index, &index).map_err(failed)?;
        let manifest_at = tail.at();
        tail.record(manifest::NAME, Role::Manifest, &manifest).map_err(failed)?;
        if let Some(signature) = extras.signature {
            let signature = Payload::of_bytes(Bytes::copy_from_slice(signature), Compression::None);
            tail.record(SIGNATURE_NAME, Role::Signature, &signature).map_err(failed)?;
        }
        let directory_at = tail.at();
        let mut directory = directory_of(rows, &shown)?;
        for at in &tail.own {
            directory.add(&tail.head(*at).map_err(|wrong| (*at, wrong))?, *at);
        }
        let seal = Seal { index_at: end, manifest_at, directory_at, items, floor: rows.floor, root };
        tail.bytes.extend(directory.finish(directory_at, &seal.text()));
        Ok(Self { bytes: tail.bytes, seal })
    }
}

/// What is listed of some keys.
#[derive(Default)]
struct Listed<'b> {
    /// For the index.
    entries: Vec<Entry<'b>>,
    manifest: Manifest,
    /// Offsets of the records in the directory.
    shown: Vec<u64>,
}

impl<'b> Listed<'b> {
    fn of(rows: &Rows<'b>) -> Result<Self, Damaged> {
        let keys: Vec<&[Row<'b>]> = rows.by_key().collect();
        let portions: Vec<&[&[Row<'b>]]> = keys.chunks(PORTION).collect();
        let mut whole = Self { shown: rows.others.clone(), ..Self::default() };
        for part in in_parallel(&portions, |keys| Self::of_keys(rows, keys)) {
            let part = part?;
            whole.entries.extend(part.entries);
            whole.manifest.append(part.manifest);
            whole.shown.extend(part.shown);
        }
        whole.shown.sort_unstable();
        Ok(whole)
    }

    fn of_keys(rows: &Rows<'b>, keys: &[&[Row<'b>]]) -> Result<Self, Damaged> {
        let mut part = Self::default();
        for records in keys {
            let Some(last) = records.last() else { continue };
            let at = |wrong| (last.at, wrong);
            let head = rows.head(last.at).map_err(at)?;
            part.entries.push(entry(last, &head));
            let Some(about) = head.note.entry() else { continue };
            let row = shown(records);
            let name = match row {
                Some(row) if row.at == last.at => Some(head.name),
                Some(row) => Some(rows.head(row.at).map_err(|wrong| (row.at, wrong))?.name),
                None => None,
            };
            let hash = blake3::Hash::from_bytes(*about.checksum.as_bytes()).to_hex();
            part.manifest.add(&ItemView::of_entry(about, &hash), name).map_err(at)?;
            part.shown.extend(row.map(|row| row.at));
        }
        Ok(part)
    }
}

fn entry<'b>(row: &Row<'b>, head: &HeadView<'_>) -> Entry<'b> {
    let about = head.note.entry();
    Entry {
        key: row.key,
        at: row.at,
        len: row.len,
        size: about.map_or(0, |about| about.size),
        expires_at: about.and_then(|about| about.expires_at).map(|end| end.as_millis()),
        is_tombstone: row.role == Role::Tombstone,
        is_reference: row.role == Role::Reference,
    }
}

fn directory_of(rows: &Rows<'_>, shown: &[u64]) -> Result<Directory, Damaged> {
    let portions: Vec<&[u64]> = shown.chunks(PORTION).collect();
    let parts = in_parallel(&portions, |portion| {
        let mut part = Directory::default();
        for at in *portion {
            part.add(&rows.head(*at).map_err(|wrong| (*at, wrong))?, *at);
        }
        Ok(part)
    });
    let mut whole = Directory::default();
    for part in parts {
        whole.append(part?);
    }
    Ok(whole)
}

/// A tail in the making.
struct Writing {
    salt: u64,
    start: u64,
    bytes: Vec<u8>,
    /// The offsets of its records.
    own: Vec<u64>,
}

impl Writing {
    fn at(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn record(&mut self, name: &str, role: Role, payload: &Payload) -> Result<(), Wrong> {
        let place = Place { salt: self.salt, at: self.at() };
        let mut note = payload.note(role, About::Pack);
        note.synced = place.at.min(self.start);
        encode_head(&mut self.bytes, place, name.to_owned(), note, payload)?;
        self.own.push(place.at);
        payload.pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        self.bytes.extend(&payload.table);
        Ok(())
    }

    fn head(&self, at: u64) -> Result<HeadView<'_>, Wrong> {
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        view_head(self.bytes.get(from..).unwrap_or_default(), Place { salt: self.salt, at })
    }
}
