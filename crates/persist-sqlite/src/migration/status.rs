use persist_core::{Checksum, Timestamp};

use super::history::History;
use super::{Migration, Record, SchemaVersion};

/// How a database stands to a set of migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The newest migration that is applied; `None`: none is.
    pub current: Option<SchemaVersion>,
    /// Every migration of the program and of the database, in the order of their versions.
    pub migrations: Vec<MigrationStatus>,
    /// Everything that was done and what failed, oldest first.
    pub history: Vec<Record>,
}

/// How a database stands to one migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Which one.
    pub version: SchemaVersion,
    /// Its name.
    pub name: String,
    /// Applied, pending, or why neither.
    pub state: MigrationState,
    /// Why its last try failed; `None` if it did not, or has been done since.
    pub failure: Option<String>,
}

/// Where one migration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// It is applied.
    Applied {
        /// Since when.
        at: Timestamp,
    },
    /// It is applied, but its text was changed since; every run is refused.
    Changed {
        /// When it was applied.
        at: Timestamp,
    },
    /// It is applied, and this program does not have it; every run is refused.
    Unknown {
        /// When it was applied.
        at: Timestamp,
    },
    /// It is not applied.
    Pending,
}

impl Status {
    pub(super) fn new(migrations: &[(SchemaVersion, Migration)], history: History) -> Self {
        let mut lines: Vec<MigrationStatus> =
            migrations.iter().map(|(version, migration)| line(version, migration, &history)).collect();
        for record in history.all_applied() {
            if !migrations.iter().any(|(version, _)| *version == record.version) {
                lines.push(MigrationStatus {
                    version: record.version.clone(),
                    name: record.name.clone(),
                    state: MigrationState::Unknown { at: record.at },
                    failure: failure(&record.version, &history),
                });
            }
        }
        lines.sort_by(|a, b| a.version.cmp(&b.version));
        let current = history.all_applied().last().map(|record| record.version.clone());
        Self { current, migrations: lines, history: history.0 }
    }
}

fn line(version: &SchemaVersion, migration: &Migration, history: &History) -> MigrationStatus {
    let state = match history.applied(version) {
        None => MigrationState::Pending,
        Some(record) if record.checksum == Checksum::of(&[migration.up.as_bytes()]) => {
            MigrationState::Applied { at: record.at }
        }
        Some(record) => MigrationState::Changed { at: record.at },
    };
    let failure = failure(version, history);
    MigrationStatus { version: version.clone(), name: migration.name.to_string(), state, failure }
}

fn failure(version: &SchemaVersion, history: &History) -> Option<String> {
    history.0.iter().rev().find(|record| record.version == *version).and_then(|last| last.error.clone())
}
