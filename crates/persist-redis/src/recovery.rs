use std::sync::Arc;

use bytes::Bytes;
use persist_core::{Condition, Descriptor, Key, Metadata, Outcome, StorageError, Timestamp, Version};
use redis::Value;
use tokio::time::Instant;

use crate::answer;
use crate::change::{Action, Change, Step};
use crate::engine::{Body, Call, Engine};
use crate::fault::{Fate, Fault};
use crate::record::Record;

/// What a change did.
#[derive(Debug)]
pub(crate) enum Done {
    /// It took place, and each step is answered.
    Made(Vec<Made>),
    /// A condition did not hold: of which step, and the version found.
    Conflict(usize, Option<Version>),
}

/// What one step did.
#[derive(Debug)]
pub(crate) enum Made {
    /// As a transaction answers it.
    Outcome(Outcome),
    /// A touch: the metadata afterwards, if the key was there.
    Touched(Option<Metadata>),
}

impl Made {
    /// As a transaction answers it; a transaction holds no touch.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Outcome(outcome) => Some(outcome),
            Self::Touched(_) => None,
        }
    }

    /// The metadata of a put.
    pub(crate) fn stored(
        self,
        descriptor: &Descriptor,
        operation: &'static str,
        key: &Key,
    ) -> Result<Metadata, StorageError> {
        match self {
            Self::Outcome(Outcome::Stored(metadata)) => Ok(metadata),
            _ => Err(Fault::garbled("no answer to a store").error_at(descriptor, operation, key)),
        }
    }

    /// Whether a delete found the key.
    pub(crate) fn deleted(
        self,
        descriptor: &Descriptor,
        operation: &'static str,
        key: &Key,
    ) -> Result<bool, StorageError> {
        match self {
            Self::Outcome(Outcome::Deleted(was_there)) => Ok(was_there),
            _ => Err(Fault::garbled("no answer to a delete").error_at(descriptor, operation, key)),
        }
    }
}

/// What reading back tells of a change whose answer was lost.
#[derive(Debug)]
enum Trace {
    /// It took place.
    Made(Vec<Made>),
    /// It did not, and will not: it may be made again.
    Nothing,
    /// Something newer is there, which may have been written over it or without it.
    Unknown,
}

impl Engine {
    /// Makes a change exactly once, or says that nobody knows.
    ///
    /// When an answer is lost the connection is given up, and the next one begins by ending the eras before it: what may
    /// still lie in a buffer is refused from then on. Then the entries are read back. They carry the mark of the call
    /// that wrote them, and versions grow, so what is there tells whether the change took place.
    pub(crate) async fn make(self: &Arc<Self>, change: Change, deadline: Instant) -> Result<Done, Fault> {
        let change = Arc::new(change);
        let answer = self.run_one(change.call(), deadline).await;
        self.settle(&change, answer, deadline).await
    }

    /// Makes several changes at once, those on one tag in their order.
    pub(crate) async fn make_all(
        self: &Arc<Self>,
        changes: Vec<Change>,
        deadline: Instant,
    ) -> Vec<Result<Done, Fault>> {
        let changes: Vec<_> = changes.into_iter().map(Arc::new).collect();
        let answers = self.run(changes.iter().map(Change::call).collect(), deadline).await;
        let mut done = Vec::with_capacity(changes.len());
        for (change, answer) in changes.iter().zip(answers) {
            done.push(self.settle(change, answer, deadline).await);
        }
        done
    }

    async fn settle(
        self: &Arc<Self>,
        change: &Arc<Change>,
        mut answer: Result<Value, Fault>,
        deadline: Instant,
    ) -> Result<Done, Fault> {
        loop {
            let fault = match answer {
                // What cannot be read does not tell what became of the change.
                Ok(answer) => {
                    return read(change, answer).map_err(|fault| Fault { fate: Fate::Lost, ..fault });
                }
                Err(fault) if fault.fate == Fate::Lost => fault,
                Err(fault) => return Err(fault),
            };
            match self.trace(change, deadline).await {
                Ok(Trace::Made(made)) => return Ok(Done::Made(made)),
                Ok(Trace::Nothing) if Instant::now() >= deadline => {
                    return Err(Fault { fate: Fate::Untouched, ..fault });
                }
                Ok(Trace::Nothing) => answer = self.run_one(change.call(), deadline).await,
                Ok(Trace::Unknown) | Err(_) => return Err(fault),
            }
        }
    }

    /// Reads back, over a connection that was made after the answer was lost.
    async fn trace(&self, change: &Change, deadline: Instant) -> Result<Trace, Fault> {
        let read = |key: String, field: &str| {
            let mut cmd = redis::cmd("HGET");
            cmd.arg(key).arg(field);
            Call { tag: change.tag, bytes: 0, body: Body::Read(cmd) }
        };
        let entries = change.steps.iter().map(|step| read(self.keyspace.entry(change.tag, &step.key), "m"));
        let calls = entries.chain([read(self.keyspace.head(change.tag), "version")]).collect();
        let mut answers = self.run(calls, deadline).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let highest = answer::version(answers.pop().unwrap_or_default())?;
        let lines = answers.into_iter().map(answer::bytes).collect::<Result<Vec<_>, _>>()?;
        Ok(conclude(change, &lines, highest))
    }
}

/// True if the script answered that a condition did not hold.
pub(crate) fn is_conflict(answer: &Value) -> bool {
    matches!(answer, Value::BulkString(line) if line.starts_with(b"conflict\t"))
}

/// The error that the script answered to a change: its code, and more about it.
pub(crate) fn refused(call: &Call, answer: &Value) -> Option<(String, String)> {
    let (Body::Change(_), Value::BulkString(line)) = (&call.body, answer) else { return None };
    let line = String::from_utf8_lossy(line.strip_prefix(b"error\t")?);
    let (code, detail) = line.split_once(' ').unwrap_or((&line, ""));
    Some((code.to_owned(), detail.to_owned()))
}

/// What the script answered.
fn read(change: &Change, value: Value) -> Result<Done, Fault> {
    let line = answer::text(value)?;
    let mut words = line.split('\t');
    match words.next() {
        Some("conflict") => {
            let step = words.next().and_then(|step| step.parse::<usize>().ok()?.checked_sub(1));
            let conditional =
                |step: &usize| change.steps.get(*step).is_some_and(|step| step.condition != Condition::None);
            let step = step.filter(conditional).ok_or_else(|| Fault::garbled("a conflict with nothing"))?;
            let found = words.next().and_then(|version| version.parse().ok()).map(Version::from_u64);
            Ok(Done::Conflict(step, found))
        }
        Some("done") if words.clone().count() == change.steps.len() => {
            let made = change.steps.iter().zip(words);
            made.map(|(step, word)| read_step(change, step, word)).collect::<Result<_, _>>().map(Done::Made)
        }
        _ => Err(Fault::garbled("no answer for each step")),
    }
}

fn read_step(change: &Change, step: &Step, word: &str) -> Result<Made, Fault> {
    Ok(match &step.action {
        Action::Put { draft, .. } => {
            let numbers = word
                .split_once(',')
                .and_then(|(version, created)| Some((version.parse().ok()?, created.parse().ok()?)));
            let (version, created) = numbers.ok_or_else(|| Fault::garbled("no version"))?;
            Made::Outcome(Outcome::Stored(Metadata {
                version: Version::from_u64(version),
                created_at: Timestamp::from_millis(created),
                modified_at: change.now,
                ..(**draft).clone()
            }))
        }
        Action::Delete { .. } if word == "1" || word == "0" => Made::Outcome(Outcome::Deleted(word == "1")),
        Action::Check if word == "1" => Made::Outcome(Outcome::Checked),
        Action::Delete { .. } | Action::Check => return Err(Fault::garbled("neither yes nor no")),
        Action::Touch { .. } if word.is_empty() => Made::Touched(None),
        Action::Touch { .. } => {
            let record = Record::decode(word.as_bytes());
            Made::Touched(Some(record.map_err(|bad| Fault::garbled(&bad.to_string()))?.metadata))
        }
    })
}

/// What the lines that are there now, and the highest version of the tag, tell of a change.
fn conclude(change: &Change, lines: &[Option<Bytes>], highest: Version) -> Trace {
    let records: Vec<_> = lines.iter().map(|line| line.as_deref().map(Record::decode)).collect();
    let is_ours = |record: &Record| record.nonce == change.nonce;
    if records.iter().flatten().flatten().any(is_ours) {
        let made = change.steps.iter().zip(records).map(|(step, record)| made_by(change, step, record?.ok()));
        return made.collect::<Option<_>>().map_or(Trace::Unknown, Trace::Made);
    }
    // Had it taken place, the tag would have a version from its draft on, and so would each entry that is still there.
    let is_older = |(step, record): (&Step, &Option<Result<Record, _>>)| match (step.draft(), record) {
        (Some(draft), Some(Ok(record))) => record.metadata.version < draft,
        _ => false,
    };
    let nothing =
        change.draft().is_none_or(|draft| highest < draft) || change.steps.iter().zip(&records).any(is_older);
    if nothing { Trace::Nothing } else { Trace::Unknown }
}

/// What a step of a change that took place did, if its record still tells.
fn made_by(change: &Change, step: &Step, record: Option<Record>) -> Option<Made> {
    let ours = record.filter(|record| record.nonce == change.nonce);
    match (&step.action, step.condition) {
        (Action::Put { .. }, _) => ours.map(|record| Made::Outcome(Outcome::Stored(record.metadata))),
        (Action::Touch { .. }, _) => ours.map(|record| Made::Touched(Some(record.metadata))),
        (Action::Check, _) => Some(Made::Outcome(Outcome::Checked)),
        (Action::Delete { .. }, Condition::IfVersion(_)) => Some(Made::Outcome(Outcome::Deleted(true))),
        (Action::Delete { .. }, Condition::IfAbsent) => Some(Made::Outcome(Outcome::Deleted(false))),
        (Action::Delete { .. }, Condition::None) => None,
    }
}

#[cfg(test)]
mod tests {
    use persist_core::{DeleteOptions, StoreOptions};

    use super::*;
    use crate::RedisConfig;
    use crate::keyspace::Tag;

    fn put(options: StoreOptions) -> Change {
        let (descriptor, config) = (Descriptor::new("s", "redis"), RedisConfig::default());
        let key = Key::new("k").unwrap();
        let step = Step::put(&descriptor, &config, &key, &persist_core::Value::bytes(&b"x"[..]), options);
        Change::new(Tag(0), descriptor.now(), "me.1".into(), vec![step])
    }

    fn line(change: &Change, nonce: &str, version: u64) -> Option<Bytes> {
        let Action::Put { draft, .. } = &change.steps[0].action else { panic!("no put") };
        Some(format!("1 {version} - 5 {nonce} 5 {}", Record::columns(draft, 1, 0)).into())
    }

    #[test]
    fn what_is_there_tells_what_became_of_a_store() {
        let change = put(StoreOptions::new());
        let draft = change.draft().unwrap().as_u64();
        let trace = |line, highest| conclude(&change, &[line], Version::from_u64(highest));
        // Its own mark: it took place.
        match trace(line(&change, "me.1", draft + 4), draft + 9) {
            Trace::Made(made) => {
                let [Made::Outcome(Outcome::Stored(metadata))] = made.as_slice() else { panic!("{made:?}") };
                assert_eq!(metadata.version.as_u64(), draft + 4);
            }
            other => panic!("{other:?}"),
        }
        // Something older, or a tag that has not come so far: it did not.
        assert!(matches!(trace(line(&change, "you.1", draft - 1), draft + 9), Trace::Nothing));
        assert!(matches!(trace(None, draft - 1), Trace::Nothing));
        // Something newer, or nothing at all: who knows.
        assert!(matches!(trace(line(&change, "you.1", draft + 1), draft + 1), Trace::Unknown));
        assert!(matches!(trace(None, draft + 1), Trace::Unknown));
        assert!(matches!(trace(Some(Bytes::from_static(b"junk")), draft + 1), Trace::Unknown));
    }

    #[test]
    fn a_delete_leaves_no_mark() {
        let descriptor = Descriptor::new("s", "redis");
        let key = Key::new("k").unwrap();
        let step = Step::delete(&descriptor, &key, DeleteOptions::new());
        let change = Change::new(Tag(0), descriptor.now(), "me.1".into(), vec![step]);
        let draft = change.draft().unwrap().as_u64();
        let older = line(&put(StoreOptions::new()), "you.1", draft - 1);
        assert!(matches!(conclude(&change, &[older], Version::from_u64(draft)), Trace::Nothing));
        assert!(matches!(conclude(&change, &[None], Version::from_u64(draft)), Trace::Unknown));
    }
}
