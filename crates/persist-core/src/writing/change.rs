use std::fmt;

use crate::{ErrorKind, Key, Metadata, Outcome, Result, StorageError, Watchers};

/// One step of a change, prepared as far as that needs no storage.
pub trait Step: fmt::Debug + Send + 'static {
    /// The key concerned.
    fn key(&self) -> &Key;

    /// How many bytes it writes, about.
    fn weight(&self) -> u64;
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// The value is stored.
    Stored(Metadata),
    /// The key is absent; true if it was there.
    Deleted(bool),
    /// The expiry is changed; `None`: the key is absent.
    Touched(Option<Metadata>),
    /// The condition held.
    Checked,
    /// What had expired is removed: the size of its value. `None`: it has not expired.
    Swept(Option<u64>),
}

impl Done {
    /// What a store did.
    ///
    /// # Errors
    /// `Internal` if the step was no store.
    pub fn stored(self) -> Result<Metadata> {
        match self {
            Self::Stored(metadata) => Ok(metadata),
            other => Err(other.unexpected()),
        }
    }

    /// What a delete did: true if the key was there.
    ///
    /// # Errors
    /// `Internal` if the step was no delete.
    pub fn deleted(self) -> Result<bool> {
        match self {
            Self::Deleted(was_there) => Ok(was_there),
            other => Err(other.unexpected()),
        }
    }

    /// What a touch did; `None`: the key is absent.
    ///
    /// # Errors
    /// `Internal` if the step was no touch.
    pub fn touched(self) -> Result<Option<Metadata>> {
        match self {
            Self::Touched(metadata) => Ok(metadata),
            other => Err(other.unexpected()),
        }
    }

    /// What a step of a transaction did.
    ///
    /// # Errors
    /// `Internal` if transactions have no such step.
    pub fn outcome(self) -> Result<Outcome> {
        match self {
            Self::Stored(metadata) => Ok(Outcome::Stored(metadata)),
            Self::Deleted(was_there) => Ok(Outcome::Deleted(was_there)),
            Self::Checked => Ok(Outcome::Checked),
            other => Err(other.unexpected()),
        }
    }

    fn unexpected(&self) -> StorageError {
        StorageError::new(ErrorKind::Internal, format!("a change got the answer of another: {self:?}"))
    }
}

/// Steps that one caller asked for with one call.
#[derive(Debug)]
pub struct Change<S> {
    /// The verb, for messages.
    pub operation: &'static str,
    /// In order.
    pub steps: Vec<S>,
    /// All or nothing; else each step on its own.
    pub together: bool,
}

impl<S: Step> Change<S> {
    /// A single step.
    pub fn one(operation: &'static str, step: S) -> Self {
        Self::all(operation, vec![step])
    }

    /// Steps of which all take place or none.
    pub fn all(operation: &'static str, steps: Vec<S>) -> Self {
        Self { operation, steps, together: true }
    }

    /// Steps that succeed and fail each on its own.
    pub fn each(operation: &'static str, steps: Vec<S>) -> Self {
        Self { operation, steps, together: false }
    }

    /// How many bytes it writes, about.
    pub fn weight(&self) -> u64 {
        self.steps.iter().map(Step::weight).sum()
    }
}

/// An answer for each step; for a change that is all or nothing, an error of one is the error of the whole.
pub type Answer = Vec<Result<Done>>;

/// Tells those who watch what became of changes, in their order; called before they are acknowledged.
pub fn tell<S: Step>(watchers: &Watchers, changes: &[Change<S>], answers: &[Result<Answer>]) {
    if !watchers.is_watched() {
        return;
    }
    for (change, answer) in changes.iter().zip(answers) {
        match answer {
            Ok(answer) => {
                for (step, done) in change.steps.iter().zip(answer) {
                    tell_step(watchers, step.key(), done);
                }
            }
            Err(error) => tell_failure(watchers, error),
        }
    }
}

fn tell_step(watchers: &Watchers, key: &Key, done: &Result<Done>) {
    match done {
        Ok(Done::Stored(metadata) | Done::Touched(Some(metadata))) => watchers.stored(key, metadata),
        Ok(Done::Deleted(true)) => watchers.deleted(key),
        // What had expired was absent before.
        Ok(Done::Deleted(false) | Done::Touched(None) | Done::Checked | Done::Swept(_)) => {}
        Err(error) => tell_failure(watchers, error),
    }
}

fn tell_failure(watchers: &Watchers, error: &StorageError) {
    if error.outcome_unknown() {
        watchers.lost();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{Descriptor, Event, StoreOptions, Value, Watch};

    #[derive(Debug)]
    struct Named(Key);

    impl Step for Named {
        fn key(&self) -> &Key {
            &self.0
        }

        fn weight(&self) -> u64 {
            3
        }
    }

    fn steps(names: &[&str]) -> Vec<Named> {
        names.iter().map(|name| Named(Key::new(*name).unwrap())).collect()
    }

    fn metadata() -> Metadata {
        Descriptor::new("x", "test").draft_metadata(&Value::bytes(&b"x"[..]), &StoreOptions::new())
    }

    fn told(watch: &mut Watch<'_>) -> Vec<String> {
        let next = || watch.next().now_or_never().flatten();
        let name = |event: Result<Event>| match event {
            Ok(Event::Stored { key, .. }) => format!("+{key}"),
            Ok(Event::Deleted { key }) => format!("-{key}"),
            Ok(Event::Lost) => "lost".to_owned(),
            Err(error) => error.to_string(),
        };
        std::iter::from_fn(next).map(name).collect()
    }

    #[test]
    fn watchers_are_told_what_took_place_and_what_may_have() {
        let watchers = Watchers::new();
        let mut watch = watchers.watch("");
        let refused = || StorageError::new(ErrorKind::Conflict, "stale");
        let unknown = || StorageError::new(ErrorKind::Unavailable, "lost").with_outcome_unknown();
        let changes = [
            Change::each("x", steps(&["a", "b", "c", "d", "e", "f", "g"])),
            Change::one("x", Named(Key::new("h").unwrap())),
        ];
        let answer = vec![
            Ok(Done::Stored(metadata())),
            Ok(Done::Touched(Some(metadata()))),
            Ok(Done::Touched(None)),
            Ok(Done::Deleted(true)),
            Ok(Done::Deleted(false)),
            Err(refused()),
            Ok(Done::Swept(Some(1))),
        ];
        tell(&watchers, &changes, &[Ok(answer), Err(refused())]);
        assert_eq!(told(&mut watch), ["+a", "+b", "-d"]);
        tell(&watchers, &changes, &[Ok(vec![Err(unknown()), Ok(Done::Deleted(true))]), Err(unknown())]);
        assert_eq!(told(&mut watch), ["lost", "-b", "lost"]);
    }

    #[test]
    fn the_answer_of_another_step_is_an_error() {
        assert_eq!(Done::Stored(metadata()).stored().unwrap().size, 1);
        assert!(Done::Deleted(true).deleted().unwrap());
        assert_eq!(Done::Touched(None).touched().unwrap(), None);
        assert_eq!(Done::Checked.outcome().unwrap(), Outcome::Checked);
        for error in [
            Done::Checked.stored().unwrap_err(),
            Done::Checked.deleted().unwrap_err(),
            Done::Checked.touched().unwrap_err(),
            Done::Touched(None).outcome().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Internal);
        }
    }
}
