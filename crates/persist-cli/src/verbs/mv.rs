use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::Tags;

use crate::address::Address;
use crate::app::App;
use crate::args::{DryRun, Jobs, KindArgs};
use crate::exit::Result;
use crate::pair::Pair;
use crate::storages::Access;
use crate::transfer::{How, Transfer};

/// Move values: copy, read back and compare, then delete the source
///
/// The source is deleted only if the copy reads back with the same checksum and nobody changed the source meanwhile.
/// Emptied local folders stay.
#[derive(Debug, Args)]
pub(crate) struct Mv {
    /// What to move: NAME:KEY, a file or, with -r, NAME:, NAME:FOLDER or a folder
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    from: Address,
    /// Where to; after a target that is a folder or ends with / comes the source's own name
    #[arg(value_name = "TARGET", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    to: Address,
    /// Everything below the source
    #[arg(short, long)]
    recursive: bool,
    /// Leave what is there already, and its source
    #[arg(short, long)]
    no_clobber: bool,
    #[command(flatten)]
    kind: KindArgs,
    #[command(flatten)]
    jobs: Jobs,
    #[command(flatten)]
    dry: DryRun,
}

impl Mv {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let write = Access::writing(self.dry.dry_run);
        if matches!(self.from, Address::Stdio) || matches!(self.to, Address::Stdio) {
            return Err(crate::exit::Failure::usage("a stream cannot be moved; copy it with cp"));
        }
        let pair = Pair::resolve(app, &self.from, &self.to, self.recursive, (write, write)).await?;
        let how = How {
            kind: self.kind.kind(),
            expiry: None,
            tags: Tags::new(),
            no_clobber: self.no_clobber,
            compare: None,
            verify: true,
            empty_source: true,
            dry_run: self.dry.dry_run,
            jobs: self.jobs.jobs,
        };
        Transfer::new(app, how).pair(&pair, false).await
    }
}
