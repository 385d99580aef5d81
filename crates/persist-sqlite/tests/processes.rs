//! Several processes on one database: no lost update, no "database is locked" under this load, and one that dies or
//! stands still with the right to write keeps the others up no longer than it must.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{BaseStorage, ErrorKind, HumanDuration, OpenContext, StorageExt};
use persist_sqlite::{SqliteConfig, SqliteStorage};
use rusqlite::Connection;
use tokio::runtime::Runtime;

/// Names what a worker does: the job, its name, the database.
const WORKER: &str = "PERSIST_SQLITE_PROCESS";

/// How many processes work at once.
const PROCESSES: u64 = 6;

/// How often each of them adds one.
const TIMES: u64 = 60;

/// How many processes are killed in the middle of their work.
const VICTIMS: u64 = 10;

type Test = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    if let Ok(job) = std::env::var(WORKER) {
        return worker(&job);
    }
    let tests: [(&str, Test); 3] = [
        ("no_update_is_lost", no_update_is_lost),
        ("a_killed_process_blocks_nobody", killed_processes),
        ("who_holds_the_right_to_write_too_long_is_reported", held_right),
    ];
    let trials = tests.map(|(name, test)| Trial::test(name, test)).into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

async fn open(path: &Path) -> persist_core::Result<SqliteStorage> {
    SqliteStorage::open("main", SqliteConfig::new(path), &OpenContext::default()).await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(future)
}

fn start(job: &str, name: u64, path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(WORKER, format!("{job} {name} {}", path.display()));
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

fn worker(job: &str) -> ExitCode {
    let mut words = job.splitn(3, ' ');
    let (job, name, path) =
        (words.next().unwrap(), words.next().unwrap(), PathBuf::from(words.next().unwrap()));
    let done = block_on(async {
        let storage = open(&path).await?;
        let mut count = 0;
        while job == "on" || count < TIMES {
            storage.update("counter", |old: Option<u64>| old.unwrap_or(0) + 1).await?;
            count += 1;
            // Told only now: that many at least are in the counter.
            println!("{count}");
            storage.put(format!("own/{name}/{}", count % 7), &count).await?;
        }
        storage.close().await
    });
    if let Err(error) = done {
        println!("{}: {error}", error.kind());
    }
    ExitCode::SUCCESS
}

/// The last line that a process told.
fn last_line(mut process: Child) -> String {
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let last = lines.map(Result::unwrap).last().unwrap_or_default();
    process.wait().unwrap();
    last
}

/// The database does not exist yet: all of them make it at once.
fn no_update_is_lost() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("new/main.db");
    let processes: Vec<Child> = (0..PROCESSES).map(|name| start("count", name, &path)).collect();
    for process in processes {
        assert_eq!(last_line(process), TIMES.to_string());
    }
    block_on(async {
        let storage = open(&path).await.unwrap();
        assert_eq!(storage.get::<u64>("counter").await.unwrap(), Some(PROCESSES * TIMES));
        for name in 0..PROCESSES {
            let last = storage.get::<u64>(format!("own/{name}/{}", TIMES % 7)).await.unwrap();
            assert_eq!(last, Some(TIMES));
        }
        assert!(storage.verify().await.unwrap().is_clean());
    });
    Ok(())
}

/// What a killed process had told is counted; one more may be, which it could not tell any more.
fn killed_processes() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.db");
    let steady: Vec<Child> = (0..PROCESSES - 2).map(|name| start("count", name, &path)).collect();
    let told: u64 =
        (0..VICTIMS).map(|number| kill_after(start("on", 100 + number, &path), 1 + number % 5)).sum();
    for process in steady {
        assert_eq!(last_line(process), TIMES.to_string());
    }
    block_on(async {
        let storage = open(&path).await.unwrap();
        let counted = storage.get::<u64>("counter").await.unwrap().unwrap();
        let least = (PROCESSES - 2) * TIMES + told;
        assert!((least..=least + VICTIMS).contains(&counted), "{counted} counted, {least} told");
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    });
    Ok(())
}

/// Kills a process once it has told so many lines; gives the number in the last line that it told.
fn kill_after(mut process: Child, count: u64) -> u64 {
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    for _ in 1..count {
        lines.next().unwrap().unwrap();
    }
    let mut last: u64 = lines.next().unwrap().unwrap().parse().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    while let Some(Ok(line)) = lines.next() {
        last = line.parse().unwrap_or(last);
    }
    last
}

/// Another program holds the right to write for good: changes wait and then say so, reads go on.
fn held_right() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.db");
    block_on(async {
        let mut config = SqliteConfig::new(&path);
        config.busy_timeout = HumanDuration(Duration::from_millis(100));
        let storage = SqliteStorage::open("main", config, &OpenContext::default()).await.unwrap();
        storage.put("k", &1).await.unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = storage.put("k", &2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(error.message().contains("busy_timeout"), "{error}");
        assert_eq!(storage.get::<u8>("k").await.unwrap(), Some(1));
        other.execute_batch("ROLLBACK").unwrap();
        storage.put("k", &3).await.unwrap();
        // A wait that is shorter than the patience is no error.
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let soon = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            other.execute_batch("ROLLBACK").unwrap();
        });
        let patient = open(&path).await.unwrap();
        patient.put("k", &4).await.unwrap();
        soon.join().unwrap();
        assert_eq!(storage.get::<u8>("k").await.unwrap(), Some(4));
        patient.close().await.unwrap();
        storage.close().await.unwrap();
    });
    Ok(())
}
