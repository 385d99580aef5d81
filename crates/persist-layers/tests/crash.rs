//! Layers that keep something of their own are killed at random points and cut off from the power: what was acknowledged is there,
//! no chunk is missing, a rotation goes on. `PERSIST_CRASH_SCALE=10` runs ten times as many cases, `PERSIST_CRASH_SEED=2` others.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{BaseStorage, ByteSize, HumanDuration, ManualClock, OpenContext, Result};
use persist_file::{Durability as FileDurability, FileConfig, FileStorage};
use persist_layers::{Dedup, DedupConfig, JournalConfig, WriteBehind, WriteBehindConfig};
use persist_sqlite::{Durability, SqliteConfig, SqliteStorage};
use persist_testkit::crash::Subject;
use persist_testkit::crash::kill::Kill;
use persist_testkit::crash::replay::Replay;
use persist_testkit::crash::suite::{Suite, kills, replays};

type Storage = Arc<dyn BaseStorage>;

async fn sqlite(root: &Path, durability: Durability) -> Result<Storage> {
    let config = SqliteConfig::new("main.db").durability(durability);
    Ok(Arc::new(SqliteStorage::open("main", config, &OpenContext::new(root)).await?))
}

async fn files(root: &Path, durability: FileDurability, context: OpenContext) -> Result<Storage> {
    let config = FileConfig::new(root.join("files")).durability(durability);
    Ok(Arc::new(FileStorage::open("main", config, &context).await?))
}

/// Changes wait for two milliseconds, so that there are always some in the journal alone. SQLite writes through a shared map, which cannot be
/// recorded, so power cuts are replayed over files.
fn write_behind(name: &str, over_files: bool) -> Subject {
    Subject::storage(name, move |root: PathBuf| async move {
        let journal = JournalConfig { segment: ByteSize(64 << 10), ..JournalConfig::new("journal") };
        let delay = HumanDuration(Duration::from_millis(2));
        let config = WriteBehindConfig { delay, journal: Some(journal), ..WriteBehindConfig::default() };
        let below = if over_files {
            files(&root, FileDurability::Strict, OpenContext::default()).await?
        } else {
            sqlite(&root, Durability::Relaxed).await?
        };
        Ok(Arc::new(WriteBehind::open(below, config, &root).await?) as Storage)
    })
    .without_residue(|root| {
        let left = std::fs::read_dir(root.join("journal")).into_iter().flatten().flatten();
        let left = left.filter(|entry| entry.path().extension().is_some_and(|end| end == "journal"));
        let long = left.filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 28));
        long.map(|entry| entry.path().display().to_string()).collect()
    })
}

fn chunked(below: Storage) -> Result<Dedup> {
    let grace = HumanDuration(Duration::from_secs(3600));
    Dedup::new(below, &DedupConfig { min_size: ByteSize(256), chunk: ByteSize(1024), grace })
}

/// Values in chunks; after a recovery and a sweep there is every chunk that a value needs, and no other.
fn dedup() -> Subject {
    Subject::storage("dedup", |root: PathBuf| async move {
        Ok(Arc::new(chunked(files(&root, FileDurability::Relaxed, OpenContext::default()).await?)?)
            as Storage)
    })
    .without_residue(|root| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let counted = runtime.block_on(async {
            let clock = ManualClock::default();
            clock.advance(Duration::from_secs(7200));
            let context = OpenContext { clock: Arc::new(clock), ..OpenContext::default() };
            let storage = chunked(files(root, FileDurability::Relaxed, context).await?)?;
            storage.maintain().await?;
            let usage = storage.usage().await?;
            storage.close().await.map(|()| usage)
        });
        match counted {
            Ok(usage) if (usage.missing, usage.unneeded) == (0, 0) => Vec::new(),
            wrong => vec![format!("{wrong:?}")],
        }
    })
}

/// A worker that encrypts everything anew, there and back, is killed again and again: nothing is lost, and the rest is done when it
/// goes on.
#[cfg(feature = "encrypt")]
mod rotation {
    use std::io::{BufRead, BufReader, Lines};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use persist_core::{Key, Secret, StorageExt};
    use persist_layers::{Encrypt, EncryptConfig, EncryptKey};
    use persist_testkit::adverse::Kills;

    use super::*;

    /// Names the folder of a worker.
    pub(super) const WORKER: &str = "PERSIST_ROTATION_WORKER";

    const KEYS: [(&str, &str); 2] = [("one", "a1"), ("two", "b2")];
    const VALUES: u32 = 80;

    fn encrypted(below: &Storage, order: &[usize]) -> Encrypt {
        let key = |index: &usize| {
            let (id, byte) = KEYS[*index];
            EncryptKey { id: id.to_owned(), secret: Secret::new(byte.repeat(32)) }
        };
        let keys = order.iter().map(key).collect();
        Encrypt::new(Arc::clone(below), EncryptConfig { keys, ..EncryptConfig::default() }).unwrap()
    }

    /// Goes on until it is killed; tells each time when it begins.
    #[allow(clippy::print_stdout, reason = "the one who kills it listens")]
    pub(super) async fn work(root: &Path) {
        let below = sqlite(root, Durability::Relaxed).await.unwrap();
        let (there, back) = (encrypted(&below, &[1, 0]), encrypted(&below, &[0, 1]));
        loop {
            println!("begun");
            there.rotate().await.unwrap();
            back.rotate().await.unwrap();
        }
    }

    /// A worker that has begun, and what it tells.
    fn start(root: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
        let program = std::env::current_exe().unwrap();
        let mut worker = Command::new(program).env(WORKER, root).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "begun");
        (worker, lines)
    }

    pub(super) async fn kills(cycles: usize) {
        let place = tempfile::tempdir().unwrap();
        let below = sqlite(place.path(), Durability::Relaxed).await.unwrap();
        let storage = encrypted(&below, &[0, 1]);
        for number in 0..VALUES {
            storage.put(format!("k{number}"), &number).await.unwrap();
        }
        below.close().await.unwrap();
        let (mut worker, mut lines) = start(place.path());
        let mut kills = Kills::timed(|| assert_eq!(lines.next().unwrap().unwrap(), "begun"));
        worker.kill().unwrap();
        worker.wait().unwrap();
        let mut resumed = 0;
        for cycle in 0..cycles as u64 {
            let (mut worker, lines) = start(place.path());
            assert!(kills.meet(&mut worker), "cycle {cycle}: it ended by itself");
            drop(lines);
            let below = sqlite(place.path(), Durability::Relaxed).await.unwrap();
            let both = encrypted(&below, &[1, 0]);
            for number in 0..VALUES {
                assert_eq!(
                    both.get::<u32>(format!("k{number}")).await.unwrap(),
                    Some(number),
                    "cycle {cycle}"
                );
            }
            let rest = both.rotate().await.unwrap();
            resumed += u64::from((1..u64::from(VALUES)).contains(&rest));
            assert_eq!(both.rotate().await.unwrap(), 0, "cycle {cycle}");
            // The old key is needed by nobody.
            let alone = encrypted(&below, &[1]);
            assert!(alone.verify().await.unwrap().is_clean(), "cycle {cycle}");
            assert!(alone.contains(&Key::new("k0").unwrap()).await.unwrap());
            below.close().await.unwrap();
        }
        assert!(resumed > cycles as u64 / 4, "only {resumed} of {cycles} were killed on the way");
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "encrypt")]
    if let Some(root) = std::env::var_os(rotation::WORKER) {
        tokio::runtime::Runtime::new().unwrap().block_on(rotation::work(Path::new(&root)));
        return ExitCode::SUCCESS;
    }
    // Three hundred with a scale of 10.
    let kill = Kill { cycles: 30, tasks: 8, ..Kill::default() };
    let suite = Suite::default()
        .test("kill_write_behind", &write_behind("write_behind", false), kills(kill.clone()))
        .test("kill_dedup", &dedup(), kills(kill))
        .test(
            "replay_write_behind",
            &write_behind("write_behind_strict", true),
            replays(Replay { states: 100, ..Replay::default() }),
        );
    #[cfg(feature = "encrypt")]
    let suite = suite.trial(libtest_mimic::Trial::test("kill_rotation", || {
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(rotation::kills(30 * persist_testkit::crash::scale()));
        Ok(())
    }));
    suite.main()
}
