use std::collections::BTreeMap;

use persist_core::{Stats, Timestamp};
use redis::Value;
use tokio::time::Instant;

use crate::answer;
use crate::engine::{Body, Call, Engine};
use crate::fault::Fault;
use crate::keyspace::Tag;

/// What the servers say of their memory, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    used: u64,
    /// 0: unlimited.
    limit: u64,
    evicted: u64,
    /// A policy under which something that has not expired may be evicted, and what it is called.
    pub(crate) evicting: Option<String>,
}

impl Memory {
    /// Reads the sections `memory` and `stats` of INFO.
    fn read(info: &str) -> Self {
        let fields: BTreeMap<&str, &str> =
            info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let number = |name| fields.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let limit = number("maxmemory");
        let policy = fields.get("maxmemory_policy").copied().unwrap_or("noeviction");
        let evicting = (limit > 0 && policy != "noeviction").then(|| policy.to_owned());
        Self { used: number("used_memory"), limit, evicted: number("evicted_keys"), evicting }
    }

    fn add(self, other: Self) -> Self {
        Self {
            used: self.used + other.used,
            limit: self.limit + other.limit,
            evicted: self.evicted + other.evicted,
            evicting: self.evicting.or(other.evicting),
        }
    }
}

impl Engine {
    /// How many keys live, and how the memory of the servers is.
    pub(crate) async fn stats(&self, now: Timestamp, deadline: Instant) -> Result<Stats, Fault> {
        let counts = self.keyspace.tags().flat_map(|tag| {
            let mut all = redis::cmd("ZCARD");
            all.arg(self.keyspace.index(tag));
            let mut expired = redis::cmd("ZCOUNT");
            expired.arg(self.keyspace.expiry(tag)).arg("-inf").arg(now.as_millis());
            [all, expired].map(|cmd| Call { tag, bytes: 0, body: Body::Read(cmd) })
        });
        let mut keys = 0_u64;
        for (place, answer) in self.run(counts.collect(), deadline).await.into_iter().enumerate() {
            let count = u64::try_from(answer::integer(answer?)?).unwrap_or(0);
            keys = if place % 2 == 0 { keys + count } else { keys.saturating_sub(count) };
        }
        let memory = self.memory(deadline).await?;
        let counters = memory.map_or_else(BTreeMap::new, |memory| {
            BTreeMap::from([
                ("server_used_memory_bytes", memory.used),
                ("server_max_memory_bytes", memory.limit),
                ("server_evicted_keys", memory.evicted),
                ("server_may_evict", u64::from(memory.evicting.is_some())),
            ])
        });
        Ok(Stats { keys: Some(keys), bytes: None, counters })
    }

    /// How the memory of the servers is; `None` where the user may not ask.
    pub(crate) async fn memory(&self, deadline: Instant) -> Result<Option<Memory>, Fault> {
        let tags = self.servers(deadline).await?;
        let ask = |tag: Tag, section: &str| {
            let mut cmd = redis::cmd("INFO");
            cmd.arg(section);
            Call { tag, bytes: 0, body: Body::Read(cmd) }
        };
        let calls = tags.into_iter().flat_map(|tag| [ask(tag, "memory"), ask(tag, "stats")]).collect();
        let mut sum = None;
        for answer in self.run(calls, deadline).await {
            match answer {
                Ok(info) => {
                    sum = Some(sum.unwrap_or_else(Memory::default).add(Memory::read(&info_text(info)?)));
                }
                Err(fault) if fault.kind == persist_core::ErrorKind::AccessDenied => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(sum)
    }
}

pub(crate) fn info_text(value: Value) -> Result<String, Fault> {
    match value {
        Value::VerbatimString { text, .. } => Ok(text),
        other => answer::text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_counts_only_where_memory_is_limited() {
        let read = |limit, policy| {
            Memory::read(&format!(
                "# Memory\r\nused_memory:5\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n"
            ))
        };
        assert_eq!(read(0, "allkeys-lru").evicting, None);
        assert_eq!(read(9, "noeviction").evicting, None);
        assert_eq!(read(9, "volatile-lru").evicting.as_deref(), Some("volatile-lru"));
        let both = read(9, "noeviction").add(read(9, "allkeys-lru"));
        assert_eq!((both.used, both.limit, both.evicting.is_some()), (10, 18, true));
    }
}
