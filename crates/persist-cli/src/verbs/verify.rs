use std::sync::Arc;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::{StreamExt, TryStreamExt};
use persist_core::{BaseStorage, ErrorKind, StorageExt, Verification};
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::args::Jobs;
use crate::exit::{Exit, Failure, Result};
use crate::storages::Access;
use crate::text;

/// Read values back and check them against their checksums
///
/// A whole storage is checked in the way of its backend, which also finds what no key leads to. Ends with exit code 5
/// if anything is damaged.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The storages, or prefixes of them [default: every storage of the configuration]
    #[arg(value_name = "NAME:PREFIX", value_parser = OsStringValueParser::new().try_map(Stored::parse))]
    addresses: Vec<Stored>,
    #[command(flatten)]
    jobs: Jobs,
}

impl Verify {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        super::each(app, &self.addresses, async |address| self.one(app, address).await).await
    }

    async fn one(&self, app: &App, address: &Stored) -> Result<()> {
        let (storage, _) = app.stored(address, Access::Read).await?;
        let found = self.check(app, address, &storage).await?;
        report(app, address, &storage, &found)?;
        app.out.flush()?;
        if found.is_clean() { Ok(()) } else { Err(Failure::Reported(Exit::Corruption)) }
    }

    async fn check(
        &self,
        app: &App,
        address: &Stored,
        storage: &Arc<dyn BaseStorage>,
    ) -> Result<Verification> {
        let progress = app.console.progress("verifying");
        if address.rest.is_empty() {
            return Ok(storage.verify().await?);
        }
        let mut found = Verification::default();
        let reads =
            storage.keys(&address.rest).map_ok(|key| async { Ok((storage.retrieve(&key).await, key)) });
        let mut reads = std::pin::pin!(reads.try_buffer_unordered(self.jobs.jobs));
        while let Some(read) = reads.next().await {
            let (entry, key) = read?;
            match entry {
                // Deleted or expired since the page was read.
                Ok(None) => continue,
                Ok(Some(entry)) => {
                    found.bytes += entry.metadata.size;
                    progress.step(entry.metadata.size);
                }
                Err(error) if error.kind() == ErrorKind::Corruption => {
                    found.problems.push(error.with_key(&key).into());
                }
                Err(error) => return Err(error.into()),
            }
            found.checked += 1;
        }
        Ok(found)
    }
}

fn report(app: &App, address: &Stored, storage: &Arc<dyn BaseStorage>, found: &Verification) -> Result<()> {
    let name = storage.describe().name();
    let answer = json!({
        "storage": name,
        "prefix": address.rest,
        "clean": found.is_clean(),
        "checked": found.checked,
        "bytes": found.bytes,
        "problems": found.problems,
    });
    app.out.either(&answer, || {
        let (values, size) = (text::things(found.checked, "value"), text::size(found.bytes));
        let outcome = if found.is_clean() {
            "all is well".to_owned()
        } else {
            text::things(found.problems.len() as u64, "problem")
        };
        format!("{address} {values} ({size}) read and checked: {outcome}")
    })?;
    if app.out.is_json() {
        return Ok(());
    }
    found
        .problems
        .iter()
        .try_for_each(|problem| app.out.line(&format!("  {}: {}", problem.kind, problem.message)))
}
