use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{Checksum, Clock, SystemClock};
use rusqlite::{Connection, ErrorCode, Transaction};

use super::guard::{Guard, run};
use super::history::{History, Record, database};
use super::plan::{Comparison, Todo, no_such_version};
use super::{MigrationError, MigrationProblem, SchemaVersion, Status, Step, Target};

/// How long a lock of another process is waited for unless told otherwise.
const WAIT: Duration = Duration::from_secs(60);

/// One change of a schema: how it is applied and, if it can be, how it is undone.
///
/// Either text may hold any number of statements; together they are one transaction. They may not use `BEGIN`,
/// `COMMIT`, `ROLLBACK` or `ATTACH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    version: Cow<'static, str>,
    pub(super) name: Cow<'static, str>,
    pub(super) up: Cow<'static, str>,
    pub(super) down: Option<Cow<'static, str>>,
}

impl Migration {
    /// A migration with its semantic version (without build metadata), a short name, and the SQL that applies it.
    pub fn new(
        version: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
        up: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { version: version.into(), name: name.into(), up: up.into(), down: None }
    }

    /// The SQL that undoes it.
    #[must_use]
    pub fn down(mut self, down: impl Into<Cow<'static, str>>) -> Self {
        self.down = Some(down.into());
        self
    }
}

/// The migrations of one part of a database, in the order of their versions.
///
/// Several sets may share a file, each with a name and a history of its own.
#[derive(Clone, Debug)]
pub struct Migrations {
    set: String,
    migrations: Vec<(SchemaVersion, Migration)>,
    wait: Duration,
    clock: Arc<dyn Clock>,
}

impl Migrations {
    /// A set with a name of its own; the order given does not matter.
    ///
    /// # Errors
    /// `Invalid` for an empty name, a version that is no semantic version, and one given twice.
    pub fn new(
        set: impl Into<String>,
        migrations: impl IntoIterator<Item = Migration>,
    ) -> Result<Self, MigrationError> {
        let set = set.into();
        let invalid = |message: String| MigrationError::new(&set, MigrationProblem::Invalid { message });
        if set.is_empty() {
            return Err(invalid("the set has no name; give it the name of the program or module".to_owned()));
        }
        let mut sorted: Vec<(SchemaVersion, Migration)> = Vec::new();
        for migration in migrations {
            sorted.push((parse(&migration.version).map_err(invalid)?, migration));
        }
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some([(version, _), _]) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(invalid(format!(
                "there are two migrations {version}; give one of them another version"
            )));
        }
        Ok(Self { set, migrations: sorted, wait: WAIT, clock: Arc::new(SystemClock) })
    }

    /// How long to wait for another process that is migrating or writing; a minute unless set.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Takes the times of the history from `clock`.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Applies what is missing, up to the newest. Gives what was done; nothing if nothing was missing.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn up(&self, connection: &mut Connection) -> Result<Vec<Step>, MigrationError> {
        self.to(connection, &Target::Newest)
    }

    /// Goes down to `version`: undoes what is above it, the newest first. It is an error if it is not applied.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn down(&self, connection: &mut Connection, version: &str) -> Result<Vec<Step>, MigrationError> {
        let none = || no_such_version(&self.set, &self.migrations, version);
        let asked = parse(version).map_err(|_| none())?;
        let history = History::read(connection, &self.set)?;
        history.applied(&asked).ok_or_else(none)?;
        self.to(connection, &Target::Version(asked))
    }

    /// Goes to a target, up or down: each migration in a transaction of its own. Gives what was done.
    ///
    /// Where nothing is to be done nothing is locked or written, so that a read-only connection will do.
    ///
    /// # Errors
    /// What keeps it from being done, before anything is done: `Unknown`, `Changed`, `OutOfOrder`, `NoSuchVersion`,
    /// `Irreversible`, `InTransaction`. `Failed` if a migration fails: it is rolled back, those before it stay, and the
    /// failure is in the history. `Locked` and `Database` for the rest.
    pub fn to(&self, connection: &mut Connection, target: &Target) -> Result<Vec<Step>, MigrationError> {
        if self.plan(connection, target)?.is_empty() {
            return Ok(Vec::new());
        }
        let mut guard = self.guard(connection)?;
        let mut done = Vec::new();
        while let Some(step) = self.one(&mut guard, target)? {
            done.push(step);
        }
        Ok(done)
    }

    /// What [`to`](Self::to) would do, without running it or locking anything.
    ///
    /// # Errors
    /// As there.
    pub fn plan(&self, connection: &Connection, target: &Target) -> Result<Vec<Step>, MigrationError> {
        let history = History::read(connection, &self.set)?;
        Ok(self.compare(&history).todo(target)?.iter().map(step).collect())
    }

    /// Runs what [`to`](Self::to) would run, all of it in one transaction that is rolled back: what would fail fails
    /// here, and the database is as before. Others cannot write meanwhile.
    ///
    /// # Errors
    /// As there; nothing is recorded.
    pub fn dry_run(&self, connection: &mut Connection, target: &Target) -> Result<Vec<Step>, MigrationError> {
        let mut guard = self.guard(connection)?;
        let foreign_keys = guard.foreign_keys();
        // Rolled back when it is dropped.
        let transaction = guard.begin().map_err(|error| self.begin_error(error))?;
        let history = History::read(&transaction, &self.set)?;
        let todo = self.compare(&history).todo(target)?;
        for todo in &todo {
            run(&transaction, todo.text, foreign_keys).map_err(|message| self.failed(todo, message))?;
        }
        Ok(todo.iter().map(step).collect())
    }

    /// How the database stands to this set. Changes nothing and refuses nothing.
    ///
    /// # Errors
    /// `Damaged` or `Database` if the history cannot be read.
    pub fn status(&self, connection: &Connection) -> Result<Status, MigrationError> {
        Ok(Status::new(&self.migrations, History::read(connection, &self.set)?))
    }

    /// Does the first thing that is to be done, whatever others have done meanwhile; `None` if nothing is.
    fn one(&self, guard: &mut Guard<'_>, target: &Target) -> Result<Option<Step>, MigrationError> {
        let foreign_keys = guard.foreign_keys();
        let transaction = guard.begin().map_err(|error| self.begin_error(error))?;
        let history = History::read(&transaction, &self.set)?;
        let todo = self.compare(&history).todo(target)?;
        let Some(first) = todo.first() else { return Ok(None) };
        match self.apply(transaction, first, foreign_keys) {
            Ok(()) => Ok(Some(step(first))),
            Err(message) => {
                self.note_failure(guard, first, &message);
                Err(self.failed(first, message))
            }
        }
    }

    fn apply(&self, transaction: Transaction<'_>, todo: &Todo<'_>, foreign_keys: bool) -> Result<(), String> {
        run(&transaction, todo.text, foreign_keys)?;
        let record = self.record(todo, None);
        History::append(&transaction, &self.set, &record).map_err(|error| error.to_string())?;
        // An error on commit drops the transaction, which rolls it back.
        transaction.commit().map_err(|error| error.to_string())
    }

    /// Notes a failure, if that can be noted; what is reported is the failure itself either way.
    fn note_failure(&self, guard: &mut Guard<'_>, todo: &Todo<'_>, message: &str) {
        let Ok(transaction) = guard.begin() else { return };
        let record = self.record(todo, Some(message.to_owned()));
        if History::append(&transaction, &self.set, &record).is_ok() {
            let _ = transaction.commit();
        }
    }

    fn record(&self, todo: &Todo<'_>, error: Option<String>) -> Record {
        Record {
            version: todo.version.clone(),
            name: todo.migration.name.to_string(),
            direction: todo.direction,
            checksum: Checksum::of(&[todo.text.as_bytes()]),
            at: self.clock.now(),
            error,
        }
    }

    fn compare<'a>(&'a self, history: &'a History) -> Comparison<'a> {
        Comparison { set: &self.set, migrations: &self.migrations, history }
    }

    fn guard<'c>(&self, connection: &'c mut Connection) -> Result<Guard<'c>, MigrationError> {
        if !connection.is_autocommit() {
            return Err(self.error(MigrationProblem::InTransaction));
        }
        Guard::new(connection, self.wait).map_err(|source| database(&self.set, "read", source))
    }

    fn begin_error(&self, error: rusqlite::Error) -> MigrationError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                self.error(MigrationProblem::Locked { waited: self.wait })
            }
            _ => database(&self.set, "written", error),
        }
    }

    fn failed(&self, todo: &Todo<'_>, message: String) -> MigrationError {
        self.error(MigrationProblem::Failed {
            version: todo.version.clone(),
            name: todo.migration.name.to_string(),
            direction: todo.direction,
            message,
        })
    }

    fn error(&self, problem: MigrationProblem) -> MigrationError {
        MigrationError::new(&self.set, problem)
    }
}

fn step(todo: &Todo<'_>) -> Step {
    let name = todo.migration.name.to_string();
    Step { version: todo.version.clone(), name, direction: todo.direction }
}

fn parse(text: &str) -> Result<SchemaVersion, String> {
    let version: SchemaVersion = text
        .parse()
        .map_err(|error| format!("{text:?} is no semantic version ({error}); write one like 1.2.0"))?;
    if !version.build.is_empty() {
        return Err(format!("{text:?} has build metadata, by which versions are not ordered; leave it out"));
    }
    Ok(version)
}
