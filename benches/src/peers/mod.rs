//! The contenders: persist, and what people use instead.

mod caches;
mod files;
mod object_stores;
mod open_dal;
mod persist;
mod redis;
mod sqlite;

pub(crate) use caches::{FutureMoka, Quick, SyncMoka};
pub(crate) use files::{Blocking, Sync, TokioFiles};
pub(crate) use object_stores::ObjectStores;
pub(crate) use open_dal::OpenDal;
pub(crate) use persist::Persist;
pub(crate) use redis::{Deadpool, Fred, Multiplexed, RedisBenchmark, SameCommands, server};
pub(crate) use sqlite::{Bare, GroupCommit, Pooled, TokioRusqlite};

/// The part of some unordered names that a page asks for.
fn page_of<T: AsRef<str> + Ord>(mut names: Vec<T>, after: Option<&str>, limit: usize) -> Vec<String> {
    names.sort_unstable();
    let first = after.map_or(0, |after| names.partition_point(|name| name.as_ref() <= after));
    names[first..].iter().take(limit).map(|name| name.as_ref().to_owned()).collect()
}
