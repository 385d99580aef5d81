use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::exit::Result;
use crate::storages::Access;
use crate::text;

/// Remove what has expired, give space back and tidy up
///
/// What that means for each type stands in its part of the configuration's documentation. The manager does the same on
/// the schedule of the section `maintenance`.
#[derive(Debug, Args)]
pub(crate) struct Compact {
    /// The storages [default: all]
    #[arg(value_name = "NAME", value_parser = OsStringValueParser::new().try_map(Stored::parse_whole))]
    addresses: Vec<Stored>,
}

impl Compact {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        super::each(app, &self.addresses, async |address| one(app, address).await).await
    }
}

async fn one(app: &App, address: &Stored) -> Result<()> {
    // A storage that does not exist is not made by this.
    app.stored(address, Access::Read).await?.0.close().await?;
    let (storage, _) = app.stored(address, Access::Write).await?;
    let name = storage.describe().name().to_owned();
    let done = storage.maintain().await?;
    let answer = json!({
        "storage": name,
        "expired": done.expired,
        "freed_bytes": done.freed_bytes,
        "notes": done.notes,
    });
    app.out.either(&answer, || {
        let expired = text::things(done.expired, "expired value");
        let freed = text::size(done.freed_bytes);
        let notes = done.notes.iter().map(|note| format!("; {note}")).collect::<String>();
        format!("{name}: {expired} removed, {freed} given back{notes}")
    })
}
