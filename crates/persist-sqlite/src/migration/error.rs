use persist_core::Checksum;
use thiserror::Error;

use super::{Direction, SchemaVersion};

/// Why a schema was not migrated. Whatever it is, the file is as it was before the migration named.
#[derive(Debug, Error)]
#[error("migrations {set:?}: {problem}")]
pub struct MigrationError {
    set: String,
    problem: Box<MigrationProblem>,
}

impl MigrationError {
    pub(super) fn new(set: &str, problem: MigrationProblem) -> Self {
        Self { set: set.to_owned(), problem: Box::new(problem) }
    }

    /// The name of the set.
    pub fn set(&self) -> &str {
        &self.set
    }

    /// What is wrong.
    pub fn problem(&self) -> &MigrationProblem {
        &self.problem
    }
}

/// What keeps a schema from being migrated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MigrationProblem {
    /// The set itself is wrong: a mistake in the program.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what to write instead.
        message: String,
    },

    /// The file holds a migration that the program does not have.
    #[error(
        "the database holds {version} {name:?}, which this program does not know; \
         use the program that made it, or a newer one (nothing was changed)"
    )]
    Unknown {
        /// The version found.
        version: SchemaVersion,
        /// Its name, as it was recorded.
        name: String,
    },

    /// The text of a migration was changed after it had been applied.
    #[error(
        "the text of {version} {name:?} was changed after it was applied (applied {applied}, \
         now {now}); restore the text, and put the change into a new migration"
    )]
    Changed {
        /// The migration.
        version: SchemaVersion,
        /// Its name.
        name: String,
        /// The checksum of what was applied.
        applied: Checksum,
        /// The checksum of what the program has now.
        now: Checksum,
    },

    /// A migration came in below one that is already applied.
    #[error(
        "{version} {name:?} is not applied, but {newest} above it is; \
         give it a version above {newest}"
    )]
    OutOfOrder {
        /// The migration.
        version: SchemaVersion,
        /// Its name.
        name: String,
        /// The newest one that is applied.
        newest: SchemaVersion,
    },

    /// A version was asked for that is in no migration of the set.
    #[error("there is no version {asked}; there are: {known}")]
    NoSuchVersion {
        /// What was asked for.
        asked: String,
        /// All versions, separated by commas.
        known: String,
    },

    /// A migration on the way down says nothing of how it is undone.
    #[error("{version} {name:?} cannot be undone, because it has no `down`; add one")]
    Irreversible {
        /// The migration.
        version: SchemaVersion,
        /// Its name.
        name: String,
    },

    /// The statements of a migration failed. It was rolled back as a whole; correct it and run it again.
    #[error(
        "{version} {name:?} failed on its way {direction} and was rolled back: {message}; \
         correct it and run it again"
    )]
    Failed {
        /// The migration.
        version: SchemaVersion,
        /// Its name.
        name: String,
        /// Which of its texts failed.
        direction: Direction,
        /// What the database says.
        message: String,
    },

    /// The history in the file cannot be understood.
    #[error(
        "the history in the database is damaged: {message}; restore it from a backup \
         (nothing was changed)"
    )]
    Damaged {
        /// What is wrong with it.
        message: String,
    },

    /// Somebody else held the database for too long.
    #[error(
        "another connection has been writing for longer than {waited:?}; \
         try again, or wait longer (`Migrations::wait`)"
    )]
    Locked {
        /// How long it waited.
        waited: std::time::Duration,
    },

    /// The connection has a transaction open, in which no migration can have its own.
    #[error("the connection has a transaction open; end it first")]
    InTransaction,

    /// The database failed while the history was read or written.
    #[error("the history cannot be {what}: {source}")]
    Database {
        /// Read or written.
        what: &'static str,
        /// What the database says.
        source: rusqlite::Error,
    },
}
