use std::time::Instant;

use futures_util::StreamExt;
use persist_core::{Checksum, Condition, ErrorKind, Expiry, Kind, Tags};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::app::App;
use crate::console::Progress;
use crate::exit::{Failure, Result};
use crate::pair::Pair;
use crate::place::{Item, Place};
use crate::spot::{Known, Piece, Reading, Spot, State, blocking};
use crate::tally::Tally;

/// How much may be in memory at once, in units of 4 KiB: 256 MiB, or one value if it is larger.
const ROOM: u32 = 1 << 16;

/// After how many moved values the target is flushed and the source emptied.
const SETTLE: usize = 256;

/// How values are moved from one place to another; the engine under `cp`, `mv` and `sync`.
#[derive(Debug)]
pub(crate) struct How {
    /// The kind asked for; else the extension tells.
    pub(crate) kind: Option<Kind>,
    /// An expiry that replaces what the value has.
    pub(crate) expiry: Option<Expiry>,
    /// Tags that are added to those of the value.
    pub(crate) tags: Tags,
    /// What is there already stays as it is.
    pub(crate) no_clobber: bool,
    /// Leave what is equal already; `None`: copy everything.
    pub(crate) compare: Option<Equality>,
    /// Read every value back.
    pub(crate) verify: bool,
    /// Empty the source once the value is safe in its new place.
    pub(crate) empty_source: bool,
    /// Change nothing.
    pub(crate) dry_run: bool,
    /// How many values are on their way at once.
    pub(crate) jobs: usize,
}

/// What makes two values equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Equality {
    /// Kind, size and checksum.
    Checksum,
    /// Kind and size.
    Size,
}

/// What happened to one value.
#[derive(Debug)]
pub(crate) enum Done {
    /// It is in its new place.
    Copied { bytes: u64, state: State },
    /// It was there already.
    Unchanged,
    /// Something else was there, and stays.
    Kept,
    /// It vanished before it was its turn.
    Gone,
}

/// One run of the engine.
pub(crate) struct Transfer<'a> {
    app: &'a App,
    how: How,
    room: Semaphore,
}

impl<'a> Transfer<'a> {
    /// A run with these settings.
    pub(crate) fn new(app: &'a App, how: How) -> Self {
        Self { app, how, room: Semaphore::new(ROOM as usize) }
    }

    /// Moves what a pair of addresses means.
    pub(crate) async fn pair(&self, pair: &Pair, delete: bool) -> Result<()> {
        match pair {
            Pair::Single(from, to) => self.single(from, to).await,
            Pair::Many(from, to) => self.many(from, to, delete).await,
        }
    }

    /// Moves one value that the user named.
    async fn single(&self, from: &Spot, to: &Spot) -> Result<()> {
        let start = Instant::now();
        let mut tally = Tally::default();
        let done = self.one(from, to, false).await?;
        if matches!(done, Done::Gone) {
            return Err(Failure::absent(format!("there is nothing at {}", from.show())));
        }
        if let (Done::Copied { state, .. }, true, false) = (&done, self.how.empty_source, self.how.dry_run) {
            if let Spot::Key(place) = to {
                place.storage.flush().await?;
            }
            from.remove(Some(*state)).await?;
        }
        // Standard output belongs to the value then.
        if matches!(to, Spot::Stdio) {
            return Ok(());
        }
        self.report(&mut tally, from.show(), to.show(), done)?;
        self.finish(tally, start)
    }

    /// Moves every value of a place; then, with `delete`, removes from the target what the source has not.
    async fn many(&self, from: &Place, to: &Place, delete: bool) -> Result<()> {
        let start = Instant::now();
        let progress = self.app.console.progress(self.doing());
        let mut tally = self.copy_all(from, to, &progress).await?;
        if delete && tally.is_clean() {
            self.delete_strangers(from, to, &mut tally).await?;
        } else if delete {
            self.app.console.warn("nothing was deleted, because not everything could be copied");
        }
        drop(progress);
        self.finish(tally, start)
    }

    async fn copy_all(&self, from: &Place, to: &Place, progress: &Progress) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut pending = Vec::new();
        let mut steps = from.items().map(|item| self.step(item, from, to)).buffered(self.how.jobs);
        while let Some((name, outcome)) = steps.next().await {
            match outcome {
                Ok((Some(source), done)) => {
                    if let Done::Copied { bytes, state } = done {
                        progress.step(bytes);
                        pending.push((source, state));
                    }
                    self.report(&mut tally, from.show(&name), to.show(&name), done)?;
                }
                Ok((None, _)) => tally.skipped += 1,
                Err(failure) => self.survive(&mut tally, failure)?,
            }
            if pending.len() >= SETTLE {
                self.settle(&mut pending, to, &mut tally).await?;
            }
        }
        self.settle(&mut pending, to, &mut tally).await?;
        Ok(tally)
    }

    /// One item of a source: its name, its spot unless it is no value, and what happened.
    async fn step(
        &self,
        item: Result<Item>,
        from: &Place,
        to: &Place,
    ) -> (String, Result<(Option<Spot>, Done)>) {
        let name = match item {
            Ok(Item::Value(name)) => name,
            Ok(Item::Skipped(what, why)) => {
                self.app.console.note(&format!("skipped {what}: {why}"));
                return (what, Ok((None, Done::Gone)));
            }
            Err(failure) => return (String::new(), Err(failure)),
        };
        let outcome = async {
            let source = from.spot(&name)?;
            let done = self.one(&source, &to.spot(&name)?, true).await?;
            Ok((Some(source), done))
        };
        let outcome = outcome.await;
        (name, outcome)
    }

    async fn one(&self, from: &Spot, to: &Spot, lenient: bool) -> Result<Done> {
        // A stream has no length, and a device has none that says anything.
        let known = from.know().await?;
        if known.is_none() && lenient {
            return Ok(Done::Gone);
        }
        let reading = Reading { kind: self.how.kind, lenient, limit: to.limit() };
        if self.is_unchanged(from, to, known, reading).await? {
            return Ok(Done::Unchanged);
        }
        let bytes = known.map_or(0, |known| known.bytes);
        if self.how.no_clobber
            && (self.how.dry_run || matches!(to, Spot::File(_)))
            && to.know().await?.is_some()
        {
            return Ok(Done::Kept);
        }
        if self.how.dry_run {
            let is_there = known.is_some() || !matches!(from, Spot::Key(_));
            return Ok(if is_there { Done::Copied { bytes, state: State::Stream } } else { Done::Gone });
        }
        let _room = self.room(bytes).await?;
        let Some(piece) = from.read(reading).await? else { return Ok(Done::Gone) };
        self.put(self.dressed(piece), to).await
    }

    /// The value with what the user asked to go along.
    fn dressed(&self, mut piece: Piece) -> Piece {
        if let Some(note) = piece.note.take() {
            self.app.console.note(&note);
        }
        piece.expiry = self.how.expiry.unwrap_or(piece.expiry);
        let added = self.how.tags.iter();
        piece.tags = added.fold(piece.tags, |tags, (name, text)| tags.with(name, text));
        piece
    }

    async fn put(&self, piece: Piece, to: &Spot) -> Result<Done> {
        let condition = if self.how.no_clobber { Condition::IfAbsent } else { Condition::None };
        match to.write(&piece, condition, self.how.empty_source, &self.app.out).await {
            Err(Failure::Told(told)) if self.how.no_clobber && told.kind == ErrorKind::Conflict.as_str() => {
                return Ok(Done::Kept);
            }
            result => result?,
        };
        if self.how.verify {
            check_back(&piece, to).await?;
        }
        Ok(Done::Copied { bytes: piece.value.size(), state: piece.state })
    }

    /// Waits until a value of this size may be in memory beside the others.
    async fn room(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        let units = u32::try_from(bytes / 4096 + 1).unwrap_or(ROOM).min(ROOM);
        self.room.acquire_many(units).await.map_err(|error| Failure::new(error.to_string()))
    }

    async fn is_unchanged(
        &self,
        from: &Spot,
        to: &Spot,
        source: Option<Known>,
        reading: Reading,
    ) -> Result<bool> {
        let Some(compare) = self.how.compare else { return Ok(false) };
        let (Some(source), Some(target)) = (source, to.know().await?) else { return Ok(false) };
        // The file of an array has a header, so lengths of files say something about the other kinds only.
        let kind = source.kind.or(target.kind);
        if kind != Some(Kind::Array) && source.bytes != target.bytes {
            return Ok(false);
        }
        match (source.kind, target.kind) {
            (Some(ours), Some(theirs)) if ours != theirs => Ok(false),
            _ if compare == Equality::Size && kind != Some(Kind::Array) => Ok(true),
            (None, Some(kind)) => Ok(file_print(from, reading).await? == (kind, target.checksum)),
            _ => Ok(source.checksum == to.checksum().await?),
        }
    }

    /// Empties the spots whose values are safe in the target.
    async fn settle(&self, moved: &mut Vec<(Spot, State)>, to: &Place, tally: &mut Tally) -> Result<()> {
        if self.how.dry_run || !self.how.empty_source || moved.is_empty() {
            moved.clear();
            return Ok(());
        }
        to.flush().await?;
        for (spot, state) in moved.drain(..) {
            if let Err(failure) = spot.remove(Some(state)).await {
                self.survive(tally, failure)?;
            }
        }
        Ok(())
    }

    async fn delete_strangers(&self, from: &Place, to: &Place, tally: &mut Tally) -> Result<()> {
        if tally.seen() == 0 {
            return Err(Failure::refused(
                "the source is empty, so --delete would remove everything from the target; if that is what you \
                 want, say so with rm -r",
            ));
        }
        let mut items = to.items();
        while let Some(item) = items.next().await {
            let Item::Value(name) = item? else { continue };
            if let Ok(source) = from.spot(&name)
                && source.know().await?.is_some()
            {
                continue;
            }
            if !self.how.dry_run {
                to.spot(&name)?.remove(None).await?;
            }
            tally.deleted += 1;
            self.tell("delete", &to.show(&name), None, None)?;
        }
        Ok(())
    }

    /// Counts a failure that leaves the rest of the run alone; gives others back.
    fn survive(&self, tally: &mut Tally, failure: Failure) -> Result<()> {
        if !failure.concerns_one() {
            return Err(failure);
        }
        self.app.console.fail(&failure);
        tally.fail(failure.exit());
        Ok(())
    }

    fn report(&self, tally: &mut Tally, from: String, to: String, done: Done) -> Result<()> {
        let (action, bytes) = match done {
            Done::Copied { bytes, .. } => {
                tally.copied += 1;
                tally.bytes += bytes;
                (if self.how.empty_source { "move" } else { "copy" }, Some(bytes))
            }
            Done::Unchanged => {
                tally.unchanged += 1;
                return Ok(());
            }
            Done::Kept => {
                tally.kept += 1;
                ("keep", None)
            }
            Done::Gone => return Ok(()),
        };
        self.tell(action, &from, Some(&to), bytes)
    }

    /// One line for one change: for programs always, for people if they asked to see each.
    fn tell(&self, action: &str, from: &str, to: Option<&str>, bytes: Option<u64>) -> Result<()> {
        let out = &self.app.out;
        if out.is_json() {
            return match to {
                Some(to) => out.json(&json!({ "action": action, "from": from, "to": to, "bytes": bytes })),
                None => out.json(&json!({ "action": action, "at": from })),
            };
        }
        if !self.how.dry_run && !self.app.is_verbose() {
            return Ok(());
        }
        out.line(&to.map_or_else(|| format!("{action} {from}"), |to| format!("{action} {from} -> {to}")))
    }

    fn finish(&self, tally: Tally, start: Instant) -> Result<()> {
        let verified = self.how.verify && !self.how.dry_run;
        let seconds = start.elapsed();
        if self.app.out.is_json() {
            self.app.out.json(&tally.summary(verified, self.how.dry_run, seconds))?;
        } else {
            self.app.out.flush()?;
            self.app.console.note(&tally.sentence(self.done_word(), verified, seconds));
        }
        tally.into_result()
    }

    fn doing(&self) -> &'static str {
        if self.how.empty_source { "moving" } else { "copying" }
    }

    fn done_word(&self) -> &'static str {
        match (self.how.dry_run, self.how.empty_source) {
            (true, true) => "would move",
            (true, false) => "would copy",
            (false, true) => "moved",
            (false, false) => "copied",
        }
    }
}

/// Reads a value back from where it was put.
async fn check_back(piece: &Piece, to: &Spot) -> Result<()> {
    let found = match to {
        // A retrieve checks the value against its checksum; metadata alone would not.
        Spot::Key(place) => place.storage.retrieve(&place.key).await?.map(|entry| entry.metadata.checksum),
        _ => to.checksum().await?,
    };
    if found == Some(piece.value.checksum()) {
        return Ok(());
    }
    let what = if found.is_some() { "reads back differently" } else { "is not there any more" };
    Err(Failure::corruption(format!("{} {what}; the source was left as it was", to.show())))
}

/// Kind and checksum of the value that a local file would become.
async fn file_print(file: &Spot, reading: Reading) -> Result<(Kind, Option<Checksum>)> {
    let Some(piece) = file.read(reading).await? else { return Ok((Kind::Bytes, None)) };
    blocking(move || Ok((piece.value.kind(), Some(piece.value.checksum())))).await
}
