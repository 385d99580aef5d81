//! The manager from outside: configurations in, plans, errors and storages out.

#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod backups;
mod composites;
mod hostile;
mod layering;
mod layers;
mod lifecycle;
mod positions;
mod routing;
mod schema;
mod secrets;
mod shown;
mod support;
mod types;
