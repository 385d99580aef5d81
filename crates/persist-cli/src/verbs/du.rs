use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::{StreamExt, TryStreamExt};
use persist_core::StorageExt;
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::args::Jobs;
use crate::exit::{Failure, Result};
use crate::storages::Access;
use crate::text::{count, size};

/// Add up values and bytes, in all and by folder
///
/// Bytes are those of the plain values, as they were stored. The part after the colon is a literal prefix.
#[derive(Debug, Args)]
pub(crate) struct Du {
    /// The storage and a prefix
    #[arg(value_name = "NAME:PREFIX", default_value = ":", hide_default_value = true,
          value_parser = OsStringValueParser::new().try_map(Stored::parse))]
    address: Stored,
    /// Show folders down to this many levels below the prefix
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    depth: usize,
    #[command(flatten)]
    jobs: Jobs,
}

impl Du {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let (storage, _) = app.stored(&self.address, Access::Read).await?;
        let progress = app.console.progress("counting");
        let mut sums = Sums { app, address: &self.address, depth: self.depth, open: Vec::new() };
        sums.open.push(Sum::new(self.address.rest.clone()));
        let keys = storage.keys(&self.address.rest).map_err(Failure::from);
        let found = keys.map_ok(|key| async { Ok((storage.metadata(&key).await?, key)) });
        let mut found = std::pin::pin!(found.try_buffered(self.jobs.jobs));
        while let Some(next) = found.next().await {
            let (metadata, key) = next?;
            let Some(metadata) = metadata else { continue };
            sums.add(&key, metadata.size)?;
            progress.step(metadata.size);
        }
        sums.close_down_to(0)
    }
}

/// Sums of the folders that the walk is in at the moment: keys come in order, so a folder that was left is complete.
struct Sums<'a> {
    app: &'a App,
    address: &'a Stored,
    depth: usize,
    /// The prefix itself, then the folders in each other.
    open: Vec<Sum>,
}

struct Sum {
    prefix: String,
    keys: u64,
    bytes: u64,
}

impl Sum {
    fn new(prefix: String) -> Self {
        Self { prefix, keys: 0, bytes: 0 }
    }
}

impl Sums<'_> {
    fn add(&mut self, key: &str, bytes: u64) -> Result<()> {
        let inside = self.open.iter().skip(1).take_while(|sum| key.starts_with(&sum.prefix)).count();
        self.close_down_to(1 + inside)?;
        let base = self.address.rest.len();
        let slashes = key[base..].match_indices('/').map(|(at, _)| base + at + 1);
        for end in slashes.take(self.depth).skip(inside) {
            self.open.push(Sum::new(key[..end].to_owned()));
        }
        for sum in &mut self.open {
            sum.keys += 1;
            sum.bytes += bytes;
        }
        Ok(())
    }

    fn close_down_to(&mut self, left: usize) -> Result<()> {
        while self.open.len() > left {
            let Some(Sum { prefix, keys, bytes }) = self.open.pop() else { break };
            let shown = Stored { name: self.address.name.clone(), rest: prefix.clone() };
            let answer = json!({ "prefix": prefix, "keys": keys, "bytes": bytes });
            self.app.out.either(&answer, || format!("{:>10} {:>12} {shown}", size(bytes), count(keys)))?;
        }
        Ok(())
    }
}
