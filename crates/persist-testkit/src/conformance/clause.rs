use std::fmt;

use futures_util::future::BoxFuture;
use persist_core::StorageError;

use super::{GROUPS, Harness};

/// One numbered clause of the contract and its check.
#[derive(Clone, Copy)]
pub struct Clause {
    /// `C001` and on; never reused.
    pub id: &'static str,
    /// The clause in one line, as it stands in `docs/contract.md`.
    pub title: &'static str,
    /// Checks it against a fresh place.
    pub check: Check,
}

impl Clause {
    /// The name of the test: the id and the title in snake case.
    pub fn test_name(&self) -> String {
        let words: Vec<_> =
            self.title.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        format!("{}_{}", self.id, words.join("_").to_lowercase())
    }
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.title)
    }
}

/// The check of a clause.
pub type Check = for<'a> fn(&'a dyn Harness) -> BoxFuture<'a, Verdict>;

/// What a check found.
pub type Verdict = Result<(), Stop>;

/// Why a check ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The clause does not apply to this storage, for this reason.
    Skipped(String),
    /// The storage breaks the clause, in this way.
    Broken(String),
}

impl Stop {
    pub(super) fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped(reason.into())
    }

    pub(super) fn broken(what: impl Into<String>) -> Self {
        Self::Broken(what.into())
    }
}

/// An error where none was expected.
impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Broken(format!("unexpected error: {error:?}"))
    }
}

/// A panic in a task that the check had started.
impl From<tokio::task::JoinError> for Stop {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Broken(format!("a task of the check failed: {error}"))
    }
}

/// Some clauses that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading in `docs/contract.md`.
    pub name: &'static str,
    /// The clauses.
    pub clauses: &'static [Clause],
}

/// All clauses, in the order of the document.
pub fn clauses() -> impl Iterator<Item = &'static Clause> {
    GROUPS.iter().flat_map(|group| group.clauses)
}
