//! Small file systems in memory: full, out of inodes, read-only.
//!
//! Mounting needs root. A test binary that calls [`in_own_namespace`] first thing in `main` is run again inside of
//! mount (and, for ordinary users, user) namespaces of its own, where it may mount and where nothing leaks.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

use super::report::Trouble;

/// Set in the environment of a test binary that was run again.
const INSIDE: &str = "PERSIST_OWN_NAMESPACE";

/// A tmpfs of limited size; unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    folder: TempDir,
    inodes: u64,
}

impl Tmpfs {
    /// Mounts one with room for `bytes`, and for `inodes` files and folders (0: no limit).
    ///
    /// # Errors
    /// `Unavailable` without the right to mount.
    pub fn new(bytes: u64, inodes: u64) -> Result<Self, Trouble> {
        let folder = tempfile::Builder::new().prefix("persist-mount-").tempdir();
        let folder = folder.map_err(|error| Trouble::Tool(format!("no folder to mount on: {error}")))?;
        let options = format!("size={bytes},nr_inodes={inodes},mode=0700\0");
        let options =
            std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(|error| error.to_string())?;
        mount("persist-test", folder.path(), "tmpfs", MountFlags::empty(), options)
            .map_err(|error| Trouble::Unavailable(format!("a tmpfs cannot be mounted ({error})")))?;
        Ok(Self { folder, inodes })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it room for `bytes` from now on.
    ///
    /// # Errors
    /// As of the system, in words.
    pub fn resize(&self, bytes: u64) -> Result<(), String> {
        self.remount(MountFlags::empty(), &format!("size={bytes},nr_inodes={}", self.inodes))
    }

    /// Makes it read-only, or writable again. Fails while files are open for writing.
    ///
    /// # Errors
    /// As of the system, in words.
    pub fn set_read_only(&self, read_only: bool) -> Result<(), String> {
        self.remount(if read_only { MountFlags::RDONLY } else { MountFlags::empty() }, "")
    }

    fn remount(&self, flags: MountFlags, options: &str) -> Result<(), String> {
        let fail = |error| format!("cannot remount {}: {error}", self.path().display());
        mount_remount(self.path(), flags, options).map_err(fail)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Runs this program again where it may mount; to be called first in `main`, after [`serve`](super::worker::serve).
///
/// `Some`: that was done, leave with this code. `None`: go on here, either because this is the inside or because
/// namespaces are not available, which [`Tmpfs::new`] will say.
pub fn in_own_namespace() -> Option<ExitCode> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let able = Command::new("unshare").args([flags, "true"]).status().is_ok_and(|status| status.success());
    let program: PathBuf = std::env::current_exe().ok().filter(|_| able)?;
    let mut inside = Command::new("unshare");
    inside.arg(flags).arg("--").arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    let code = inside.status().ok()?.code().unwrap_or(1);
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
