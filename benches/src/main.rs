//! The same work over every backend of persist and over its peers, interleaved round by round.
//!
//! How to run it and what it gave stands in `docs/benchmarks.md`. A new backend is one entry in [`table`].

mod args;
mod group;
mod peers;
mod place;
mod report;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::place::Place;
use crate::report::Report;
use persist_bench_work::Outcome;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("the benchmark stopped: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let place = Place::new(args.folder.as_deref())?;
    let mut report = Report::new(args, &place)?;
    for plan in group::plans(args) {
        let result = runtime.block_on(group::run(args, &place, &plan, &mut report))?;
        report.table(&result)?;
    }
    Ok(())
}

/// Progress and errors, on standard error; figures alone go to standard output.
#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}
