//! A SQLite database: one group-committing writer, a pool of readers.
