//! The contract, for both promises of durability.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::sync::Arc;

use persist_core::{
    Backend, BaseStorage, Key, ManualClock, OpenContext, Result, SnapshotSource, async_trait,
};
use persist_sqlite::{Durability, SqliteBackend, SqliteConfig, SqliteStorage};
use persist_testkit::{Harness, Variant};
use rusqlite::Connection;

struct Sqlite {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    durability: Durability,
}

impl Sqlite {
    fn new(durability: Durability) -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default(), durability }
    }

    fn strict() -> Self {
        Self::new(Durability::Strict)
    }

    fn relaxed() -> Self {
        Self::new(Durability::Relaxed)
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig::new("folder/main.db").durability(self.durability)
    }

    async fn open_with(&self, config: SqliteConfig) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        Ok(Arc::new(SqliteStorage::open("main", config, &context).await?))
    }
}

#[async_trait]
impl Harness for Sqlite {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.open_with(self.config()).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let mut config = self.config();
        if !variant.settle(&mut config.ttl, &mut config.max_value, &mut config.read_only) {
            return Ok(None);
        }
        self.open_with(config).await.map(Some)
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.open().await.map(Some)
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    /// Flips the last bit of the value, by SQL: where the bytes lie in the file is nobody's business here.
    async fn corrupt(&self, key: &Key) -> bool {
        let database = Connection::open(self.place.path().join("folder/main.db")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        let found = database.query_row(
            "SELECT kind, CAST(value AS BLOB) FROM entries WHERE key = ?1",
            [&**key],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)),
        );
        let Ok((kind, mut value)) = found else { return false };
        let Some(last) = value.last_mut() else { return false };
        *last ^= 1;
        let cast = if kind == "json" { "CAST(?1 AS TEXT)" } else { "?1" };
        let sql = format!("UPDATE entries SET value = {cast} WHERE key = ?2");
        database.execute(&sql, rusqlite::params![value, &**key]).unwrap() == 1
    }

    async fn open_snapshot(&self, snapshot: &dyn SnapshotSource) -> Result<Option<Arc<dyn BaseStorage>>> {
        let context = OpenContext { clock: self.clock.clone(), ..OpenContext::default() };
        SqliteBackend::open_snapshot("main", snapshot, &context).await
    }
}

persist_testkit::conformance! {
    "strict" => Sqlite::strict,
    "relaxed" => Sqlite::relaxed,
}
