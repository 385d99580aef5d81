use bytes::Bytes;
use persist_core::{
    Condition, DeleteOptions, Descriptor, Expiry, Key, Metadata, Operation, StoreItem, StoreOptions,
    Timestamp, Value, Version,
};
use redis::Cmd;

use crate::config::RedisConfig;
use crate::engine::{Body, Call};
use crate::keyspace::{Keyspace, Tag};
use crate::parts::Parts;
use crate::record::{self, NEVER, Record};
use crate::script;

/// By how much the server's own expiry comes after the moment that counts. The moment is judged by the clock of the
/// storage, and entries are removed when it has come; the server's expiry only makes sure that nothing stays if nobody
/// is there to remove it. The slack keeps a server whose clock runs fast from removing what still lives.
const SLACK: i64 = 60_000;

/// Lifetimes above this are left to the storage alone: the server adds its own time to them.
const LONGEST: i64 = 100 * 366 * 86_400_000;

/// The changes of one call, all on one tag.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) tag: Tag,
    /// The present by the clock of the storage: when what it stores was modified.
    pub(crate) now: Timestamp,
    /// Marks what this call writes.
    pub(crate) nonce: String,
    pub(crate) steps: Vec<Step>,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) key: Key,
    pub(crate) condition: Condition,
    pub(crate) action: Action,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Action {
    Put { draft: Box<Metadata>, parts: Parts },
    Delete { draft: Version },
    Touch { draft: Version, expires_at: Option<Timestamp> },
    Check,
}

impl Step {
    /// Stores a value; the descriptor drafts its metadata.
    pub(crate) fn put(
        descriptor: &Descriptor,
        config: &RedisConfig,
        key: &Key,
        value: &Value,
        mut options: StoreOptions,
    ) -> Self {
        options.expiry = config.rule(key, options.expiry);
        let draft = Box::new(descriptor.draft_metadata(value, &options));
        let action = Action::Put { draft, parts: Parts::of(value) };
        Self { key: key.clone(), condition: options.condition, action }
    }

    pub(crate) fn delete(descriptor: &Descriptor, key: &Key, options: DeleteOptions) -> Self {
        let action = Action::Delete { draft: descriptor.next_version(None) };
        Self { key: key.clone(), condition: options.condition, action }
    }

    pub(crate) fn touch(descriptor: &Descriptor, config: &RedisConfig, key: &Key, expiry: Expiry) -> Self {
        let expires_at = config.rule(key, expiry).resolve(descriptor.now(), descriptor.default_ttl());
        let action = Action::Touch { draft: descriptor.next_version(None), expires_at };
        Self { key: key.clone(), condition: Condition::None, action }
    }

    pub(crate) fn of(descriptor: &Descriptor, config: &RedisConfig, operation: Operation) -> Self {
        match operation {
            Operation::Put(StoreItem { key, value, options }) => {
                Self::put(descriptor, config, &key, &value, options)
            }
            Operation::Delete(key, options) => Self::delete(descriptor, &key, options),
            Operation::Check(key, condition) => Self { key, condition, action: Action::Check },
        }
    }

    /// The version drafted for it: what it makes has this one or a greater one.
    pub(crate) fn draft(&self) -> Option<Version> {
        match &self.action {
            Action::Put { draft, .. } => Some(draft.version),
            Action::Delete { draft } | Action::Touch { draft, .. } => Some(*draft),
            Action::Check => None,
        }
    }

    fn bytes(&self) -> usize {
        match &self.action {
            Action::Put { parts, .. } => parts.bytes(),
            _ => 0,
        }
    }

    /// What the script reads of it.
    fn write(&self, now: Timestamp, cmd: &mut Cmd) {
        cmd.arg(self.verb());
        match self.condition {
            Condition::None => cmd.arg("any"),
            Condition::IfAbsent => cmd.arg("absent"),
            Condition::IfVersion(version) => cmd.arg(version.as_u64()),
        };
        match self.draft() {
            Some(draft) => cmd.arg(draft.as_u64()),
            None => cmd.arg(NEVER),
        };
        match &self.action {
            Action::Put { draft, parts } => {
                write_life(draft.expires_at, now, cmd);
                cmd.arg(Record::columns(draft, parts.parts.len(), parts.header)).arg(parts.parts.len());
                parts.parts.iter().chain(&parts.sums()).for_each(|part: &Bytes| {
                    cmd.arg(&part[..]);
                });
            }
            Action::Touch { expires_at, .. } => {
                write_life(*expires_at, now, cmd);
                cmd.arg(NEVER).arg(0);
            }
            Action::Delete { .. } | Action::Check => {
                write_life(None, now, cmd);
                cmd.arg(NEVER).arg(0);
            }
        }
    }

    fn verb(&self) -> &'static str {
        match self.action {
            Action::Put { .. } => "put",
            Action::Delete { .. } => "delete",
            Action::Touch { .. } => "touch",
            Action::Check => "check",
        }
    }
}

fn write_life(expires_at: Option<Timestamp>, now: Timestamp, cmd: &mut Cmd) {
    cmd.arg(record::expires(expires_at));
    match lifetime(expires_at, now) {
        Some(millis) => cmd.arg(millis),
        None => cmd.arg(NEVER),
    };
}

/// After how many milliseconds the server removes an entry by itself, if it does.
fn lifetime(expires_at: Option<Timestamp>, now: Timestamp) -> Option<i64> {
    let left = expires_at?.as_millis().saturating_sub(now.as_millis());
    (left <= LONGEST).then(|| left.max(0) + SLACK)
}

impl Change {
    pub(crate) fn new(tag: Tag, now: Timestamp, nonce: String, steps: Vec<Step>) -> Self {
        Self { tag, now, nonce, steps }
    }

    /// The smallest version drafted for it.
    pub(crate) fn draft(&self) -> Option<Version> {
        self.steps.iter().filter_map(Step::draft).min()
    }

    /// As the engine takes it.
    pub(crate) fn call(self: &std::sync::Arc<Self>) -> Call {
        let bytes = self.steps.iter().map(Step::bytes).sum();
        Call { tag: self.tag, bytes, body: Body::Change(std::sync::Arc::clone(self)) }
    }

    /// What the script reads of it; see [`command`].
    fn write(&self, latest: i64, cmd: &mut Cmd) {
        cmd.arg(latest).arg(self.now.as_millis()).arg(&self.nonce).arg(self.steps.len());
        self.steps.iter().for_each(|step| step.write(self.now, cmd));
    }
}

/// The command that makes changes of one tag, for a connection of this era, each not later than at its moment of the
/// server's clock in milliseconds: what is held up on the way has no effect after the call has ended.
pub(crate) fn command(changes: &[(&Change, i64)], keyspace: &Keyspace, client: &str, era: u64) -> Cmd {
    let tag = changes.first().map_or(Tag(0), |(change, _)| change.tag);
    let mut keys = vec![keyspace.head(tag), keyspace.index(tag), keyspace.expiry(tag)];
    let steps = changes.iter().flat_map(|(change, _)| &change.steps);
    keys.extend(steps.map(|step| keyspace.entry(tag, &step.key)));
    let mut cmd = script::CHANGE.call(&keys);
    cmd.arg(client).arg(era).arg(changes.len());
    changes.iter().for_each(|(change, latest)| change.write(*latest, &mut cmd));
    cmd
}

/// The answers to so many changes from that to their command: a line for each, or the same refusal for all.
pub(crate) fn answers(answer: redis::Value, count: usize) -> Vec<redis::Value> {
    let redis::Value::BulkString(lines) = &answer else { return vec![answer; count] };
    let lines: Vec<_> =
        lines.split(|byte| *byte == b'\n').map(|line| redis::Value::BulkString(line.to_vec())).collect();
    // Which line belongs to whom cannot be told otherwise.
    if lines.len() == count { lines } else { vec![redis::Value::Nil; count] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_removes_later_than_the_storage() {
        let now = Timestamp::from_millis(1_000_000);
        let at = |millis| lifetime(Some(Timestamp::from_millis(millis)), now);
        assert_eq!(lifetime(None, now), None);
        assert_eq!(at(1_000_500), Some(500 + SLACK));
        assert_eq!(at(i64::MIN), Some(SLACK));
        assert_eq!(at(i64::MAX), None);
    }
}
