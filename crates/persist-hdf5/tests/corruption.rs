//! Flipped, overwritten and cut bytes in the file and in the log: what is read is what was stored, or `Corruption`.
//! The cases run in a process with limits, because the HDF5 library is not ours: it may crash or hang. `PERSIST_CRASH_SCALE=10`
//! runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // A panic here is the report.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{
    Array, BaseStorage, DType, ErrorKind, Key, ListOptions, OpenContext, Result, StoreOptions, Value,
};
use persist_hdf5::{Hdf5Config, Hdf5Storage};
use persist_testkit::crash;
use tokio::runtime::{Builder, Runtime};

/// What a worker damages, and how often.
const WORKER: &str = "PERSIST_HDF5_DAMAGE";

/// Cases of a short run, for each place.
const CASES: u64 = 150;

/// Seconds that a worker may take for so many cases.
const SECONDS: u64 = 60;

/// The address space of a worker.
const MEMORY_KIB: u64 = 2 << 20;

fn main() -> ExitCode {
    if let Ok(job) = std::env::var(WORKER) {
        return worker(&job);
    }
    let trial = |place: &'static str| Trial::test(format!("damage_in_the_{place}"), move || damage(place));
    libtest_mimic::run(&Arguments::from_args(), ["file", "log"].map(trial).into()).exit_code()
}

fn damage(place: &str) -> std::result::Result<(), Failed> {
    let scale = crash::scale() as u64;
    let job = format!("{place} {} {}", crash::seed(), CASES * scale);
    let mut shell = Command::new("timeout");
    shell.arg((SECONDS * scale).to_string()).args([
        "sh",
        "-c",
        &format!("ulimit -v {MEMORY_KIB}; exec \"$0\""),
    ]);
    let output = shell.arg(std::env::current_exe()?).env(WORKER, &job).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{text}");
    if output.status.success() { Ok(()) } else { Err(format!("{}: {text}", output.status).into()) }
}

/// Small and good enough: xorshift, as Marsaglia gives it in "Xorshift RNGs" (2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

fn worker(job: &str) -> ExitCode {
    let mut words = job.split(' ');
    let (place, seed, cases) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let original = Original::make(folder.path());
    let mut random = Random(seed.parse::<u64>().unwrap().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut tally = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in 0..cases.parse::<usize>().unwrap() {
        let path = folder.path().join("case.h5");
        let what = original.lay(&path, place, &mut random);
        // A crash of the library ends the process: then this is the last line.
        let judged =
            std::panic::catch_unwind(AssertUnwindSafe(|| runtime().block_on(original.judge(&path, place))));
        match judged {
            Ok(Ok(verdict)) => *tally.entry(verdict).or_insert(0) += 1,
            Ok(Err(why)) => wrong.push(format!("case {case}, {what}: {why}")),
            Err(_) => wrong.push(format!("case {case}, {what}: panicked")),
        }
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_file(log_of(&path));
    }
    println!("damage in the {place}: {tally:?}, wrong: {wrong:#?}");
    let seen =
        tally.contains_key("refused") && tally.contains_key(if place == "file" { "damaged" } else { "cut" });
    ExitCode::from(u8::from(!seen || !wrong.is_empty()))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-log", path.display()))
}

/// A file as it is at rest, another with a log as a process left it that died, and what is in both.
struct Original {
    closed: Vec<u8>,
    left: (Vec<u8>, Vec<u8>),
    values: BTreeMap<Key, Value>,
}

impl Original {
    fn make(folder: &Path) -> Self {
        let path = folder.join("original.h5");
        let values = values();
        runtime().block_on(async {
            let storage =
                Hdf5Storage::open("main", Hdf5Config::new(&path), &OpenContext::default()).await.unwrap();
            // Whoever reads the file keeps the log from being copied.
            let reader = std::fs::File::open(&path).unwrap();
            reader.lock_shared().unwrap();
            for (key, value) in &values {
                storage.store(key, value.clone(), StoreOptions::new().tag("t", key.as_str())).await.unwrap();
            }
            let left = (std::fs::read(&path).unwrap(), std::fs::read(log_of(&path)).unwrap());
            drop(reader);
            storage.close().await.unwrap();
            Self { closed: std::fs::read(&path).unwrap(), left, values }
        })
    }

    /// Puts damaged files in place; says what was damaged.
    fn lay(&self, path: &Path, place: &str, random: &mut Random) -> String {
        if place == "file" {
            let mut file = self.closed.clone();
            let what = damage_bytes(&mut file, random);
            std::fs::write(path, file).unwrap();
            return what;
        }
        let mut log = self.left.1.clone();
        let what = damage_bytes(&mut log, random);
        std::fs::write(path, &self.left.0).unwrap();
        std::fs::write(log_of(path), log).unwrap();
        what
    }

    /// What came of it; an error if anything was read that was never stored.
    async fn judge(&self, path: &Path, place: &str) -> std::result::Result<&'static str, String> {
        let config = Hdf5Config::new(path).read_only();
        let storage = match Hdf5Storage::open("main", config, &OpenContext::default()).await {
            Ok(storage) => storage,
            Err(error) if error.kind() == ErrorKind::Corruption => return Ok("refused"),
            Err(error) => return Err(format!("cannot be opened: {error}")),
        };
        let page = storage.list_keys("", ListOptions::new()).await.map_err(|error| error.to_string())?;
        if let Some(made_up) = page.keys.iter().find(|key| !self.values.contains_key(*key)) {
            return Err(format!("{made_up:?} was never stored"));
        }
        let (mut damaged, mut absent) = (0, 0);
        for (key, value) in &self.values {
            match judge(storage.retrieve(key).await.map(|found| found.map(|entry| entry.value)), value)? {
                Seen::Right => {}
                Seen::Damaged => damaged += 1,
                Seen::Absent => absent += 1,
            }
        }
        storage.close().await.map_err(|error| error.to_string())?;
        match (damaged, absent) {
            (0, 0) => Ok("whole"),
            // The end of a log that is damaged is as if the power had been cut there.
            (0, _) if place == "log" => Ok("cut"),
            (_, 0) => Ok("damaged"),
            (_, absent) => Err(format!("{absent} keys are missing without a word")),
        }
    }
}

enum Seen {
    Right,
    Damaged,
    Absent,
}

fn judge(found: Result<Option<Value>>, value: &Value) -> std::result::Result<Seen, String> {
    match found {
        Ok(Some(found)) if found == *value => Ok(Seen::Right),
        Ok(Some(_)) => Err("a value was read that was never stored".to_owned()),
        Ok(None) => Ok(Seen::Absent),
        Err(error) if error.kind() == ErrorKind::Corruption => Ok(Seen::Damaged),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Values of all kinds, sizes and depths.
fn values() -> BTreeMap<Key, Value> {
    let mut values = BTreeMap::new();
    let mut add = |key: String, value| drop(values.insert(Key::new(key).unwrap(), value));
    for at in 0..40_u8 {
        add(
            format!("many/{at}"),
            Value::json(&serde_json::json!({ "at": at, "text": "x".repeat(at.into()) })).unwrap(),
        );
    }
    add("many".to_owned(), Value::bytes(vec![3; 5000]));
    add("a/b/c/d".to_owned(), Value::Array(Array::from_vec(vec![100, 10], vec![1.5_f64; 1000]).unwrap()));
    add("a//%/.".to_owned(), Value::Array(Array::new(DType::Complex64, vec![0, 3], vec![].into()).unwrap()));
    add("large".to_owned(), Value::bytes((0..200_000_u32).map(|at| (at % 251) as u8).collect::<Vec<_>>()));
    values
}

/// Flips bits, overwrites a part or cuts the end off; says what.
fn damage_bytes(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let at = random.below(bytes.len());
    let end = bytes.len().min(at + 1 + random.below(600));
    match random.below(8) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            bytes[at..end].fill(0);
            format!("zeros in {at}..{end}")
        }
        2 => {
            let from = random.below(bytes.len() - (end - at));
            bytes.copy_within(from..from + (end - at), at);
            format!("{at}..{end} overwritten with what is at {from}")
        }
        _ => {
            bytes[at] ^= 1 << random.below(8);
            format!("a bit flipped in byte {at}")
        }
    }
}
