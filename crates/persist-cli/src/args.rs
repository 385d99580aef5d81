//! The flags of the command line: one declaration a flag. What belongs to one verb alone stands with that verb.

use std::path::PathBuf;

use clap::{Args, Parser};
use persist_core::{Expiry, HumanDuration, Kind, Tags, Timestamp};

use crate::value_form::As;
use crate::verbs::Verb;

/// The version that `--version` shows.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--help` says at its end.
const AFTER_HELP: &str = "\
Addresses:
  NAME:KEY   a key of the storage NAME        NAME:   the whole storage NAME
  :KEY       a key by route or default        -       standard input or output
  PATH       a local file or folder           ./a:b   a local path with a colon

Exit codes:
  0 done   1 failed   2 usage   3 absent   4 conflict   5 corruption   6 configuration
  7 unavailable   8 denied or read-only   9 no room or too large   130 interrupted";

/// Named storages of files, databases and caches on the command line.
#[derive(Debug, Parser)]
#[command(name = "persist", version = VERSION, after_help = AFTER_HELP, infer_long_args = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The configuration [default: ./persist.yaml, else a database `main` in ./data/persist.db]
    #[arg(long, global = true, env = "PERSIST_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The profile of the configuration to apply [default: $PERSIST_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Answer in JSON lines, and tell errors as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No notes, no summaries, no progress bar
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Show each value as it is handled, and more of the log each time it is given
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Which kind of value a file becomes.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct KindArgs {
    /// The kind [default: json for .json files, array for .npy files, bytes for all others]
    #[arg(long = "as", value_name = "KIND")]
    kind: Option<As>,
}

impl KindArgs {
    /// The kind asked for.
    pub(crate) fn kind(self) -> Option<Kind> {
        self.kind.map(Kind::from)
    }
}

/// When a value ceases to exist.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ExpiryArgs {
    /// It ceases to exist after this time: seconds, or text like 90s, 1h or 2days
    #[arg(long, value_name = "DURATION", conflicts_with = "expires_at")]
    ttl: Option<HumanDuration>,
    /// It ceases to exist at this moment, for instance 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_at: Option<Timestamp>,
}

impl ExpiryArgs {
    /// The expiry asked for.
    pub(crate) fn expiry(self) -> Option<Expiry> {
        self.ttl.map(|ttl| Expiry::After(ttl.0)).or(self.expires_at.map(Expiry::At))
    }
}

/// What is noted beside a value.
#[derive(Clone, Debug, Args)]
pub(crate) struct TagArgs {
    /// A tag to keep with the value; may be repeated
    #[arg(long = "tag", value_name = "NAME=TEXT", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
}

impl TagArgs {
    /// The tags asked for.
    pub(crate) fn tags(self) -> Tags {
        self.tags.into_iter().collect()
    }
}

/// Whether a run is for show.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DryRun {
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How much is done at once.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Jobs {
    /// How many values are handled at once
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = parse_jobs)]
    pub(crate) jobs: usize,
}

/// Whether what was written is read again.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ReadBack {
    /// Read every value back from its new place and compare checksums
    #[arg(long)]
    pub(crate) verify: bool,
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write it as in 2030-01-31T12:00:00Z".to_owned())
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write a tag as NAME=TEXT".to_owned()),
    }
}

fn parse_jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=1024) => Ok(jobs),
        _ => Err("give a number from 1 to 1024".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declarations_are_sound() {
        Cli::command().debug_assert();
    }
}
