use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use crate::key::escape;
use crate::{Key, Version};

/// The result of every operation of a storage.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

type Source = Box<dyn Error + Send + Sync + 'static>;

/// What went wrong, in the words that a program can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No storage of that name is configured. A missing *key* is `None`, never this.
    NotFound,
    /// The key, or the prefix of a listing, breaks a rule of [`Key`].
    InvalidKey,
    /// The value, its tags or the options cannot be kept as they are.
    InvalidValue,
    /// The value is larger than the storage accepts.
    TooLarge,
    /// The configuration is wrong.
    InvalidConfig,
    /// A condition did not hold; the version found is in [`StorageError::found`].
    Conflict,
    /// The operating system or the server refused for lack of rights.
    AccessDenied,
    /// The storage is open for reading only.
    ReadOnly,
    /// Another process holds what must be held alone.
    Locked,
    /// The storage cannot be reached now, or refuses to work until it is reopened.
    Unavailable,
    /// It took longer than allowed; the outcome may be unknown.
    Timeout,
    /// No room: disk, quota, memory or entries.
    Capacity,
    /// What is stored is damaged. Never reported as absent.
    Corruption,
    /// This storage cannot do that.
    Unsupported,
    /// The storage was closed.
    Closed,
    /// A mistake in persist itself.
    Internal,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call will fail again.
    No,
    /// The same call may succeed later, when the cause has gone.
    Later,
    /// Read again first, then decide: somebody else was faster.
    AfterRead,
}

impl ErrorKind {
    /// Whether trying again can help.
    pub fn retry(self) -> Retry {
        match self {
            Self::Conflict => Retry::AfterRead,
            Self::Locked | Self::Unavailable | Self::Timeout | Self::Capacity => Retry::Later,
            _ => Retry::No,
        }
    }

    /// The name used in documents, logs and JSON output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::InvalidKey => "InvalidKey",
            Self::InvalidValue => "InvalidValue",
            Self::TooLarge => "TooLarge",
            Self::InvalidConfig => "InvalidConfig",
            Self::Conflict => "Conflict",
            Self::AccessDenied => "AccessDenied",
            Self::ReadOnly => "ReadOnly",
            Self::Locked => "Locked",
            Self::Unavailable => "Unavailable",
            Self::Timeout => "Timeout",
            Self::Capacity => "Capacity",
            Self::Corruption => "Corruption",
            Self::Unsupported => "Unsupported",
            Self::Closed => "Closed",
            Self::Internal => "Internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one public error: its kind, where it happened, and what to do about it.
///
/// One pointer wide. The message names the storage, the key and the cure, keys are escaped and cut, and no secret is
/// ever put into one.
///
/// ```
/// use persist_core::{ErrorKind, Key, StorageError};
///
/// let error = StorageError::new(ErrorKind::Capacity, "the disk is full; free some space")
///     .with_operation("store")
///     .with_storage("docs")
///     .with_key(&Key::new("a/b")?);
/// assert_eq!(error.to_string(), r#"storage "docs": store "a/b": the disk is full; free some space"#);
/// # Ok::<(), StorageError>(())
/// ```
pub struct StorageError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: Option<&'static str>,
    storage: Option<String>,
    key: Option<Key>,
    message: Cow<'static, str>,
    found: Option<Version>,
    outcome_unknown: bool,
    source: Option<Source>,
}

impl StorageError {
    /// An error of a kind with a message that says what is wrong and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation: None,
            storage: None,
            key: None,
            message: message.into(),
            found: None,
            outcome_unknown: false,
            source: None,
        }))
    }

    /// A condition that did not hold: `expected` in words, and the version found (`None`: the key is absent).
    pub fn conflict(key: &Key, expected: &str, found: Option<Version>) -> Self {
        let message = match found {
            Some(version) => format!("{expected}, but version {version} is stored; read it again and decide"),
            None => format!("{expected}, but the key is absent; read it again and decide"),
        };
        let mut error = Self::new(ErrorKind::Conflict, message).with_key(key);
        error.0.found = found;
        error
    }

    /// A task or thread that did not come to its end: it panicked, or the runtime was shut down.
    pub fn broken_task(error: impl Error + Send + Sync + 'static) -> Self {
        let message = format!("the task that does the work ended before its time: {error}");
        Self::new(ErrorKind::Internal, message).with_source(error)
    }

    /// The same error for another call that came to nothing for the same reason: kind, message, storage, and whether the
    /// outcome is unknown; not the key.
    #[must_use]
    pub fn again(&self, operation: &'static str) -> Self {
        let mut same = Self::new(self.kind(), self.0.message.clone()).with_operation(operation);
        same.0.storage.clone_from(&self.0.storage);
        same.0.outcome_unknown = self.0.outcome_unknown;
        same
    }

    /// The answer to every key of a batch that came to nothing as a whole.
    pub fn for_each<'k, T>(
        &self,
        operation: &'static str,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Vec<Result<T>> {
        keys.into_iter().map(|key| Err(self.again(operation).with_key(key))).collect()
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        self.0.kind.retry()
    }

    /// The verb that failed.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The name of the storage.
    pub fn storage(&self) -> Option<&str> {
        self.0.storage.as_deref()
    }

    /// The key concerned.
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// The message alone, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// For a `Conflict`: the version that is stored, `None` if the key is absent.
    pub fn found(&self) -> Option<Version> {
        self.0.found
    }

    /// True if the change may or may not have happened: read before you repeat it.
    pub fn outcome_unknown(&self) -> bool {
        self.0.outcome_unknown
    }

    /// Says which verb failed, if nobody nearer to the cause has said so.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Says which storage failed, if nobody nearer to the cause has said so.
    #[must_use]
    pub fn with_storage(mut self, name: &str) -> Self {
        self.0.storage.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Says which key is concerned, if nobody nearer to the cause has said so.
    #[must_use]
    pub fn with_key(mut self, key: &Key) -> Self {
        self.0.key.get_or_insert_with(|| key.clone());
        self
    }

    /// Says which key is concerned, whatever was said before: for a layer that stores a key under another name.
    #[must_use]
    pub fn about_key(mut self, key: &Key) -> Self {
        self.0.key = Some(key.clone());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks the outcome as unknown: the change may or may not have happened.
    #[must_use]
    pub fn with_outcome_unknown(mut self) -> Self {
        self.0.outcome_unknown = true;
        self
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(storage) = self.storage() {
            write!(f, "storage {}: ", escape(storage))?;
        }
        match (self.operation(), self.key()) {
            (Some(operation), Some(key)) => write!(f, "{operation} {key:?}: ")?,
            (Some(operation), None) => write!(f, "{operation}: ")?,
            (None, Some(key)) => write!(f, "{key:?}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.0.message)?;
        if self.0.outcome_unknown {
            f.write_str(" (whether the change took place is unknown: read before you repeat it)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_place_wins() {
        let error = StorageError::new(ErrorKind::Timeout, "no answer in 2 s")
            .with_storage("inner")
            .with_storage("outer")
            .with_operation("retrieve");
        assert_eq!(error.to_string(), r#"storage "inner": retrieve: no answer in 2 s"#);
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(size_of::<StorageError>(), size_of::<usize>());
    }

    #[test]
    fn a_layer_that_renames_keys_says_the_name_that_was_asked_for() {
        let (inner, outer) = (Key::new("tenant/a").unwrap(), Key::new("a").unwrap());
        let error = StorageError::new(ErrorKind::Timeout, "late").with_key(&inner).about_key(&outer);
        assert_eq!(error.to_string(), r#""a": late"#);
    }

    #[test]
    fn the_same_error_for_another_call_leaves_out_the_key() {
        let key = Key::new("a").unwrap();
        let error = StorageError::new(ErrorKind::Timeout, "late")
            .with_operation("store")
            .with_storage("s")
            .with_key(&key);
        assert_eq!(error.again("delete").to_string(), r#"storage "s": delete: late"#);
        assert_eq!(error.again("delete").kind(), ErrorKind::Timeout);
        assert!(!error.again("delete").outcome_unknown());
        assert!(error.with_outcome_unknown().again("delete").outcome_unknown());
    }

    #[test]
    fn causes_are_shown_by_debug() {
        let error = StorageError::new(ErrorKind::Unavailable, "cannot read")
            .with_source(std::io::Error::other("disk on fire"));
        assert_eq!(format!("{error:?}"), "Unavailable: cannot read: disk on fire");
    }
}
