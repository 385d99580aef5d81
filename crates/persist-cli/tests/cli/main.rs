//! The binary as its users meet it: run in temporary folders, judged by its output, its exit code and what it leaves
//! on disk.

#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod backups;
mod configuration;
mod copying;
mod desk;
mod documentation;
mod hostile;
mod interrupts;
mod layered;
mod listing;
mod reports;
mod terminal;
mod values;
mod watching;
