//! How `strace` is called: killing at a system call, failing a system call, and recording.
//!
//! `strace` counts the calls for `when=` **per thread and per system call**, not over a whole set. A sweep therefore
//! names one system call at a time, and workers run their blocking work on one thread (see
//! [`Plan::blocking_threads`](super::plan::Plan)).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::report::Trouble;

/// The system calls that change files or folders, or that order such changes.
pub const CHANGES: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "creat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "copy_file_range",
    "sendfile",
    "truncate",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
];

/// [`CHANGES`] without those that open files, most of which only read: a kill before the creation of a file leaves the
/// same as one before the next change, but for a folder that was just made.
pub fn changes_but_opens() -> Vec<&'static str> {
    let opens = ["open", "openat", "openat2", "creat"];
    CHANGES.iter().copied().filter(|call| !opens.contains(call)).collect()
}

/// The system calls that read or lock files or folders.
pub const READS: &[&str] = &[
    "flock",
    "read",
    "pread64",
    "readv",
    "preadv",
    "preadv2",
    "getdents64",
    "statx",
    "newfstatat",
    "fstat",
    "getxattr",
    "lgetxattr",
    "fgetxattr",
];

/// An expression for `strace` that names these calls, leaving out those that this architecture has not.
pub(super) fn set(calls: &[&str]) -> String {
    calls.iter().map(|call| format!("?{call}")).collect::<Vec<_>>().join(",")
}

/// The start of every command: follow threads, say nothing, write to `log`, trace the calls of `set`.
pub(super) fn command(log: &Path, set: &str, more: &[&str]) -> Vec<String> {
    let log = log.to_string_lossy();
    let trace = format!("trace={set}");
    let fixed = ["strace", "-f", "-o", &*log, "-e", &trace, "-e", "signal=none"];
    fixed.iter().chain(more).map(|&word| word.to_owned()).collect()
}

/// Whether `strace` is there and may trace.
pub(super) fn available() -> Result<(), Trouble> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        let mut probe = Command::new("strace");
        probe.args(["-qq", "-o", "/dev/null", "-e", "trace=none", "true"]).stderr(Stdio::null());
        match probe.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("strace may not trace here ({status})")),
            Err(error) => Err(format!("strace cannot be started ({error}); install the package strace")),
        }
    });
    answer.clone().map_err(Trouble::Unavailable)
}

/// A tracer attached to a running worker; counts begin at nothing in every thread.
#[derive(Debug)]
pub(super) struct Attached(Child);

impl Attached {
    /// Attaches to all threads of a process that stands still, and waits until that is done.
    pub(super) fn to(process: u32, log: &Path, arguments: &[String]) -> Result<Self, Trouble> {
        let notes = log.with_extension("notes");
        let file = std::fs::File::create(&notes).map_err(|error| format!("no file for notes: {error}"))?;
        let child = Command::new(&arguments[0])
            .args(&arguments[1..])
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("cannot start strace: {error}"))?;
        let mut attached = Self(child);
        attached.wait_attached(&notes)?;
        Ok(attached)
    }

    fn wait_attached(&mut self, notes: &Path) -> Result<(), Trouble> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let text = std::fs::read_to_string(notes).unwrap_or_default();
            if text.contains(" attached") {
                return Ok(());
            }
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return Err(Trouble::Unavailable(format!("strace cannot attach: {}", text.trim_end())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Trouble::Tool("strace did not attach within 20 s".into()))
    }
}

impl Drop for Attached {
    /// The tracer ends with its worker; one that does not is ended.
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often each system call was entered, according to a log.
pub(super) fn tally(log: &str) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for call in log.lines().filter_map(call_name) {
        *tally.entry(call.to_owned()).or_default() += 1;
    }
    tally
}

/// The call that a line of a log enters; `None` for the second half of an interrupted line and for notes.
pub(super) fn call_name(line: &str) -> Option<&str> {
    let text = line.trim_start_matches(|byte: char| byte.is_ascii_digit()).trim_start();
    let name = &text[..text.find('(')?];
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once() {
        let log = "12  fsync(4 <unfinished ...>\n13  write(1, \"fsync(\", 6) = 6\n\
                   12  <... fsync resumed>) = 0\n12  +++ exited with 0 +++\n12  fsync(5) = 0\n";
        assert_eq!(tally(log), BTreeMap::from([("fsync".into(), 2), ("write".into(), 1)]));
    }
}
