//! Everything that is measured. A new backend is one entry here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use persist_bench_work::{Outcome, Remote, Runner};
use persist_cache::{CacheConfig, CacheStorage};
use persist_core::{BaseStorage, OpenContext};
use persist_file::{Durability, FileConfig, FileStorage};
use persist_redis::{RedisConfig, RedisStorage};
use persist_sqlite::{Durability as SqliteDurability, SqliteConfig, SqliteStorage};

use crate::peers::{
    Bare, Blocking, Deadpool, Fred, FutureMoka, GroupCommit, Multiplexed, ObjectStores, OpenDal, Persist,
    Pooled, Quick, RedisBenchmark, SameCommands, Sync, SyncMoka, TokioFiles, TokioRusqlite, server,
};

/// Who is compared with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Writes to files that survive power loss when acknowledged.
    Strict,
    /// Writes to files that survive the death of the process.
    Relaxed,
    /// Reads of files.
    Read,
    /// Listings of files.
    List,
    /// Memory.
    Cache,
    /// Writes to a SQLite database that survive power loss when acknowledged.
    SqliteStrict,
    /// Writes to a SQLite database that survive the death of the process.
    SqliteRelaxed,
    /// Reads of a SQLite database.
    SqliteRead,
    /// Listings of a SQLite database.
    SqliteList,
    /// A hundred thousand values in a SQLite database with one call, strictly.
    SqliteBulk,
    /// Writes to a Redis server.
    Redis,
    /// Reads of a Redis server.
    RedisRead,
    /// Listings of a Redis server.
    RedisList,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
            Self::Read => "read",
            Self::List => "list",
            Self::Cache => "cache",
            Self::SqliteStrict => "sqlite-strict",
            Self::SqliteRelaxed => "sqlite-relaxed",
            Self::SqliteRead => "sqlite-read",
            Self::SqliteList => "sqlite-list",
            Self::SqliteBulk => "sqlite-bulk",
            Self::Redis => "redis",
            Self::RedisRead => "redis-read",
            Self::RedisList => "redis-list",
        }
    }
}

/// One contender.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// What an acknowledged write is worth, or what a read checks.
    pub(crate) promise: &'static str,
    /// True for persist itself: the others are compared with it.
    pub(crate) ours: bool,
    pub(crate) classes: &'static [Class],
    /// Opens it in a folder that is its own.
    pub(crate) open: fn(PathBuf) -> Opening,
}

type Opening = BoxFuture<'static, Outcome<Arc<dyn Runner>>>;

use Class::{
    Cache, List, Read, Redis, RedisList, RedisRead, Relaxed, SqliteBulk, SqliteList, SqliteRead,
    SqliteRelaxed, SqliteStrict, Strict,
};

/// All contenders; ours first in every class.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "persist file, strict",
        promise: "value and name synced; reads verified",
        ours: true,
        classes: &[Strict, Read],
        open: |folder| Box::pin(file(folder, Durability::Strict)),
    },
    Entry {
        name: "persist file, relaxed",
        promise: "nothing synced; reads verified",
        ours: true,
        classes: &[Relaxed, List],
        open: |folder| Box::pin(file(folder, Durability::Relaxed)),
    },
    Entry {
        name: "std::fs, synced",
        promise: "value and name synced",
        ours: false,
        classes: &[Strict],
        open: |folder| Box::pin(async move { runner(Blocking::new(folder, Sync::Yes)) }),
    },
    Entry {
        name: "std::fs",
        promise: "nothing synced",
        ours: false,
        classes: &[Relaxed, Read, List],
        open: |folder| Box::pin(async move { runner(Blocking::new(folder, Sync::No)) }),
    },
    Entry {
        name: "tokio::fs, synced",
        promise: "value and name synced",
        ours: false,
        classes: &[Strict],
        open: |folder| Box::pin(async move { runner(TokioFiles::new(folder, Sync::Yes)) }),
    },
    Entry {
        name: "tokio::fs",
        promise: "nothing synced",
        ours: false,
        classes: &[Relaxed, Read],
        open: |folder| Box::pin(async move { runner(TokioFiles::new(folder, Sync::No)) }),
    },
    Entry {
        name: "object_store, fsync",
        promise: "value and name synced",
        ours: false,
        classes: &[Strict],
        open: |folder| Box::pin(async move { runner(ObjectStores::new(&folder, Sync::Yes)?) }),
    },
    Entry {
        name: "object_store",
        promise: "nothing synced",
        ours: false,
        classes: &[Relaxed, Read, List],
        open: |folder| Box::pin(async move { runner(ObjectStores::new(&folder, Sync::No)?) }),
    },
    Entry {
        name: "OpenDAL fs",
        promise: "value synced, name not",
        ours: false,
        classes: &[Strict, Relaxed, Read, List],
        open: |folder| Box::pin(async move { runner(OpenDal::new(&folder)?) }),
    },
    Entry {
        name: "persist cache, Arc<dyn BaseStorage>",
        promise: "metadata and BLAKE3 of each value, listing kept in order",
        ours: true,
        classes: &[Cache],
        open: |_| Box::pin(cache()),
    },
    Entry {
        name: "moka sync, called directly",
        promise: "bounded by bytes",
        ours: false,
        classes: &[Cache],
        open: |_| Box::pin(async move { runner(SyncMoka::new(CACHE_BYTES)) }),
    },
    Entry {
        name: "moka future, called directly",
        promise: "bounded by bytes",
        ours: false,
        classes: &[Cache],
        open: |_| Box::pin(async move { runner(FutureMoka::new(CACHE_BYTES)) }),
    },
    Entry {
        name: "quick_cache, called directly",
        promise: "bounded by bytes",
        ours: false,
        classes: &[Cache],
        open: |_| Box::pin(async move { runner(Quick::new(CACHE_BYTES)) }),
    },
    Entry {
        name: "persist sqlite, strict",
        promise: "log synced; reads verified",
        ours: true,
        classes: &[SqliteStrict, SqliteBulk],
        open: |folder| Box::pin(sqlite(folder, SqliteDurability::Strict)),
    },
    Entry {
        name: "persist sqlite, relaxed",
        promise: "log not synced; reads verified",
        ours: true,
        classes: &[SqliteRelaxed, SqliteRead, SqliteList],
        open: |folder| Box::pin(sqlite(folder, SqliteDurability::Relaxed)),
    },
    Entry {
        name: "bare rusqlite, synced",
        promise: "log synced",
        ours: false,
        classes: &[SqliteStrict, SqliteBulk],
        open: |folder| Box::pin(async move { runner(Bare::new(&folder, Sync::Yes)?) }),
    },
    Entry {
        name: "bare rusqlite",
        promise: "log not synced",
        ours: false,
        classes: &[SqliteRelaxed, SqliteRead, SqliteList],
        open: |folder| Box::pin(async move { runner(Bare::new(&folder, Sync::No)?) }),
    },
    Entry {
        name: "bare loop of group commits, synced",
        promise: "log synced",
        ours: false,
        classes: &[SqliteStrict],
        open: |folder| Box::pin(async move { runner(GroupCommit::new(&folder, Sync::Yes)?) }),
    },
    Entry {
        name: "bare loop of group commits",
        promise: "log not synced",
        ours: false,
        classes: &[SqliteRelaxed],
        open: |folder| Box::pin(async move { runner(GroupCommit::new(&folder, Sync::No)?) }),
    },
    Entry {
        name: "r2d2 and spawn_blocking, synced",
        promise: "log synced",
        ours: false,
        classes: &[SqliteStrict],
        open: |folder| Box::pin(async move { runner(Pooled::new(&folder, Sync::Yes)?) }),
    },
    Entry {
        name: "r2d2 and spawn_blocking",
        promise: "log not synced",
        ours: false,
        classes: &[SqliteRelaxed, SqliteRead, SqliteList],
        open: |folder| Box::pin(async move { runner(Pooled::new(&folder, Sync::No)?) }),
    },
    Entry {
        name: "tokio-rusqlite, synced",
        promise: "log synced",
        ours: false,
        classes: &[SqliteStrict],
        open: |folder| Box::pin(async move { runner(TokioRusqlite::new(&folder, Sync::Yes).await?) }),
    },
    Entry {
        name: "tokio-rusqlite",
        promise: "log not synced",
        ours: false,
        classes: &[SqliteRelaxed, SqliteRead, SqliteList],
        open: |folder| Box::pin(async move { runner(TokioRusqlite::new(&folder, Sync::No).await?) }),
    },
    Entry {
        name: "OpenDAL sqlite",
        promise: "log synced",
        ours: false,
        classes: &[SqliteStrict, SqliteRead],
        open: |folder| {
            Box::pin(async move { runner(Remote::start(&beside("persist-bench-opendal-sqlite")?, &folder)?) })
        },
    },
    Entry {
        name: "persist redis",
        promise: "index, version and metadata change with the value; reads verified",
        ours: true,
        classes: &[Redis, RedisRead, RedisList],
        open: |folder| Box::pin(async move { runner(redis(&folder, None).await?) }),
    },
    Entry {
        name: "persist redis, ttl 1h",
        promise: "the same, and an expiry with its index",
        ours: true,
        classes: &[Redis],
        open: |folder| {
            Box::pin(async move { runner(redis(&folder, Some(Duration::from_secs(3600))).await?) })
        },
    },
    Entry {
        name: "redis-benchmark",
        promise: "a string is set or got; nobody looks at what comes back",
        ours: false,
        classes: &[Redis, RedisRead],
        open: |_| Box::pin(async move { runner(RedisBenchmark::default()) }),
    },
    Entry {
        name: "redis, multiplexed",
        promise: "a string is set or got",
        ours: false,
        classes: &[Redis, RedisRead],
        open: |folder| Box::pin(async move { runner(Multiplexed::new(&folder).await?) }),
    },
    Entry {
        name: "redis, persist's own commands",
        promise: "record and value are got, and not looked at",
        ours: false,
        classes: &[RedisRead],
        open: |folder| Box::pin(same_commands(folder)),
    },
    Entry {
        name: "deadpool-redis, 16 connections",
        promise: "a string is set or got",
        ours: false,
        classes: &[Redis, RedisRead],
        open: |folder| Box::pin(async move { runner(Deadpool::new(&folder)?) }),
    },
    Entry {
        name: "fred",
        promise: "a string is set or got",
        ours: false,
        classes: &[Redis, RedisRead],
        open: |folder| Box::pin(async move { runner(Fred::new(&folder).await?) }),
    },
    Entry {
        name: "OpenDAL redis",
        promise: "a string is set or got",
        ours: false,
        classes: &[Redis, RedisRead],
        open: |folder| Box::pin(async move { runner(OpenDal::redis(&folder)?) }),
    },
];

/// The bound of every cache: all keys of a measurement fit.
const CACHE_BYTES: u64 = 1 << 30;

fn runner(contender: impl Runner + 'static) -> Outcome<Arc<dyn Runner>> {
    Ok(Arc::new(contender))
}

/// Any storage of persist, called the way programs call it.
fn ours(storage: impl BaseStorage) -> Outcome<Arc<dyn Runner>> {
    runner(Persist::new(Arc::new(storage)))
}

async fn file(folder: PathBuf, durability: Durability) -> Outcome<Arc<dyn Runner>> {
    let config = FileConfig::new(folder).durability(durability);
    ours(FileStorage::open("bench", config, &OpenContext::default()).await?)
}

async fn cache() -> Outcome<Arc<dyn Runner>> {
    let config = CacheConfig::default().max_bytes(CACHE_BYTES);
    ours(CacheStorage::open("bench", &config, &OpenContext::default())?)
}

async fn sqlite(folder: PathBuf, durability: SqliteDurability) -> Outcome<Arc<dyn Runner>> {
    let config = SqliteConfig::new(folder.join("entries.db")).durability(durability);
    ours(SqliteStorage::open("bench", config, &OpenContext::default()).await?)
}

/// A storage on the one server, in a namespace that is called as its folder.
async fn redis(folder: &Path, ttl: Option<Duration>) -> Outcome<Persist> {
    let mut config = RedisConfig::url(server()?.url()).namespace(namespace(folder));
    if let Some(ttl) = ttl {
        config = config.ttl(ttl);
    }
    Ok(Persist::new(Arc::new(RedisStorage::open("bench", config, &OpenContext::default()).await?)))
}

async fn same_commands(folder: PathBuf) -> Outcome<Arc<dyn Runner>> {
    runner(SameCommands::new(&namespace(&folder), redis(&folder, None).await?).await?)
}

fn namespace(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A program that was built into the same folder as this one.
fn beside(name: &str) -> Outcome<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    if program.exists() {
        return Ok(program);
    }
    Err(format!(
        "{} is missing; run `just bench`, which builds it, or leave its contender out with --storage",
        program.display()
    )
    .into())
}
