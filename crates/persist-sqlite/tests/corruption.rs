//! Damaged and hostile database files: what is read is right or an error says what is wrong; nothing in the file runs;
//! no panic, no memory beyond a limit. `PERSIST_CRASH_SCALE=20` runs twenty times as many cases,
//! `PERSIST_CRASH_SEED=2` others.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // A panic here is the report.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{
    BaseStorage, ByteSize, DeleteOptions, ErrorKind, Key, ListOptions, OpenContext, StorageError, StorageExt,
    StoreOptions, Value,
};
use persist_sqlite::{SqliteConfig, SqliteStorage};
use persist_testkit::crash;
use persist_testkit::crash::sample::{self, Random};
use persist_testkit::crash::scratch::Scratch;
use rusqlite::Connection;
use tokio::runtime::{Builder, Runtime};

/// Names the cases of a worker: where the damage is, the first seed, how many.
const WORKER: &str = "PERSIST_SQLITE_DAMAGE";

/// What a worker may take: code, stacks, and what the storage takes for values of at most 16 KiB.
const MEMORY_KIB: u64 = 1 << 19;

/// The cases of one worker; there are three of them.
const CASES: u64 = 100;

type Test = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    if let Ok(job) = std::env::var(WORKER) {
        return worker(&job);
    }
    let tests: [(&str, Test); 14] = [
        ("damage_in_the_file", || damage("file")),
        ("damage_in_the_log", || damage("log")),
        ("damage_in_both", || damage("both")),
        ("a_value_under_another_key", value_under_another_key),
        ("cells_of_other_types", cells_of_other_types),
        ("a_value_beyond_the_limit", value_beyond_the_limit),
        ("objects_that_persist_never_made", foreign_objects),
        ("a_view_in_the_place_of_the_table", view_for_table),
        ("a_query_that_never_ends", endless_view),
        ("another_program_s_database_is_left_alone", foreign_database),
        ("a_newer_format_is_refused_by_name", newer_format),
        ("a_header_that_forbids_writing", forbidden_writing),
        ("an_untrusted_file_is_checked_first", untrusted_file),
        ("the_version_of_sqlite_is_known", known_version),
    ];
    let trials = tests.map(|(name, test)| Trial::test(name, test)).into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

// Random damage.

/// Runs the cases in a process with little memory, which a crash ends alone.
fn damage(place: &str) -> Result<(), Failed> {
    let job = format!("{place} {} {}", crash::seed(), CASES * crash::scale() as u64);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\"")]);
    let output = shell
        .arg(std::env::current_exe().unwrap())
        // Each thread takes a part of the address space for its own heap unless told otherwise.
        .env("MALLOC_ARENA_MAX", "1")
        .env(WORKER, &job)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(format!("{}: {text}", output.status).into());
    }
    eprint!("{text}");
    Ok(())
}

fn worker(job: &str) -> ExitCode {
    let mut words = job.split(' ');
    let (place, seed, cases) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let scratch = Scratch::new().unwrap();
    let original = Original::make(&scratch);
    let mut tally = Tally::default();
    let mut random = Random::new(seed.parse().unwrap());
    for case in 0..cases.parse::<u64>().unwrap() {
        let mut files = original.files.clone();
        let what = files.damage(place, &mut random);
        let path = scratch.fresh().unwrap().join("main.db");
        files.lay(&path);
        let judged =
            std::panic::catch_unwind(AssertUnwindSafe(|| runtime().block_on(original.judge(&path, case))));
        match judged {
            Ok(Ok(verdict)) => tally.count(verdict),
            Ok(Err(wrong)) => tally.wrong.push(format!("case {case}, {what}: {wrong}")),
            Err(_) => tally.wrong.push(format!("case {case}, {what}: panicked")),
        }
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    if threads > 8 {
        tally.wrong.push(format!("{threads} threads are left of storages that were closed"));
    }
    println!("damage in the {place}: {tally:?}");
    // The log is cut where it is damaged, as if the power had been cut there.
    let seen = tally.whole > 0 && (tally.damaged > 0 || place == "log");
    ExitCode::from(u8::from(!seen || !tally.wrong.is_empty()))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// How many cases ended how.
#[derive(Debug, Default)]
struct Tally {
    /// Everything was read as it was stored, or as it was stored before the log was cut.
    whole: usize,
    /// Something was answered with `Corruption`.
    damaged: usize,
    /// Keys were missing, and `verify` said that the file is damaged.
    hidden: usize,
    /// It could not be opened.
    refused: usize,
    wrong: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Whole,
    Damaged,
    Hidden,
    Refused,
}

impl Tally {
    fn count(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Whole => &mut self.whole,
            Verdict::Damaged => &mut self.damaged,
            Verdict::Hidden => &mut self.hidden,
            Verdict::Refused => &mut self.refused,
        } += 1;
    }
}

/// The database and its log.
#[derive(Clone, Debug)]
struct Files {
    file: Vec<u8>,
    log: Vec<u8>,
}

impl Files {
    fn lay(&self, path: &Path) {
        std::fs::write(path, &self.file).unwrap();
        if !self.log.is_empty() {
            std::fs::write(log_of(path), &self.log).unwrap();
        }
    }

    /// Damages the files; says how.
    fn damage(&mut self, place: &str, random: &mut Random) -> String {
        match place {
            "file" => {
                self.log.clear();
                damage_bytes(&mut self.file, random)
            }
            "log" => damage_bytes(&mut self.log, random),
            _ => format!(
                "{} and {}",
                damage_bytes(&mut self.file, random),
                damage_bytes(&mut self.log, random)
            ),
        }
    }
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// Flips bits, overwrites a part, swaps two pages or cuts the end off.
fn damage_bytes(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let at = |random: &mut Random, len: usize| usize::try_from(random.below(len as u64)).unwrap();
    let (place, length) = (at(random, bytes.len()), 1 + at(random, 600));
    let end = bytes.len().min(place + length);
    match random.below(10) {
        0..5 => {
            let flips = 1 + random.below(4);
            let places: Vec<usize> = (0..flips).map(|_| at(random, bytes.len())).collect();
            places.iter().for_each(|place| bytes[*place] ^= 1 << random.below(8));
            format!("bits flipped in bytes {places:?}")
        }
        5 => {
            let place = at(random, 100.min(bytes.len()));
            bytes[place] = random.next_u64().to_le_bytes()[0];
            format!("header byte {place} set")
        }
        6 => {
            let noise = random.bytes(end - place);
            bytes[place..end].copy_from_slice(&noise);
            format!("noise in {place}..{end}")
        }
        7 => {
            bytes[place..end].fill(if random.below(2) == 0 { 0 } else { 0xFF });
            format!("{place}..{end} blanked")
        }
        8 => {
            let (one, other) = (place / PAGE * PAGE, at(random, bytes.len()) / PAGE * PAGE);
            for offset in 0..PAGE.min(bytes.len() - one.max(other)) {
                bytes.swap(one + offset, other + offset);
            }
            format!("pages at {one} and {other} swapped")
        }
        _ => {
            bytes.truncate(place);
            format!("cut to {place}")
        }
    }
}

/// The size of a page of the databases that are damaged: small, so that there are pages of every kind.
const PAGE: usize = 1024;

/// A database, its log, and what it held after each of its changes.
#[derive(Debug)]
struct Original {
    files: Files,
    /// Key and generation after each change; the first is what the file holds without its log.
    states: Vec<BTreeMap<String, u64>>,
}

impl Original {
    fn make(scratch: &Scratch) -> Self {
        runtime().block_on(async {
            let path = scratch.fresh().unwrap().join("main.db");
            let mut state = BTreeMap::new();
            let storage = open(&path).await.unwrap();
            for generation in 1..=120 {
                change(&storage, &mut state, generation).await;
            }
            storage.close().await.unwrap();
            let mut states = vec![state.clone()];
            let storage = open(&path).await.unwrap();
            for generation in 121..=150 {
                change(&storage, &mut state, generation).await;
                states.push(state.clone());
            }
            let files =
                Files { file: std::fs::read(&path).unwrap(), log: std::fs::read(log_of(&path)).unwrap() };
            Self { files, states }
        })
    }

    /// Reads everything back in every way.
    async fn judge(&self, path: &Path, case: u64) -> Result<Verdict, String> {
        let has_log = log_of(path).exists();
        let storage = match open_somehow(path, case).await {
            Ok(storage) => storage,
            Err(error) => return honest(&error, &REFUSALS).map(|()| Verdict::Refused),
        };
        let seen = self.read(&storage).await?;
        let verified = match storage.verify().await {
            Ok(report) => report.is_clean(),
            Err(error) => honest(&error, &DAMAGE).map(|()| false)?,
        };
        let states = if has_log { &self.states[..] } else { &self.states[..1] };
        let verdict =
            states.iter().map(|state| seen.agree(state)).min_by_key(|found| found.as_ref().map_or(3, rank));
        let verdict = verdict.unwrap()?;
        if verdict != Verdict::Whole && verified {
            return Err(format!("{verdict:?}, and verify finds nothing: {seen:?}"));
        }
        if !storage.describe().capabilities().read_only {
            write(&storage).await?;
        }
        match storage.close().await {
            Ok(()) => Ok(verdict),
            Err(error) => honest(&error, &DAMAGE).map(|()| verdict),
        }
    }

    async fn read(&self, storage: &SqliteStorage) -> Result<Seen, String> {
        let mut seen = Seen::default();
        for key in self.states.iter().flat_map(BTreeMap::keys) {
            if !seen.keys.contains_key(key) {
                seen.keys.insert(key.clone(), look(storage, key).await?);
            }
        }
        let mut after = None;
        loop {
            let page = match storage.list_keys("", ListOptions::new().after(after).limit(40)).await {
                Ok(page) => page,
                Err(error) => {
                    honest(&error, &DAMAGE)?;
                    seen.listing_failed = true;
                    return Ok(seen);
                }
            };
            seen.listed.extend(page.keys.iter().map(|key| key.as_str().to_owned()));
            after = page.next;
            if after.is_none() {
                return Ok(seen);
            }
        }
    }
}

/// Stores under one of sixty keys, or deletes.
async fn change(storage: &SqliteStorage, state: &mut BTreeMap<String, u64>, generation: u64) {
    let name = format!("some/{}/key number {}", generation % 7, generation % 60);
    let key = Key::new(name.as_str()).unwrap();
    if generation.is_multiple_of(11) {
        storage.delete(&key, DeleteOptions::new()).await.unwrap();
        state.remove(&name);
    } else {
        let value = sample::value(&name, generation, 6000);
        storage.store(&key, value, sample::options(generation)).await.unwrap();
        state.insert(name, generation);
    }
}

async fn open(path: &Path) -> persist_core::Result<SqliteStorage> {
    let mut config = SqliteConfig::new(path);
    config.page_size = ByteSize(PAGE as u64);
    SqliteStorage::open("main", config, &OpenContext::default()).await
}

/// For writing, for reading only, or as a file of somebody else.
async fn open_somehow(path: &Path, case: u64) -> persist_core::Result<SqliteStorage> {
    let config = SqliteConfig::new(path);
    let config = match case % 3 {
        0 => config,
        1 => config.read_only(),
        _ if log_of(path).exists() => config,
        _ => config.untrusted(),
    };
    SqliteStorage::open("main", config, &OpenContext::default()).await
}

/// What an opening may say: the file is damaged, or it does not look like ours any more.
const REFUSALS: [ErrorKind; 3] = [ErrorKind::Corruption, ErrorKind::InvalidConfig, ErrorKind::Unsupported];

const DAMAGE: [ErrorKind; 1] = [ErrorKind::Corruption];

fn honest(error: &StorageError, kinds: &[ErrorKind]) -> Result<(), String> {
    if kinds.contains(&error.kind()) { Ok(()) } else { Err(format!("{}: {error}", error.kind())) }
}

/// What is found under a key: its generation, nothing, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Generation(u64),
    Absent,
    Damage,
}

async fn look(storage: &SqliteStorage, key: &str) -> Result<Found, String> {
    match storage.retrieve(&Key::new(key).unwrap()).await {
        Ok(None) => Ok(Found::Absent),
        Ok(Some(entry)) => {
            let generation = sample::generation_of(key, &entry.value)?;
            let (tag, at) = (entry.metadata.tags.get(sample::TAG), entry.metadata.expires_at);
            let belongs = tag == Some(generation.to_string().as_str())
                && at.map(|at| at.as_millis()) == sample::expiry(generation);
            if belongs {
                Ok(Found::Generation(generation))
            } else {
                Err(format!("{key}: {:?}", entry.metadata))
            }
        }
        Err(error) => honest(&error, &DAMAGE).map(|()| Found::Damage),
    }
}

/// Everything that was read.
#[derive(Debug, Default)]
struct Seen {
    keys: BTreeMap<String, Found>,
    listed: Vec<String>,
    listing_failed: bool,
}

impl Seen {
    /// Whether that is what a state shows.
    fn agree(&self, state: &BTreeMap<String, u64>) -> Result<Verdict, String> {
        let mut verdict = if self.listing_failed { Verdict::Damaged } else { Verdict::Whole };
        for (key, found) in &self.keys {
            match (found, state.get(key)) {
                (Found::Generation(found), Some(stored)) if found == stored => {}
                (Found::Absent, None) => {}
                (Found::Absent, Some(_)) => verdict = Verdict::Hidden,
                (Found::Damage, _) if verdict == Verdict::Whole => verdict = Verdict::Damaged,
                (Found::Damage, _) => {}
                (Found::Generation(found), stored) => {
                    return Err(format!("{key}: {found}, stored was {stored:?}"));
                }
            }
        }
        if !self.listed.is_sorted() || self.listed.iter().any(|key| !state.contains_key(key)) {
            return Err(format!("listed: {:?}", self.listed));
        }
        if !self.listing_failed && self.listed.len() < state.len() {
            verdict = Verdict::Hidden;
        }
        Ok(verdict)
    }
}

fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Whole | Verdict::Refused => 0,
        Verdict::Damaged => 1,
        Verdict::Hidden => 2,
    }
}

/// A store on a damaged database takes place or says that it cannot.
async fn write(storage: &SqliteStorage) -> Result<(), String> {
    let (key, value) = (Key::new("written later").unwrap(), Value::bytes(vec![1; 5000]));
    match storage.store(&key, value.clone(), StoreOptions::new()).await {
        Ok(_) => {}
        Err(error) => return honest(&error, &DAMAGE),
    }
    match storage.retrieve(&key).await {
        Ok(Some(entry)) if entry.value == value => {}
        Ok(other) => return Err(format!("what was just stored reads as {other:?}")),
        Err(error) => honest(&error, &DAMAGE)?,
    }
    match storage.delete(&key, DeleteOptions::new()).await {
        Ok(_) => Ok(()),
        Err(error) => honest(&error, &DAMAGE),
    }
}

// Hostile files.

/// A database with two values, closed; `alter` does to it what an enemy could with SQLite itself.
fn altered(alter: &str) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.db");
    runtime().block_on(async {
        let storage = open(&path).await.unwrap();
        storage.put("a", &"first").await.unwrap();
        storage.put_bytes("b", vec![7; 3000].into()).await.unwrap();
        storage.close().await.unwrap();
    });
    let enemy = Connection::open(&path).unwrap();
    enemy.execute_batch(alter).unwrap();
    enemy.close().unwrap();
    (place, path)
}

async fn open_with(config: SqliteConfig) -> persist_core::Result<SqliteStorage> {
    SqliteStorage::open("main", config, &OpenContext::default()).await
}

/// Every way of opening must give an error of this kind that names what is wrong.
fn assert_refused(path: &Path, kind: ErrorKind, what: &str) {
    let config = SqliteConfig::new(path);
    for config in [config.clone(), config.clone().read_only(), config.untrusted()] {
        let error = runtime().block_on(open_with(config)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(what) && error.message().contains("main.db"), "{error}");
    }
}

async fn kind_of(storage: &SqliteStorage, key: &str) -> Option<ErrorKind> {
    storage.retrieve(&Key::new(key).unwrap()).await.err().map(|error| error.kind())
}

fn value_under_another_key() -> Result<(), Failed> {
    let swap = "UPDATE entries SET key = 'c' WHERE key = 'a'; UPDATE entries SET key = 'a' WHERE key = 'b'; \
                UPDATE entries SET key = 'b' WHERE key = 'c';";
    let (_place, path) = altered(swap);
    runtime().block_on(async {
        let storage = open(&path).await.unwrap();
        for key in ["a", "b"] {
            assert_eq!(kind_of(&storage, key).await, Some(ErrorKind::Corruption));
        }
        assert_eq!(storage.verify().await.unwrap().problems.len(), 2);
    });
    Ok(())
}

/// The table without its types for a moment, so that any cell takes anything.
fn cells_of_other_types() -> Result<(), Failed> {
    let columns = "key kind size version created_at modified_at expires_at checksum dtype shape tags encodings seal value";
    for column in columns.split(' ') {
        for content in ["x'00ff'", "'text'", "1.5e300", "-9223372036854775808"] {
            let loose = "PRAGMA writable_schema = ON; \
                         UPDATE sqlite_schema SET sql = replace(sql, ' STRICT', '') WHERE name = 'entries';";
            let (_place, path) = altered(loose);
            let enemy = Connection::open(&path).unwrap();
            let set = format!(
                "PRAGMA ignore_check_constraints = ON; UPDATE entries SET {column} = {content} WHERE id = 1;"
            );
            enemy.execute_batch(&set).unwrap();
            let strict = "PRAGMA writable_schema = ON; \
                          UPDATE sqlite_schema SET sql = sql || ' STRICT' WHERE name = 'entries';";
            enemy.execute_batch(strict).unwrap();
            enemy.close().unwrap();
            runtime().block_on(read_changed_cell(&path, &format!("{column} = {content}")));
        }
    }
    Ok(())
}

async fn read_changed_cell(path: &Path, what: &str) {
    let storage = open(path).await.unwrap();
    let entry = storage.retrieve(&Key::new("a").unwrap()).await;
    match entry {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error}"),
        Ok(None) => assert!(what.starts_with("key"), "{what}: the key is another now"),
        Ok(Some(entry)) => panic!("{what}: {entry:?}"),
    }
    assert_eq!(storage.get_bytes("b").await.unwrap().unwrap(), vec![7; 3000], "{what}: the other row");
    assert!(!storage.verify().await.unwrap().is_clean(), "{what}");
    // What is damaged can be replaced.
    if !what.starts_with("key") {
        storage.put("a", &"again").await.unwrap();
        assert_eq!(storage.get::<String>("a").await.unwrap().unwrap(), "again", "{what}");
    }
    storage.close().await.unwrap();
}

fn value_beyond_the_limit() -> Result<(), Failed> {
    let (_place, path) = altered("UPDATE entries SET value = zeroblob(64000000) WHERE key = 'b';");
    let mut config = SqliteConfig::new(&path).untrusted();
    config.max_value = ByteSize(1 << 20);
    runtime().block_on(async {
        let storage = open_with(config).await.unwrap();
        let error = storage.retrieve(&Key::new("b").unwrap()).await.unwrap_err();
        assert!([ErrorKind::TooLarge, ErrorKind::Corruption].contains(&error.kind()), "{error}");
        assert_eq!(storage.get::<String>("a").await.unwrap().unwrap(), "first");
    });
    runtime().block_on(async {
        let storage = open(&path).await.unwrap();
        assert_eq!(kind_of(&storage, "b").await, Some(ErrorKind::Corruption));
    });
    Ok(())
}

fn foreign_objects() -> Result<(), Failed> {
    for (sql, name) in [
        ("CREATE TRIGGER gift AFTER INSERT ON entries BEGIN DELETE FROM entries; END;", "gift"),
        ("CREATE TABLE more (a);", "more"),
        ("CREATE INDEX computed ON entries (abs(size));", "computed"),
        ("ALTER TABLE entries ADD COLUMN twice INTEGER AS (size * 2);", "entries"),
        ("ALTER TABLE entries ADD COLUMN more TEXT DEFAULT 'x';", "entries"),
        ("DROP INDEX entries_key;", "entries_key"),
        ("DROP INDEX entries_key; CREATE INDEX entries_key ON entries (key COLLATE NOCASE);", "entries_key"),
    ] {
        let (_place, path) = altered(sql);
        assert_refused(&path, ErrorKind::Corruption, name);
    }
    Ok(())
}

fn view_for_table() -> Result<(), Failed> {
    let (_place, path) =
        altered("ALTER TABLE entries RENAME TO real; CREATE VIEW entries AS SELECT * FROM real;");
    assert_refused(&path, ErrorKind::Corruption, "persist");
    Ok(())
}

/// A view under the name of a table of the planner, which is opened by itself.
fn endless_view() -> Result<(), Failed> {
    let sql = "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('view', 'sqlite_stat1', 'sqlite_stat1', \
               0, 'CREATE VIEW sqlite_stat1 AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
               SELECT i AS tbl, i AS idx, i AS stat FROM n');";
    let (_place, path) = altered(sql);
    assert_refused(&path, ErrorKind::Corruption, "sqlite_stat1");
    Ok(())
}

/// Nor is its log replayed or removed.
fn foreign_database() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let (path, copy) = (place.path().join("theirs.db"), place.path().join("main.db"));
    let theirs = Connection::open(&path).unwrap();
    theirs.query_row("PRAGMA journal_mode = wal", (), |_| Ok(())).unwrap();
    theirs.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1);").unwrap();
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(log_of(&path), log_of(&copy)).unwrap();
    let before = (std::fs::read(&copy).unwrap(), std::fs::read(log_of(&copy)).unwrap());
    let error = runtime().block_on(open(&copy)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.message().contains("give the storage another path"), "{error}");
    assert_eq!((std::fs::read(&copy).unwrap(), std::fs::read(log_of(&copy)).unwrap()), before);
    Ok(())
}

fn newer_format() -> Result<(), Failed> {
    let (_place, path) = altered("PRAGMA user_version = 2;");
    let before = std::fs::read(&path).unwrap();
    assert_refused(&path, ErrorKind::Unsupported, "format 2");
    assert!(std::fs::read(&path).unwrap() == before, "it was not touched");
    let (_place, path) = altered(
        "INSERT INTO persist_migrations (migrations, version, name, direction, checksum, at) \
         VALUES ('persist', '9.0.0', 'later', 'up', hex(zeroblob(32)), 1);",
    );
    assert_refused(&path, ErrorKind::Unsupported, "9.0.0");
    Ok(())
}

/// Byte 18 of the header is the version of the format for writing; SQLite only reads what is newer than it knows.
fn forbidden_writing() -> Result<(), Failed> {
    let (_place, path) = altered("");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[18] = 0x82;
    std::fs::write(&path, bytes).unwrap();
    let error = runtime().block_on(open(&path)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert!(error.message().contains("only be read") && error.message().contains("main.db"), "{error}");
    runtime().block_on(async {
        let storage = open_with(SqliteConfig::new(&path).read_only()).await.unwrap();
        assert_eq!(storage.get::<String>("a").await.unwrap().as_deref(), Some("first"));
    });
    Ok(())
}

fn untrusted_file() -> Result<(), Failed> {
    let (_place, path) = altered("");
    let config = SqliteConfig::new(&path).untrusted();
    runtime().block_on(async {
        let storage = open_with(config.clone()).await.unwrap();
        assert_eq!(storage.get::<String>("a").await.unwrap().unwrap(), "first");
        assert_eq!(storage.put("a", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
        storage.close().await.unwrap();
    });
    std::fs::write(log_of(&path), b"anything").unwrap();
    let error = runtime().block_on(open_with(config.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("write-ahead log"), "{error}");
    std::fs::remove_file(log_of(&path)).unwrap();
    // A page that is in no tree: every read is right, and only a check of the whole file finds it.
    let mut bytes = std::fs::read(&path).unwrap();
    let pages = u32::from_be_bytes(bytes[28..32].try_into().unwrap()) + 1;
    bytes.extend(vec![0; PAGE]);
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = runtime().block_on(open_with(config)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert_eq!(
        runtime().block_on(async { open(&path).await.unwrap().verify().await.unwrap().problems.len() }),
        1
    );
    Ok(())
}

/// The bundled one, not the system's; older ones have holes that matter for damaged files.
fn known_version() -> Result<(), Failed> {
    let (_place, path) = altered("");
    let stats = runtime().block_on(async { open(&path).await.unwrap().stats().await.unwrap() });
    assert!(stats.counters["sqlite_version"] >= 3_050_002, "{stats:?}");
    Ok(())
}
