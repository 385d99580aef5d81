use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use persist_core::{Descriptor, Entry, ErrorKind, Key, Metadata, Result, StorageError};
use redis::Cmd;

use crate::answer;
use crate::keyspace::Keyspace;
use crate::parts;
use crate::record::{self, Record};
use crate::storage::{Inner, RedisStorage};

/// What a reader of ranges found.
pub(crate) enum Part {
    /// The range, or that the key is absent.
    Found(Option<Bytes>),
    /// The value was replaced between two looks at it.
    Changed,
}

/// What was read of an entry.
pub(crate) enum Look {
    /// All of it, or that the key is absent.
    Whole(Option<Entry>),
    /// It is there, and its value lies in parts: [`long`] reads it.
    Long,
}

/// Reads an entry whose value lies in one piece, as nearly all do.
pub(crate) fn whole(keyspace: &Keyspace, key: &Key) -> Cmd {
    // The sums are there to tell a long value without metadata from an absent one.
    fields(keyspace, key, &["m", "v", "c"])
}

/// Reads an entry, however long.
pub(crate) fn long(keyspace: &Keyspace, key: &Key) -> Cmd {
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(keyspace.entry(keyspace.tag(key), key));
    cmd
}

/// Reads some fields of an entry.
pub(crate) fn fields(keyspace: &Keyspace, key: &Key, names: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("HMGET");
    cmd.arg(keyspace.entry(keyspace.tag(key), key)).arg(names);
    cmd
}

/// A value that is not what it was when it was stored.
fn damaged(descriptor: &Descriptor, operation: &'static str, key: &Key, what: &str) -> StorageError {
    let message = format!("{what}; restore it from a backup or delete the key");
    descriptor.error(ErrorKind::Corruption, operation, message).with_key(key)
}

/// The record of a key, if it lives.
fn live(
    descriptor: &Descriptor,
    operation: &'static str,
    key: &Key,
    line: Option<Bytes>,
) -> Result<Option<Record>> {
    let Some(line) = line else { return Ok(None) };
    let record =
        Record::decode(&line).map_err(|bad| damaged(descriptor, operation, key, &bad.to_string()))?;
    Ok(descriptor.live(Some(&record.metadata)).is_some().then_some(record))
}

/// The metadata of a live key from the answer to [`fields`] with `m` alone.
pub(crate) fn metadata(
    descriptor: &Descriptor,
    operation: &'static str,
    key: &Key,
    answer: redis::Value,
) -> Result<Option<Metadata>> {
    let fault = |fault: crate::fault::Fault| fault.error_at(descriptor, operation, key);
    let line = answer::array(answer).map_err(fault)?.into_iter().next().unwrap_or_default();
    Ok(live(descriptor, operation, key, answer::bytes(line).map_err(fault)?)?.map(|record| record.metadata))
}

/// A live entry, checked, from the answer to [`whole`].
pub(crate) fn entry(
    descriptor: &Descriptor,
    operation: &'static str,
    key: &Key,
    answer: redis::Value,
) -> Result<Look> {
    let fault = |fault: crate::fault::Fault| fault.error_at(descriptor, operation, key);
    let mut found = answer::array(answer).map_err(fault)?.into_iter().map(answer::bytes);
    let mut next = || found.next().transpose().map(Option::flatten).map_err(fault);
    let (line, value, sums) = (next()?, next()?, next()?);
    let Some(line) = line else {
        return match value.or(sums) {
            None => Ok(Look::Whole(None)),
            Some(_) => Err(damaged(descriptor, operation, key, "the entry has no metadata")),
        };
    };
    match live(descriptor, operation, key, Some(line))? {
        None => Ok(Look::Whole(None)),
        Some(record) if record.parts == 1 => {
            checked(descriptor, operation, key, record, value).map(Some).map(Look::Whole)
        }
        Some(_) => Ok(Look::Long),
    }
}

/// A live entry, checked, from the answer to [`long`].
pub(crate) fn long_entry(
    descriptor: &Descriptor,
    operation: &'static str,
    key: &Key,
    answer: redis::Value,
) -> Result<Option<Entry>> {
    let fault = |fault: crate::fault::Fault| fault.error_at(descriptor, operation, key);
    let mut found = HashMap::new();
    for (name, content) in answer::map(answer).map_err(fault)? {
        found.insert(answer::bytes(name).map_err(fault)?, answer::bytes(content).map_err(fault)?);
    }
    if found.is_empty() {
        return Ok(None);
    }
    let mut take = |name: &str| found.remove(&Some(Bytes::copy_from_slice(name.as_bytes()))).flatten();
    let Some(line) = take("m") else {
        return Err(damaged(descriptor, operation, key, "the entry has no metadata"));
    };
    let Some(record) = live(descriptor, operation, key, Some(line))? else { return Ok(None) };
    let stored = match record.parts {
        1 => take("v"),
        count => join((0..count).map(|part| take(&part.to_string()))),
    };
    checked(descriptor, operation, key, record, stored).map(Some)
}

/// An entry from its record and its value, if they belong together.
fn checked(
    descriptor: &Descriptor,
    operation: &'static str,
    key: &Key,
    record: Record,
    stored: Option<Bytes>,
) -> Result<Entry> {
    let stored =
        stored.ok_or_else(|| damaged(descriptor, operation, key, "a part of the value is missing"))?;
    let value = record::value(record.metadata.kind, stored);
    let value =
        value.ok_or_else(|| damaged(descriptor, operation, key, "the stored array cannot be read"))?;
    descriptor.check_integrity(operation, key, &value, &record.metadata)?;
    Ok(Entry::new(value, record.metadata))
}

/// All parts in a row; nothing if one is missing.
fn join(parts: impl Iterator<Item = Option<Bytes>>) -> Option<Bytes> {
    let parts: Vec<Bytes> = parts.collect::<Option<_>>()?;
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    Some(whole.freeze())
}

impl RedisStorage {
    /// A range of a value: of one part from the whole, of several from those that hold it, each checked by its sum.
    pub(crate) async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Part> {
        const OPERATION: &str = "retrieve_range";
        let descriptor = &self.inner.descriptor;
        let mut found = self.look(OPERATION, key, &["m", "c", "v"]).await?.into_iter();
        let (line, sums, value) = (found.next().flatten(), found.next().flatten(), found.next().flatten());
        let Some(record) = live(descriptor, OPERATION, key, line.clone())? else {
            return Ok(Part::Found(None));
        };
        let damaged = |what| damaged(descriptor, OPERATION, key, what);
        if record.parts == 1 {
            let value = value.ok_or_else(|| damaged("the value is missing"))?;
            let value = record::value(record.metadata.kind, value);
            let value = value.ok_or_else(|| damaged("the stored array cannot be read"))?;
            descriptor.check_integrity(OPERATION, key, &value, &record.metadata)?;
            return Ok(Part::Found(Some(value.range(range))));
        }
        let Some((numbers, within)) = parts::locate(range, record.metadata.size, record.header) else {
            return Ok(Part::Found(Some(Bytes::new())));
        };
        let names: Vec<String> = numbers.clone().map(|number| number.to_string()).collect();
        let names: Vec<&str> = std::iter::once("m").chain(names.iter().map(String::as_str)).collect();
        let mut found = self.look(OPERATION, key, &names).await?.into_iter();
        if found.next().flatten() != line {
            return Ok(Part::Changed);
        }
        let sums = sums.unwrap_or_default();
        let sound =
            |(number, part): (usize, Option<Bytes>)| part.filter(|part| parts::is_sound(part, number, &sums));
        let whole = join(numbers.zip(found).map(sound)).filter(|whole| whole.len() >= within.end);
        whole
            .map(|whole| Part::Found(Some(whole.slice(within))))
            .ok_or_else(|| damaged("a part of the value is damaged"))
    }

    async fn look(&self, operation: &'static str, key: &Key, names: &[&str]) -> Result<Vec<Option<Bytes>>> {
        let Inner { descriptor, engine, .. } = &*self.inner;
        let answer = self.ask(operation, key, fields(&engine.keyspace, key, names)).await?;
        let found = answer::array(answer).and_then(|values| values.into_iter().map(answer::bytes).collect());
        found.map_err(|fault| fault.error_at(descriptor, operation, key))
    }
}
