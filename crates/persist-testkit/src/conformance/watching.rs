use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use persist_core::{
    Condition, DeleteOptions, ErrorKind, Event, Expiry, Key, Operation, StorageExt, StoreItem, StoreOptions,
    Version, Watch,
};

use super::kit::{
    Storage, at_once, bytes, entry, expect_error, fill, key, keys, list, metadata, numbered, put, remove,
};
use super::{Harness, Stop, Verdict};
use crate::Variant;

group! { "Watching":
    C191 "Every change is told" every_change,
    C192 "Only what is under the prefix is told, and the prefix is literal" prefix_is_literal,
    C193 "What changes nothing is not told" nothing_is_not_told,
    C194 "Whoever watches, lists and applies the events arrives at what is stored" arrives,
    C195 "A watcher that does not listen holds up nobody and is told that it lost" falls_behind,
    C196 "All watchers are told alike, and one that leaves disturbs no other" side_by_side,
    C197 "Closing ends every watch, and none begins afterwards" closing_ends,
    C198 "shared: what another handle changes is told" other_handles,
    C199 "native_watch: a change is told at once" told_at_once,
    C200 "read_only: it can be watched" read_only,
    C201 "follow finds by listing what the watch has lost" follow_loses_nothing,
}

/// After how long a silence nothing more is expected.
const QUIET: Duration = Duration::from_millis(300);

/// Someone who watches, and how long an event may take.
struct Watcher<'a> {
    watch: Watch<'a>,
    patience: Duration,
}

impl<'a> Watcher<'a> {
    async fn new(harness: &dyn Harness, storage: &'a Storage, prefix: &str) -> Result<Self, Stop> {
        Ok(Self { watch: storage.watch(prefix).await?, patience: harness.patience() })
    }

    /// The next event; the clause fails if none comes.
    async fn next(&mut self) -> Result<Event, Stop> {
        match tokio::time::timeout(self.patience, self.watch.next()).await {
            Ok(Some(event)) => Ok(event?),
            Ok(None) => Err(Stop::broken("the watch ended")),
            Err(_) => Err(Stop::broken(format!("nothing was told within {:?}", self.patience))),
        }
    }

    /// Listens until what was told last of each key is what is stored under it; the clause fails if that never comes.
    async fn expect(&mut self, storage: &Storage, keys: &[&Key], what: &str) -> Verdict {
        let mut missing = BTreeMap::new();
        for key in keys {
            let event = match storage.metadata(key).await? {
                Some(metadata) => Event::Stored { key: (*key).clone(), metadata },
                None => Event::Deleted { key: (*key).clone() },
            };
            missing.insert((*key).clone(), event);
        }
        let mut last = None;
        while !missing.is_empty() {
            let next = self.next().await;
            let event =
                next.map_err(|stop| Stop::broken(format!("after {what}: {stop:?}, the last was {last:?}")))?;
            if let Some(key) = event.key()
                && missing.get(key) == Some(&event)
            {
                missing.remove(key);
            }
            last = Some(event);
        }
        Ok(())
    }
}

async fn every_change(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    // The braces put them on one slot of a cluster.
    let [k, other] = [key("{k}")?, key("{k}/other")?];
    let mut watch = Watcher::new(harness, &storage, "").await?;
    let options = StoreOptions::new().tag("a", "b").ttl(harness.tick() * 1000);
    storage.store(&k, bytes("1"), options).await?;
    watch.expect(&storage, &[&k], "a store").await?;
    put(&storage, &k, &bytes("2")).await?;
    watch.expect(&storage, &[&k], "an overwriting store").await?;
    storage.touch(&k, Expiry::After(harness.tick() * 500)).await?;
    watch.expect(&storage, &[&k], "a touch").await?;
    remove(&storage, &k).await?;
    watch.expect(&storage, &[&k], "a delete").await?;
    let both = [&k, &other];
    fill(&storage, &[k.clone(), other.clone()]).await?;
    watch.expect(&storage, &both, "store_many").await?;
    let steps = vec![
        Operation::Put(StoreItem::new(k.clone(), bytes("3"))),
        Operation::Delete(other.clone(), DeleteOptions::new()),
    ];
    storage.transact(steps).await?;
    watch.expect(&storage, &both, "a transaction").await?;
    put(&storage, &other, &bytes("4")).await?;
    watch.expect(&storage, &[&other], "a store").await?;
    for answer in storage.delete_many(&[k.clone(), other.clone()]).await {
        answer?;
    }
    watch.expect(&storage, &both, "delete_many").await
}

async fn prefix_is_literal(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let mut watch = Watcher::new(harness, &storage, "a_%/").await?;
    let strangers = keys(&["a", "a_%", "A_%/x", "aX%/x", "a_bc/x", "a_%%/x", "b"])?;
    fill(&storage, &strangers).await?;
    let ours = key("a_%/x")?;
    put(&storage, &ours, &bytes("1")).await?;
    let event = watch.next().await?;
    ensure_eq!(event.key(), Some(&ours), "the key of the first event");
    Ok(())
}

async fn nothing_is_not_told(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let [k, absent, last] =
        keys(&["{k}", "{k}/absent", "z"])?.try_into().map_err(|_| Stop::broken("three keys"))?;
    let stale = put(&storage, &k, &bytes("1")).await?.version;
    put(&storage, &k, &bytes("2")).await?;
    let mut watch = Watcher::new(harness, &storage, "").await?;
    entry(&storage, &k).await?;
    list(&storage, "").await?;
    storage.verify().await?;
    storage.flush().await?;
    for options in [StoreOptions::new().if_absent(), StoreOptions::new().if_version(stale)] {
        expect_error(storage.store(&k, bytes("3"), options).await, ErrorKind::Conflict, "a stale store")?;
    }
    let delete = storage.delete(&k, DeleteOptions::new().if_version(stale)).await;
    expect_error(delete, ErrorKind::Conflict, "a stale delete")?;
    let steps = vec![
        Operation::Put(StoreItem::new(k.clone(), bytes("4"))),
        Operation::Check(absent.clone(), Condition::IfVersion(stale)),
    ];
    expect_error(storage.transact(steps).await, ErrorKind::Conflict, "a transaction that does not fit")?;
    remove(&storage, &absent).await?;
    storage.touch(&absent, Expiry::Never).await?;
    put(&storage, &last, &bytes("5")).await?;
    let mut is_told = false;
    loop {
        // What comes last is told, and a moment later still nothing else.
        let patience = if is_told { QUIET } else { watch.patience };
        match tokio::time::timeout(patience, watch.watch.next()).await {
            Ok(Some(Ok(Event::Lost))) => {}
            Ok(Some(Ok(event))) if event.key() == Some(&last) => is_told = true,
            Err(_) if is_told => return Ok(()),
            event => return Err(Stop::broken(format!("nothing was changed, and this was told: {event:?}"))),
        }
    }
}

/// What a watcher believes to be stored: the version of each key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mirror(BTreeMap<Key, Version>);

impl Mirror {
    async fn list(&mut self, storage: &Storage) -> Verdict {
        self.0.clear();
        for key in list(storage, "").await? {
            if let Some(metadata) = storage.metadata(&key).await? {
                self.0.insert(key, metadata.version);
            }
        }
        Ok(())
    }

    async fn apply(&mut self, event: Event, storage: &Storage) -> Verdict {
        match event {
            Event::Stored { key, metadata } => drop(self.0.insert(key, metadata.version)),
            Event::Deleted { key } => drop(self.0.remove(&key)),
            Event::Lost => self.list(storage).await?,
        }
        Ok(())
    }

    /// Applies events until it shows what is stored; the clause fails if it never does.
    async fn catch_up(&mut self, watcher: &mut Watcher<'_>, storage: &Storage) -> Verdict {
        let mut stored = Self::default();
        stored.list(storage).await?;
        let deadline = Instant::now() + watcher.patience;
        let mut quiet = false;
        while *self != stored || !quiet {
            // Once it is right it must stay so.
            let patience = if *self == stored { QUIET } else { watcher.patience };
            match tokio::time::timeout(patience, watcher.watch.next()).await {
                Ok(Some(event)) => self.apply(event?, storage).await?,
                Ok(None) => return Err(Stop::broken("the watch ended")),
                Err(_) => quiet = true,
            }
            if *self != stored && Instant::now() > deadline {
                let wrong = self.0.iter().find(|(key, version)| stored.0.get(*key) != Some(*version));
                let missing = stored.0.keys().find(|key| !self.0.contains_key(*key));
                let what = format!("{wrong:?} was told last and is not so, or {missing:?} was never told");
                return Err(Stop::broken(format!("the events do not lead to what is stored: {what}")));
            }
        }
        Ok(())
    }
}

async fn arrives(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let hot = numbered("hot/", 6)?;
    fill(&storage, &hot[..3]).await?;
    let mut watch = Watcher::new(harness, &storage, "").await?;
    let writers = tokio::spawn({
        let (storage, hot) = (storage.clone(), hot.clone());
        async move { at_once(4, move |i| change_again_and_again(storage.clone(), hot.clone(), i)).await }
    });
    let mut mirror = Mirror::default();
    mirror.list(&storage).await?;
    for _ in 0..20 {
        // Some are applied while others are made.
        if let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(50), watch.watch.next()).await {
            mirror.apply(event?, &storage).await?;
        }
    }
    for answer in writers.await?? {
        answer?;
    }
    mirror.catch_up(&mut watch, &storage).await
}

async fn change_again_and_again(storage: Storage, keys: Vec<Key>, seed: usize) -> persist_core::Result<()> {
    for round in 0..25 {
        let key = &keys[(seed * 7 + round * 5) % keys.len()];
        match (seed + round) % 4 {
            0 => drop(remove(&storage, key).await?),
            1 => drop(storage.touch(key, Expiry::Never).await?),
            _ => drop(put(&storage, key, &bytes(format!("{seed} {round}"))).await?),
        }
    }
    Ok(())
}

async fn falls_behind(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let mut watch = Watcher::new(harness, &storage, "").await?;
    let begun = Instant::now();
    for part in numbered("k", 3 * persist_core::MAX_WAITING_EVENTS)?.chunks(512) {
        let stored = tokio::time::timeout(harness.patience() * 2, fill(&storage, part)).await;
        stored.map_err(|_| {
            Stop::broken(format!("stores wait for a watcher, {:?} so far", begun.elapsed()))
        })??;
    }
    let mut mirror = Mirror::default();
    mirror.catch_up(&mut watch, &storage).await?;
    put(&storage, &key("later")?, &bytes("1")).await?;
    mirror.catch_up(&mut watch, &storage).await
}

async fn side_by_side(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let k = key("k")?;
    let mut first = Watcher::new(harness, &storage, "").await?;
    let leaving = Watcher::new(harness, &storage, "").await?;
    let mut last = Watcher::new(harness, &storage, "k").await?;
    put(&storage, &k, &bytes("1")).await?;
    first.expect(&storage, &[&k], "a store, the first watcher").await?;
    last.expect(&storage, &[&k], "a store, the last watcher").await?;
    drop(leaving);
    put(&storage, &k, &bytes("2")).await?;
    first.expect(&storage, &[&k], "another leaves, the first watcher").await?;
    last.expect(&storage, &[&k], "another leaves, the last watcher").await
}

async fn closing_ends(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for prefix in ["a\0b".to_owned(), "x".repeat(1025)] {
        expect_error(storage.watch(&prefix).await, ErrorKind::InvalidKey, "a prefix that no key can have")?;
    }
    let mut watch = Watcher::new(harness, &storage, "").await?;
    storage.close().await?;
    loop {
        match tokio::time::timeout(harness.patience(), watch.watch.next()).await {
            Ok(None) => break,
            // What waited, or that it was closed.
            Ok(Some(_)) => {}
            Err(_) => return Err(Stop::broken("the watch of a closed storage goes on")),
        }
    }
    expect_error(storage.watch("").await, ErrorKind::Closed, "a watch after the close")?;
    Ok(())
}

async fn other_handles(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(storage.describe().capabilities().shared, "it does not claim to be shared");
    let Some(other) = harness.open_another().await? else {
        return Err(Stop::skipped("no second handle can be opened here"));
    };
    let k = key("k")?;
    put(&storage, &k, &bytes("0")).await?;
    let mut watch = Watcher::new(harness, &storage, "").await?;
    let mut mirror = Mirror::default();
    mirror.list(&storage).await?;
    for round in 0..3 {
        put(&other, &k, &bytes(format!("{round}"))).await?;
        mirror.catch_up(&mut watch, &storage).await?;
    }
    remove(&other, &k).await?;
    mirror.catch_up(&mut watch, &storage).await?;
    ensure!(mirror.0.is_empty(), "what another handle deleted is still there");
    Ok(())
}

async fn told_at_once(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(storage.describe().capabilities().native_watch, "it does not claim to be told of changes");
    let k = key("k")?;
    let mut watch = Watcher::new(harness, &storage, "").await?;
    let mut fastest = harness.patience();
    for round in 0..5 {
        // Right after an event a storage that looks again and again has just looked.
        put(&storage, &k, &bytes(format!("{round}"))).await?;
        let begun = Instant::now();
        watch.expect(&storage, &[&k], "a store").await?;
        fastest = fastest.min(begun.elapsed());
    }
    ensure!(fastest < Duration::from_millis(500), "no change was told before {fastest:?} had passed");
    Ok(())
}

async fn read_only(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    put(&storage, &key("k")?, &bytes("1")).await?;
    let durable = storage.describe().capabilities().durable;
    storage.close().await?;
    drop(storage);
    let Some(storage) = harness.open_variant(Variant::ReadOnly).await? else {
        return Err(Stop::skipped("it cannot be opened for reading only"));
    };
    let mut watch = Watcher::new(harness, &storage, "").await?;
    let waiting = tokio::time::timeout(QUIET, watch.watch.next()).await;
    ensure!(waiting.is_err(), "nobody changes it, and {waiting:?} was told");
    ensure!(!durable || metadata(&storage, &key("k")?).await?.size == 1, "what is watched cannot be read");
    Ok(())
}

async fn follow_loses_nothing(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let before = numbered("before", 20)?;
    fill(&storage, &before).await?;
    let mut watch = Watcher { watch: storage.follow("").await?, patience: harness.patience() };
    remove(&storage, &before[3]).await?;
    let many = numbered("k", 2 * persist_core::MAX_WAITING_EVENTS)?;
    for part in many.chunks(512) {
        fill(&storage, part).await?;
    }
    let (mut told, mut deleted) = (0, false);
    while told < many.len() || !deleted {
        match watch.next().await? {
            Event::Stored { key, .. } if key.starts_with('k') => told += 1,
            Event::Deleted { key } if key == before[3] => deleted = true,
            event => return Err(Stop::broken(format!("this was told, and is no news: {event:?}"))),
        }
    }
    Ok(())
}
