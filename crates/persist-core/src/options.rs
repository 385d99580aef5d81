use std::time::Duration;

use crate::{Key, Metadata, Result, StorageError, Tags, Timestamp, Version};

/// How many keys a page holds unless told otherwise.
pub const DEFAULT_PAGE: usize = 1000;

/// The most keys that a page holds; a larger limit is treated as this one, and `next` tells where to go on.
pub const MAX_PAGE: usize = 10_000;

/// When a value ceases to exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// After the storage's own default lifetime; never, if it has none.
    #[default]
    Default,
    /// Never, whatever the storage's default.
    Never,
    /// This long after it was stored. Zero: it is gone at once.
    After(Duration),
    /// At this moment. A moment that has passed: it is gone at once.
    At(Timestamp),
}

impl Expiry {
    /// The moment of expiry for a value stored at `now` in a storage whose default lifetime is `default`.
    pub fn resolve(self, now: Timestamp, default: Option<Duration>) -> Option<Timestamp> {
        match self {
            Self::Default => default.map(|lifetime| now.saturating_add(lifetime)),
            Self::Never => None,
            Self::After(lifetime) => Some(now.saturating_add(lifetime)),
            Self::At(moment) => Some(moment),
        }
    }
}

/// What must hold for a change to take place; checked and applied in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key is absent.
    IfAbsent,
    /// The key is stored in exactly this version.
    IfVersion(Version),
}

impl Condition {
    /// Checks the condition against what is stored now (`None`: absent, which includes expired).
    ///
    /// # Errors
    /// `Conflict` with the version found.
    pub fn check(self, key: &Key, current: Option<&Metadata>) -> Result<()> {
        let found = current.map(|metadata| metadata.version);
        match (self, found) {
            (Self::None, _) | (Self::IfAbsent, None) => Ok(()),
            (Self::IfVersion(version), Some(found)) if found == version => Ok(()),
            _ => Err(self.conflict(key, found)),
        }
    }

    /// The error of a condition that did not hold, for backends that check it elsewhere: the version found, `None` if
    /// the key is absent.
    pub fn conflict(self, key: &Key, found: Option<Version>) -> StorageError {
        match self {
            Self::IfVersion(version) => {
                StorageError::conflict(key, &format!("version {version} was expected"), found)
            }
            Self::None | Self::IfAbsent => StorageError::conflict(key, "the key should be absent", found),
        }
    }
}

/// How a value is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// When it ceases to exist. Storing without an expiry ends an earlier one.
    pub expiry: Expiry,
    /// What must hold for it to be stored.
    pub condition: Condition,
    /// The user's tags; they replace the earlier ones.
    pub tags: Tags,
    /// What layers did to the value; for layers only.
    pub encodings: Vec<String>,
}

impl StoreOptions {
    /// The defaults: no condition, no tags, the storage's own lifetime.
    pub fn new() -> Self {
        Self::default()
    }

    /// It ceases to exist after `lifetime`.
    #[must_use]
    pub fn ttl(mut self, lifetime: Duration) -> Self {
        self.expiry = Expiry::After(lifetime);
        self
    }

    /// It ceases to exist at `moment`.
    #[must_use]
    pub fn expires_at(mut self, moment: Timestamp) -> Self {
        self.expiry = Expiry::At(moment);
        self
    }

    /// It is stored only if the key is absent.
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.condition = Condition::IfAbsent;
        self
    }

    /// It is stored only over this version.
    #[must_use]
    pub fn if_version(mut self, version: Version) -> Self {
        self.condition = Condition::IfVersion(version);
        self
    }

    /// One more tag.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.tags = self.tags.with(name, text);
        self
    }
}

/// How a key is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// What must hold for it to be deleted. `IfAbsent` never deletes anything: it only checks.
    pub condition: Condition,
}

impl DeleteOptions {
    /// No condition.
    pub fn new() -> Self {
        Self::default()
    }

    /// It is deleted only in this version.
    #[must_use]
    pub fn if_version(mut self, version: Version) -> Self {
        self.condition = Condition::IfVersion(version);
        self
    }
}

/// Which page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOptions {
    /// Only keys after this one, which need not exist.
    pub after: Option<Key>,
    /// At most this many keys, 1 to [`MAX_PAGE`].
    pub limit: usize,
}

impl ListOptions {
    /// The first page of [`DEFAULT_PAGE`] keys.
    pub fn new() -> Self {
        Self { after: None, limit: DEFAULT_PAGE }
    }

    /// Only keys after this one.
    #[must_use]
    pub fn after(mut self, key: Option<Key>) -> Self {
        self.after = key;
        self
    }

    /// At most this many keys.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

impl Default for ListOptions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_resolves_without_overflow() {
        let now = Timestamp::from_millis(1_000);
        assert_eq!(Expiry::Default.resolve(now, None), None);
        assert_eq!(Expiry::Default.resolve(now, Some(Duration::from_secs(1))).unwrap().as_millis(), 2_000);
        assert_eq!(Expiry::Never.resolve(now, Some(Duration::from_secs(1))), None);
        assert_eq!(Expiry::After(Duration::ZERO).resolve(now, None), Some(now));
        assert_eq!(Expiry::After(Duration::MAX).resolve(now, None).unwrap().as_millis(), i64::MAX);
        let past = Timestamp::from_millis(-7);
        assert_eq!(Expiry::At(past).resolve(now, None), Some(past));
    }
}
