//! Shards that move and replicas are killed at random moments, and before every system call.
//! `PERSIST_CRASH_SCALE=10` runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use persist_core::{BaseStorage, OpenContext, Result};
use persist_layers::{Replicated, ReplicatedConfig, Sharded, ShardedConfig};
use persist_sqlite::{SqliteConfig, SqliteStorage};
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::suite::{Suite, kills, sweeps};
use persist_testkit::crash::sweep::Sweep;
use persist_testkit::crash::{Subject, if_long};

async fn member(root: &Path, name: &str) -> Result<Arc<dyn BaseStorage>> {
    let config = SqliteConfig::new(root.join(format!("{name}.db")));
    Ok(Arc::new(SqliteStorage::open(name, config, &OpenContext::default()).await?))
}

async fn members(root: &Path, names: &[String]) -> Result<Vec<Arc<dyn BaseStorage>>> {
    let mut members = Vec::new();
    for name in names {
        members.push(member(root, name).await?);
    }
    Ok(members)
}

/// Each time it is opened the shards are others, and keys are moved while others change them.
async fn wandering(root: PathBuf) -> Result<Arc<dyn BaseStorage>> {
    std::fs::create_dir_all(&root).expect("a folder");
    let count = root.join("opened");
    let opened = std::fs::read(&count).map_or(0, |bytes| bytes.len());
    std::fs::write(&count, vec![b'.'; opened + 1]).expect("a note of how often it was opened");
    let (shards, draining) = match opened % 3 {
        0 => (["a", "b"], "c"),
        1 => (["b", "c"], "a"),
        _ => (["c", "a"], "b"),
    };
    let config = ShardedConfig {
        shards: shards.map(str::to_owned).to_vec(),
        draining: vec![draining.to_owned()],
        rebalance: true,
    };
    let names: Vec<String> = config.shards.iter().chain(&config.draining).cloned().collect();
    let storage = Sharded::new("all", &config, members(&root, &names).await?)?;
    let mover = storage.clone();
    // It is killed like everything else, and the next one goes on.
    tokio::spawn(async move { while mover.rebalance().await.is_ok() {} });
    Ok(Arc::new(storage))
}

async fn replicated(root: PathBuf) -> Result<Arc<dyn BaseStorage>> {
    let config = ReplicatedConfig::new(["a", "b", "c"].map(str::to_owned));
    let storage = Replicated::new("all", &config, members(&root, &config.replicas).await?)?;
    let repairer = storage.clone();
    tokio::spawn(async move { while repairer.repair(false).await.is_ok() {} });
    Ok(Arc::new(storage))
}

fn main() -> ExitCode {
    let wandering = Subject::moving("wandering", wandering);
    let replicated = Subject::storage("replicated", replicated);
    let kill = Kill { cycles: 20, tasks: 8, ..Kill::default() };
    // A short run kills before every fortieth call of a name, a long one before every fourth.
    let sweep = Sweep { every: if_long(4, 40), ..Sweep::default() };
    Suite::default()
        .test("sharded::kill", &wandering, kills(kill.clone()))
        .test("sharded::sweep", &wandering, sweeps(sweep.clone()))
        .test("replicated::kill", &replicated, kills(kill))
        .test("replicated::sweep", &replicated, sweeps(sweep))
        .main()
}
