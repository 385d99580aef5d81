use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_pack::merkle::Hash;
use serde_json::json;

use super::contents::Source;
use super::{hex, parse_root};
use crate::address::Address;
use crate::app::App;
use crate::exit::{Exit, Failure, Result};

/// Tell whether a folder, a storage or a pack still has the root that was recorded (exit code 4 if not)
#[derive(Debug, Args)]
pub(super) struct Drift {
    /// A folder, a storage or a pack
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    source: Address,
    /// The root that was recorded
    #[arg(long, value_name = "HEX", value_parser = parse_root)]
    root: Hash,
}

impl Drift {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let items = Source::open(app, &self.source).await?.items(app).await?;
        let root = persist_pack::root_of(&items)?;
        let is_same = root == self.root;
        let answer = json!({ "same": is_same, "root": hex(&root), "recorded": hex(&self.root) });
        app.out.either(&answer, || match is_same {
            true => format!("the root is still {}", hex(&root)),
            false => format!("the root is {}, not {}", hex(&root), hex(&self.root)),
        })?;
        if is_same { Ok(()) } else { Err(Failure::Reported(Exit::Conflict)) }
    }
}
