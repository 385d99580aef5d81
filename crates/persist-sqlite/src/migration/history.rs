//! What was done to the schema, kept in the database itself: the only place that says what is applied.

use persist_core::{Checksum, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Direction, MigrationError, MigrationProblem, SchemaVersion};

/// The name of the table.
pub const HISTORY_TABLE: &str = "persist_migrations";

/// The statement that makes the table, letter for letter as `sqlite_schema` keeps it.
pub const HISTORY_SCHEMA: &str = "CREATE TABLE persist_migrations (\
    id INTEGER PRIMARY KEY, \
    migrations TEXT NOT NULL, \
    version TEXT NOT NULL, \
    name TEXT NOT NULL, \
    direction TEXT NOT NULL CHECK (direction IN ('up', 'down')), \
    checksum TEXT NOT NULL, \
    at INTEGER NOT NULL, \
    error TEXT\
) STRICT";

/// One line of the history: a migration that was applied or undone, or failed at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which migration.
    pub version: SchemaVersion,
    /// Its name at that time.
    pub name: String,
    /// Applied or undone.
    pub direction: Direction,
    /// BLAKE3 of the text that ran.
    pub checksum: Checksum,
    /// When it ended.
    pub at: Timestamp,
    /// Why it failed and was rolled back; `None`: it took place.
    pub error: Option<String>,
}

/// The history of one set, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(pub(super) Vec<Record>);

impl History {
    /// Reads it; empty where there is none yet.
    pub(super) fn read(connection: &Connection, set: &str) -> Result<Self, MigrationError> {
        let rows = rows(connection, set).map_err(|source| database(set, "read", source))?;
        let damaged = |message| MigrationError::new(set, MigrationProblem::Damaged { message });
        rows.into_iter().collect::<Result<_, String>>().map(Self).map_err(damaged)
    }

    /// Adds a line. The table is made if it is missing.
    pub(super) fn append(connection: &Connection, set: &str, record: &Record) -> Result<(), MigrationError> {
        let appended = make(connection).and_then(|()| insert(connection, set, record));
        appended.map_err(|source| database(set, "written", source))
    }

    /// The line that applied a migration, if it is applied now.
    pub(super) fn applied(&self, version: &SchemaVersion) -> Option<&Record> {
        let done = |record: &&Record| record.error.is_none() && record.version == *version;
        self.0.iter().rev().find(done).filter(|record| record.direction == Direction::Up)
    }

    /// The migrations that are applied now, in the order of their versions.
    pub(super) fn all_applied(&self) -> Vec<&Record> {
        let mut versions: Vec<&SchemaVersion> = self.0.iter().map(|record| &record.version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.into_iter().filter_map(|version| self.applied(version)).collect()
    }
}

/// An error of the database around the history.
pub(super) fn database(set: &str, what: &'static str, source: rusqlite::Error) -> MigrationError {
    MigrationError::new(set, MigrationProblem::Database { what, source })
}

fn exists(connection: &Connection) -> rusqlite::Result<bool> {
    let found = "SELECT 1 FROM main.sqlite_schema WHERE name = ?1";
    connection.query_row(found, [HISTORY_TABLE], |_| Ok(())).optional().map(|row| row.is_some())
}

fn make(connection: &Connection) -> rusqlite::Result<()> {
    if exists(connection)? { Ok(()) } else { connection.execute_batch(HISTORY_SCHEMA) }
}

fn insert(connection: &Connection, set: &str, record: &Record) -> rusqlite::Result<()> {
    let text = "INSERT INTO main.persist_migrations (migrations, version, name, direction, checksum, at, error) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let line = params![
        set,
        record.version.to_string(),
        record.name,
        record.direction.as_str(),
        record.checksum.to_string(),
        record.at.as_millis(),
        record.error,
    ];
    connection.execute(text, line).map(drop)
}

type Rows = Vec<Result<Record, String>>;

fn rows(connection: &Connection, set: &str) -> rusqlite::Result<Rows> {
    if !exists(connection)? {
        return Ok(Rows::new());
    }
    let text = "SELECT id, version, name, direction, checksum, at, error FROM main.persist_migrations \
                WHERE migrations = ?1 ORDER BY id";
    let mut statement = connection.prepare(text)?;
    statement.query_map([set], |row| Ok(parse(row)))?.collect()
}

/// A line as it should be, or what is wrong with it.
fn parse(row: &Row<'_>) -> Result<Record, String> {
    let text = |at: usize| -> Result<String, String> {
        match row.get_ref(at) {
            Ok(ValueRef::Text(text)) => String::from_utf8(text.to_vec()).map_err(|_| wrong(row, at)),
            _ => Err(wrong(row, at)),
        }
    };
    let error = match row.get_ref(6) {
        Ok(ValueRef::Null) => None,
        _ => Some(text(6)?),
    };
    Ok(Record {
        version: text(1)?.parse().map_err(|_| wrong(row, 1))?,
        name: text(2)?,
        direction: Direction::from_word(&text(3)?).ok_or_else(|| wrong(row, 3))?,
        checksum: text(4)?.parse().map_err(|_| wrong(row, 4))?,
        at: Timestamp::from_millis(row.get(5).map_err(|_| wrong(row, 5))?),
        error,
    })
}

fn wrong(row: &Row<'_>, at: usize) -> String {
    let column = row.as_ref().column_name(at).unwrap_or("?").to_owned();
    let line = row.get::<_, i64>(0).map_or("?".to_owned(), |id| id.to_string());
    format!("line {line} of {HISTORY_TABLE} has no proper {column}")
}
