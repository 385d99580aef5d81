//! The binary `persist`; everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    persist_cli::run(std::env::args_os())
}
