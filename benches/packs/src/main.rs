//! A million records in packs, and in what else keeps many records in few files.
//!
//! Each contender takes in the same records, is closed, opened again, asked for records at random, listed and verified,
//! each in a folder of its own, one after the other and round by round. Values are noise, so that nobody gains by
//! compression. What is taken in is on the disk when the clock stops. How to run it and what it gave stands in
//! `docs/benchmarks.md`.

mod archives;
mod databases;
mod figures;
mod ours;
mod programs;
mod records;

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::figures::{Figures, Row};
use crate::records::Records;

/// The result of everything here.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures packs of persist beside their peers and prints a Markdown table of medians.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// How many records.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// How long each value is, in bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// How many of them are looked up.
    #[arg(long, default_value_t = 200_000)]
    lookups: u64,
    /// How many rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where to work; the system's temporary folder unless given.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only contenders whose names hold one of these words.
    words: Vec<String>,
}

/// Something that takes records in and gives them back, in a folder of its own.
type Contender = (&'static str, fn(&Records, &Path) -> Outcome<Figures>);

/// All of them; the first is what the others are compared with.
const CONTENDERS: [Contender; 12] = [
    ("persist pack, strict, batches of 4096", ours::strict),
    ("persist pack, relaxed, synced at the end", ours::relaxed),
    ("persist pack build, one file", ours::built),
    ("redb, one transaction", databases::redb),
    ("redb, transactions of 4096", databases::redb_batches),
    ("fjall, synced at the end", databases::fjall),
    ("SQLite archive, one transaction", databases::sqlite),
    ("zip crate, stored", archives::zip),
    ("tar crate", archives::tar),
    ("Python zipfile, stored", programs::zipfile),
    ("git fast-import", programs::git),
    ("BLAKE3 of the values, all processors", ours::hashing),
];

/// How long something takes, and what it gives.
fn time<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(Duration, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

fn bytes_in(path: &Path) -> Outcome<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    std::fs::read_dir(path)?.try_fold(0, |total, entry| Ok(total + bytes_in(&entry?.path())?))
}

fn measure(args: &Args, records: &Records, row: &mut Row, run: Contender) -> Outcome<()> {
    let place = match &args.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    // What the contender before left unwritten is not this one's business.
    rustix::fs::syncfs(File::open(place.path())?)?;
    let mut figures = (run.1)(records, place.path())?;
    figures.bytes = Some(bytes_in(place.path())? as f64 / records.count as f64);
    row.rounds.push(figures);
    Ok(())
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    let records = Records::new(args.count, args.size, args.lookups);
    let wanted = |name: &str| args.words.is_empty() || args.words.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<Contender> = CONTENDERS.into_iter().filter(|(name, _)| wanted(name)).collect();
    let mut rows: Vec<Row> = chosen.iter().map(|(name, _)| Row::new(name)).collect();
    for round in 0..args.rounds {
        for (row, contender) in rows.iter_mut().zip(&chosen) {
            eprintln!("round {}: {}", round + 1, contender.0);
            measure(&args, &records, row, *contender)?;
        }
    }
    println!(
        "{} records of {} bytes, {} lookups, {} rounds, {} processors\n",
        args.count,
        args.size,
        args.lookups,
        args.rounds,
        std::thread::available_parallelism()?
    );
    print!("{}", figures::table(&rows));
    Ok(())
}
