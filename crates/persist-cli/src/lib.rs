//! The command line of persist: the binary `persist`, as a library that its tests can look into.
//!
//! | file | what it holds |
//! |---|---|
//! | `verbs/` | one file for each verb: its flags and what it does |
//! | `args.rs` | the flags that several verbs share, each declared once |
//! | `address.rs` | `NAME:KEY`, `NAME:`, paths, `-` |
//! | `app.rs` | what every verb works with |
//! | `config_source.rs`, `storages.rs`, `missing.rs` | the configuration and the storages opened so far |
//! | `exit.rs` | exit codes and failures |
//! | `output.rs`, `console.rs`, `text.rs` | data on stdout; notes, errors, bars on stderr; how figures look |
//! | `spot.rs`, `place.rs`, `pair.rs`, `transfer.rs`, `tally.rs` | one value, many values, from where to where, and the engine that copies them |
//! | `local_file.rs`, `walk.rs`, `key_path.rs`, `value_form.rs` | the local side: files, folders, names, kinds |
//!
//! `docs/cli.md` describes what users see.

mod address;
mod app;
mod args;
mod config_source;
mod console;
mod exit;
mod exposition;
mod key_path;
mod local_file;
mod missing;
mod output;
mod pair;
mod place;
mod program;
mod spot;
mod storages;
mod tally;
mod text;
mod transfer;
mod value_form;
mod vaults;
mod verbs;
mod walk;

pub use program::{command, run};
