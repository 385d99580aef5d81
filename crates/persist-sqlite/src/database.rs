//! The database file: how it is made, checked and opened.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use persist_core::{Descriptor, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, MAIN_DB, OpenFlags};
use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags, accessat, renameat_with};
use rustix::io::Errno;

use crate::config::{AutoVacuum, Durability, SqliteConfig};
use crate::error::{sqlite, system};
use crate::schema::{self, Mismatch};

/// How many prepared statements a connection keeps; there are about a dozen different ones.
const STATEMENTS: usize = 32;

/// A free write-ahead log larger than this is cut after it was used up.
const KEPT_LOG: u64 = 64 << 20;

/// How many steps of its virtual machine a query on an untrusted file may take, beside those for each page.
const STEPS: u64 = 50_000_000;

/// How many further steps for each page of an untrusted file: checking a page takes a few hundred.
const STEPS_PER_PAGE: u64 = 20_000;

/// How many steps lie between two looks at the budget.
const STEPS_PER_LOOK: i32 = 100_000;

/// POSIX drops all locks of a process on a file when any descriptor of that file is closed. A new file is open under
/// a descriptor that is not SQLite's until it has its name; nobody may open it before.
static CREATING: Mutex<()> = Mutex::new(());

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that changes.
    Writer,
    /// One of those that read.
    Reader,
}

/// How the file may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read and changed.
    ReadWrite,
    /// Read while others change it.
    ReadOnly,
    /// Read as it lies there, without locks and without a log: nobody can change it, or nobody should.
    Immutable,
    /// The same with a log that somebody left, who does not live any more: there is no index of the log.
    Abandoned,
}

impl Access {
    /// Whether somebody who changes the file would not be noticed by SQLite.
    fn is_blind(self) -> bool {
        matches!(self, Self::Immutable | Self::Abandoned)
    }
}

/// A database file and how its connections are set up.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
    /// How the file lay there when it was opened without locks.
    witness: Option<Witness>,
    config: SqliteConfig,
    /// Device and number of the file when it was found.
    file: Option<(u64, u64)>,
}

impl Database {
    /// Finds the file, or makes it unless it is opened for reading only, and looks whose it is before anything in it
    /// is touched.
    ///
    /// # Errors
    /// `InvalidConfig` if it is to be read and is not there or is another program's; `Unsupported` if it is newer than
    /// this program; `Corruption`, `AccessDenied`, and what the disk says.
    pub(crate) fn find(path: PathBuf, config: SqliteConfig, descriptor: &Descriptor) -> Result<Self> {
        let read_only = config.read_only;
        let fail = |error| system(descriptor, "open", &format!("the database {}", path.display()), error);
        {
            let _alone = CREATING.lock();
            match std::fs::metadata(&path) {
                Ok(file) if !file.is_file() => return Err(fail(Errno::ISDIR.into())),
                Ok(file) if file.len() == 0 => return Err(empty(descriptor, &path)),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !read_only => {
                    create(&path, &config, descriptor)?;
                }
                Err(error) => return Err(fail(error)),
            }
        }
        check_rights(&path, &config).map_err(fail)?;
        let access = access(&path, &config, descriptor)?;
        let witness = access.is_blind().then(|| Witness::of(&path));
        let database = Self { file: identity(&path), path, access, witness, config };
        database.check_before_use(descriptor)?;
        Ok(database)
    }

    /// Whether another file has the name by now: a restore has exchanged it.
    pub(crate) fn was_replaced(&self) -> bool {
        identity(&self.path) != self.file
    }

    /// How it was configured.
    pub(crate) fn config(&self) -> &SqliteConfig {
        &self.config
    }

    /// Opens a connection. The schema has not been looked at.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn connect(&self, role: Role) -> rusqlite::Result<Connection> {
        let (uri, flags) = self.address(role);
        let connection = Connection::open_with_flags(uri, flags)?;
        self.set_up(&connection, role)?;
        Ok(connection)
    }

    /// What [`connect`](Self::connect) opens: SQLite's address of the file and how.
    fn address(&self, role: Role) -> (String, OpenFlags) {
        let flags =
            OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        match (self.access, role) {
            (Access::ReadWrite, Role::Writer) => {
                (uri(&self.path, ""), flags | OpenFlags::SQLITE_OPEN_READ_WRITE)
            }
            (Access::Immutable, _) => {
                (uri(&self.path, "?immutable=1"), flags | OpenFlags::SQLITE_OPEN_READ_ONLY)
            }
            // A VFS of SQLite that takes no locks.
            (Access::Abandoned, _) => {
                (uri(&self.path, "?vfs=unix-none"), flags | OpenFlags::SQLITE_OPEN_READ_ONLY)
            }
            _ => (uri(&self.path, ""), flags | OpenFlags::SQLITE_OPEN_READ_ONLY),
        }
    }

    /// Settings of a connection, the safe ones before the first page is read.
    pub(crate) fn set_up(&self, connection: &Connection, role: Role) -> rusqlite::Result<()> {
        harden(connection)?;
        if self.access == Access::Abandoned {
            // Then the index of the log is kept in memory, and no file is made for it.
            connection.pragma_update(None, "locking_mode", "exclusive")?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        connection
            .busy_timeout(self.config.busy_timeout.0.min(Duration::from_secs(i32::MAX as u64 / 1000)))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let half = self.config.cache_size.0 / 2;
        let cache = if role == Role::Writer { half } else { half / u64::from(self.config.pool_size) };
        // A negative cache size counts KiB instead of pages.
        connection.pragma_update(None, "cache_size", -cache.div_ceil(1024).cast_signed())?;
        connection.pragma_update(None, "temp_store", "memory")?;
        if self.config.untrusted {
            return self.restrain(connection);
        }
        match (self.access, role) {
            // Without a memory map: before each look at a mapped page SQLite searches the log, which is long here.
            (Access::ReadWrite, Role::Writer) => self.set_up_writer(connection),
            _ => self.set_up_reader(connection),
        }
    }

    /// SQLite checks the cells of a mapped page anew at each look, which takes a third of a read. What is read is checked
    /// against its seal and checksum, and nothing is written here that a damaged page could spread to; the connection
    /// that writes and those to an untrusted file check every cell.
    fn set_up_reader(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.pragma_update(None, "cell_size_check", false)?;
        connection.pragma_update(None, "mmap_size", self.config.mmap_size.0.cast_signed())
    }

    fn set_up_writer(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            let message = format!("the journal mode stays {mode}; the disk does not let SQLite use a log");
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                Some(message),
            ));
        }
        let synchronous = match self.config.durability {
            Durability::Strict => "full",
            Durability::Relaxed => "normal",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        // On macOS fsync alone does not reach the medium.
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        connection.pragma_update(None, "journal_size_limit", KEPT_LOG.cast_signed())?;
        // The writer decides when to checkpoint, and notices if that fails.
        connection.pragma_update(None, "wal_autocheckpoint", 0)
    }

    /// Limits for a file that may have been made to do harm.
    fn restrain(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.pragma_update(None, "mmap_size", 0)?;
        let row = i32::try_from(self.config.max_value.0.saturating_add(1 << 20)).unwrap_or(i32::MAX);
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, row)?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000)?;
        connection.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, 100)?;
        connection.set_limit(Limit::SQLITE_LIMIT_VDBE_OP, 250_000)?;
        connection.set_limit(Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1)?;
        Ok(())
    }

    /// Sets how many steps may be taken from now on; nothing for a trusted file.
    pub(crate) fn budget(&self, connection: &Connection) -> rusqlite::Result<()> {
        if !self.config.untrusted {
            return Ok(());
        }
        let bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let steps = STEPS + bytes / 512 * STEPS_PER_PAGE;
        let mut looks = steps / u64::from(STEPS_PER_LOOK.unsigned_abs());
        let exhausted = move || {
            looks = looks.saturating_sub(1);
            looks == 0
        };
        connection.progress_handler(STEPS_PER_LOOK, Some(exhausted))
    }

    /// Looks at the main file alone, as if nobody could change it, so that no log is replayed into, or because of, a file
    /// that is not ours; and through SQLite, because closing a descriptor of our own would drop its locks.
    ///
    /// A process that died while it copied its log into the file may have left one that is shorter than its header says;
    /// the log completes it. SQLite reads the header of such a file if the schema may be written, which an immutable
    /// file keeps it from.
    fn check_before_use(&self, descriptor: &Descriptor) -> Result<()> {
        let flags =
            OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_ONLY;
        let looked = Connection::open_with_flags(uri(&self.path, "?immutable=1"), flags)
            .and_then(|connection| {
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
                Ok(connection)
            })
            .map_err(Mismatch::from)
            .and_then(|connection| schema::check_header(&connection));
        looked.map_err(|mismatch| self.refuse(descriptor, mismatch))
    }

    /// Whether what was opened without locks lies there as it did. What was read before somebody changed it is right,
    /// so this is asked after each read.
    ///
    /// # Errors
    /// `Unavailable` if not.
    pub(crate) fn check_unchanged(&self, descriptor: &Descriptor, operation: &'static str) -> Result<()> {
        match &self.witness {
            Some(witness) if *witness != Witness::of(&self.path) => Err(descriptor.error(
                ErrorKind::Unavailable,
                operation,
                format!(
                    "the database {} was on a medium or in a folder that cannot be written, and was opened without \
                     locks; now somebody changes it: open it again",
                    self.path.display()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Checks the schema as this connection sees it; of an untrusted file, all of it.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn check(&self, connection: &Connection, descriptor: &Descriptor) -> Result<()> {
        let checked = schema::check_owner(connection).and_then(|()| schema::check_objects(connection));
        checked.map_err(|mismatch| self.refuse(descriptor, mismatch))?;
        if !self.config.untrusted {
            return Ok(());
        }
        let quick = || -> rusqlite::Result<String> {
            self.budget(connection)?;
            connection.pragma_query_value(None, "quick_check", |row| row.get(0))
        };
        match quick() {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(answer) => Err(self.refuse(descriptor, Mismatch::Altered(persist_core::escape(&answer)))),
            Err(error) => Err(self.refuse(descriptor, error.into())),
        }
    }

    /// SQLite only reads a file whose header asks for a newer way of writing.
    pub(crate) fn forbids_writing(&self, descriptor: &Descriptor) -> persist_core::StorageError {
        self.refuse(descriptor, Mismatch::Altered("its header says that it may only be read".to_owned()))
    }

    fn refuse(&self, descriptor: &Descriptor, mismatch: Mismatch) -> persist_core::StorageError {
        let path = self.path.display();
        let error = |kind, message| descriptor.error(kind, "open", message);
        match mismatch {
            Mismatch::Sqlite(cause) => sqlite(descriptor, "open", &format!("the database {path}"), cause),
            Mismatch::Foreign(what) => error(
                ErrorKind::InvalidConfig,
                format!(
                    "the database {path} was not made by persist ({what}); give the storage another path"
                ),
            ),
            Mismatch::Newer(what) => error(
                ErrorKind::Unsupported,
                format!(
                    "the database {path} was written by a newer persist ({what}); it was not touched: open it with \
                     the program that wrote it"
                ),
            ),
            Mismatch::Altered(what) => error(
                ErrorKind::Corruption,
                format!("the database {path} is not as persist made it: {what}; restore it from a backup"),
            ),
        }
    }

    /// Forces the names in the folder to the disk, that of the log among them.
    ///
    /// # Errors
    /// As of the file system.
    pub(crate) fn sync_folder(&self) -> std::io::Result<()> {
        sync_folder(folder_of(&self.path))
    }

    /// The write-ahead log beside the file.
    pub(crate) fn log(&self) -> PathBuf {
        beside(&self.path, "-wal")
    }
}

/// Device and number of what lies at a path.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Nothing in the file may run code or change its meaning.
pub(crate) fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    connection.pragma_update(None, "cell_size_check", true)
}

/// Whether this user may do what is to be done: SQLite would say only that it cannot open the file.
fn check_rights(path: &Path, config: &SqliteConfig) -> std::io::Result<()> {
    if config.read_only {
        return Ok(may(path, rustix::fs::Access::READ_OK)?);
    }
    may(path, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK)?;
    Ok(may_change(folder_of(path))?)
}

fn may(path: &Path, what: rustix::fs::Access) -> rustix::io::Result<()> {
    accessat(CWD, path, what, AtFlags::EACCESS)
}

/// Whether files can be made in a folder.
fn may_change(folder: &Path) -> rustix::io::Result<()> {
    may(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
}

/// How to read where nothing can be written: SQLite needs an index of the log in a file. If it is there, somebody lives
/// who writes, or left it.
fn access(path: &Path, config: &SqliteConfig, descriptor: &Descriptor) -> Result<Access> {
    if !config.read_only {
        return Ok(Access::ReadWrite);
    }
    let index = beside(path, "-shm").exists() && beside(path, "-wal").exists();
    let frozen = may_change(folder_of(path)).is_err();
    match (config.untrusted, frozen, has_log(path)) {
        (true, _, true) => Err(log_of_untrusted(descriptor, path)),
        (true, _, false) => Ok(Access::Immutable),
        (false, true, false) if !index => Ok(Access::Immutable),
        (false, true, true) if !index => Ok(Access::Abandoned),
        _ => Ok(Access::ReadOnly),
    }
}

/// Whether there is a log with anything in it.
fn has_log(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0)
}

fn log_of_untrusted(descriptor: &Descriptor, path: &Path) -> persist_core::StorageError {
    descriptor.error(
        ErrorKind::Unsupported,
        "open",
        format!(
            "beside the untrusted database {} lies a write-ahead log, which is not replayed; remove it, or have the \
             file checkpointed where it comes from",
            path.display()
        ),
    )
}

/// How a database and its log lay there; whoever changes them makes the index of the log first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Witness {
    files: [Option<(u64, u64, SystemTime)>; 2],
    index: bool,
}

impl Witness {
    fn of(path: &Path) -> Self {
        let seen = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.ino(), file.len(), file.modified().ok()?))
        };
        Self { files: [seen(path), seen(&beside(path, "-wal"))], index: beside(path, "-shm").exists() }
    }
}

fn empty(descriptor: &Descriptor, path: &Path) -> persist_core::StorageError {
    descriptor.error(
        ErrorKind::Corruption,
        "open",
        format!(
            "the database {} is an empty file; restore it from a backup, or delete it and a new one is made",
            path.display()
        ),
    )
}

/// Makes a new database: whole and on the disk before it has its name, so that neither a power cut nor another process
/// meets half of one. Whoever comes second finds it there.
fn create(path: &Path, config: &SqliteConfig, descriptor: &Descriptor) -> Result<()> {
    let image = image(config).map_err(|mismatch| {
        let message = format!("the new database {} cannot be made: {mismatch:?}", path.display());
        descriptor.error(ErrorKind::Internal, "open", message)
    })?;
    let fail = |error| system(descriptor, "open", &format!("the new database {}", path.display()), error);
    let folder = folder_of(path);
    make_folders(folder).map_err(fail)?;
    publish(path, folder, &image).map_err(fail)
}

/// The bytes of a new database. The journal mode is written into its header, because a database in memory has none: 2
/// in bytes 18 and 19 means WAL (SQLite's file format, section 1.3).
fn image(config: &SqliteConfig) -> std::result::Result<Vec<u8>, Mismatch> {
    let mut connection = Connection::open_in_memory()?;
    connection.pragma_update(None, "page_size", config.page_size.0.cast_signed())?;
    connection.pragma_update(
        None,
        "auto_vacuum",
        match config.auto_vacuum {
            AutoVacuum::None => "none",
            AutoVacuum::Full => "full",
            AutoVacuum::Incremental => "incremental",
        },
    )?;
    connection.pragma_update(None, "encoding", "UTF-8")?;
    schema::create(&mut connection)?;
    let mut image = connection.serialize(MAIN_DB)?.to_vec();
    if let Some(modes) = image.get_mut(18..20) {
        modes.fill(2);
    }
    Ok(image)
}

/// Makes missing folders, for this user alone, and forces each into the folder above it.
pub(crate) fn make_folders(folder: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists()).collect();
    for folder in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(folder.parent().unwrap_or(Path::new(".")))?,
        }
    }
    Ok(())
}

/// Fills a file with a temporary name and renames it. The lock on it keeps two processes from filling it at once, and
/// one that died half-way leaves nothing that the next one would not use.
fn publish(path: &Path, folder: &Path, image: &[u8]) -> std::io::Result<()> {
    let temporary = beside(path, ".new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&temporary)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    if path.exists() {
        return Ok(());
    }
    file.set_len(0)?;
    file.write_all(image)?;
    file.sync_all()?;
    match rename_new(&temporary, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => std::fs::remove_file(&temporary)?,
        result => result?,
    }
    sync_folder(folder)
}

/// Renames, but not over what is there.
pub(crate) fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without that flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        result => Ok(result?),
    }
}

pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A path with something behind its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The path as SQLite's URI has it; what is not plain is written as `%XX`.
pub(crate) fn uri(path: &Path, query: &str) -> String {
    use std::fmt::Write;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri + query
}
