//! Tidying up, counting, and reading everything back.

use std::collections::HashSet;
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use persist_core::writing::Done;
use persist_core::{ErrorKind, Key, Maintenance, Problem, Result, Stats, StorageError, Verification};

use crate::change::{Change, Step};
use crate::compaction::{Above, Census, Compacted, choose, compact};
use crate::core::{Core, Report};
use crate::engine::Engine;
use crate::fault::{Fault, system};
use crate::parallel::{both, in_parallel};
use crate::reading::value;
use crate::sealed::{Opened, Sealed};
use crate::state::State;
use crate::structure::{Inspection, inspect};
use crate::wire::Wrong;
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
    // One at a time: each would compact what the other one does.
    let _turn = core.maintaining.lock().await;
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
        for answer in writer.change(Change::each("maintain", steps)).await? {
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
    above: Above,
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
    let begin = move |engine: &mut Engine| {
        // What is left out because the log has newer records must not be lost with them.
        engine.flush()?;
        Ok(begin(engine.core(), run))
    };
    let job = writer.task("maintain", begin).await?;
    let packs = job.view.packs.clone();
    let result = compact_job(core, writer, job).await;
    packs.iter().for_each(|pack| pack.retire(false));
    result
}

fn begin(core: &Core, run: std::ops::Range<usize>) -> Job {
    let state = core.state.read();
    state.packs[run.clone()].iter().for_each(|pack| pack.retire(true));
    let above = Above::of(state.log.as_ref());
    let view = State { packs: state.packs.clone(), ..State::default() };
    Job { view, run, above }
}

async fn compact_job(core: &Arc<Core>, writer: &Writer, job: Job) -> Result<Option<(usize, u64)>> {
    let unfinished = core.folder.compaction();
    let compacted = blocking(core, "maintain", move |core| {
        let Job { view, run, above } = job;
        Ok(compact(&view, run, above, core.config.compression, unfinished))
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
        core.report.poison.set(&error);
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
        core.report.poison.set(&error);
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

/// What is stored, as the indexes say, and the keys whose values are not read with their packs.
#[derive(Default)]
struct Overview {
    keys: u64,
    bytes: u64,
    /// In the log, or referring to another record.
    single: Vec<Key>,
}

fn overview(state: &State, now: i64, is_single: impl Fn(usize) -> bool) -> Result<Overview, Wrong> {
    let mut overview = Overview::default();
    state.walk("", false, |layer, known| {
        if !known.is_tombstone && known.expires_at.is_none_or(|end| end > now) {
            overview.keys += 1;
            overview.bytes += known.size;
            if known.is_reference || is_single(layer) {
                overview.single.push(known.key);
            }
        }
        Ok(true)
    })?;
    Ok(overview)
}

/// Reads every sealed pack whole, on all processors, and compares it with what follows from its log; then what is in the
/// log, and every key whose value is in another record.
pub(crate) fn verify(core: &Core) -> Result<Verification> {
    let fault = |wrong: Wrong| core.fault("verify", None, wrong.into());
    // Packs do not change; what is in the log is read by its keys.
    let state = core.look().map_err(|fault| core.fault("verify", None, fault))?;
    let (packs, now) = (state.packs.clone(), core.descriptor.now().as_millis());
    let (inspections, known) = both(
        || packs.iter().map(|pack| inspect(pack, &|_| ())).collect::<Vec<Inspection>>(),
        || {
            let known = overview(&state, now, |layer| layer == packs.len());
            drop(state);
            known
        },
    );
    let mut report = Verification::default();
    let single = match known {
        Err(wrong) => {
            report.problems.push(fault(wrong).into());
            Vec::new()
        }
        Ok(known) => {
            (report.checked, report.bytes) = (known.keys, known.bytes);
            known.single
        }
    };
    report.problems.extend(value_problems(core, &single));
    report.problems.extend(broken_packs(core, &packs, &inspections));
    let told: HashSet<Key> = report.problems.iter().filter_map(|problem| problem.key.clone()).collect();
    for (key, what) in inspections.into_iter().flat_map(|inspection| inspection.findings) {
        if key.as_ref().is_some_and(|key| told.contains(key)) {
            continue;
        }
        let error = core.descriptor.error(ErrorKind::Corruption, "verify", what);
        report.problems.push(key.iter().fold(error, |error, key| error.with_key(key)).into());
    }
    strangers(core, &mut report)?;
    Ok(report)
}

/// The damaged values of packs that could not be gone along: their keys are asked for one by one.
fn broken_packs(core: &Core, packs: &[Arc<Sealed>], inspections: &[Inspection]) -> Vec<Problem> {
    let broken: Vec<bool> = inspections.iter().map(|inspection| inspection.is_broken).collect();
    if !broken.contains(&true) {
        return Vec::new();
    }
    let view = State { packs: packs.to_vec(), ..State::default() };
    let is_broken = |layer: usize| broken.get(layer).copied().unwrap_or(false);
    // If the walk fails that was told before.
    let known = overview(&view, core.descriptor.now().as_millis(), is_broken).unwrap_or_default();
    value_problems(core, &known.single)
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

/// Reads values by their keys.
fn value_problems(core: &Core, keys: &[Key]) -> Vec<Problem> {
    let portions: Vec<&[Key]> = keys.chunks(PORTION).collect();
    let parts = in_parallel(&portions, |portion| {
        let damaged = portion.iter().filter_map(|key| match value(core, "verify", key) {
            // `None`: deleted or expired meanwhile.
            Ok(_) => None,
            Err(error) => Some(Problem::from(error.with_key(key))),
        });
        damaged.collect::<Vec<_>>()
    });
    parts.into_iter().flatten().collect()
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
