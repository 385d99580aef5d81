//! A million records in packs, and in what else keeps many records in few files.
//!
//! Each contender takes in the same records, is closed, opened again, asked for records at random, listed and verified, in a
//! process of its own choosing of threads. Keys are 24 bytes, values are noise, so that nobody gains by compression. What
//! is taken in is on the disk when the clock stops. How to run it and what it gave stands in `docs/benchmarks.md`.

mod contenders;
mod peers;
mod python;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

/// The result of everything here.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// What to measure.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// How many records
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// How long each value is, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// How many of them are looked up
    #[arg(long, default_value_t = 200_000)]
    lookups: u64,
    /// Where to work [default: the system's temporary folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only contenders whose names hold one of these words
    words: Vec<String>,
}

/// The records: made up anew each time, so that memory is not what is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records {
    pub(crate) count: u64,
    pub(crate) size: usize,
    pub(crate) lookups: u64,
}

impl Records {
    /// The key of a record.
    pub(crate) fn key(self, at: u64) -> String {
        format!("group-{:05}/record-{at:09}", at % 1000)
    }

    /// The value of a record: SplitMix64 (Steele, Lea and Flood, 2014), seeded by its number.
    pub(crate) fn value(self, at: u64) -> Vec<u8> {
        let mut state = at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut value = Vec::with_capacity(self.size + 8);
        while value.len() < self.size {
            value.extend(next(&mut state).to_le_bytes());
        }
        value.truncate(self.size);
        value
    }

    /// The records that are looked up, in random order.
    pub(crate) fn wanted(self) -> impl Iterator<Item = u64> {
        let mut state = 7;
        (0..self.lookups).map(move |_| next(&mut state) % self.count)
    }
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// What was measured of a contender; `None`: it has no such thing, or it was left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) ingest: Option<Duration>,
    pub(crate) open: Option<Duration>,
    /// How many lookups, and how long they took.
    pub(crate) lookup: Option<(u64, Duration)>,
    pub(crate) list: Option<Duration>,
    pub(crate) verify: Option<Duration>,
}

/// How long something takes, and what it gives.
pub(crate) fn time<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(Duration, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

/// Something that takes records in and gives them back.
pub(crate) type Contender = (&'static str, fn(Records, &Path) -> Outcome<Figures>);

const CONTENDERS: [Contender; 9] = [
    ("persist pack, strict", contenders::strict),
    ("persist pack, relaxed, synced at the end", contenders::relaxed),
    ("persist pack build, one file", contenders::built),
    ("redb, one transaction", peers::redb),
    ("fjall, synced at the end", peers::fjall),
    ("zip crate, stored", peers::zip),
    ("Python zipfile, stored", python::zipfile),
    ("git fast-import", python::git),
    ("BLAKE3 of the same bytes, all processors", contenders::hashing),
];

fn bytes_in(path: &Path) -> Outcome<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    std::fs::read_dir(path)?.try_fold(0, |total, entry| Ok(total + bytes_in(&entry?.path())?))
}

#[allow(clippy::print_stdout)] // The figures are what it is for.
fn main() -> Outcome<()> {
    let args = Args::parse();
    let records = Records { count: args.count, size: args.size, lookups: args.lookups };
    println!("{} records of {} bytes, {} lookups\n", records.count, records.size, records.lookups);
    println!("| | ingest, records/s | open, ms | lookups/s | list, s | verify, s | bytes a record |");
    println!("|---|---|---|---|---|---|---|");
    for (name, run) in CONTENDERS {
        if !args.words.is_empty() && !args.words.iter().any(|word| name.contains(word)) {
            continue;
        }
        let place = match &args.folder {
            Some(folder) => tempfile::tempdir_in(folder)?,
            None => tempfile::tempdir()?,
        };
        let figures = run(records, place.path())?;
        println!("{}", row(name, records, figures, bytes_in(place.path())?));
    }
    Ok(())
}

fn row(name: &str, records: Records, figures: Figures, bytes: u64) -> String {
    let seconds = |time: Option<Duration>| time.map_or("–".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
    let rate = |count: u64, time: Duration| format!("{:.0}", count as f64 / time.as_secs_f64());
    format!(
        "| {name} | {} | {} | {} | {} | {} | {:.0} |",
        figures.ingest.map_or("–".to_owned(), |time| rate(records.count, time)),
        figures.open.map_or("–".to_owned(), |time| format!("{:.2}", time.as_secs_f64() * 1000.0)),
        figures.lookup.map_or("–".to_owned(), |(count, time)| rate(count, time)),
        seconds(figures.list),
        seconds(figures.verify),
        bytes as f64 / records.count as f64,
    )
}
