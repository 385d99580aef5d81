use std::path::{Path, PathBuf};

use persist_backup::{Snapshot, Unreadable, Vault};
use persist_manager::Plan;
use serde_json::{Value, json};

use crate::app::App;
use crate::exit::Result;
use crate::text;

/// What lies in the folder of a snapshot and nowhere else.
const MANIFEST: &str = "manifest.json";

/// The folder of snapshots that a command works with: the one that is named, else that of the configuration.
pub(crate) fn vault(plan: &Plan, named: Option<&PathBuf>) -> Vault {
    named.map_or_else(|| plan.vault(), Vault::new)
}

/// A snapshot by what the user calls it: `STORAGE`, `STORAGE/SNAPSHOT`, or the path of its folder.
pub(crate) async fn find(vault: &Vault, named: &str) -> Result<Snapshot> {
    let path = Path::new(named);
    if path.join(MANIFEST).exists() {
        return Ok(Snapshot::open(path).await?);
    }
    Ok(vault.find(named).await?)
}

/// Tells of a snapshot, in one line.
pub(crate) fn tell(app: &App, snapshot: &Snapshot) -> Result<()> {
    app.out.either(&answer(snapshot), || cells(snapshot).join("  "))
}

/// What programs are told of a snapshot.
pub(crate) fn answer(snapshot: &Snapshot) -> Value {
    let manifest = snapshot.manifest();
    json!({
        "snapshot": snapshot.name(),
        "storage": manifest.storage,
        "type": manifest.backend,
        "form": manifest.form,
        "consistency": manifest.consistency,
        "created_at": manifest.created_at,
        "keys": manifest.keys,
        "bytes": manifest.bytes,
        "size": snapshot.size(),
        "path": snapshot.path(),
    })
}

/// What people are told of a snapshot.
pub(crate) fn cells(snapshot: &Snapshot) -> Vec<String> {
    let manifest = snapshot.manifest();
    vec![
        snapshot.name(),
        manifest.backend.clone(),
        text::things(manifest.keys, "key"),
        text::size(manifest.bytes),
    ]
}

/// What is told of a folder that should be a snapshot.
pub(crate) fn unreadable_answer(unreadable: &Unreadable) -> Value {
    json!({ "path": unreadable.path, "problem": unreadable.message })
}
