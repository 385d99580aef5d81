use std::collections::BTreeMap;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_pack::Item;
use serde_json::json;

use super::contents::Source;
use crate::address::Address;
use crate::app::App;
use crate::exit::{Exit, Failure, Result};
use crate::text;

/// Compare packs, folders and storages by their entries (exit code 4 if they differ)
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// A pack, a folder or a storage
    #[arg(value_name = "A", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    one: Address,
    /// Another one
    #[arg(value_name = "B", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    other: Address,
}

impl Diff {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let one = Source::open(app, &self.one).await?.items(app).await?;
        let other = Source::open(app, &self.other).await?.items(app).await?;
        let differences = differences(&one, &other);
        for (path, what) in &differences {
            let answer = json!({ "path": path, "difference": what });
            app.out.either(&answer, || format!("{what:8} {}", text::key_line(path)))?;
        }
        if differences.is_empty() {
            app.console.note("there is no difference");
            return Ok(());
        }
        Err(Failure::Reported(Exit::Conflict))
    }
}

/// What is different, by path: `added` is in the second alone.
fn differences<'i>(one: &'i [Item], other: &'i [Item]) -> BTreeMap<&'i str, &'static str> {
    let by_path =
        |items: &'i [Item]| items.iter().map(|item| (item.path.as_str(), item)).collect::<BTreeMap<_, _>>();
    let (one, other) = (by_path(one), by_path(other));
    let mut found = BTreeMap::new();
    for (path, item) in &one {
        match other.get(path) {
            None => drop(found.insert(*path, "removed")),
            Some(now) if now != item => drop(found.insert(*path, "changed")),
            Some(_) => {}
        }
    }
    for path in other.keys().filter(|path| !one.contains_key(*path)) {
        found.insert(*path, "added");
    }
    found
}
