use std::path::PathBuf;

use clap::Args;
use persist_backup::Snapshot;
use persist_core::Restored;
use persist_manager::Plan;
use serde_json::json;

use crate::app::App;
use crate::args::DryRun;
use crate::exit::{Failure, Result};
use crate::{text, vaults};

/// Replace everything in a storage by what a snapshot holds
///
/// The whole snapshot is verified before anything is touched, and nobody may have the storage open. A database and a
/// folder of files are exchanged in one step, and what was there before is kept beside them.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// STORAGE for its newest one, STORAGE/SNAPSHOT as `snapshots` shows it, or the path of its folder
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// The storage to restore, also of another type [default: the one that the snapshot is of]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The folder that snapshots are kept in [default: `backup.path` of the configuration, else data/backups]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    #[command(flatten)]
    dry_run: DryRun,
}

impl Restore {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let mut plan = app.config.plan()?;
        let vault = vaults::vault(&plan, self.from.as_ref());
        let snapshot = vaults::find(&vault, &self.snapshot).await?;
        let own = snapshot.manifest().storage.clone();
        let name = self.name.as_deref().map_or(own, |name| name.strip_suffix(':').unwrap_or(name).to_owned());
        let progress = app.console.progress("restoring");
        let restored = match self.dry_run.dry_run {
            true => rehearse(&plan, &name, &snapshot).await?,
            false => plan.restore(&name, &snapshot).await?,
        };
        drop(progress);
        self.tell(app, &name, &snapshot, &restored)
    }

    fn tell(&self, app: &App, name: &str, snapshot: &Snapshot, restored: &Restored) -> Result<()> {
        let answer = json!({
            "storage": name,
            "snapshot": snapshot.name(),
            "keys": restored.keys,
            "bytes": restored.bytes,
            "expired": restored.expired,
            "kept": restored.kept,
            "dry_run": self.dry_run.dry_run,
        });
        app.out.either(&answer, || {
            let did = if self.dry_run.dry_run { "would restore" } else { "restored" };
            let (keys, size) = (text::things(restored.keys, "key"), text::size(restored.bytes));
            format!("{did} {name} from {}: {keys}, {size}", snapshot.name())
        })?;
        app.out.flush()?;
        if restored.expired > 0 {
            let expired = text::things(restored.expired, "key");
            app.console.note(&format!("{expired} had expired and stayed out"));
        }
        if let Some(kept) = &restored.kept {
            app.console.note(&format!("what was there before is kept in {}", kept.display()));
        }
        Ok(())
    }
}

/// Reads all of the snapshot, and looks whether the storage is configured.
async fn rehearse(plan: &Plan, name: &str, snapshot: &Snapshot) -> Result<Restored> {
    if !plan.names().any(|known| known == name) {
        let known: Vec<&str> = plan.names().collect();
        return Err(Failure::absent(format!(
            "no storage named {} is configured (there are: {})",
            persist_core::escape(name),
            known.join(", ")
        )));
    }
    let report = plan.verify_snapshot(snapshot).await?;
    match report.problems.into_iter().next() {
        Some(problem) => Err(Failure::corruption(problem.message)),
        None => Ok(Restored { keys: report.checked, bytes: report.bytes, ..Restored::default() }),
    }
}
