//! Replacing a whole folder: the new one is built beside it and verified, then the two exchange their names.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use persist_core::{
    BaseStorage, Descriptor, Entry, ErrorKind, Key, OpenContext, Restored, Result, SnapshotSource,
    StorageError, StoreOptions, Version, verify_values,
};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use crate::config::{Durability, FileConfig};
use crate::error::system;
use crate::place::Place;
use crate::root::Root;
use crate::session::{CONTROL, in_use};
use crate::stage::Staged;
use crate::storage::{FileStorage, describe};
use crate::writer::{Answer, Caller, Step, Writer};

/// How many bytes of values, and how many values, are given their names with one turn of the commit lock.
const TURN: (u64, usize) = (16 << 20, 256);

/// Lies in a folder that is being built, and nowhere else: only such a folder is removed as a leftover.
const MARK: &str = ".persist/restoring";

/// Replaces the folder of a storage by what a snapshot holds, with versions and times as they were. The old folder is
/// kept beside it.
pub(crate) async fn restore(
    name: &str,
    config: FileConfig,
    context: &OpenContext,
    source: &mut dyn SnapshotSource,
) -> Result<Restored> {
    let descriptor = describe(name, &config, context);
    if config.read_only || context.read_only {
        let message = "the storage is configured for reading only; restore it without read_only";
        return Err(descriptor.error(ErrorKind::ReadOnly, "restore", message));
    }
    let path = context.resolve(&config.base_path);
    let (timeout, group_readable) = (config.lock_timeout.0, config.group_readable);
    let begun = spawn_blocking(move || Site::prepare(descriptor, &path, timeout, group_readable)).await;
    let site = begun.map_err(|error| StorageError::broken_task(error).with_operation("restore"))??;
    let build = FileConfig { base_path: site.building.clone(), durability: Durability::Relaxed, ..config };
    let storage =
        FileStorage::open(name, build, &OpenContext { base: PathBuf::new(), ..context.clone() }).await?;
    let filled = fill(&storage, source).await;
    let closed = storage.close().await;
    drop(storage);
    let mut restored = filled.and_then(|restored| closed.map(|()| restored))?;
    let exchanged = spawn_blocking(move || site.exchange()).await;
    restored.kept =
        exchanged.map_err(|error| StorageError::broken_task(error).with_operation("restore"))??;
    Ok(restored)
}

/// Stores every entry, reads everything back, and forces it to the disk.
async fn fill(storage: &FileStorage, source: &mut dyn SnapshotSource) -> Result<Restored> {
    let (mut restored, now, mut highest) = (Restored::default(), storage.describe().now(), None);
    let (mut turn, mut turn_bytes) = (Vec::new(), 0);
    while let Some((key, entry)) = source.next().await? {
        highest = highest.max(Some(entry.metadata.version));
        if entry.metadata.is_expired(now) {
            restored.expired += 1;
            continue;
        }
        restored.keys += 1;
        restored.bytes += entry.metadata.size;
        turn_bytes += entry.metadata.size;
        turn.push((key, entry));
        if turn_bytes >= TURN.0 || turn.len() >= TURN.1 {
            turn_bytes = 0;
            import(storage, std::mem::take(&mut turn)).await?;
        }
    }
    import(storage, turn).await?;
    raise_versions(storage, highest).await?;
    storage.flush().await?;
    let report = verify_values(storage).await?;
    match report.problems.into_iter().next() {
        Some(problem) => Err(StorageError::new(ErrorKind::Corruption, problem.message)),
        None if report.checked != restored.keys => {
            let message = format!("{} of {} values read back", report.checked, restored.keys);
            Err(storage.describe().error(ErrorKind::Corruption, "restore", message))
        }
        None => Ok(restored),
    }
}

/// Stores values with exactly this metadata.
async fn import(storage: &FileStorage, entries: Vec<(Key, Entry)>) -> Result<()> {
    for (key, entry) in &entries {
        storage.describe().admit_store(key, &entry.value, &StoreOptions::new())?;
    }
    storage.change("restore", move |place, writer, caller| import_turn(place, writer, caller, entries)).await
}

fn import_turn(place: &Place, writer: &Writer, caller: &Caller, entries: Vec<(Key, Entry)>) -> Result<()> {
    let mut changes = Vec::with_capacity(entries.len());
    for (key, entry) in entries {
        changes.push(vec![Step::Put(Box::new(Staged::exact(place, writer, key, entry)?))]);
    }
    writer
        .commit(place, changes, "restore", caller)
        .into_iter()
        .try_for_each(|answer: Answer| answer.map(drop))
}

/// What is stored from now on gets versions above all that were handed out before, in the old folder too.
async fn raise_versions(storage: &FileStorage, highest: Option<Version>) -> Result<()> {
    let raised = storage.change("restore", move |place, writer, _| {
        let _held = writer.hold(place, "restore")?;
        let floor = place.descriptor.next_version(highest);
        let raised = writer.lock.raise_version_floor(floor);
        raised.map_err(|errno| system(&place.descriptor, "restore", "the lock file cannot be written", errno))
    });
    raised.await
}

/// The folder that is to be replaced, which nobody else can write to meanwhile, and the one that is being built.
#[derive(Debug)]
struct Site {
    descriptor: Descriptor,
    live: PathBuf,
    building: PathBuf,
    kept: PathBuf,
    /// The commit lock of the old folder; `None`: there is none.
    old: Option<OwnedFd>,
    /// Tells those who look for leftovers that this is none.
    _building: File,
    done: bool,
}

impl Site {
    fn prepare(descriptor: Descriptor, path: &Path, timeout: Duration, group_readable: bool) -> Result<Self> {
        let failed = |what: &str, error: std::io::Error| system(&descriptor, "restore", what, error);
        // A link to the folder is the operator's: what it leads to is replaced, not the link.
        let live = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let (above, file_name) = split_path(&live);
        let old = match live.is_dir() {
            true => Some(lock_old(&descriptor, &live, timeout, group_readable)?),
            false => None,
        };
        sweep(&above, &file_name);
        let token = token(&descriptor);
        let building = above.join(format!("{file_name}.restoring-{token}"));
        Root::open(&building, true, group_readable)
            .map_err(|error| failed("no folder can be made beside the old one", error))?;
        let lock = File::open(&building).map_err(|error| failed("the new folder cannot be opened", error))?;
        let marked = flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(std::io::Error::from)
            .and_then(|()| std::fs::create_dir_all(building.join(CONTROL)))
            .and_then(|()| std::fs::write(building.join(MARK), ""));
        let kept = above.join(format!("{file_name}.before-restore-{token}"));
        let site = Self { descriptor, live, building, kept, old, _building: lock, done: false };
        marked.map_err(|error| site.failed("the new folder cannot be prepared", error))?;
        Ok(site)
    }

    /// Gives the new folder its place, in one step. Gives where the old one is kept.
    fn exchange(mut self) -> Result<Option<PathBuf>> {
        let above = split_path(&self.live).0;
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        let unmarked =
            std::fs::remove_file(self.building.join(MARK)).and_then(|()| sync(&self.building.join(CONTROL)));
        unmarked.map_err(|error| self.failed("the new folder cannot be completed", error))?;
        let moved = match &self.old {
            None => rename(&self.building, &self.live, RenameFlags::NOREPLACE),
            Some(_) => self.trade(),
        };
        moved.map_err(|errno| {
            self.failed(
                "the new folder cannot take the place of the old one, which was not touched",
                errno.into(),
            )
        })?;
        self.done = true;
        sync(&above).map_err(|error| self.failed("the exchange cannot be forced to the disk", error))?;
        Ok(self.old.is_some().then(|| self.kept.clone()))
    }

    fn trade(&self) -> Result<(), Errno> {
        match rename(&self.building, &self.live, RenameFlags::EXCHANGE) {
            Ok(()) => rename(&self.building, &self.kept, RenameFlags::NOREPLACE),
            // The file system cannot exchange names.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rename(&self.live, &self.kept, RenameFlags::NOREPLACE)?;
                rename(&self.building, &self.live, RenameFlags::NOREPLACE)
            }
            Err(error) => Err(error),
        }
    }

    fn failed(&self, what: &str, error: std::io::Error) -> StorageError {
        system(&self.descriptor, "restore", what, error)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A folder that has lost its mark may hold the old data.
        if !self.done && self.building.join(MARK).exists() {
            let _ = std::fs::remove_dir_all(&self.building);
        }
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, flags)
}

/// The folder above, and the name in it.
fn split_path(path: &Path) -> (PathBuf, String) {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    (above.to_path_buf(), name.unwrap_or_default())
}

fn token(descriptor: &Descriptor) -> String {
    let time: String = descriptor.now().to_string().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    format!("{time}-{:08x}", RandomState::new().hash_one((std::process::id(), Instant::now())) as u32)
}

/// Holds the commit lock of the old folder, so that nobody writes to it or opens it for writing from now on.
fn lock_old(
    descriptor: &Descriptor,
    live: &Path,
    timeout: Duration,
    group_readable: bool,
) -> Result<OwnedFd> {
    let failed =
        |error: std::io::Error| system(descriptor, "restore", "the old folder cannot be locked", error);
    let root = Root::open(live, false, group_readable).map_err(failed)?;
    let open = || {
        root.make_folder(CONTROL)?;
        root.open_at(&format!("{CONTROL}/lock"), OFlags::RDWR | OFlags::CREATE)
    };
    let lock = open().map_err(|errno| failed(errno.into()))?;
    let deadline = Instant::now() + timeout;
    while let Err(errno) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::WOULDBLOCK && errno != Errno::INTR {
            return Err(failed(errno.into()));
        }
        if Instant::now() >= deadline {
            return Err(locked(descriptor, "another process holds it"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    match in_use(&root).map_err(|errno| failed(errno.into()))? {
        None => Ok(lock),
        Some(process) => Err(locked(descriptor, &format!("process {process} has it open"))),
    }
}

fn locked(descriptor: &Descriptor, why: &str) -> StorageError {
    let message = format!("{why}, and what it writes would be lost; end or close it, then restore again");
    descriptor.error(ErrorKind::Locked, "restore", message)
}

/// Clears up after restores that were killed on the way: what was being built is removed, and an old folder that had
/// just been exchanged gets the name that it should have had.
fn sweep(above: &Path, file_name: &str) {
    let prefix = format!("{file_name}.restoring-");
    for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Some(token) = name.strip_prefix(&prefix) else { continue };
        let Ok(folder) = File::open(&path) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // What cannot be done now may be later.
        if path.join(MARK).exists() {
            let _ = std::fs::remove_dir_all(&path);
        } else {
            let kept = above.join(format!("{file_name}.before-restore-{token}"));
            let _ = rename(&path, &kept, RenameFlags::NOREPLACE);
        }
    }
}
