//! What is put to the test: how it is opened, worked and checked.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use persist_core::{BaseStorage, Result};

use super::acks::Acks;
use super::history::History;
use super::plan::Plan;
use super::{inspection, workload};

/// How a storage is opened in a folder; the folder's parent exists, the folder itself perhaps not.
pub type Opener =
    Arc<dyn Fn(PathBuf) -> Pin<Box<dyn Future<Output = Result<Arc<dyn BaseStorage>>> + Send>> + Send + Sync>;

/// Whether a value has the version that was acknowledged until somebody changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    Kept,
    Growing,
}

type Work = Arc<dyn Fn(&Plan, &Acks) -> Result<(), String> + Send + Sync>;
type Check = Arc<dyn Fn(&Path, &mut History) -> Vec<String> + Send + Sync>;

/// Something that must survive crashes.
#[derive(Clone)]
pub struct Subject {
    name: String,
    work: Work,
    check: Check,
}

impl Subject {
    /// A storage, which the standard workload drives and the standard inspection checks.
    ///
    /// `open` is called with the folder of the storage, in the worker and again after each crash.
    pub fn storage<F, R>(name: &str, open: F) -> Self
    where
        F: Fn(PathBuf) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn BaseStorage>>> + Send + 'static,
    {
        Self::versioned(name, Versions::Kept, open)
    }

    /// A storage whose values get greater versions without being changed, because they move.
    pub fn moving<F, R>(name: &str, open: F) -> Self
    where
        F: Fn(PathBuf) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn BaseStorage>>> + Send + 'static,
    {
        Self::versioned(name, Versions::Growing, open)
    }

    fn versioned<F, R>(name: &str, versions: Versions, open: F) -> Self
    where
        F: Fn(PathBuf) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Arc<dyn BaseStorage>>> + Send + 'static,
    {
        let open: Opener = Arc::new(move |root| Box::pin(open(root)));
        let worker = Arc::clone(&open);
        Self::custom(
            name,
            move |plan, acks| workload::run(plan, acks, &worker, versions),
            move |root, history| inspection::run(root, history, &open, versions),
        )
    }

    /// Anything else: `work` does what the plan says and tells it in lines, `check` opens what is left in the folder
    /// and answers what is wrong, and settles the history on what it found.
    pub fn custom(
        name: &str,
        work: impl Fn(&Plan, &Acks) -> Result<(), String> + Send + Sync + 'static,
        check: impl Fn(&Path, &mut History) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.to_owned(), work: Arc::new(work), check: Arc::new(check) }
    }

    /// The same with a further check: what must not be left in the folder of a storage that was opened, maintained
    /// and closed (temporary files, locks), in words.
    #[must_use]
    pub fn without_residue(self, residue: impl Fn(&Path) -> Vec<String> + Send + Sync + 'static) -> Self {
        let check = Arc::clone(&self.check);
        let both = move |root: &Path, history: &mut History| {
            let mut complaints = check(root, history);
            complaints.extend(residue(root).into_iter().map(|text| format!("left behind: {text}")));
            complaints
        };
        Self { check: Arc::new(both), ..self }
    }

    /// Its name, which the worker process is called with.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn work(&self, plan: &Plan, acks: &Acks) -> Result<(), String> {
        (self.work)(plan, acks)
    }

    /// What is wrong with what lies in the folder; a panic of the checked code is one thing that may be wrong.
    pub(super) fn check(&self, root: &Path, history: &mut History) -> Vec<String> {
        catch_unwind(AssertUnwindSafe(|| (self.check)(root, history)))
            .unwrap_or_else(|_| vec!["opening or checking the storage panicked".into()])
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).finish_non_exhaustive()
    }
}
