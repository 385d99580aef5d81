//! OpenDAL's sqlite service, measured by `persist-benches` from outside: its only argument is the folder of the database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use opendal::services::Sqlite;
use opendal::{ErrorKind, Operator};
use persist_bench_work::{Contender, Outcome, serve};
use persist_core::Key;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("the folder of the database is missing; persist-benches starts this program");
        return ExitCode::FAILURE;
    };
    match run(PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("OpenDAL sqlite stopped: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: PathBuf) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { serve(Arc::new(OpenDalSqlite::open(&folder).await?)).await })
}

/// A table as OpenDAL's documentation asks for, in a database with a write-ahead log; `synchronous` is FULL, as SQLite has
/// it unless told otherwise.
#[derive(Debug)]
struct OpenDalSqlite {
    operator: Operator,
    /// For what OpenDAL cannot do.
    pool: SqlitePool,
}

impl OpenDalSqlite {
    async fn open(folder: &Path) -> Outcome<Self> {
        let path = folder.join("entries.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        let table = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY NOT NULL, value BLOB)";
        sqlx::query(table).execute(&pool).await?;
        let address = format!("sqlite://{}", path.display());
        let operator = Operator::new(Sqlite::default().connection_string(&address).table("entries"))?;
        Ok(Self { operator, pool })
    }
}

impl Contender for OpenDalSqlite {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.operator.write(key, value.clone()).await?;
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        match self.operator.read(key).await {
            Ok(found) => Ok(Some(found.to_bytes())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn settle(&self) -> Outcome<()> {
        sqlx::query("PRAGMA wal_checkpoint(truncate)").execute(&self.pool).await?;
        Ok(())
    }

    async fn page(&self, _: Option<&Key>, _: usize) -> Outcome<Vec<String>> {
        Err("OpenDAL's sqlite service cannot list".into())
    }
}
