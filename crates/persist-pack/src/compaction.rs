//! Gives the space of dead records back: copies what lives in some neighbouring packs into one that takes their place.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use persist_core::{Checksum, Key};

use crate::codec::Payload;
use crate::config::{Compression, PackConfig};
use crate::fault::Fault;
use crate::folder::Span;
use crate::head::PackHead;
use crate::log::{Log, salt};
use crate::map::map;
use crate::name::Names;
use crate::note::{About, Role};
use crate::record::{Place, encode_head};
use crate::sealed::{Known, Sealed};
use crate::state::{Found, Home, State};
use crate::tail::{Extras, Tail};
use crate::wire::Wrong;

/// So many small packs in a row are made one.
const MANY_SMALL: usize = 4;

/// What lives in each pack, in bytes of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// One figure for each pack, and one for the log.
    pub(crate) live: Vec<u64>,
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
    pub(crate) expired: u64,
}

impl Census {
    /// Counts all keys. `now` in milliseconds since 1970.
    pub(crate) fn take(state: &State, now: i64) -> Result<Self, Wrong> {
        let mut census = Self { live: vec![0; state.packs.len() + 1], keys: 0, bytes: 0, expired: 0 };
        let mut references: HashSet<Checksum> = HashSet::new();
        state.walk("", false, |layer, known| {
            // A tombstone in the oldest pack hides nothing.
            if known.is_tombstone {
                census.live[layer] += if layer == 0 { 0 } else { known.len };
                return Ok(true);
            }
            if known.expires_at.is_some_and(|end| end <= now) {
                census.expired += 1;
            } else {
                census.keys += 1;
                census.bytes += known.size;
            }
            census.live[layer] += known.len;
            if known.is_reference
                && let Ok(found) = state.record(layer, &known)
                && let Some(checksum) = found.head().note.checksum()
            {
                references.insert(checksum);
            }
            Ok(true)
        })?;
        for checksum in references {
            if let Ok(Some(found)) = state.content(&checksum, |_| true) {
                census.live[layer_of(state, &found)] += extra_len(state, &found);
            }
        }
        Ok(census)
    }
}

fn layer_of(state: &State, found: &Found) -> usize {
    match &found.home {
        Home::Log(_) => state.packs.len(),
        Home::Pack(pack) => {
            state.packs.iter().position(|other| Arc::ptr_eq(other, pack)).unwrap_or(state.packs.len())
        }
    }
}

/// The length of a record that lives because others refer to it; nothing, if it was counted as that of its own key.
fn extra_len(state: &State, found: &Found) -> u64 {
    let own = found.head().note.key().and_then(|key| state.known(key).ok().flatten());
    let counted = own.is_some_and(|(layer, known)| {
        layer == layer_of(state, found) && known.at == found.slot.at && !known.is_tombstone
    });
    if counted { 0 } else { found.head().record_len() }
}

/// Which packs to compact into one; `None`: it is not worth it anywhere.
pub(crate) fn choose(state: &State, census: &Census, config: &PackConfig) -> Option<Range<usize>> {
    let sizes: Vec<u64> = state.packs.iter().map(|pack| pack.seal.index_at).collect();
    choose_of(&sizes, &census.live, config.pack_size.0, config.dead_share)
}

fn choose_of(sizes: &[u64], live: &[u64], pack_size: u64, dead_share: f64) -> Option<Range<usize>> {
    let share = |at: usize| live[at] as f64 / sizes[at].max(1) as f64;
    let dirty: Vec<bool> =
        (0..sizes.len()).map(|at| share(at) < 1.0 - dead_share && sizes[at] > 4096).collect();
    let small: Vec<bool> = live.iter().take(sizes.len()).map(|live| *live < pack_size / 4).collect();
    // First what gives space back, with the small neighbours of it.
    if let Some(first) = dirty.iter().position(|dirty| *dirty) {
        let mut run = first..first + 1;
        let mut total = live[first];
        while run.end < sizes.len()
            && (dirty[run.end] || small[run.end])
            && total + live[run.end] <= pack_size
        {
            total += live[run.end];
            run.end += 1;
        }
        return Some(run);
    }
    let mut start = 0;
    while start < sizes.len() {
        let run = small[start..].iter().take_while(|small| **small).count();
        if run >= MANY_SMALL {
            let mut total = 0;
            let fits = |at: &usize| {
                total += live[*at];
                total <= pack_size
            };
            let count = (start..start + run).take_while(fits).count().max(2);
            return Some(start..start + count);
        }
        start += run + 1;
    }
    None
}

/// A compacted pack that is not in its place yet.
#[derive(Debug)]
pub(crate) struct Compacted {
    /// The packs that it takes the place of, by their position.
    pub(crate) run: Range<usize>,
    pub(crate) span: Span,
    pub(crate) unfinished: PathBuf,
    /// Whether it is on the disk.
    pub(crate) synced: io::Result<()>,
}

/// What the log holds, which lies above the packs and is not compacted: what it says of a key is newer than they do.
#[derive(Debug, Default)]
pub(crate) struct Above {
    keys: HashSet<Key>,
    /// What it refers to.
    contents: HashSet<Checksum>,
}

impl Above {
    /// What is in a log, all of which is on the disk.
    pub(crate) fn of(log: Option<&Log>) -> Self {
        let mut above = Self::default();
        for slot in log.into_iter().flat_map(|log| log.memory.slots()) {
            above.keys.extend(slot.head.note.key().cloned());
            above.contents.extend(slot.head.note.checksum());
        }
        above
    }
}

/// Copies what lives in the packs `run` of a view (sealed packs alone) into a new file.
///
/// # Errors
/// Why that cannot be done, and what is damaged: then the packs stay as they are.
pub(crate) fn compact(
    view: &State,
    run: Range<usize>,
    above: Above,
    compression: Compression,
    unfinished: PathBuf,
) -> Result<Compacted, Fault> {
    let result = write(view, run.clone(), above, compression, &unfinished);
    if result.is_err() {
        // If it cannot be removed, the next opening does so.
        let _ = fs::remove_file(&unfinished);
    }
    result.map(|(span, synced)| Compacted { run, span, unfinished, synced })
}

fn write(
    view: &State,
    run: Range<usize>,
    above: Above,
    compression: Compression,
    unfinished: &PathBuf,
) -> Result<(Span, io::Result<()>), Fault> {
    let victims = &view.packs[run.clone()];
    let (Some(first), Some(last)) = (victims.first(), victims.last()) else {
        return Err(Wrong("there is nothing to compact").into());
    };
    let span = Span { first: first.pack.first, last: last.pack.last };
    let floor = victims.iter().map(|pack| pack.seal.floor).max().unwrap_or(0);
    let pack = PackHead::new(salt(), span.first, span.last, floor);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(unfinished)?;
    let mut output = Output::begin(&file, &pack)?;
    let start = output.at;
    output.keys(view, &run, above)?;
    let end = output.finish()?;
    let bytes = map(&file)?;
    let len = usize::try_from(end).unwrap_or(usize::MAX).min(bytes.len());
    let extras = Extras { compression: compression.of_manifest(), ..Extras::default() };
    let tail = Tail::of(&bytes[..len], &pack, start, &extras).map_err(|(_, wrong)| wrong)?;
    drop(bytes);
    (&file).write_all(&tail.bytes)?;
    Ok((span, file.sync_all()))
}

/// The new pack in the making.
struct Output<'f> {
    to: BufWriter<&'f File>,
    at: u64,
    salt: u64,
    names: Names,
    written: HashSet<Checksum>,
}

impl<'f> Output<'f> {
    fn begin(file: &'f File, pack: &PackHead) -> Result<Self, Fault> {
        let bytes = pack.encode()?;
        let mut to = BufWriter::with_capacity(1 << 20, file);
        to.write_all(&bytes)?;
        Ok(Self {
            to,
            at: bytes.len() as u64,
            salt: pack.salt,
            names: Names::default(),
            written: HashSet::new(),
        })
    }

    /// Copies the keys whose newest record is in the packs of the run, and the contents in them that others need.
    fn keys(&mut self, view: &State, run: &Range<usize>, above: Above) -> Result<(), Fault> {
        let Above { keys: hidden, contents: mut needed } = above;
        let mut failed = None;
        view.walk("", false, |layer, known| {
            if hidden.contains(&known.key) {
                return Ok(true);
            }
            let copied = if run.contains(&layer) {
                self.key(view, run, layer, &known)
            } else {
                Self::need(view, layer, &known, &mut needed)
            };
            Ok(copied.map_err(|fault| failed = Some(fault)).is_ok())
        })?;
        if let Some(fault) = failed {
            return Err(fault);
        }
        for checksum in needed {
            if self.written.contains(&checksum) {
                continue;
            }
            if let Some(found) = view.content(&checksum, |_| true)?
                && is_in(view, run, &found)
            {
                let payload = found.payload()?;
                let name = format!(".persist/content/{checksum}");
                self.record(About::Content(checksum), Role::Content, name, &payload)?;
            }
        }
        Ok(())
    }

    fn need(view: &State, layer: usize, known: &Known, needed: &mut HashSet<Checksum>) -> Result<(), Fault> {
        if known.is_reference {
            needed.extend(view.record(layer, known)?.head().note.checksum());
        }
        Ok(())
    }

    fn key(&mut self, view: &State, run: &Range<usize>, layer: usize, known: &Known) -> Result<(), Fault> {
        if known.is_tombstone {
            // Nothing older is hidden by it if the oldest pack is among those that are copied.
            return if run.start == 0 { Ok(()) } else { self.tombstone(view, layer, known) };
        }
        let found = view.record(layer, known)?;
        let about = found.head().note.about.clone();
        let About::Entry(key, metadata) = &about else { return Err(Wrong("it is no entry").into()) };
        let holder = view.holder(&found)?;
        if self.written.contains(&metadata.checksum) || !is_in(view, run, &holder) {
            return self.record(about, Role::Reference, String::new(), &Payload::empty());
        }
        let name = self.names.take(key, metadata.kind);
        let payload = holder.payload()?;
        self.record(about, Role::Value, name, &payload)
    }

    fn tombstone(&mut self, view: &State, layer: usize, known: &Known) -> Result<(), Fault> {
        let pack: &Sealed = view.packs.get(layer).ok_or(Wrong("it is not where it was"))?;
        let head = pack.head(known.at)?;
        if head.note.role != Role::Tombstone || head.note.key() != Some(&known.key) {
            return Err(Wrong("the index leads to the record of another key").into());
        }
        self.record(head.note.about, Role::Tombstone, String::new(), &Payload::empty())
    }

    fn record(&mut self, about: About, role: Role, name: String, payload: &Payload) -> Result<(), Fault> {
        let note = payload.note(role, about);
        let place = Place { salt: self.salt, at: self.at };
        let mut bytes = Vec::with_capacity(256);
        let head = encode_head(&mut bytes, place, name, note, payload)?;
        self.at += head.record_len();
        self.to.write_all(&bytes)?;
        for piece in &payload.pieces {
            self.to.write_all(piece)?;
        }
        self.to.write_all(&payload.table)?;
        if role != Role::Reference {
            self.written.extend(head.note.checksum());
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.to.flush()?;
        Ok(self.at)
    }
}

fn is_in(view: &State, run: &Range<usize>, found: &Found) -> bool {
    run.contains(&layer_of(view, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_compacted_where_it_pays() {
        let choose = |sizes: &[u64], live: &[u64]| choose_of(sizes, live, 1_000_000, 0.5);
        assert_eq!(choose(&[900_000, 900_000], &[890_000, 880_000, 0]), None, "all alive");
        assert_eq!(choose(&[900_000, 900_000], &[890_000, 300_000, 0]), Some(1..2), "half dead");
        assert_eq!(
            choose(&[900_000, 900_000, 90_000], &[300_000, 400_000, 80_000, 0]),
            Some(0..3),
            "with neighbours"
        );
        assert_eq!(choose(&[900_000, 900_000], &[300_000, 800_000, 0]), Some(0..1), "the neighbour is full");
        assert_eq!(choose(&[9_000; 3], &[8_900; 4]), None, "a few small ones");
        assert_eq!(choose(&[9_000; 5], &[8_900; 6]), Some(0..5), "many small ones");
        let (sizes, live) = ([900_000, 9_000, 9_000, 9_000, 9_000], [890_000, 8_000, 8_000, 8_000, 8_000, 0]);
        assert_eq!(choose(&sizes, &live), Some(1..5));
        assert_eq!(choose(&[2_000], &[0, 0]), None, "too small to care");
    }
}
