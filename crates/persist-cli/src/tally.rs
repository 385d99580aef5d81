use std::time::Duration;

use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Result};
use crate::text;

/// What a run over many values has done so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Values in their new place.
    pub(crate) copied: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Values that were there already.
    pub(crate) unchanged: u64,
    /// Values that something else, which stays, kept out.
    pub(crate) kept: u64,
    /// Values removed from the target.
    pub(crate) deleted: u64,
    /// What is no value: links, devices.
    pub(crate) skipped: u64,
    failed: u64,
    first: Option<Exit>,
}

impl Tally {
    /// Counts a failure; the first one decides how the program ends.
    pub(crate) fn fail(&mut self, exit: Exit) {
        self.failed += 1;
        self.first.get_or_insert(exit);
    }

    /// True if nothing failed.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0
    }

    /// How many values the source had.
    pub(crate) fn seen(&self) -> u64 {
        self.copied + self.unchanged + self.kept + self.failed
    }

    /// For programs.
    pub(crate) fn summary(&self, verified: bool, dry_run: bool, time: Duration) -> Value {
        json!({
            "action": "summary",
            "copied": self.copied,
            "bytes": self.bytes,
            "unchanged": self.unchanged,
            "kept": self.kept,
            "deleted": self.deleted,
            "skipped": self.skipped,
            "failed": self.failed,
            "verified": verified,
            "dry_run": dry_run,
            "seconds": time.as_secs_f64(),
        })
    }

    /// For people.
    pub(crate) fn sentence(&self, done: &str, verified: bool, time: Duration) -> String {
        let mut sentence = format!(
            "{done} {} ({}) in {}",
            text::things(self.copied, "value"),
            text::size(self.bytes),
            text::seconds(time)
        );
        if verified && self.copied > 0 && self.is_clean() {
            sentence += "; read back, every checksum agrees";
        }
        for (number, what) in [
            (self.unchanged, "unchanged"),
            (self.kept, "kept as they were"),
            (self.deleted, "deleted"),
            (self.skipped, "skipped"),
            (self.failed, "FAILED"),
        ] {
            if number > 0 {
                sentence += &format!("; {} {what}", text::count(number));
            }
        }
        sentence
    }

    /// Success, or the number of the first failure.
    pub(crate) fn into_result(self) -> Result<()> {
        self.first.map_or(Ok(()), |exit| Err(Failure::Reported(exit)))
    }
}
