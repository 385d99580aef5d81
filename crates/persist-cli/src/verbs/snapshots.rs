use std::path::PathBuf;

use clap::Args;
use persist_backup::{Snapshot, Unreadable, Vault};
use persist_core::Problem;
use persist_manager::Plan;
use serde_json::json;

use crate::app::App;
use crate::exit::{Exit, Failure, Result};
use crate::{text, vaults};

/// List snapshots, the oldest first, and check them
///
/// Ends with exit code 5 if a folder is no snapshot that can be used, or if --verify finds damage.
#[derive(Debug, Args)]
pub(crate) struct Snapshots {
    /// The storages [default: all that have snapshots]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The folder that they are kept in [default: `backup.path` of the configuration, else data/backups]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Read every byte of each one and check it, and every value in it
    #[arg(long)]
    verify: bool,
}

impl Snapshots {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let plan = app.config.plan()?;
        let vault = vaults::vault(&plan, self.from.as_ref());
        let (snapshots, unreadable) = self.list(&vault).await?;
        let mut result = Ok(());
        if app.out.is_json() || self.verify {
            for snapshot in &snapshots {
                if !self.one(app, &plan, snapshot).await? {
                    result = Err(Failure::Reported(Exit::Corruption));
                }
            }
        } else {
            let rows: Vec<Vec<String>> = snapshots.iter().map(vaults::cells).collect();
            text::table(&rows, &[2, 3]).iter().try_for_each(|line| app.out.line(line))?;
        }
        for unreadable in &unreadable {
            result = Err(Failure::Reported(Exit::Corruption));
            app.out.either(&vaults::unreadable_answer(unreadable), || unreadable.message.clone())?;
        }
        if snapshots.is_empty() && unreadable.is_empty() {
            app.console.note(&format!("there is no snapshot in {}", vault.path().display()));
        }
        result
    }

    async fn list(&self, vault: &Vault) -> Result<(Vec<Snapshot>, Vec<Unreadable>)> {
        let names = if self.names.is_empty() { vault.storages().await? } else { self.names.clone() };
        let (mut snapshots, mut unreadable) = (Vec::new(), Vec::new());
        for name in names {
            let (found, others) = vault.list(name.strip_suffix(':').unwrap_or(&name)).await?;
            snapshots.extend(found);
            unreadable.extend(others);
        }
        Ok((snapshots, unreadable))
    }

    /// Tells of one; false if it is damaged.
    async fn one(&self, app: &App, plan: &Plan, snapshot: &Snapshot) -> Result<bool> {
        let problems = if self.verify { Some(check(app, plan, snapshot).await?) } else { None };
        let mut answer = vaults::answer(snapshot);
        if let Some(problems) = &problems {
            answer["clean"] = problems.is_empty().into();
            answer["problems"] = json!(problems);
        }
        let problems = problems.unwrap_or_default();
        let outcome = if problems.is_empty() { "all is well" } else { "damaged" };
        app.out.either(&answer, || format!("{}  {outcome}", vaults::cells(snapshot).join("  ")))?;
        if !app.out.is_json() {
            let line = |problem: &Problem| app.out.line(&format!("  {}: {}", problem.kind, problem.message));
            problems.iter().try_for_each(line)?;
        }
        app.out.flush()?;
        Ok(problems.is_empty())
    }
}

async fn check(app: &App, plan: &Plan, snapshot: &Snapshot) -> Result<Vec<Problem>> {
    let _progress = app.console.progress("verifying");
    match plan.verify_snapshot(snapshot).await {
        Ok(report) => Ok(report.problems),
        Err(error) if error.kind() == persist_core::ErrorKind::Corruption => Ok(vec![error.into()]),
        Err(error) => Err(error.into()),
    }
}
