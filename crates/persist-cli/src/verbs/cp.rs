use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::address::Address;
use crate::app::App;
use crate::args::{DryRun, ExpiryArgs, Jobs, KindArgs, ReadBack, TagArgs};
use crate::exit::Result;
use crate::pair::Pair;
use crate::storages::Access;
use crate::transfer::{How, Transfer};

/// Copy values: from files to a storage, from a storage to files, or between storages
///
/// Between storages kind, tags and expiry go along; files keep the value alone. With -r the source is a folder: the
/// paths below it become keys below the target, with / between levels. A file that is not what its extension says is
/// an error, with -r it is taken as bytes and noted. Symbolic links are skipped.
#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// What to copy: NAME:KEY, a file, - or, with -r, NAME:, NAME:FOLDER or a folder
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    from: Address,
    /// Where to; after a target that is a folder or ends with / comes the source's own name
    #[arg(value_name = "TARGET", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    to: Address,
    /// Everything below the source
    #[arg(short, long)]
    recursive: bool,
    /// Leave what is there already
    #[arg(short, long)]
    no_clobber: bool,
    #[command(flatten)]
    read_back: ReadBack,
    #[command(flatten)]
    kind: KindArgs,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    tags: TagArgs,
    #[command(flatten)]
    jobs: Jobs,
    #[command(flatten)]
    dry: DryRun,
}

impl Cp {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let access = (Access::Read, Access::writing(self.dry.dry_run));
        let pair = Pair::resolve(app, &self.from, &self.to, self.recursive, access).await?;
        let how = How {
            kind: self.kind.kind(),
            expiry: self.expiry.expiry(),
            tags: self.tags.tags(),
            no_clobber: self.no_clobber,
            compare: None,
            verify: self.read_back.verify,
            empty_source: false,
            dry_run: self.dry.dry_run,
            jobs: self.jobs.jobs,
        };
        Transfer::new(app, how).pair(&pair, false).await
    }
}
