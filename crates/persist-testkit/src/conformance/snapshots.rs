use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use persist_core::{
    Entry, ErrorKind, Expiry, Key, Metadata, Result, SnapshotSource, SnapshotSummary, StorageSource,
    StoreItem, StoreOptions, Value, restore_entries,
};
use tokio::sync::watch;

use super::kit::{
    Storage, bytes, entry, expect_absent, expect_error, expect_value, key, list, noise, numbered,
    one_of_each, put,
};
use super::{Harness, Stop, Verdict};
use crate::{TestSnapshot, hostile};

group! { "Snapshots":
    C184 "A snapshot holds every value with its metadata" holds_everything,
    C185 "A snapshot of an empty storage is empty" empty,
    C186 "What has expired is not in a snapshot" without_expired,
    C187 "A snapshot is made while others write, and each of its values is whole" while_others_write,
    C188 "Damage fails a snapshot and is never left out" damage_fails,
    C189 "A restore replaces everything by what a snapshot holds" restore_replaces,
    C190 "A snapshot changes nothing" changes_nothing,
}

type Entries = Vec<(Key, Entry)>;

/// Makes a snapshot and reads it.
async fn take(harness: &dyn Harness, storage: &Storage) -> Result<Entries, Stop> {
    let mut snapshot = TestSnapshot::default();
    let summary = storage.snapshot(&mut snapshot).await?;
    let entries = read(harness, snapshot).await?;
    let bytes = entries.iter().map(|(_, entry)| entry.metadata.size).sum();
    let counted = SnapshotSummary { keys: entries.len() as u64, bytes, ..summary };
    ensure_eq!(summary, counted, "the figures of the snapshot");
    Ok(entries)
}

async fn read(harness: &dyn Harness, mut snapshot: TestSnapshot) -> Result<Entries, Stop> {
    if snapshot.files().next().is_none() {
        return Ok(snapshot.entries.into());
    }
    ensure!(snapshot.entries.is_empty(), "a snapshot holds both entries and files");
    match harness.open_snapshot(&snapshot).await? {
        Some(opened) => {
            let (mut source, mut entries) = (StorageSource::new(Arc::clone(&opened)), Vec::new());
            while let Some(found) = source.next().await? {
                entries.push(found);
            }
            opened.close().await?;
            snapshot.entries.clear();
            Ok(entries)
        }
        None => Err(Stop::skipped("it writes files, and the harness cannot open them")),
    }
}

/// Some of everything.
async fn fill(harness: &dyn Harness, storage: &Storage) -> Result<Entries, Stop> {
    for (i, (name, value)) in one_of_each()?.into_iter().enumerate() {
        put(storage, &key(&format!("plain/{name}"))?, &value).await?;
        let mut options = StoreOptions::new().tag("ü", format!("{i}\n")).ttl(harness.tick() * 1000);
        options.encodings = vec!["zstd".to_owned()];
        storage.store(&key(&format!("rich/{name}"))?, value, options).await?;
    }
    put(storage, &key("large")?, &noise(3_000_000, 7)).await?;
    put(storage, &key("empty")?, &bytes("")).await?;
    super::kit::fill(storage, &hostile::keys()).await?;
    let mut entries = Vec::new();
    for key in list(storage, "").await? {
        let found = entry(storage, &key).await?;
        entries.push((key, found));
    }
    Ok(entries)
}

/// Breaks the clause at the first entry that differs.
fn expect_same(found: &Entries, expected: &Entries) -> Verdict {
    for ((key, entry), (expected_key, expected)) in found.iter().zip(expected) {
        ensure_eq!(key, expected_key, "the keys in their order");
        ensure!(entry.value == expected.value, "the value of {key:?} is another one");
        ensure_eq!(entry.metadata, expected.metadata, "the metadata of {key:?}");
    }
    ensure_eq!(found.len(), expected.len(), "the number of entries");
    Ok(())
}

async fn holds_everything(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let expected = fill(harness, &storage).await?;
    expect_same(&take(harness, &storage).await?, &expected)
}

async fn empty(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    expect_same(&take(harness, &storage).await?, &Vec::new())
}

async fn without_expired(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let [short, long] = [key("short")?, key("long")?];
    storage.store(&short, bytes("x"), StoreOptions::new().ttl(harness.tick())).await?;
    storage.store(&long, bytes("y"), StoreOptions::new().ttl(harness.tick() * 1000)).await?;
    harness.advance(harness.tick() * 2).await;
    let expected = vec![(long.clone(), entry(&storage, &long).await?)];
    expect_same(&take(harness, &storage).await?, &expected)
}

/// A value that tells its key and its round.
fn told(key: &Key, round: usize) -> Value {
    bytes(format!("{key} {round} ").repeat(20 + round % 7))
}

async fn while_others_write(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let (quiet, hot) = (numbered("quiet", 60)?, numbered("hot", 12)?);
    super::kit::fill(&storage, &quiet).await?;
    for key in &hot {
        put(&storage, key, &told(key, 0)).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (mut writers, mut rounds) = (Vec::new(), Vec::new());
    for keys in hot.chunks(3) {
        let (sender, receiver) = watch::channel(0);
        writers.push(tokio::spawn(overwrite(Arc::clone(&storage), keys.to_vec(), Arc::clone(&stop), sender)));
        rounds.push(receiver);
    }
    let mut verdict = Ok(());
    for _ in 0..5 {
        let taken = take(harness, &storage).await;
        verdict = verdict.and(match taken {
            Ok(entries) => expect_whole(&storage, &entries, &quiet, &hot).await,
            Err(stop) => Err(stop),
        });
        // Every writer gets a turn before the next one. One that has failed says why below.
        for written in &mut rounds {
            let _ = written.changed().await;
        }
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await??;
    }
    verdict
}

async fn overwrite(
    storage: Storage,
    keys: Vec<Key>,
    stop: Arc<AtomicBool>,
    rounds: watch::Sender<usize>,
) -> Result<()> {
    let mut round = 0;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        for key in &keys {
            put(&storage, key, &told(key, round)).await?;
        }
        let _ = rounds.send(round);
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn expect_whole(storage: &Storage, entries: &Entries, quiet: &[Key], hot: &[Key]) -> Verdict {
    let keys: Vec<&Key> = entries.iter().map(|(key, _)| key).collect();
    ensure_eq!(keys, hot.iter().chain(quiet).collect::<Vec<_>>(), "the keys of the snapshot");
    for (key, Entry { value, metadata }) in entries {
        let belongs = value.checksum() == metadata.checksum && value.size() == metadata.size;
        ensure!(belongs, "the value of {key:?} does not belong to its metadata");
        let text = String::from_utf8_lossy(value.buffer()).into_owned();
        ensure!(text.starts_with(key.as_str()), "{key:?} holds the value of another key");
    }
    for (key, found) in &entries[hot.len()..] {
        ensure_eq!(*found, entry(storage, key).await?, "what nobody changed, {key:?}");
    }
    Ok(())
}

async fn damage_fails(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let keys = numbered("k", 5)?;
    super::kit::fill(&storage, &keys).await?;
    require!(harness.corrupt(&keys[2]).await, "its values cannot be damaged from outside");
    let answer = storage.snapshot(&mut TestSnapshot::default()).await;
    let error = expect_error(answer, ErrorKind::Corruption, "a snapshot of a damaged value")?;
    ensure_eq!(error.key(), Some(&keys[2]), "the key that the error names");
    Ok(())
}

/// What a restore must bring back; versions and times may be new.
fn kept(metadata: &Metadata) -> Metadata {
    let mut kept = metadata.clone();
    kept.version = persist_core::Version::from_u64(0);
    kept.created_at = persist_core::Timestamp::from_millis(0);
    kept.modified_at = kept.created_at;
    kept
}

async fn restore_replaces(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let mut expected = fill(harness, &storage).await?;
    let mortal = key("mortal")?;
    storage.store(&mortal, bytes("x"), StoreOptions::new().ttl(harness.tick())).await?;
    let mut snapshot = TestSnapshot::default();
    storage.snapshot(&mut snapshot).await?;
    let entries = read(harness, snapshot).await?;
    harness.advance(harness.tick() * 2).await;
    // Overwritten, deleted, added before, between and after.
    put(&storage, &key("plain/json")?, &bytes("other")).await?;
    storage.touch(&key("rich/bytes")?, Expiry::Never).await?;
    storage.delete(&key("large")?, persist_core::DeleteOptions::new()).await?;
    let added = super::kit::keys(&["!added", "plain/json2", "\u{10FFFF}\u{10FFFF}added"])?;
    let added_items = added.iter().map(|key| StoreItem::new(key.clone(), bytes("added"))).collect();
    for answer in storage.store_many(added_items).await {
        answer?;
    }
    for _ in 0..2 {
        let mut source = TestSnapshot::of(entries.clone());
        let restored = restore_entries(storage.as_ref(), &mut source).await?;
        ensure_eq!((restored.keys, restored.expired), (expected.len() as u64, 1), "what was restored");
        for key in added.iter().chain([&mortal]) {
            expect_absent(&storage, key).await?;
        }
        let mut found = take(harness, &storage).await?;
        for (_, entry) in found.iter_mut().chain(&mut expected) {
            entry.metadata = kept(&entry.metadata);
        }
        expect_same(&found, &expected)?;
    }
    expect_value(&storage, &key("large")?, &noise(3_000_000, 7)).await
}

async fn changes_nothing(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let expected = fill(harness, &storage).await?;
    harness.advance(harness.tick() / 10).await;
    let first = take(harness, &storage).await?;
    for (key, before) in &expected {
        ensure_eq!(entry(&storage, key).await?.metadata, before.metadata, "the metadata of {key:?}");
    }
    expect_same(&take(harness, &storage).await?, &first)
}
