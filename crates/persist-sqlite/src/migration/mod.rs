//! Versioned changes of a schema, for the storage itself and for the tables of programs.
//!
//! ```
//! use persist_sqlite::migration::{Migration, Migrations};
//! use persist_sqlite::rusqlite::Connection;
//!
//! let migrations = Migrations::new(
//!     "billing",
//!     [
//!         Migration::new("1.0.0", "invoices", "CREATE TABLE invoices (id INTEGER PRIMARY KEY, total INTEGER);")
//!             .down("DROP TABLE invoices;"),
//!         Migration::new("1.1.0", "due date", "ALTER TABLE invoices ADD COLUMN due TEXT;")
//!             .down("ALTER TABLE invoices DROP COLUMN due;"),
//!     ],
//! )?;
//! let mut connection = Connection::open_in_memory()?;
//! let done = migrations.up(&mut connection)?;
//! assert_eq!(done.len(), 2);
//! assert_eq!(migrations.up(&mut connection)?.len(), 0); // nothing left to do
//! assert_eq!(migrations.down(&mut connection, "1.0.0")?.len(), 1); // takes 1.1.0 back
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What holds:
//!
//! - **Each migration is one transaction**, however many statements it has. A failure, a kill or a power cut in the
//!   middle leaves the schema as it was before that migration; the ones before it stay.
//! - **Nothing is guessed.** A file that holds a migration which this program does not know (a newer program made it), or
//!   one whose text was changed after it was applied, is refused by name and left alone.
//! - **History is kept** in the table [`HISTORY_TABLE`]: every application, every undoing and every failure, with the
//!   BLAKE3 checksum of the text that ran. A migration that failed can be corrected and tried again.
//! - **Several processes may start at once.** One migrates, the others wait for it and find it done.
//!
//! The format of the table is in `docs/formats/sqlite.md`.

mod error;
mod guard;
mod history;
mod migrations;
mod plan;
mod status;
mod step;

pub use error::{MigrationError, MigrationProblem};
pub use history::{HISTORY_SCHEMA, HISTORY_TABLE, Record};
pub use migrations::{Migration, Migrations};
pub use plan::Target;
pub use status::{MigrationState, MigrationStatus, Status};
pub use step::{Direction, Step};

/// A semantic version (<https://semver.org>), which orders the migrations of a set.
pub use semver::Version as SchemaVersion;
