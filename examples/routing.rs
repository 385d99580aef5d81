//! Two storages behind one: keys find their way by prefix, and a program never names a storage.
#![allow(clippy::print_stdout)] // Output is what an example is for.

use persist::{Result, StorageExt, StorageManager};

const CONFIG: &str = "
persistence:
  default_storage: docs
  storages:
    docs: { type: file, base_path: data/routing }
    hot: { type: cache, ttl: 1h, max_bytes: 64MiB }
  routes:
    - { prefix: 'session/', storage: hot }
";

#[tokio::main]
async fn main() -> Result<()> {
    let manager = StorageManager::from_yaml(CONFIG).await?;
    let everything = manager.router();
    everything.put("session/42", &"Ada").await?;
    everything.put("users/ada", &serde_json::json!({ "born": 1815 })).await?;

    assert!(manager.storage("hot")?.get::<String>("session/42").await?.is_some());
    assert!(manager.storage("docs")?.get::<String>("session/42").await?.is_none());
    for (name, health) in manager.health().await {
        println!("{name}: {:?}", health.status);
    }

    // Compare-and-swap: of many writers none is lost.
    let visits = everything.update("users/visits", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
    println!("visits: {visits}");
    manager.close().await
}
