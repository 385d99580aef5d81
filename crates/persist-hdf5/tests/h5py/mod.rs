//! Other people's eyes: Python with h5py and numpy, on the file of a storage that is open or closed.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a panic in a test is its report; not every test uses all of it"
)]

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use persist_core::Checksum;

/// What every script begins with.
const PRELUDE: &str = "import sys, json, os\nimport h5py, numpy as np\nargs = sys.argv[1:]\n";

/// The Python to use: that of `tests/run`, which has the newest h5py, or the system's.
fn python() -> OsString {
    std::env::var_os("PERSIST_TEST_PYTHON").unwrap_or_else(|| "/usr/bin/python3".into())
}

/// False if there is no h5py, which CI must have.
pub(crate) fn is_there() -> bool {
    let found = Command::new(python()).args(["-c", "import h5py, numpy"]).output();
    found.is_ok_and(|output| output.status.success())
}

/// Runs a script and gives what it prints.
pub(crate) fn run(script: &str, args: &[&str]) -> Result<String, String> {
    run_with(Command::new(python()), script, args)
}

/// Runs a script that disregards locks, as somebody does who tampers with the file. HDF5 asks for that when it is loaded.
pub(crate) fn tamper(script: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(python());
    command.env("HDF5_USE_FILE_LOCKING", "FALSE");
    run_with(command, script, args)
}

fn run_with(mut command: Command, script: &str, args: &[&str]) -> Result<String, String> {
    let output = command.arg("-c").arg(format!("{PRELUDE}{script}")).args(args).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Waits until the log of an open storage was copied into its file.
pub(crate) fn settle(path: &Path) {
    let log = std::path::PathBuf::from(format!("{}-log", path.display()));
    let end = Instant::now() + Duration::from_secs(20);
    while !is_empty(&std::fs::read(&log).unwrap_or_default()) {
        assert!(Instant::now() < end, "the log was not copied into the file");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True if no record of a log counts, by `docs/formats/hdf5.md`.
fn is_empty(log: &[u8]) -> bool {
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
    if log.len() < 1024 + 48 {
        return true;
    }
    let newest = [0, 512].into_iter().max_by_key(|at| number(at + 16)).unwrap();
    let size = usize::try_from(number(1024)).unwrap_or(usize::MAX).min(log.len() - 1072);
    let parts = [&log[newest + 8..newest + 16], &log[1024..1040], &log[1072..1072 + size]];
    Checksum::of(&parts).as_bytes()[..] != log[1040..1072]
}

/// Where a key's dataset lies by the rules of `docs/formats/hdf5.md`, as far as these tests need them.
pub(crate) const FIND: &str = "
def opened(path, mode):
    if not os.path.isdir(path):
        return h5py.File(path, mode)
    return h5py.File(path + '/%05d.h5', mode, driver='family', memb_size=os.path.getsize(path + '/00000.h5'))
def level(name):
    return {'': '%0', '.': '%.'}.get(name, '%' + name if name.startswith('%') else name)
def find(f, key):
    names = key.split('/', 15)
    path = '/' + '/'.join('%:' + n.replace('%', '%%').replace('/', '%-') if '/' in n else level(n) for n in names)
    found = f[path]
    return found if isinstance(found, h5py.Dataset) else found['%=']
";
