//! The same work on arrays with persist-hdf5, a plain file, h5py, zarr-python and zarrs, interleaved round by round; prints a Markdown
//! table of medians. What it gave stands in `docs/benchmarks.md`.
//!
//! Everybody begins with an empty folder and ends each writing with everything on the disk (`fsync`). What is read was written just
//! before, so it comes from the page cache. The time of Python is that of the work, without its start.

mod persist;
mod plain;
mod python;
mod rust_zarr;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::persist::Persist;
use crate::plain::Plain;
use crate::python::Python;
use crate::rust_zarr::Zarrs;
use crate::work::{Contender, Outcome, Times, Work};

/// Measures work on arrays with persist-hdf5 and its peers.
#[derive(Debug, Parser)]
struct Args {
    /// What to do; everything unless named.
    #[arg(long, value_delimiter = ',')]
    work: Vec<Work>,

    /// How often; the table has medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Only those whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,

    /// Where the files are kept meanwhile; the folder for temporary files unless given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// The Python that has h5py, and zarr if that is to be measured too.
    #[arg(long, default_value = "/usr/bin/python3")]
    python: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark stopped: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    let mut all: Vec<Box<dyn Contender>> = vec![
        Box::new(Persist),
        Box::new(Plain),
        Box::new(Python::new(&args.python, "h5py")),
        Box::new(Python::new(&args.python, "zarr")),
        Box::new(Zarrs),
    ];
    all.retain(|one| args.peer.is_empty() || args.peer.iter().any(|wanted| one.name().contains(wanted)));
    let names: Vec<&str> = all.iter().map(|one| one.name()).collect();
    println!("| work | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for work in if args.work.is_empty() { Work::ALL.to_vec() } else { args.work.clone() } {
        let mut rounds: Vec<Vec<Times>> = all.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.rounds {
            for (contender, times) in all.iter().zip(&mut rounds) {
                let folder = match &args.folder {
                    Some(folder) => tempfile::tempdir_in(folder)?,
                    None => tempfile::tempdir()?,
                };
                times.extend(contender.run(work, folder.path())?);
            }
        }
        rows(work, &rounds);
    }
    Ok(())
}

/// One row for each thing that was timed: the median of the first, and how many times as long the others took.
fn rows(work: Work, rounds: &[Vec<Times>]) {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rounds.iter().flatten().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names {
        let medians: Vec<Option<Duration>> = rounds.iter().map(|times| median(times, name)).collect();
        let first = medians.first().copied().flatten();
        let cell = |(at, median): (usize, &Option<Duration>)| match (median, first) {
            (None, _) => "–".to_owned(),
            (Some(median), Some(first)) if at > 0 => {
                format!("{median:.3?} ({:.2})", median.as_secs_f64() / first.as_secs_f64())
            }
            (Some(median), _) => format!("{median:.3?}"),
        };
        let cells: Vec<String> = medians.iter().enumerate().map(cell).collect();
        println!("| {}, {name} | {} |", work.name(), cells.join(" | "));
    }
}

fn median(rounds: &[Times], name: &str) -> Option<Duration> {
    let of = |times: &Times| times.iter().find(|(found, _)| found == name).map(|(_, time)| *time);
    let mut all: Vec<Duration> = rounds.iter().filter_map(of).collect();
    all.sort();
    all.get(all.len() / 2).copied()
}
