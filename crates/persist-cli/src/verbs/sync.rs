use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::Tags;

use crate::address::Address;
use crate::app::App;
use crate::args::{DryRun, Jobs, KindArgs, ReadBack};
use crate::exit::Result;
use crate::pair::Pair;
use crate::storages::Access;
use crate::transfer::{Equality, How, Transfer};

/// Make a target hold what a source holds, one way
///
/// Copies what is missing or different in kind, size or checksum; what is equal is left alone. Both sides are folders
/// as with cp -r. Differences in tags or expiry alone are not seen.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The folder to take as it is: NAME:, NAME:FOLDER or a local folder
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    from: Address,
    /// The folder to change: NAME:, NAME:FOLDER or a local folder
    #[arg(value_name = "TARGET", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    to: Address,
    /// Delete from the target what the source has not; nothing is deleted if a copy failed
    #[arg(long)]
    delete: bool,
    /// Compare kind and size alone, and read no checksums
    #[arg(long)]
    size_only: bool,
    #[command(flatten)]
    read_back: ReadBack,
    #[command(flatten)]
    kind: KindArgs,
    #[command(flatten)]
    jobs: Jobs,
    #[command(flatten)]
    dry: DryRun,
}

impl Sync {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let access = (Access::Read, Access::writing(self.dry.dry_run));
        let pair = Pair::folders(app, &self.from, &self.to, access).await?;
        let how = How {
            kind: self.kind.kind(),
            expiry: None,
            tags: Tags::new(),
            no_clobber: false,
            compare: Some(if self.size_only { Equality::Size } else { Equality::Checksum }),
            verify: self.read_back.verify,
            empty_source: false,
            dry_run: self.dry.dry_run,
            jobs: self.jobs.jobs,
        };
        Transfer::new(app, how).pair(&pair, self.delete).await
    }
}
