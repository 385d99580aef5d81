//! Tidying up, checking everything, and figures.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use persist_core::{Descriptor, ErrorKind, Key, Maintenance, Problem, Result, Stats, Verification};
use rusqlite::{Connection, Row};

use crate::database::Database;
use crate::engine::Engine;
use crate::error::{damage, sqlite};
use crate::query::{self, QueryError};
use crate::readers::Readers;
use crate::row::{COLUMNS, EXTRA, Head, RowError};
use crate::writer::{Report, Writer};

/// How many expired entries are removed in one transaction; other changes have their turn between two of them.
const SWEEP: usize = 500;

/// How many free pages are given back in one transaction.
const VACUUM: u32 = 1000;

/// How many values are verified with one view of the database: a view that lasts keeps the log from being used again.
const VERIFY: usize = 500;

/// How many lines of SQLite's own check are reported.
const CHECK_LINES: u32 = 100;

/// Removes what has expired, gives free pages back, copies the log into the database, and lets SQLite optimise.
pub(crate) async fn maintain(writer: &Writer, descriptor: &Descriptor) -> Result<Maintenance> {
    let mut report = Maintenance::default();
    loop {
        let now = descriptor.now();
        let swept = writer.task("maintain", move |engine| {
            engine.transaction_of("maintain", |transaction| transaction.sweep(now, SWEEP))
        });
        let (removed, bytes) = swept.await?;
        report.expired += removed;
        report.freed_bytes += bytes;
        if removed < SWEEP as u64 {
            break;
        }
    }
    let mut pages = 0;
    loop {
        let freed = writer.task("maintain", vacuum).await?;
        pages += freed;
        if freed == 0 {
            break;
        }
    }
    if pages > 0 {
        report.notes.push(format!("gave {pages} free pages back"));
    }
    report.notes.extend(writer.task("maintain", tidy).await?);
    Ok(report)
}

fn vacuum(engine: &mut Engine) -> Result<u64> {
    let pages = |connection: &Connection| -> rusqlite::Result<u64> {
        connection.pragma_query_value(None, "freelist_count", |row| row.get(0))
    };
    engine.maintain("free pages cannot be given back", |connection| {
        let before = pages(connection)?;
        if before == 0 {
            return Ok(0);
        }
        // It gives back one page for each row that is asked for.
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM})"))?;
        let mut rows = statement.query(())?;
        while rows.next()?.is_some() {}
        drop(rows);
        Ok(before.saturating_sub(pages(connection)?))
    })
}

fn tidy(engine: &mut Engine) -> Result<Option<String>> {
    engine.maintain("the planner cannot be given its figures", |connection| {
        connection.execute_batch("PRAGMA analysis_limit=400; PRAGMA optimize")
    })?;
    let complete = engine.checkpoint("truncate")?;
    Ok((!complete).then(|| "the log is still read by others and was not emptied".to_owned()))
}

/// Figures; counting the keys reads the index of keys, not the values.
pub(crate) fn stats(
    connection: &Connection,
    database: &Database,
    descriptor: &Descriptor,
) -> rusqlite::Result<Stats> {
    let view = connection.unchecked_transaction()?;
    let count = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<u64> {
        view.prepare_cached(sql)?.query_row(parameters, |row| row.get(0))
    };
    let now = descriptor.now().as_millis();
    let all = count("SELECT count(*) FROM entries", &[])?;
    let expired = count("SELECT count(*) FROM entries WHERE expires_at <= ?1", &[&now])?;
    let pragma =
        |name: &str| -> rusqlite::Result<u64> { view.pragma_query_value(None, name, |row| row.get(0)) };
    let page = pragma("page_size")?;
    let counters = BTreeMap::from([
        ("expired_keys", expired),
        ("page_size", page),
        ("database_bytes", page * pragma("page_count")?),
        ("free_pages", pragma("freelist_count")?),
        ("log_bytes", std::fs::metadata(database.log()).map_or(0, |log| log.len())),
        ("sqlite_version", u64::try_from(rusqlite::version_number()).unwrap_or(0)),
    ]);
    Ok(Stats { keys: Some(all.saturating_sub(expired)), bytes: None, counters })
}

/// What the writer and the pool count since the storage was opened.
pub(crate) fn add_counters(stats: &mut Stats, readers: &Readers, report: &Report) {
    let (connections, idle) = readers.usage();
    stats.counters.extend([
        ("readers", u64::from(connections)),
        ("readers_in_use", u64::from(connections.saturating_sub(idle))),
    ]);
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    stats.counters.extend([
        ("commits", read(&report.commits)),
        ("changes", read(&report.changes)),
        ("largest_batch", read(&report.largest_batch)),
        ("retried_batches", read(&report.retried_batches)),
        ("checkpoints", read(&report.checkpoints)),
        ("busy_waits", read(&report.busy_waits)),
    ]);
}

/// SQLite's own check of the file, then every value against its seal and checksum.
///
/// # Errors
/// What keeps it from reading at all.
pub(crate) fn verify(readers: &Readers, descriptor: &Descriptor) -> Result<Verification> {
    let mut report = Verification::default();
    let whole = check_file(&*readers.get("verify")?, descriptor, &mut report);
    whole.or_else(|error| note(&mut report, descriptor, error))?;
    let mut after = i64::MIN;
    loop {
        let connection = readers.get("verify")?;
        match check_values(&connection, descriptor, after, &mut report) {
            Ok(Some(last)) => after = last,
            Ok(None) => return Ok(report),
            // What lies behind a damaged page cannot be found from here.
            Err(error) => return note(&mut report, descriptor, error).map(|()| report),
        }
    }
}

fn note(report: &mut Verification, descriptor: &Descriptor, error: rusqlite::Error) -> Result<()> {
    let error = sqlite(descriptor, "verify", "the database cannot be read on", error);
    if error.kind() != ErrorKind::Corruption {
        return Err(error);
    }
    report.problems.push(error.into());
    Ok(())
}

fn check_file(
    connection: &Connection,
    descriptor: &Descriptor,
    report: &mut Verification,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({CHECK_LINES})"))?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            let message = format!("{}; restore the database from a backup", persist_core::escape(&line));
            report.problems.push(descriptor.error(ErrorKind::Corruption, "verify", message).into());
        }
    }
    Ok(())
}

/// Checks the next values in the order of their rows; the last of them, if there may be more.
fn check_values(
    connection: &Connection,
    descriptor: &Descriptor,
    after: i64,
    report: &mut Verification,
) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT {COLUMNS}, value, key FROM entries WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((after, VERIFY))?;
    let (mut last, mut count) = (after, 0);
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        count += 1;
        match check_value(row, descriptor, report) {
            Err((_, QueryError::Row(RowError::Sqlite(error)))) => return Err(error),
            Err((key, error)) => {
                report.checked += 1;
                report.problems.push(problem(descriptor, key.as_ref(), &error));
            }
            Ok(()) => {}
        }
    }
    Ok((count == VERIFY).then_some(last))
}

fn check_value(
    row: &Row<'_>,
    descriptor: &Descriptor,
    report: &mut Verification,
) -> Result<(), (Option<Key>, QueryError)> {
    let key = query::key_of(row, EXTRA + 1).map_err(|error| (None, error))?;
    let checked =
        Head::read(row, key.as_bytes()).and_then(|head| match head.metadata.is_expired(descriptor.now()) {
            true => Ok(None),
            false => head.value(row.get_ref(EXTRA)?).map(Some),
        });
    match checked {
        Ok(Some(value)) => {
            report.checked += 1;
            report.bytes += value.size();
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => Err((Some(key), error.into())),
    }
}

fn problem(descriptor: &Descriptor, key: Option<&Key>, error: &QueryError) -> Problem {
    let what = match error {
        QueryError::Row(RowError::Damage(what)) | QueryError::Key(what) => what,
        QueryError::Row(RowError::Sqlite(_)) | QueryError::TooLong => "it cannot be read",
    };
    damage(descriptor, "verify", key, what).into()
}
