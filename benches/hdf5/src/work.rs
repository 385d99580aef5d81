//! The work that everybody does, and what it takes.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whatever went wrong: a bench stops then.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What took how long.
pub type Times = Vec<(String, Duration)>;

/// Doubles of the large array: 256 MiB.
pub const LARGE: usize = 32 << 20;

/// Elements of a row where there are rows, which is 8 KiB, and of a chunk, which is 1 MiB.
pub const ROW: usize = 1024;
pub const CHUNK: usize = 128 * ROW;

/// How many small arrays of 128 doubles, which are 1 KiB.
pub const SMALL: usize = 10_000;
pub const SMALL_LEN: usize = 128;

/// How many slices of 16 rows are read.
pub const SLICES: usize = 500;
pub const SLICE_ROWS: usize = 16;

/// How many rows are appended one by one, to how many that are there.
pub const APPENDS: usize = 200;
pub const APPENDED_TO: usize = 8 * ROW;

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// One array of 256 MiB, without filters.
    Plain,
    /// The same with shuffle and gzip of level 4, in chunks of 1 MiB.
    Gzip,
    /// The same with shuffle and LZF.
    Lzf,
    /// The same with shuffle and zstd of level 3.
    Zstd,
    /// 10,000 arrays of 1 KiB, written and read one after the other.
    Small,
    /// 500 slices of 128 KiB out of the large array, without filters.
    Slices,
    /// 200 rows of 8 KiB appended to an array of 64 MiB, each of them on the disk before the next.
    Appends,
}

impl Work {
    /// All of it.
    pub const ALL: [Self; 7] =
        [Self::Plain, Self::Gzip, Self::Lzf, Self::Zstd, Self::Small, Self::Slices, Self::Appends];

    /// What it is called on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Lzf => "lzf",
            Self::Zstd => "zstd",
            Self::Small => "small",
            Self::Slices => "slices",
            Self::Appends => "appends",
        }
    }
}

/// Where the slice of a number begins.
pub fn slice_start(number: usize) -> usize {
    (number * 7919) % (LARGE / ROW - SLICE_ROWS)
}

/// So many doubles that compress as measurements do.
pub fn doubles(count: usize) -> Vec<f64> {
    (0..count).map(|at| (at % 100_003) as f64 * 0.001).collect()
}

/// Somebody who does the work; `None`: cannot do this piece of it.
pub trait Contender {
    /// What it is called in tables.
    fn name(&self) -> &'static str;

    /// Does it in an empty folder, with everything on the disk at the end of each writing.
    fn run(&self, work: Work, folder: &Path) -> Outcome<Option<Times>>;
}

/// Does something and notes how long it takes.
pub fn timed<T>(times: &mut Times, name: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let begun = Instant::now();
    let done = work()?;
    times.push((name.to_owned(), begun.elapsed()));
    Ok(done)
}
