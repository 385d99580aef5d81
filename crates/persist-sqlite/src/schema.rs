//! What is in a database of persist, object by object; column by column in `docs/formats/sqlite.md`.

use rusqlite::Connection;

use crate::migration::{
    HISTORY_SCHEMA, HISTORY_TABLE, Migration, MigrationError, MigrationProblem, Migrations, Target,
};

/// "pers" in ASCII: what `PRAGMA application_id` says of a database of persist.
pub(crate) const APPLICATION_ID: i64 = 0x7065_7273;

/// The format that this program writes, as `PRAGMA user_version` has it: it changes when an older program could no longer
/// read the database. What changes beside that is told by the history of migrations.
pub(crate) const VERSION: i64 = 1;

/// The name of the set of migrations.
const MIGRATIONS: &str = "persist";

/// Every object that is made by the first migration, by name. The value is the last column: what stands before it is read without reading the value.
const OBJECTS: [(&str, &str); 4] = [
    (
        "entries",
        "CREATE TABLE entries (\
         id INTEGER PRIMARY KEY, \
         key TEXT NOT NULL, \
         kind TEXT NOT NULL, \
         size INTEGER NOT NULL, \
         version INTEGER NOT NULL, \
         created_at INTEGER NOT NULL, \
         modified_at INTEGER NOT NULL, \
         expires_at INTEGER, \
         checksum BLOB NOT NULL, \
         dtype TEXT, \
         shape TEXT, \
         tags TEXT, \
         encodings TEXT, \
         seal INTEGER NOT NULL, \
         value ANY NOT NULL) STRICT",
    ),
    ("entries_key", "CREATE UNIQUE INDEX entries_key ON entries (key)"),
    ("entries_expiry", "CREATE INDEX entries_expiry ON entries (expires_at) WHERE expires_at IS NOT NULL"),
    ("state", "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), floor INTEGER NOT NULL) STRICT"),
];

/// What `ANALYZE` and the planner may add.
const STATISTICS: [&str; 2] = ["sqlite_stat1", "sqlite_stat4"];

/// Why a database is not one of ours.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// It belongs to another program.
    Foreign(String),
    /// It was written by a newer persist; how that shows.
    Newer(String),
    /// Something is in it that should not be, or not what should be.
    Altered(String),
}

impl From<rusqlite::Error> for Mismatch {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<MigrationError> for Mismatch {
    fn from(error: MigrationError) -> Self {
        match error.problem() {
            MigrationProblem::Unknown { .. } => Self::Newer(error.to_string()),
            _ => Self::Altered(error.to_string()),
        }
    }
}

/// Makes the objects in an empty database.
///
/// # Errors
/// What SQLite says.
pub(crate) fn create(connection: &mut Connection) -> Result<(), Mismatch> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrations()?.up(connection)?;
    Ok(connection.pragma_update(None, "user_version", VERSION)?)
}

/// How the schema came about.
fn migrations() -> Result<Migrations, MigrationError> {
    let objects = OBJECTS.map(|(_, sql)| format!("{sql};\n")).concat();
    let first = objects + "INSERT INTO state (id, floor) VALUES (1, 0);";
    Migrations::new(MIGRATIONS, [Migration::new("1.0.0", "entries", first)])
}

/// Whose database it is; 0: nobody said.
///
/// # Errors
/// What SQLite says.
pub(crate) fn application(connection: &Connection) -> rusqlite::Result<i64> {
    number(connection, "application_id")
}

/// Whose database it is and in which version, from its header alone.
///
/// # Errors
/// That it is another program's, or of a newer persist.
pub(crate) fn check_header(connection: &Connection) -> Result<(), Mismatch> {
    let application = application(connection)?;
    if application != APPLICATION_ID {
        return Err(Mismatch::Foreign(format!(
            "its application_id is {application:#x}, not {APPLICATION_ID:#x}"
        )));
    }
    match number(connection, "user_version")? {
        VERSION => Ok(()),
        newer if newer > VERSION => {
            Err(Mismatch::Newer(format!("it has format {newer}, and this program knows up to {VERSION}")))
        }
        other => Err(Mismatch::Altered(format!("its user_version is {other}, which persist never wrote"))),
    }
}

/// As [`check_header`], and whether its texts are in the encoding that persist writes.
///
/// # Errors
/// As there.
pub(crate) fn check_owner(connection: &Connection) -> Result<(), Mismatch> {
    check_header(connection)?;
    let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
    match encoding.as_str() {
        "UTF-8" => Ok(()),
        _ => Err(Mismatch::Altered(format!("its text encoding is {encoding}, not UTF-8"))),
    }
}

/// Whether all objects are there as persist made them, and no other.
///
/// # Errors
/// The first difference. A view in the place of a table, a trigger or an index over an expression would run what its
/// author wants; `quick_check` finds nothing wrong with them.
pub(crate) fn check_objects(connection: &Connection) -> Result<(), Mismatch> {
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema")?;
    let mut rows = statement.query(())?;
    let mut missing: Vec<&str> = objects().map(|(name, _)| name).collect();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let sql: Option<String> = row.get(1)?;
        check_object(&name, sql.as_deref())?;
        missing.retain(|object| *object != name);
    }
    match missing.first() {
        None => Ok(migrations()?.plan(connection, &Target::Newest).map(drop)?),
        Some(name) => Err(Mismatch::Altered(format!("{name} is missing"))),
    }
}

fn objects() -> impl Iterator<Item = (&'static str, &'static str)> {
    OBJECTS.into_iter().chain([(HISTORY_TABLE, HISTORY_SCHEMA)])
}

fn check_object(name: &str, sql: Option<&str>) -> Result<(), Mismatch> {
    let sql = sql.unwrap_or_default();
    if STATISTICS.contains(&name) && sql.starts_with(&format!("CREATE TABLE {name}(")) {
        return Ok(());
    }
    let shown = persist_core::escape(name);
    match objects().find(|(object, _)| *object == name) {
        Some((_, expected)) if expected == sql => Ok(()),
        Some(_) => Err(Mismatch::Altered(format!("{shown} is not as persist made it"))),
        None => Err(Mismatch::Altered(format!("{shown} was not made by persist"))),
    }
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}
