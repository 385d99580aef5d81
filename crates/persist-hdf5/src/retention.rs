//! How long values are kept at most, by prefix: what is older is removed by `maintain`.

use persist_core::writing::Done;
use persist_core::{HumanDuration, Key, Result, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::{Change, Step};
use crate::state::Shared;
use crate::worker::Worker;

/// How many keys are looked at in one go, while nobody can commit.
const LOOK: usize = 4096;

/// How long values are kept whose keys begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// How the keys begin, literally; the longest prefix counts.
    pub prefix: String,
    /// How long after it was last changed `maintain` removes a value. Datasets that persist did not write stay.
    pub max_age: HumanDuration,
}

/// All rules of a storage, the longest prefix first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<Retention>);

/// What the rules removed.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) values: u64,
    pub(crate) bytes: u64,
}

impl Rules {
    /// Orders the rules.
    pub(crate) fn new(mut rules: Vec<Retention>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Self(rules)
    }

    /// True if nothing is ever too old.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A value that was changed before this moment is too old for its key; `None`: none is.
    pub(crate) fn oldest(&self, key: &str, now: Timestamp) -> Option<Timestamp> {
        let rule = self.0.iter().find(|rule| key.starts_with(&rule.prefix))?;
        let age = i64::try_from(rule.max_age.0.as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp::from_millis(now.as_millis().saturating_sub(age)))
    }

    /// Removes what is too old.
    ///
    /// # Errors
    /// What the library and the disk say; what was removed before stays removed.
    pub(crate) async fn apply(&self, shared: &Shared, worker: &Worker) -> Result<Removed> {
        let (mut removed, mut after) = (Removed::default(), None);
        loop {
            let now = shared.descriptor.now();
            let (old, last) = shared.index.read().older(after.as_ref(), LOOK, |key| self.oldest(key, now));
            remove(worker, old, &mut removed).await?;
            after = last;
            if after.is_none() {
                return Ok(removed);
            }
        }
    }
}

async fn remove(worker: &Worker, old: Vec<(Key, Timestamp)>, removed: &mut Removed) -> Result<()> {
    if old.is_empty() {
        return Ok(());
    }
    let steps = old.into_iter().map(|(key, before)| Step::Sweep { key, before: Some(before) }).collect();
    for done in worker.change(Change::each("maintain", steps)).await? {
        if let Done::Swept(Some(bytes)) = done? {
            removed.values += 1;
            removed.bytes += bytes;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_prefix_counts() {
        let rule = |prefix: &str, seconds| Retention {
            prefix: prefix.to_owned(),
            max_age: HumanDuration(Duration::from_secs(seconds)),
        };
        let rules = Rules::new(vec![rule("a/", 60), rule("a/kept/", 3600)]);
        let now = Timestamp::from_millis(10_000_000);
        for (key, oldest) in
            [("a/x", Some(9_940_000)), ("a/kept/x", Some(6_400_000)), ("a", None), ("b/a/", None)]
        {
            assert_eq!(rules.oldest(key, now).map(Timestamp::as_millis), oldest, "{key}");
        }
        assert_eq!(Rules::default().oldest("a", now), None);
    }
}
