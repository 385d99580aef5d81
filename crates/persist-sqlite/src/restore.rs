//! Replacing a whole database: the new one is built beside the old one and verified, then it takes its name.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind as Io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use persist_core::{
    BaseStorage, Descriptor, ErrorKind, OpenContext, Restored, Result, SnapshotSource, StorageError, Version,
    restore_entries,
};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use crate::config::{Durability, SqliteConfig};
use crate::database::{beside, folder_of, harden, identity, make_folders, rename_new, sync_folder, uri};
use crate::error::{kind_of, sqlite, system};
use crate::schema::{self, Mismatch};
use crate::snapshot::{FILE, check_copy};
use crate::storage::{SqliteStorage, describe};

/// How long to wait for those who have the database open only for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// What SQLite keeps beside a database; what is left there would be replayed into the new one.
const LOGS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Replaces a database by what a snapshot holds: the file itself, or entry by entry into a new file. The old file is
/// kept beside it.
pub(crate) async fn restore(
    name: &str,
    config: SqliteConfig,
    context: &OpenContext,
    source: &mut dyn SnapshotSource,
) -> Result<Restored> {
    let descriptor = describe(name, &config, context);
    if config.read_only || config.untrusted || context.read_only {
        let message = "the storage is configured for reading only; restore it without read_only";
        return Err(descriptor.error(ErrorKind::ReadOnly, "restore", message));
    }
    let path = context.resolve(&config.path);
    let site = blocking(move || Site::prepare(descriptor, &path)).await?;
    let (new, from) = (site.new.clone(), source.file(FILE));
    match from {
        Some(from) => {
            let to = new.clone();
            let copied = blocking(move || Ok(std::fs::copy(from, to))).await?;
            copied.map_err(|error| site.failed("the snapshot cannot be copied", error))?;
        }
        None => build(name, config, context, &new, source).await?,
    }
    let site = blocking(move || site.complete().map(|()| site)).await?;
    let (report, expired) = check_copy(name, new, context, "restore").await?;
    let kept = blocking(move || site.install()).await?;
    Ok(Restored { keys: report.checked, bytes: report.bytes, expired, kept })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StorageError::broken_task(error).with_operation("restore")))
}

/// Makes a new database of the entries of a snapshot.
async fn build(
    name: &str,
    config: SqliteConfig,
    context: &OpenContext,
    new: &Path,
    source: &mut dyn SnapshotSource,
) -> Result<()> {
    let config = SqliteConfig { path: new.to_path_buf(), durability: Durability::Relaxed, ..config };
    let context = OpenContext { base: PathBuf::new(), ..context.clone() };
    let storage = SqliteStorage::open(name, config, &context).await?;
    let restored = restore_entries(&storage, source).await;
    let closed = storage.close().await;
    restored.and(closed)
}

/// The database that is to be replaced, which nobody else can open meanwhile, and the one that is being built.
#[derive(Debug)]
struct Site {
    descriptor: Descriptor,
    live: PathBuf,
    new: PathBuf,
    kept: PathBuf,
    /// `None`: there is no old database.
    old: Option<Old>,
    /// No version up to this one may be given out again.
    highest: Option<Version>,
    /// Removed when this is dropped.
    _room: Room,
}

/// How others are kept from the old database.
#[derive(Debug)]
enum Old {
    /// SQLite holds its locks.
    Sound(#[allow(dead_code, reason = "it is held, not used")] Connection),
    /// So badly damaged that SQLite does not open it: the file as a whole is locked.
    Damaged(#[allow(dead_code, reason = "it is held, not used")] File),
}

impl Site {
    fn prepare(descriptor: Descriptor, path: &Path) -> Result<Self> {
        // A link to the database is the operator's: what it leads to is replaced, not the link.
        let live = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let fail = |what: &str, error| system(&descriptor, "restore", what, error);
        make_folders(folder_of(&live)).map_err(|error| fail("its folder cannot be made", error))?;
        let room = Room::lock(&descriptor, beside(&live, ".restoring"))?;
        room.empty().map_err(|error| fail("what another restore left cannot be removed", error))?;
        let (old, highest) = hold(&descriptor, &live)?;
        forget_links(&live);
        let kept = beside(&live, &format!(".before-restore-{}", token(&descriptor)));
        Ok(Self { descriptor, live, new: room.path.join(FILE), kept, old, highest, _room: room })
    }

    /// Lets versions go on where the old database ended, and forces the new one to the disk.
    fn complete(&self) -> Result<()> {
        let what = || format!("the new database {} cannot be completed", self.new.display());
        // A snapshot may lie where nothing can be written.
        let mode = std::fs::metadata(&self.live).map_or(0o600, |old| old.mode() & 0o777);
        let permitted = std::fs::set_permissions(&self.new, Permissions::from_mode(mode));
        permitted.map_err(|error| self.failed(&what(), error))?;
        let raised = self.raise_versions().map_err(|mismatch| match mismatch {
            Mismatch::Sqlite(error) => sqlite(&self.descriptor, "restore", &what(), error),
            Mismatch::Foreign(why) | Mismatch::Newer(why) | Mismatch::Altered(why) => {
                let message = format!("the database in the snapshot is none of this persist: {why}");
                self.descriptor.error(ErrorKind::Corruption, "restore", message)
            }
        });
        raised?;
        let synced = File::open(&self.new).and_then(|file| file.sync_all());
        synced.map_err(|error| self.failed(&what(), error))
    }

    fn raise_versions(&self) -> Result<(), Mismatch> {
        let connection = Connection::open_with_flags(uri(&self.new, ""), writable())?;
        harden(&connection)?;
        connection.execute_batch("PRAGMA locking_mode = exclusive")?;
        schema::check_owner(&connection)?;
        schema::check_objects(&connection)?;
        let highest = self.highest.max(Some(highest_version(&connection)?));
        let floor = self.descriptor.next_version(highest).as_u64().cast_signed();
        connection.execute("UPDATE state SET floor = ?1 WHERE id = 1", [floor])?;
        connection.query_row("PRAGMA wal_checkpoint(truncate)", (), |_| Ok(()))?;
        connection.close().map_err(|(_, error)| error)?;
        Ok(())
    }

    /// Gives the new database its name. At every moment the whole old one or the whole new one has it. Gives where the
    /// old one is kept.
    fn install(self) -> Result<Option<PathBuf>> {
        let moved = match &self.old {
            Some(_) => self.replace(),
            None => self.appear(),
        };
        moved?;
        let folder = folder_of(&self.live);
        sync_folder(folder)
            .map_err(|error| self.failed("the exchange cannot be forced to the disk", error))?;
        Ok(self.old.is_some().then(|| self.kept.clone()))
    }

    fn replace(&self) -> Result<()> {
        self.keep().map_err(|error| {
            self.failed("the old database, which was not touched, cannot be given a second name", error)
        })?;
        let renamed = remove_logs(&self.live)
            .and_then(|()| sync_folder(folder_of(&self.live)))
            .and_then(|()| std::fs::rename(&self.new, &self.live));
        renamed.map_err(|error| self.failed("the new database cannot take the place of the old one", error))
    }

    /// Gives the old database, and a log that SQLite could not take over, a second name.
    fn keep(&self) -> std::io::Result<()> {
        for log in LOGS {
            let there = beside(&self.live, log);
            if matches!(self.old, Some(Old::Damaged(_))) && there.exists() {
                std::fs::hard_link(there, beside(&self.kept, log))?;
            }
        }
        std::fs::hard_link(&self.live, &self.kept)?;
        sync_folder(folder_of(&self.live))
    }

    fn appear(&self) -> Result<()> {
        let renamed = remove_logs(&self.live).and_then(|()| rename_new(&self.new, &self.live));
        renamed.map_err(|error| match error.kind() {
            Io::AlreadyExists => locked(&self.descriptor, &self.live, "somebody made it meanwhile"),
            _ => self.failed("the new database cannot be given its name", error),
        })
    }

    fn failed(&self, what: &str, error: std::io::Error) -> StorageError {
        system(&self.descriptor, "restore", what, error)
    }
}

/// The folder beside a database in which a new one is built, locked.
#[derive(Debug)]
struct Room {
    path: PathBuf,
    _lock: File,
}

impl Room {
    fn lock(descriptor: &Descriptor, path: PathBuf) -> Result<Self> {
        let fail = |error| system(descriptor, "restore", &path.display().to_string(), error);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != Io::AlreadyExists => return Err(fail(error)),
            _ => {}
        }
        let folder = File::open(&path).map_err(fail)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            // Its owner may have removed it before the lock was free.
            Ok(()) if identity(&path) == folder.metadata().ok().map(|file| (file.dev(), file.ino())) => {
                Ok(Self { path, _lock: folder })
            }
            Ok(()) | Err(Errno::WOULDBLOCK) => Err(locked(descriptor, &path, "another restore is under way")),
            Err(errno) => Err(fail(errno.into())),
        }
    }

    /// Removes what a restore builds, and nothing else.
    fn empty(&self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(FILE.as_bytes()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next restore.
        let _ = self.empty().and_then(|()| std::fs::remove_dir(&self.path));
    }
}

fn writable() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_READ_WRITE
}

/// A name that cannot collide: two restores in one millisecond differ by chance.
fn token(descriptor: &Descriptor) -> String {
    let time: String = descriptor.now().to_string().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    format!("{time}-{:08x}", RandomState::new().hash_one((std::process::id(), Instant::now())) as u32)
}

fn locked(descriptor: &Descriptor, path: &Path, why: &str) -> StorageError {
    let message = format!(
        "{why}, and what is written to {} would be lost; close it everywhere, then restore again",
        path.display()
    );
    descriptor.error(ErrorKind::Locked, "restore", message)
}

/// A restore that died before the rename has left a second name of the database that is still in use. With a log beside
/// it, it is all that there is of a damaged database, and stays.
fn forget_links(live: &Path) {
    let here = identity(live);
    let mut prefix: OsString = live.file_name().unwrap_or_default().to_owned();
    prefix.push(".before-restore-");
    for entry in std::fs::read_dir(folder_of(live)).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        if ours && identity(&path) == here && !LOGS.iter().any(|log| beside(&path, log).exists()) {
            // It is tried again by the next restore.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn remove_logs(live: &Path) -> std::io::Result<()> {
    for log in LOGS {
        match std::fs::remove_file(beside(live, log)) {
            Err(error) if error.kind() != Io::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Keeps everybody from the old database and brings its log home. Gives the highest version in it, if it can be read.
fn hold(descriptor: &Descriptor, live: &Path) -> Result<(Option<Old>, Option<Version>)> {
    let fail = |error| system(descriptor, "restore", &format!("the database {}", live.display()), error);
    match std::fs::metadata(live) {
        Err(error) if error.kind() == Io::NotFound => return Ok((None, None)),
        Ok(file) if !file.is_file() => return Err(fail(Errno::ISDIR.into())),
        // SQLite would make a database of it.
        Ok(file) if file.len() == 0 => return hold_damaged(descriptor, live),
        Ok(_) => {}
        Err(error) => return Err(fail(error)),
    }
    match hold_sound(live) {
        Ok((connection, highest)) => Ok((Some(Old::Sound(connection)), highest)),
        Err(Mismatch::Sqlite(error)) => match kind_of(&error) {
            ErrorKind::Locked => Err(locked(descriptor, live, "it is open")),
            ErrorKind::Corruption | ErrorKind::Unavailable => hold_damaged(descriptor, live),
            _ => Err(sqlite(descriptor, "restore", "the old database cannot be locked", error)),
        },
        Err(Mismatch::Foreign(what) | Mismatch::Newer(what) | Mismatch::Altered(what)) => {
            let message = format!(
                "{} was not made by persist ({what}); move it away if it may be replaced, or give the storage another path",
                live.display()
            );
            Err(descriptor.error(ErrorKind::InvalidConfig, "restore", message))
        }
    }
}

fn hold_sound(live: &Path) -> Result<(Connection, Option<Version>), Mismatch> {
    let connection = Connection::open_with_flags(uri(live, ""), writable())?;
    harden(&connection)?;
    // If it cannot be restored over, it stays as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(PATIENCE)?;
    // Once taken, the locks stay until the connection is closed.
    connection.execute_batch("PRAGMA locking_mode = exclusive; BEGIN EXCLUSIVE; COMMIT")?;
    let application = schema::application(&connection)?;
    if application != schema::APPLICATION_ID {
        return Err(Mismatch::Foreign(format!("its application_id is {application:#x}")));
    }
    connection.query_row("PRAGMA wal_checkpoint(truncate)", (), |_| Ok(()))?;
    // What is damaged further inside is no hindrance.
    let highest = highest_version(&connection).ok();
    Ok((connection, highest))
}

fn highest_version(connection: &Connection) -> rusqlite::Result<Version> {
    let sql = "SELECT max(floor, (SELECT coalesce(max(version), 0) FROM entries)) FROM state";
    let highest: i64 = connection.query_row(sql, (), |row| row.get(0))?;
    Ok(Version::from_u64(highest.cast_unsigned()))
}

fn hold_damaged(descriptor: &Descriptor, live: &Path) -> Result<(Option<Old>, Option<Version>)> {
    // Closing a descriptor of our own would take the locks of a connection in this process away.
    if is_open_here(live) {
        return Err(locked(descriptor, live, "this process has it open"));
    }
    let fail = |error| system(descriptor, "restore", "the old database cannot be locked", error);
    let file = File::options().read(true).write(true).open(live).map_err(fail)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((Some(Old::Damaged(file)), None)),
        Err(Errno::ACCESS | Errno::AGAIN) => Err(locked(descriptor, live, "another process has it open")),
        Err(errno) => Err(fail(errno.into())),
    }
}

/// Whether this process has a file open (where the system tells: Linux).
fn is_open_here(path: &Path) -> bool {
    let wanted = identity(path);
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    wanted.is_some() && descriptors.into_iter().any(|entry| identity(&entry.path()) == wanted)
}
