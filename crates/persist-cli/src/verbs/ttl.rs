use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use persist_core::{Expiry, HumanDuration, Metadata};
use serde_json::json;

use crate::address::KeyAddress;
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::spot::StoredKey;
use crate::storages::Access;

/// Show, set or clear when a key ceases to exist
#[derive(Debug, Args)]
pub(crate) struct Ttl {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How long the key still exists
    Show(Target),
    /// Let it cease to exist after a time
    Set {
        #[command(flatten)]
        target: Target,
        /// How long from now: seconds, or text like 90s, 1h or 2days; 0 ends it at once
        #[arg(value_name = "DURATION")]
        ttl: HumanDuration,
    },
    /// Let it exist until it is deleted
    Clear(Target),
}

#[derive(Debug, Args)]
struct Target {
    /// The key
    #[arg(value_name = "NAME:KEY", value_parser = OsStringValueParser::new().try_map(KeyAddress::parse))]
    address: KeyAddress,
}

impl Ttl {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let (target, expiry) = match self.what {
            What::Show(target) => (target, None),
            What::Set { target, ttl } => (target, Some(Expiry::After(ttl.0))),
            What::Clear(target) => (target, Some(Expiry::Never)),
        };
        let access = if expiry.is_some() { Access::Write } else { Access::Read };
        let place = app.key(&target.address, access).await?;
        let metadata = match expiry {
            Some(expiry) => place.storage.touch(&place.key, expiry).await?,
            None => place.storage.metadata(&place.key).await?,
        };
        let Some(metadata) = metadata else {
            return Err(Failure::absent(format!("there is nothing at {}", target.address)));
        };
        show(app, &place, &metadata)
    }
}

fn show(app: &App, place: &StoredKey, metadata: &Metadata) -> Result<()> {
    let now = place.storage.describe().now();
    let left = metadata.expires_at.map(|end| end.saturating_since(now));
    let answer = json!({
        "storage": place.storage.describe().name(),
        "key": place.key,
        "expires_at": metadata.expires_at,
        "seconds_left": left.map(|left| left.as_secs_f64()),
    });
    app.out.either(&answer, || match (metadata.expires_at, left) {
        (Some(end), Some(left)) => format!("{} left, until {end}", HumanDuration(left)),
        _ => "never expires".to_owned(),
    })
}
