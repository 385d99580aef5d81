//! Tidying up, counting, and reading everything back.

use std::collections::HashSet;
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use persist_core::{ErrorKind, Key, Maintenance, Problem, Result, Stats, StorageError, Verification};

use crate::change::{Change, Done, Step};
use crate::compaction::{Census, Compacted, choose, compact};
use crate::core::{Core, Report};
use crate::engine::Engine;
use crate::fault::{Fault, system};
use crate::parallel::in_parallel;
use crate::reading::value;
use crate::sealed::{Opened, Sealed};
use crate::state::State;
use crate::structure;
use crate::writer::Writer;

/// How many expired values are removed with one sync.
const SWEPT: usize = 1024;

/// A log of at least so many bytes is sealed by `maintain`, so that it can be compacted.
const SEALED_BY_MAINTAIN: u64 = 4 << 20;

/// The most compactions of one `maintain`.
const ROUNDS: usize = 64;

/// How many keys a thread verifies at a time.
const PORTION: usize = 256;

/// Removes what has expired, seals a log that has grown long, and compacts packs that are half dead or many and small.
pub(crate) async fn maintain(core: &Arc<Core>, writer: &Writer) -> Result<Maintenance> {
    let mut report = Maintenance::default();
    sweep(core, writer, &mut report).await?;
    writer
        .task("maintain", |engine| {
            let long = engine.log_len() >= SEALED_BY_MAINTAIN;
            if long { engine.seal() } else { Ok(()) }
        })
        .await?;
    for _ in 0..ROUNDS {
        match compact_once(core, writer).await? {
            Some((packs, freed)) => {
                report.freed_bytes += freed;
                report.notes.push(format!("made {packs} packs one and gave {freed} bytes back"));
            }
            None => break,
        }
    }
    Ok(report)
}

async fn sweep(core: &Arc<Core>, writer: &Writer, report: &mut Maintenance) -> Result<()> {
    let now = core.descriptor.now().as_millis();
    let expired = blocking(core, "maintain", move |core| {
        let mut keys = Vec::new();
        core.state
            .read()
            .walk("", false, |_, known| {
                if !known.is_tombstone && known.expires_at.is_some_and(|end| end <= now) {
                    keys.push(known.key);
                }
                Ok(true)
            })
            .map_err(|wrong| core.fault("maintain", None, wrong.into()))?;
        Ok(keys)
    })
    .await?;
    for keys in expired.chunks(SWEPT) {
        let steps = keys.iter().map(|key| Step::Sweep { key: key.clone() }).collect();
        let change = Change { operation: "maintain", steps, together: false };
        for answer in writer.change(change).await? {
            if let Done::Swept(Some(_)) = answer? {
                report.expired += 1;
            }
        }
    }
    Ok(())
}

/// What a round of compaction works on.
struct Job {
    view: State,
    run: std::ops::Range<usize>,
    needed: HashSet<persist_core::Checksum>,
}

/// Compacts the packs for which it pays most; how many, and how many bytes were given back.
async fn compact_once(core: &Arc<Core>, writer: &Writer) -> Result<Option<(usize, u64)>> {
    let census = blocking(core, "maintain", |core| {
        let now = core.descriptor.now().as_millis();
        let state = core.state.read();
        let census = Census::take(&state, now).map_err(|wrong| core.fault("maintain", None, wrong.into()))?;
        Ok(choose(&state, &census, &core.config))
    });
    let Some(run) = census.await? else { return Ok(None) };
    // Between two commits, so that no reference to a content of these packs is on its way.
    let job = writer.task("maintain", move |engine| Ok(begin(engine.core(), run))).await?;
    let packs = job.view.packs.clone();
    let result = compact_job(core, writer, job).await;
    packs.iter().for_each(|pack| pack.retire(false));
    result
}

fn begin(core: &Core, run: std::ops::Range<usize>) -> Job {
    let state = core.state.read();
    state.packs[run.clone()].iter().for_each(|pack| pack.retire(true));
    let mut needed = HashSet::new();
    if let Some(log) = &state.log {
        let slots = log.memory.keys.values();
        needed.extend(slots.filter_map(|slot| slot.head.note.checksum()));
    }
    let view = State { packs: state.packs.clone(), ..State::default() };
    Job { view, run, needed }
}

async fn compact_job(core: &Arc<Core>, writer: &Writer, job: Job) -> Result<Option<(usize, u64)>> {
    let unfinished = core.folder.compaction();
    let compacted = blocking(core, "maintain", move |core| {
        let Job { view, run, needed } = job;
        Ok(compact(&view, run, needed, core.config.compression, unfinished))
    })
    .await?;
    match compacted {
        Ok(compacted) => {
            writer.task("maintain", move |engine| put_in_place(engine, compacted)).await.map(Some)
        }
        Err(Fault::System(error)) => {
            Err(system(&core.descriptor, "maintain", "packs cannot be compacted", error))
        }
        Err(fault) => {
            let error = core.fault("maintain", None, fault);
            tracing::warn!(storage = core.descriptor.name(), %error, "packs with damage in them are not compacted");
            Ok(None)
        }
    }
}

/// Puts a compacted pack in the place of those it was made from.
fn put_in_place(engine: &mut Engine, compacted: Compacted) -> Result<(usize, u64)> {
    let core = Arc::clone(engine.core());
    core.admit("maintain")?;
    let fail = |error| system(&core.descriptor, "maintain", "a compacted pack cannot be put in place", error);
    compacted.synced.map_err(|error| {
        core.report.fail(&error);
        fail(error)
    })?;
    let path = core.folder.pack(compacted.span);
    fs::rename(&compacted.unfinished, &path).map_err(fail)?;
    // From here on the old packs are replaced, unless the name was not kept: so the state must follow in any case.
    let synced = core.folder.sync();
    let file = File::open(&path).map_err(fail)?;
    let opened = Sealed::open(&path, &file).map_err(|fault| core.fault("maintain", None, fault))?;
    let Opened::Sealed(sealed) = opened else {
        let message = "a pack that was just compacted cannot be read; open the storage again";
        return Err(core.descriptor.error(ErrorKind::Internal, "maintain", message));
    };
    let after = sealed.file_len();
    let sealed: Arc<Sealed> = sealed.into();
    let old: Vec<_> = core.state.write().packs.splice(compacted.run, [sealed]).collect();
    synced.map_err(|error| {
        core.report.fail(&error);
        fail(error)
    })?;
    let before: u64 = old.iter().map(|pack| pack.file_len()).sum();
    for pack in &old {
        if pack.path != path {
            fs::remove_file(&pack.path).map_err(fail)?;
        }
    }
    Report::count(&core.report.compactions, 1);
    Ok((old.len(), before.saturating_sub(after)))
}

/// Counts keys and bytes, and what the packs take.
pub(crate) fn stats(core: &Core) -> Result<Stats> {
    let state = core.look().map_err(|fault| core.fault("stats", None, fault))?;
    let now = core.descriptor.now().as_millis();
    let census = Census::take(&state, now).map_err(|wrong| core.fault("stats", None, wrong.into()))?;
    let log = state.log.as_ref().map_or(0, |log| log.end);
    let packs: u64 = state.packs.iter().map(|pack| pack.file_len()).sum();
    let mut stats = Stats { keys: Some(census.keys), bytes: Some(census.bytes), ..Stats::default() };
    let logs: u64 = state.packs.iter().map(|pack| pack.seal.index_at).sum::<u64>() + log;
    let report = &core.report;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    stats.counters.extend([
        ("sealed_packs", state.packs.len() as u64),
        ("rebuilt_indexes", state.packs.iter().filter(|pack| !pack.has_index()).count() as u64),
        ("file_bytes", packs + log),
        ("log_bytes", log),
        ("dead_bytes", logs.saturating_sub(census.live.iter().sum())),
        ("expired_keys", census.expired),
        ("commits", count(&report.commits)),
        ("changes", count(&report.changes)),
        ("largest_batch", count(&report.largest_batch)),
        ("shared_values", count(&report.shared_values)),
        ("packs_sealed", count(&report.sealed)),
        ("compactions", count(&report.compactions)),
    ]);
    Ok(stats)
}

/// Reads every value back on all processors, and compares each sealed pack with what follows from its log.
pub(crate) fn verify(core: &Core) -> Result<Verification> {
    let (keys, packs) = {
        let state = core.look().map_err(|fault| core.fault("verify", None, fault))?;
        let now = core.descriptor.now().as_millis();
        let mut keys = Vec::new();
        let walked = state.walk("", false, |_, known| {
            if !known.is_tombstone && known.expires_at.is_none_or(|end| end > now) {
                keys.push(known.key);
            }
            Ok(true)
        });
        if let Err(wrong) = walked {
            let problem = Problem::from(core.fault("verify", None, wrong.into()));
            return Ok(Verification { problems: vec![problem], ..Verification::default() });
        }
        (keys, state.packs.clone())
    };
    let mut report = verify_values(core, &keys);
    let told: HashSet<Key> = report.problems.iter().filter_map(|problem| problem.key.clone()).collect();
    for (key, what) in in_parallel(&packs, structure::problems).into_iter().flatten() {
        if key.as_ref().is_some_and(|key| told.contains(key)) {
            continue;
        }
        let error = core.descriptor.error(ErrorKind::Corruption, "verify", what);
        report.problems.push(key.iter().fold(error, |error, key| error.with_key(key)).into());
    }
    strangers(core, &mut report)?;
    Ok(report)
}

fn strangers(core: &Core, report: &mut Verification) -> Result<()> {
    let listing = core
        .folder
        .list()
        .map_err(|error| system(&core.descriptor, "verify", "the folder cannot be read", error))?;
    for name in listing.strangers {
        let message =
            format!("{name:?} in the folder was not made by persist and is ignored; move it elsewhere");
        report.problems.push(core.descriptor.error(ErrorKind::InvalidKey, "verify", message).into());
    }
    Ok(())
}

fn verify_values(core: &Core, keys: &[Key]) -> Verification {
    let portions: Vec<&[Key]> = keys.chunks(PORTION).collect();
    let parts = in_parallel(&portions, |portion| {
        let mut part = Verification::default();
        for key in *portion {
            match value(core, "verify", key) {
                Ok(Some(entry)) => {
                    part.checked += 1;
                    part.bytes += entry.metadata.size;
                }
                // Deleted or expired meanwhile.
                Ok(None) => {}
                Err(error) => {
                    part.checked += 1;
                    part.problems.push(error.with_key(key).into());
                }
            }
        }
        part
    });
    let mut whole = Verification::default();
    for part in parts {
        whole.checked += part.checked;
        whole.bytes += part.bytes;
        whole.problems.extend(part.problems);
    }
    whole
}

/// Runs something on a thread that may be held up.
pub(crate) async fn blocking<T: Send + 'static>(
    core: &Arc<Core>,
    operation: &'static str,
    work: impl FnOnce(&Core) -> Result<T> + Send + 'static,
) -> Result<T> {
    let core = Arc::clone(core);
    let task = tokio::task::spawn_blocking(move || work(&core));
    task.await.unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation(operation)))
}
