//! The command line.

use std::path::PathBuf;

use clap::Parser;
use persist_core::ByteSize;

/// Measures the same work over the storages of persist and over their peers, and prints Markdown tables.
///
/// Every filter may be given several times or with commas; without it everything is measured.
#[derive(Debug, Parser)]
#[command(name = "persist-benches")]
pub(crate) struct Args {
    /// Groups: store, create, retrieve, store-many, retrieve-many, list, bulk.
    #[arg(long, value_delimiter = ',')]
    pub(crate) group: Vec<String>,

    /// Contenders whose name contains this, for instance "persist" or "moka".
    #[arg(long, value_delimiter = ',')]
    pub(crate) storage: Vec<String>,

    /// Tables: strict, relaxed, read, list, cache, sqlite-strict, sqlite-relaxed, sqlite-read,
    /// sqlite-list, sqlite-bulk, redis, redis-read, redis-list.
    #[arg(long, value_delimiter = ',')]
    pub(crate) class: Vec<String>,

    /// Value sizes.
    #[arg(long, value_delimiter = ',', default_value = "128B,1KiB,16KiB,1MiB")]
    pub(crate) size: Vec<ByteSize>,

    /// How many tasks at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    pub(crate) tasks: Vec<usize>,

    /// How many keys a listed storage holds.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000")]
    pub(crate) keys: Vec<usize>,

    /// Also list 1,000,000 keys: takes minutes to fill, and a million inodes.
    #[arg(long)]
    pub(crate) million: bool,

    /// How long each contender runs in each round.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) seconds: f64,

    /// How many rounds.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,

    /// Over how many folders the keys are spread.
    #[arg(long, default_value_t = 1)]
    pub(crate) folders: usize,

    /// The seed of keys, values and their order.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Where the files are kept while it runs; the folder for temporary files unless given.
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,

    /// Writes every single sample to this file, separated by tabs.
    #[arg(long)]
    pub(crate) raw: Option<PathBuf>,
}

impl Args {
    /// Whether a filter lets a name pass.
    pub(crate) fn wants(filter: &[String], name: &str) -> bool {
        filter.is_empty() || filter.iter().any(|wanted| wanted == name)
    }
}
