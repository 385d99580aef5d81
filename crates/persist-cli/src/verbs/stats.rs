use std::cell::RefCell;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::Stats as Figures;
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::exit::Result;
use crate::exposition::Exposition;
use crate::storages::Access;
use crate::text::{count, size};

/// Figures that storages keep of themselves
///
/// What a backend cannot tell cheaply is shown as a dash; du counts it.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// The storages [default: all]
    #[arg(value_name = "NAME", value_parser = OsStringValueParser::new().try_map(Stored::parse_whole))]
    addresses: Vec<Stored>,

    /// Write them as Prometheus reads them
    #[arg(long)]
    prometheus: bool,
}

impl Stats {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        if self.prometheus {
            return expose(app, &self.addresses).await;
        }
        super::each(app, &self.addresses, async |address| {
            let (name, figures) = ask(app, address).await?;
            show(app, &name, &figures)
        })
        .await
    }
}

/// All of them in one text, because it names each metric once. One that does not answer is told to be down.
async fn expose(app: &App, addresses: &[Stored]) -> Result<()> {
    let exposition = RefCell::new(Exposition::default());
    let asked = super::each(app, addresses, async |address| match ask(app, address).await {
        Ok((name, figures)) => {
            exposition.borrow_mut().add(&name, &figures);
            Ok(())
        }
        Err(failure) => {
            if let Some(name) = address.name.as_deref().filter(|_| !failure.is_absence()) {
                exposition.borrow_mut().down(name);
            }
            Err(failure)
        }
    });
    let asked = asked.await;
    app.out.line(&exposition.into_inner().text()).and(asked)
}

async fn ask(app: &App, address: &Stored) -> Result<(String, Figures)> {
    let (storage, _) = app.stored(address, Access::Read).await?;
    let figures = storage.stats().await?;
    Ok((storage.describe().name().to_owned(), figures))
}

fn show(app: &App, name: &str, figures: &Figures) -> Result<()> {
    if app.out.is_json() {
        let Figures { keys, bytes, counters } = figures;
        return app.out.json(&json!({ "storage": name, "keys": keys, "bytes": bytes, "counters": counters }));
    }
    let dash = || "-".to_owned();
    let (keys, bytes) = (figures.keys.map_or_else(dash, count), figures.bytes.map_or_else(dash, size));
    app.out.line(&format!("{name}: keys {keys}, bytes {bytes}"))?;
    figures
        .counters
        .iter()
        .try_for_each(|(what, number)| app.out.line(&format!("  {what} {}", count(*number))))
}
