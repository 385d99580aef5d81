//! What is to be done to get from the history to a version; pure, so that a dry run and a run decide alike.

use persist_core::Checksum;

use super::history::History;
use super::{Direction, Migration, MigrationError, MigrationProblem, SchemaVersion};

/// How far to migrate, up or down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the newest migration.
    Newest,
    /// To this version: what is above it is undone, what is missing up to it is applied.
    Version(SchemaVersion),
    /// To before the first migration: everything is undone.
    Nothing,
}

/// A set of migrations beside the history of a database.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    pub(super) set: &'a str,
    /// In the order of their versions.
    pub(super) migrations: &'a [(SchemaVersion, Migration)],
    pub(super) history: &'a History,
}

/// One thing to do.
#[derive(Debug)]
pub(super) struct Todo<'a> {
    pub(super) version: &'a SchemaVersion,
    pub(super) migration: &'a Migration,
    pub(super) direction: Direction,
    pub(super) text: &'a str,
}

impl<'a> Comparison<'a> {
    /// What is to be done, in order.
    ///
    /// # Errors
    /// `Unknown`, `Changed`, `OutOfOrder`, `NoSuchVersion`, `Irreversible`; then nothing may be done at all.
    pub(super) fn todo(&self, target: &Target) -> Result<Vec<Todo<'a>>, MigrationError> {
        self.check_applied()?;
        let kept = self.kept(target)?;
        let (keep, above) = self.migrations.split_at(kept);
        let mut todo = Vec::new();
        for (version, migration) in above.iter().rev().filter(|(version, _)| self.is_applied(version)) {
            let text = migration.down.as_deref().ok_or_else(|| {
                let (version, name) = (version.clone(), migration.name.to_string());
                self.error(MigrationProblem::Irreversible { version, name })
            })?;
            todo.push(Todo { version, migration, direction: Direction::Down, text });
        }
        for (version, migration) in keep.iter().filter(|(version, _)| !self.is_applied(version)) {
            todo.push(Todo { version, migration, direction: Direction::Up, text: &migration.up });
        }
        Ok(todo)
    }

    /// How many migrations are applied once the target is reached.
    fn kept(&self, target: &Target) -> Result<usize, MigrationError> {
        match target {
            Target::Newest => Ok(self.migrations.len()),
            Target::Nothing => Ok(0),
            Target::Version(asked) => {
                let at = self.migrations.iter().position(|(version, _)| version == asked);
                at.map(|at| at + 1).ok_or_else(|| no_such_version(self.set, self.migrations, asked))
            }
        }
    }

    fn error(&self, problem: MigrationProblem) -> MigrationError {
        MigrationError::new(self.set, problem)
    }

    fn is_applied(&self, version: &SchemaVersion) -> bool {
        self.history.applied(version).is_some()
    }

    fn check_applied(&self) -> Result<(), MigrationError> {
        let applied = self.history.all_applied();
        for record in &applied {
            let known = self.migrations.iter().find(|(version, _)| *version == record.version);
            let Some((version, migration)) = known else {
                let (version, name) = (record.version.clone(), record.name.clone());
                return Err(self.error(MigrationProblem::Unknown { version, name }));
            };
            let now = Checksum::of(&[migration.up.as_bytes()]);
            if now != record.checksum {
                let (version, name) = (version.clone(), migration.name.to_string());
                let applied = record.checksum;
                return Err(self.error(MigrationProblem::Changed { version, name, applied, now }));
            }
        }
        match applied.last() {
            Some(newest) => self.check_order(&newest.version),
            None => Ok(()),
        }
    }

    fn check_order(&self, newest: &SchemaVersion) -> Result<(), MigrationError> {
        let below = self.migrations.iter().take_while(|(version, _)| version < newest);
        match below.into_iter().find(|(version, _)| !self.is_applied(version)) {
            None => Ok(()),
            Some((version, migration)) => Err(self.error(MigrationProblem::OutOfOrder {
                version: version.clone(),
                name: migration.name.to_string(),
                newest: newest.clone(),
            })),
        }
    }
}

/// The error for a version that is in no migration.
pub(super) fn no_such_version(
    set: &str,
    migrations: &[(SchemaVersion, Migration)],
    asked: impl ToString,
) -> MigrationError {
    let known: Vec<String> = migrations.iter().map(|(version, _)| version.to_string()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    MigrationError::new(set, MigrationProblem::NoSuchVersion { asked: asked.to_string(), known })
}
