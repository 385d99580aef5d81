//! What is looked at in a storage after a crash.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use persist_core::{BaseStorage, DeleteOptions, Entry, Key, ListOptions, StoreOptions, Value};
use tokio::runtime::Builder;

use super::history::{History, View};
use super::protocol::{Held, Seen};
use super::sample;
use super::subject::{Opener, Versions};

/// The key that the write after the crash goes to.
const PROBE: &str = "written after the crash";

/// Opens what lies in the folder, checks it against the history, opens it again, writes, maintains, closes.
///
/// Answers what is wrong, in words; the history is settled on what was found.
pub(super) fn run(root: &Path, history: &mut History, open: &Opener, versions: Versions) -> Vec<String> {
    let runtime = match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![format!("no runtime: {error}")],
    };
    runtime.block_on(async {
        let mut complaints = Vec::new();
        if let Err(complaint) = inspect(root, history, open, versions, &mut complaints).await {
            complaints.push(complaint);
        }
        complaints
    })
}

async fn inspect(
    root: &Path,
    history: &mut History,
    open: &Opener,
    versions: Versions,
    complaints: &mut Vec<String>,
) -> Result<(), String> {
    let storage = open(root.to_owned()).await.map_err(|error| format!("cannot be opened: {error}"))?;
    let view = view(&storage, history, versions).await?;
    complaints.extend(history.check(&view));
    history.settle(&view);
    complaints.extend(verify(&storage).await.err());
    complaints.extend(storage.close().await.err().map(|error| format!("cannot be closed: {error}")));
    drop(storage);
    let again = open(root.to_owned()).await.map_err(|error| format!("cannot be opened twice: {error}"))?;
    let second = self::view(&again, history, versions).await?;
    if second != view {
        complaints.push(format!("the second opening shows {second:?} after {view:?}"));
    }
    complaints.extend(write(&again).await.err());
    complaints.extend(again.maintain().await.err().map(|error| format!("cannot be maintained: {error}")));
    complaints.extend(again.close().await.err().map(|error| format!("cannot be closed: {error}")));
    Ok(())
}

/// Everything that is listed and everything that was ever stored; the two must agree.
async fn view(storage: &Arc<dyn BaseStorage>, history: &History, versions: Versions) -> Result<View, String> {
    let listed = list(storage).await?;
    let mut view = View::new();
    let known = history.keys().map(str::to_owned);
    for key in known.chain(listed.iter().cloned()).collect::<BTreeSet<_>>() {
        let mut seen = look(storage, &key).await;
        if listed.contains(&key) != (seen != Seen::Absent) {
            seen = Seen::Broken(format!("listed: {}, found: {seen}", listed.contains(&key)));
        }
        if let (Versions::Growing, Seen::Value(held)) = (versions, &mut seen) {
            held.version = None;
        }
        if seen != Seen::Absent {
            view.insert(key, seen);
        }
    }
    Ok(view)
}

async fn list(storage: &Arc<dyn BaseStorage>) -> Result<BTreeSet<String>, String> {
    let mut listed = BTreeSet::new();
    let mut after = None;
    loop {
        let options = ListOptions::new().after(after).limit(50);
        let page =
            storage.list_keys("", options).await.map_err(|error| format!("cannot be listed: {error}"))?;
        listed.extend(page.keys.iter().map(|key| key.as_str().to_owned()));
        after = page.next;
        if after.is_none() {
            return Ok(listed);
        }
    }
}

/// What is found under one key; anything that is not one whole generation is [`Seen::Broken`].
pub(super) async fn look(storage: &Arc<dyn BaseStorage>, key: &str) -> Seen {
    let Ok(name) = Key::new(key) else { return Seen::Broken("not a key".into()) };
    match storage.retrieve(&name).await {
        Ok(None) => Seen::Absent,
        Ok(Some(entry)) => held(key, &entry).map_or_else(Seen::Broken, Seen::Value),
        Err(error) => Seen::Broken(format!("error {}: {error}", error.kind())),
    }
}

fn held(key: &str, entry: &Entry) -> Result<Held, String> {
    let generation = sample::generation_of(key, &entry.value)?;
    let metadata = &entry.metadata;
    let tagged = metadata.tags.get(sample::TAG);
    if tagged != Some(generation.to_string().as_str()) {
        return Err(format!("value of generation {generation} with the tags of {tagged:?}"));
    }
    let own = (metadata.kind, metadata.size, metadata.checksum);
    if own != (entry.value.kind(), entry.value.size(), entry.value.checksum()) {
        return Err(format!("value of generation {generation} with other metadata: {metadata:?}"));
    }
    let expires_at = metadata.expires_at.map(|moment| moment.as_millis());
    Ok(Held { generation, expires_at, version: Some(metadata.version.as_u64()) })
}

async fn verify(storage: &Arc<dyn BaseStorage>) -> Result<(), String> {
    let found = storage.verify().await.map_err(|error| format!("cannot be verified: {error}"))?;
    if found.is_clean() { Ok(()) } else { Err(format!("verify finds {:?}", found.problems)) }
}

/// A store, a read and a delete must work.
async fn write(storage: &Arc<dyn BaseStorage>) -> Result<(), String> {
    let fail = |error| format!("cannot be written after the crash: {error}");
    let probe = Key::new(PROBE).map_err(fail)?;
    let value = Value::bytes(PROBE.as_bytes());
    storage.store(&probe, value.clone(), StoreOptions::new()).await.map_err(fail)?;
    let found = storage.retrieve(&probe).await.map_err(fail)?.map(|entry| entry.value);
    if found != Some(value) {
        return Err(format!("the write after the crash reads back as {found:?}"));
    }
    let deleted = storage.delete(&probe, DeleteOptions::new()).await.map_err(fail)?;
    if deleted { Ok(()) } else { Err("the write after the crash cannot be deleted".into()) }
}
