//! A SQLite database: one group-committing writer, a pool of readers.

pub mod migration;

/// The SQLite binding, in the version whose connections [`migration`] works on.
pub use rusqlite;
