//! Full disks, missing rights and other processes: what the tests of a backend need to meet them (Linux).
//!
//! A binary with `harness = false` calls [`main`]; its tests start it again as a worker with [`Job`].
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{BaseStorage, ErrorKind, Key, ListOptions, StoreOptions, Value};
use tokio::runtime::Runtime;

use crate::crash::mount::{Tmpfs, in_own_namespace};
use crate::crash::{Trouble, skip};

/// What a worker does, and where.
const JOB: &str = "PERSIST_TEST_JOB";
const PLACE: &str = "PERSIST_TEST_PLACE";

/// A test.
pub type Test = fn() -> Result<(), Failed>;

/// What `main` does: the work of a worker, whose answer is printed, or the tests, inside of a mount namespace of their own.
#[allow(clippy::print_stdout, reason = "the test that started the worker reads it")]
pub fn main(work: impl FnOnce(&str, &Path) -> String, tests: &[(&str, Test)]) -> ExitCode {
    if let (Ok(job), Some(place)) = (std::env::var(JOB), std::env::var_os(PLACE)) {
        println!("{}", work(&job, Path::new(&place)));
        return ExitCode::SUCCESS;
    }
    if let Some(code) = in_own_namespace() {
        return code;
    }
    let trials = tests.iter().map(|(name, test)| Trial::test(*name, *test)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Work for another process.
#[derive(Debug)]
pub struct Job<'j> {
    job: &'j str,
    place: &'j Path,
    limits: Option<&'j str>,
    as_nobody: bool,
}

impl<'j> Job<'j> {
    /// Such work, in such a place.
    pub fn new(job: &'j str, place: &'j Path) -> Self {
        Self { job, place, limits: None, as_nobody: false }
    }

    /// Under limits that a shell sets, for instance `ulimit -n 40`.
    #[must_use]
    pub fn under(self, limits: &'j str) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// As a user who owns nothing; only root can have that done.
    #[must_use]
    pub fn as_nobody(self) -> Self {
        Self { as_nobody: true, ..self }
    }

    /// Has it done; what the worker answered, or nothing if it died.
    ///
    /// # Panics
    /// If the worker cannot be started.
    pub fn run(self) -> String {
        let mut command = match self.limits {
            Some(limits) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("{limits}; exec \"$0\"")]);
                self.given_to(command)
            }
            None => self.given_to(Command::new("env")),
        };
        if self.as_nobody {
            command.uid(65534).gid(65534);
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Another way of having it done: by a command that starts the program that it is given last.
    ///
    /// # Panics
    /// If this program has no name.
    pub fn given_to(&self, mut command: Command) -> Command {
        command.arg(std::env::current_exe().unwrap()).env(JOB, self.job).env(PLACE, self.place);
        command
    }
}

/// Kills workers at moments spread evenly over the time that they need, which is another one on each machine.
#[derive(Debug)]
pub struct Kills {
    whole: Duration,
    round: u32,
}

impl Kills {
    /// Takes the time that a worker needs; `work` lets one do its work and waits until it is done.
    pub fn timed(work: impl FnOnce()) -> Self {
        let begun = Instant::now();
        work();
        Self { whole: begun.elapsed(), round: 0 }
    }

    /// Lets a worker live for another part of that time and kills it; true if it had not ended by itself.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn meet(&mut self, worker: &mut Child) -> bool {
        self.round += 1;
        // The multiples of the golden ratio leave no large gap between them.
        std::thread::sleep(self.whole.mul_f64((f64::from(self.round) * 0.618_034).fract()));
        let met = worker.try_wait().unwrap().is_none();
        if !met {
            // It was measured while the machine was busier.
            self.whole = self.whole.mul_f64(0.9);
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
        met
    }
}

/// A file system of its own, of so many bytes and, unless 0, files; `None` after a loud skip where none can be mounted.
///
/// # Errors
/// In CI, where it must be possible.
pub fn tmpfs(bytes: u64, inodes: u64) -> Result<Option<Tmpfs>, Failed> {
    match Tmpfs::new(bytes, inodes) {
        Ok(disk) => Ok(Some(disk)),
        Err(Trouble::Unavailable(why)) => skip(&why).map(|()| None).map_err(Failed::from),
        Err(other) => Err(Failed::from(format!("{other:?}"))),
    }
}

/// Takes all the room there is on a disk.
///
/// # Panics
/// If the file cannot be made.
pub fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for block in [vec![0_u8; 1 << 16], vec![0_u8; 1]] {
        while file.write_all(&block).is_ok() {}
    }
}

/// Gives a file or folder these rights.
///
/// # Panics
/// If it cannot.
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Lets every user read a folder and what lies in it, and nobody but the owner change it.
///
/// # Panics
/// If it cannot.
pub fn let_all_read(folder: &Path) {
    set_mode(folder, 0o755);
    for file in std::fs::read_dir(folder).unwrap() {
        set_mode(&file.unwrap().path(), 0o644);
    }
}

/// Whether this process may become any user.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Runs a test to its end.
///
/// # Panics
/// If there can be no runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

/// Stores; the kind of the error is enough.
///
/// # Errors
/// What kind of error it was.
///
/// # Panics
/// If it is no key.
pub async fn store(storage: &dyn BaseStorage, key: &str, value: Value) -> Result<(), ErrorKind> {
    let stored = storage.store(&Key::new(key).unwrap(), value, StoreOptions::new()).await;
    stored.map(drop).map_err(|error| error.kind())
}

/// A value of so many equal bytes.
pub fn value(byte: u8, len: usize) -> Value {
    Value::bytes(vec![byte; len])
}

/// The first page of keys.
///
/// # Panics
/// If it cannot be read.
pub async fn keys(storage: &dyn BaseStorage) -> Vec<String> {
    let page = storage.list_keys("", ListOptions::new()).await.unwrap();
    page.keys.iter().map(|key| key.as_str().to_owned()).collect()
}
