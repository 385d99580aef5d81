use std::path::PathBuf;

use clap::Args;
use persist_backup::Vault;
use persist_core::BaseStorage;
use persist_manager::Plan;

use crate::address::Stored;
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::storages::Access;
use crate::vaults;

/// Take snapshots of storages, while others go on using them
///
/// A snapshot is complete and on the disk before its name is printed. With a section `backup` in the configuration, and
/// without --to, snapshots that its retention does not keep are removed afterwards.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The storages [default: those of the section `backup`, else all that survive the process]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The folder to keep them in [default: `backup.path` of the configuration, else data/backups]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Backup {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let plan = app.config.plan()?;
        let vault = vaults::vault(&plan, self.to.as_ref());
        let mut result = Ok(());
        for name in self.names(&plan) {
            match self.one(app, &plan, &vault, &name).await {
                Ok(()) => {}
                Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
                // Asked about all, one that does not exist yet has nothing to copy.
                Err(failure) if self.names.is_empty() && failure.is_absence() => {
                    app.console.note(&failure.to_string());
                }
                Err(failure) => {
                    app.console.fail(&failure);
                    result = result.and(Err(Failure::Reported(failure.exit())));
                }
            }
        }
        result
    }

    /// The storages to copy, by name; `main:` is written for `main` as elsewhere.
    fn names(&self, plan: &Plan) -> Vec<String> {
        let chosen = plan.backup().and_then(|backup| backup.storages.clone());
        match self.names.is_empty() {
            false => {
                self.names.iter().map(|name| name.strip_suffix(':').unwrap_or(name).to_owned()).collect()
            }
            // What is made of others is copied with them.
            true => chosen.unwrap_or_else(|| {
                plan.names().filter(|name| !plan.is_composite(name)).map(str::to_owned).collect()
            }),
        }
    }

    async fn one(&self, app: &App, plan: &Plan, vault: &Vault, name: &str) -> Result<()> {
        let address = Stored { name: Some(name.to_owned()), rest: String::new() };
        let (storage, _) = app.stored(&address, Access::Read).await?;
        if self.names.is_empty() && !storage.describe().capabilities().durable {
            app.console
                .note(&format!("`{name}` lives in the memory of one process, so there is nothing to copy"));
            return Ok(());
        }
        let progress = app.console.progress("copying");
        let snapshot = vault.take(storage.as_ref()).await?;
        drop(progress);
        vaults::tell(app, &snapshot)?;
        app.out.flush()?;
        self.prune(app, plan, vault, storage.as_ref()).await
    }

    async fn prune(&self, app: &App, plan: &Plan, vault: &Vault, storage: &dyn BaseStorage) -> Result<()> {
        let (Some(backup), None) = (plan.backup(), &self.to) else { return Ok(()) };
        let (name, now) = (storage.describe().name(), storage.describe().now());
        let pruned = vault.prune(name, &backup.retention.retention(), now).await?;
        pruned.removed.iter().for_each(|name| app.console.note(&format!("removed {name}")));
        pruned.notes.iter().for_each(|note| app.console.warn(note));
        Ok(())
    }
}
