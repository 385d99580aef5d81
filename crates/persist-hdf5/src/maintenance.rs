//! Sweeping, figures, and checking everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use persist_core::writing::Done;
use persist_core::{Key, Maintenance, Result, Stats, StorageError};

use crate::change::{Change, Step};
use crate::compaction::Compacted;
use crate::retention::Rules;
use crate::state::Shared;
use crate::worker::Worker;

/// Why the file stays as it is.
const READ_BY_OTHERS: &str =
    "another process reads the file, so the log was not copied into it and the file not compacted";

/// How many expired values are removed in one commit.
const SWEEP: usize = 500;

/// Removes what has expired or is too old, copies the log into the file, and compacts the file if that is due.
///
/// # Errors
/// What the library and the disk say.
pub(crate) async fn maintain(shared: &Shared, rules: &Rules, worker: &Worker) -> Result<Maintenance> {
    let mut report = Maintenance::default();
    loop {
        let expired = shared.index.read().expired(shared.descriptor.now(), SWEEP);
        let full = expired.len() == SWEEP;
        let removed = sweep(worker, expired, &mut report).await?;
        if !full || removed == 0 {
            break;
        }
    }
    if !rules.is_empty() {
        let removed = rules.apply(shared, worker).await?;
        report.freed_bytes += removed.bytes;
        report.notes.push(format!("{} values were older than `retention` allows", removed.values));
    }
    if !worker.task("maintain", |engine| engine.checkpoint()).await? {
        report.notes.push(READ_BY_OTHERS.to_owned());
        return Ok(report);
    }
    if let Some(compacted) = worker.task("maintain", |engine| engine.compact_if_due()).await? {
        note(&mut report, compacted);
    }
    Ok(report)
}

/// Compacts whatever the figures say.
///
/// # Errors
/// As [`maintain`].
pub(crate) async fn compact(worker: &Worker) -> Result<Maintenance> {
    let mut report = Maintenance::default();
    let compacted = worker.task("maintain", |engine| engine.compact()).await?;
    note(&mut report, compacted);
    Ok(report)
}

fn note(report: &mut Maintenance, compacted: Compacted) {
    match compacted {
        Compacted::Done { before, after } => {
            report.freed_bytes += before.saturating_sub(after);
            report.notes.push(format!("the file was compacted from {before} to {after} bytes"));
        }
        Compacted::Busy => report.notes.push(READ_BY_OTHERS.to_owned()),
        Compacted::Refused(why) => report.notes.push(format!("the file was not compacted: {why}")),
    }
}

async fn sweep(worker: &Worker, expired: Vec<Key>, report: &mut Maintenance) -> Result<u64, StorageError> {
    if expired.is_empty() {
        return Ok(0);
    }
    let steps = expired.into_iter().map(|key| Step::Sweep { key, before: None }).collect();
    let mut removed = 0;
    for done in worker.change(Change::each("maintain", steps)).await? {
        if let Done::Swept(Some(bytes)) = done? {
            removed += 1;
            report.freed_bytes += bytes;
        }
    }
    report.expired += removed;
    Ok(removed)
}

/// Figures; nothing is read from the disk for them.
pub(crate) fn stats(shared: &Shared) -> Stats {
    let now = shared.descriptor.now();
    let (keys, bytes, expired, medium) = {
        let index = shared.index.read();
        let (keys, bytes) = index.size();
        (keys as u64, bytes, index.count_expired(now) as u64, Arc::clone(index.medium()))
    };
    let report = &shared.report;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (major, minor, release) = crate::ffi::version();
    let counters = BTreeMap::from([
        ("expired_keys", expired),
        ("file_bytes", medium.end()),
        ("files", medium.parts().count() as u64),
        ("log_bytes", read(&report.log_bytes)),
        ("pages_in_memory", medium.overlaid() as u64),
        ("commits", read(&report.commits)),
        ("changes", read(&report.changes)),
        ("largest_batch", read(&report.largest_batch)),
        ("retried_batches", read(&report.retried_batches)),
        ("checkpoints", read(&report.checkpoints)),
        ("delayed_checkpoints", read(&report.delayed_checkpoints)),
        ("compactions", read(&report.compactions)),
        ("arrays_hashed", read(&report.arrays_hashed)),
        ("largest_step", read(&report.largest_step)),
        ("hdf5_version", u64::from(major * 1_000_000 + minor * 1000 + release)),
    ]);
    Stats { keys: Some(keys.saturating_sub(expired)), bytes: Some(bytes), counters }
}
