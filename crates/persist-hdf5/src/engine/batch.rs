//! Changes that share a commit; if one of them fails, each has a commit of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use persist_core::writing::{Answer, Done};
use persist_core::{ErrorKind, Result, StorageError};

use super::Engine;
use super::failure::Failure;
use crate::apply::Transaction;
use crate::change::Change;
use crate::ffi::H5Error;
use crate::report::Report;

impl Engine {
    /// Makes changes, all in one commit if none of them fails, and answers each.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Vec<Result<Answer>> {
        match self.together(changes) {
            Ok(answers) => answers,
            // One of them cannot be done: the others must not suffer from that.
            Err(Failure::Undone(error)) if changes.len() > 1 && may_be_one_of_them(&error) => {
                Report::count(&self.report().retried_batches, 1);
                changes.iter().map(|change| self.alone(change)).collect()
            }
            Err(Failure::Undone(error)) if is_splittable(changes) && may_be_one_of_them(&error) => {
                changes.iter().map(|change| self.alone(change)).collect()
            }
            Err(failure) => refuse(changes, failure),
        }
    }

    /// A change in a commit of its own; if its steps do not belong together, each of them.
    fn alone(&mut self, change: &Change) -> Result<Answer> {
        if change.together || change.steps.len() < 2 {
            return match self.together(std::slice::from_ref(change)) {
                Ok(mut answers) => answers.pop().unwrap_or_else(|| Ok(Vec::new())),
                Err(failure) => Err(failure.error(change.operation)),
            };
        }
        Ok((0..change.steps.len()).map(|at| self.step_alone(change, at)).collect())
    }

    fn step_alone(&mut self, change: &Change, at: usize) -> Result<Done> {
        let answer = self.transaction(change.operation, |transaction| transaction.apply_step(change, at));
        answer.unwrap_or_else(|failure| Err(failure.error(change.operation)))
    }

    fn together(&mut self, changes: &[Change]) -> std::result::Result<Vec<Result<Answer>>, Failure> {
        let operation = changes.first().map_or("store", |change| change.operation);
        let answers = self.transaction(operation, |transaction| {
            changes.iter().map(|change| transaction.apply(change)).collect::<Result<Vec<_>, _>>()
        })?;
        let count = changes.len() as u64;
        self.report().step(changes.iter().map(Change::weight).sum());
        Report::count(&self.report().changes, count);
        self.report().largest_batch.fetch_max(count, Ordering::Relaxed);
        Ok(answers)
    }

    /// Does some work in one commit.
    fn transaction<T>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<T, H5Error>,
    ) -> std::result::Result<T, Failure> {
        self.report().admit(&self.shared.descriptor, operation).map_err(Failure::Undone)?;
        let Some(file) = &self.file else { return Err(Failure::Undone(self.ended(operation))) };
        let others = (&self.others, &self.transfers);
        let mut transaction = Transaction::new(file, &self.shared, &mut self.groups, others, self.floor);
        let done = work(&mut transaction);
        let changed = transaction.finish();
        let done = done.map_err(|error| self.undo(operation, error, &changed.regrouped))?;
        if changed.staged.is_empty() && changed.floor == self.floor {
            return Ok(done);
        }
        let sealed = match changed.floor > self.floor {
            true => self.write_root(changed.floor),
            false => Ok(()),
        };
        sealed.and_then(|()| self.flush()).map_err(|failure| self.give_up(failure, &changed.regrouped))?;
        {
            let shared = Arc::clone(&self.shared);
            let mut index = shared.index.write();
            self.site.session.lock().publish();
            index.apply(changed.staged);
        }
        self.floor = changed.floor;
        Report::count(&self.report().commits, 1);
        self.note_log();
        Ok(done)
    }
}

fn refuse(changes: &[Change], failure: Failure) -> Vec<Result<Answer>> {
    let Some((first, rest)) = changes.split_first() else { return Vec::new() };
    let error = failure.error(first.operation);
    let rest: Vec<_> = rest.iter().map(|change| Err(error.again(change.operation))).collect();
    std::iter::once(Err(error)).chain(rest).collect()
}

/// True unless the disk fails whatever is written: then each of them would only fail by itself.
fn may_be_one_of_them(error: &StorageError) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::AccessDenied | ErrorKind::ReadOnly)
}

fn is_splittable(changes: &[Change]) -> bool {
    changes.iter().any(|change| !change.together && change.steps.len() > 1)
}
