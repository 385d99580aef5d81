use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{
    Condition, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Key, ListOptions, Maintenance, Metadata,
    Page, Result, Stats, StorageError, StoreOptions, Value, Version, Watchers,
};

use crate::index::{Expired, Index};
use crate::record::{Record, fresh_until, owned};
use crate::revalidate::Refreshes;
use crate::shelf::Shelf;
use crate::stats::{Counters, count};
use crate::sweeper::Sweep;

/// How many expired records a change removes on its way.
const TIDY: usize = 8;

/// How many records are removed under one hold of the lock.
const BATCH: usize = 512;

/// How much a cache holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// The cache itself, shared by the storage, the sweeper and refreshes in the background.
///
/// Readers look into the shelf alone. Writers hold the lock of the index for as long as a change takes, so that
/// conditions, batches and bounds are exact; the shelf is changed under that lock only and always holds exactly the
/// records of the index.
pub(crate) struct Engine {
    pub(crate) descriptor: Descriptor,
    pub(crate) counters: Counters,
    pub(crate) bounds: Bounds,
    /// For how long expired records are kept for `get_or_refresh`.
    window: Duration,
    pub(crate) shelf: Shelf,
    pub(crate) index: Mutex<Index>,
    pub(crate) refreshes: Refreshes,
    /// Told under the lock of the index, in the order of the changes.
    pub(crate) watchers: Watchers,
}

impl Bounds {
    pub(crate) fn hold(self, entries: u64, bytes: u64) -> bool {
        entries <= self.entries && bytes <= self.bytes
    }
}

/// A value on its way in: hashed, weighed and dated before the lock is taken.
pub(crate) struct Draft {
    pub(crate) record: Record,
    condition: Condition,
}

impl Engine {
    pub(crate) fn new(descriptor: Descriptor, bounds: Bounds, window: Duration) -> Self {
        Self {
            descriptor,
            counters: Counters::default(),
            bounds,
            window,
            shelf: Shelf::new(),
            index: Mutex::default(),
            refreshes: Refreshes::default(),
            watchers: Watchers::new(),
        }
    }

    /// The record of a key, if it has not expired; counted, and remembered by the eviction.
    pub(crate) fn read(&self, key: &Key) -> Option<Arc<Record>> {
        let found = self.peek(key);
        match &found {
            Some(record) => {
                record.visit();
                self.counters.hits.count();
            }
            None => self.counters.misses.count(),
        }
        found
    }

    /// The record of a key, if it has not expired; not counted.
    pub(crate) fn peek(&self, key: &Key) -> Option<Arc<Record>> {
        self.shelf.get(key).filter(|record| record.is_fresh(&**self.descriptor.clock()))
    }

    /// The record of a key that has expired, but not longer ago than the window; not counted.
    pub(crate) fn stale(&self, key: &Key) -> Option<Arc<Record>> {
        let record = self.shelf.get(key)?;
        let (end, now) = (record.fresh_until?, self.now());
        (end <= now && now < end.saturating_add(self.window)).then_some(record)
    }

    /// Stores a value.
    ///
    /// # Errors
    /// As `BaseStorage::store`.
    pub(crate) fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        let draft = self.draft(key, value, options)?;
        let mut index = self.index.lock();
        let now = self.begin("store", &mut index)?;
        self.check("store", draft.condition, key, &index, now)?;
        self.make_room(&mut index, std::iter::once(&draft));
        Ok(self.place(&mut index, draft, now))
    }

    /// Stores a value over a certain version, expired or not; `None` if that is not there any more.
    ///
    /// # Errors
    /// As `BaseStorage::store`.
    pub(crate) fn renew(
        &self,
        key: &Key,
        version: Version,
        value: Value,
        options: StoreOptions,
    ) -> Result<Option<Metadata>> {
        let draft = self.draft(key, value, options)?;
        let mut index = self.index.lock();
        // Before the tidying, which may take it away: a refresh may end a little after the window.
        let found = index.get(key).map(|record| record.entry.metadata.version);
        let now = self.begin("get_or_refresh", &mut index)?;
        if found != Some(version) {
            return Ok(None);
        }
        self.make_room(&mut index, std::iter::once(&draft));
        Ok(Some(self.place(&mut index, draft, now)))
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As `BaseStorage::delete`.
    pub(crate) fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        let mut index = self.index.lock();
        let now = self.begin("delete", &mut index)?;
        self.check("delete", options.condition, key, &index, now)?;
        Ok(self.discard(&mut index, key, now))
    }

    /// Changes when a key expires.
    ///
    /// # Errors
    /// As `BaseStorage::touch`.
    pub(crate) fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        let until = fresh_until(expiry, self.descriptor.default_ttl(), &**self.descriptor.clock());
        let mut index = self.index.lock();
        let now = self.begin("touch", &mut index)?;
        let Some(record) = live(&index, key, now) else { return Ok(None) };
        let metadata = self.descriptor.touched_metadata(&record.entry.metadata, expiry);
        let touched = record.touched(metadata.clone(), until);
        self.put(&mut index, touched, now);
        Ok(Some(metadata))
    }

    /// A page of the keys.
    ///
    /// # Errors
    /// As `BaseStorage::list_keys`.
    pub(crate) fn page(&self, prefix: &str, options: &ListOptions) -> Result<Page> {
        let limit = self.descriptor.admit_list(prefix, options)?;
        let mut index = self.index.lock();
        let now = self.now();
        // Expired records would have to be stepped over again and again.
        self.expire(&mut index, now, BATCH);
        Ok(index.page(prefix, options.after.as_ref(), limit, now))
    }

    /// Forgets some of the keys that `select` picks after `after`; gives how many were there, and the last of them,
    /// or `None` at the end.
    ///
    /// # Errors
    /// `Closed` or `ReadOnly`.
    pub(crate) fn invalidate(
        &self,
        operation: &'static str,
        select: impl Fn(&Index, usize) -> Vec<Key>,
    ) -> Result<(u64, Option<Key>)> {
        let mut index = self.index.lock();
        let now = self.begin(operation, &mut index)?;
        let keys = select(&index, BATCH);
        let mut gone = 0;
        for key in &keys {
            let was_there = live(&index, key, now).is_some();
            gone += u64::from(was_there);
            self.drop_key(&mut index, key);
            if was_there {
                self.watchers.deleted(key);
            }
        }
        self.counters.invalidations.fetch_add(gone, Ordering::Relaxed);
        Ok((gone, keys.last().cloned()))
    }

    /// Removes everything that has expired, a batch at a time.
    pub(crate) fn expire_all(&self) -> Maintenance {
        let mut done = Maintenance::default();
        loop {
            let mut index = self.index.lock();
            let (entries, bytes) = (index.len(), index.weight());
            let worked = self.expire(&mut index, self.now(), BATCH);
            done.expired += entries - index.len();
            done.freed_bytes += bytes - index.weight();
            if worked < BATCH {
                return done;
            }
        }
    }

    /// What it holds and what it has counted.
    pub(crate) fn stats(&self) -> Stats {
        self.expire_all();
        let index = self.index.lock();
        let mut counters = self.counters.figures();
        counters.insert("memory_bytes", index.weight());
        counters.insert("stale_keys", index.stale_len());
        counters.insert("max_bytes", self.bounds.bytes);
        if self.bounds.entries != u64::MAX {
            counters.insert("max_entries", self.bounds.entries);
        }
        Stats { keys: Some(index.len() - index.stale_len()), bytes: Some(index.live_bytes()), counters }
    }

    /// Ends it and frees everything.
    pub(crate) fn close(&self) {
        self.descriptor.close();
        let mut index = self.index.lock();
        self.shelf.clear();
        *index = Index::default();
        self.watchers.close();
    }

    fn now(&self) -> Duration {
        self.descriptor.clock().monotonic()
    }

    /// Lets a change begin, once the lock is held: nothing gets in after `close` has cleared it. Gives the time.
    pub(crate) fn begin(&self, operation: &'static str, index: &mut Index) -> Result<Duration> {
        self.descriptor.admit_change(operation)?;
        let now = self.now();
        self.expire(index, now, TIDY);
        Ok(now)
    }

    /// Checks a condition against what is there and has not expired.
    pub(crate) fn check(
        &self,
        operation: &'static str,
        condition: Condition,
        key: &Key,
        index: &Index,
        now: Duration,
    ) -> Result<()> {
        let current = live(index, key, now).map(|record| &record.entry.metadata);
        let checked = condition.check(key, current);
        checked.map_err(|error| error.with_operation(operation).with_storage(self.descriptor.name()))
    }

    /// Checks, hashes, weighs and dates a value.
    pub(crate) fn draft(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Draft> {
        let admitted = self.descriptor.admit_store(key, &value, &options);
        admitted.inspect_err(|error| self.note_refusal(error.kind()))?;
        let value = owned(value);
        let metadata = self.descriptor.draft_metadata(&value, &options);
        let until = fresh_until(options.expiry, self.descriptor.default_ttl(), &**self.descriptor.clock());
        let record = Record::new(key.clone(), Entry::new(value, metadata), until);
        if record.weight > self.bounds.bytes {
            return Err(self.too_large("store", 1, record.weight).with_key(key));
        }
        Ok(Draft { record, condition: options.condition })
    }

    pub(crate) fn too_large(&self, operation: &'static str, entries: u64, bytes: u64) -> StorageError {
        self.note_refusal(ErrorKind::TooLarge);
        let message = format!(
            "{entries} value(s) taking {bytes} bytes in memory, with keys and tags, do not fit into an empty cache of \
             {} bytes and {} values; raise max_bytes or max_entries, or store less at once",
            self.bounds.bytes, self.bounds.entries
        );
        self.descriptor.error(ErrorKind::TooLarge, operation, message)
    }

    pub(crate) fn note_refusal(&self, kind: ErrorKind) {
        if kind == ErrorKind::TooLarge {
            count(&self.counters.refusals);
        }
    }

    /// Evicts until the drafts fit, before any of them is put in, so that the bounds are never broken. What the drafts
    /// are going to replace is spared.
    pub(crate) fn make_room<'a>(&self, index: &mut Index, drafts: impl Iterator<Item = &'a Draft> + Clone) {
        let (mut entries, mut bytes) = (index.len(), index.weight());
        for Draft { record, .. } in drafts.clone() {
            match index.get(&record.key) {
                Some(replaced) => bytes -= replaced.weight,
                None => entries += 1,
            }
            bytes += record.weight;
        }
        if self.bounds.hold(entries, bytes) {
            return;
        }
        let spared: HashSet<&Key> = drafts.map(|draft| &draft.record.key).collect();
        while !self.bounds.hold(entries, bytes) {
            let Some(victim) = index.victim(|key| spared.contains(key)) else { return };
            self.drop_key(index, &victim.key);
            self.watchers.deleted(&victim.key);
            count(&self.counters.evictions);
            (entries, bytes) = (entries - 1, bytes - victim.weight);
        }
    }

    /// Puts a draft in, under the next version.
    pub(crate) fn place(&self, index: &mut Index, draft: Draft, now: Duration) -> Metadata {
        let mut record = draft.record;
        let stored = index.get(&record.key);
        let metadata = &mut record.entry.metadata;
        metadata.version = self.descriptor.next_version(stored.map(|old| old.entry.metadata.version));
        if let Some(live) = stored.filter(|old| old.is_fresh_at(now)) {
            metadata.created_at = live.entry.metadata.created_at;
        }
        let metadata = metadata.clone();
        count(&self.counters.stores);
        self.put(index, record, now);
        metadata
    }

    /// Puts a record in; one that has expired already is gone at once.
    fn put(&self, index: &mut Index, record: Record, now: Duration) {
        if !record.is_fresh_at(now) {
            count(&self.counters.expirations);
            self.drop_key(index, &record.key);
            return self.watchers.stored(&record.key, &record.entry.metadata);
        }
        let record = Arc::new(record);
        index.put(Arc::clone(&record));
        self.shelf.put(Arc::clone(&record));
        self.watchers.stored(&record.key, &record.entry.metadata);
    }

    /// Deletes a key; true if it was there.
    pub(crate) fn discard(&self, index: &mut Index, key: &Key, now: Duration) -> bool {
        let was_there = live(index, key, now).is_some();
        self.drop_key(index, key);
        if was_there {
            count(&self.counters.deletes);
            self.watchers.deleted(key);
        }
        was_there
    }

    fn drop_key(&self, index: &mut Index, key: &Key) {
        if index.remove(key).is_some() {
            self.shelf.remove(key);
        }
    }

    /// Deals with at most `limit` records whose time has come; gives how many there were.
    fn expire(&self, index: &mut Index, now: Duration, limit: usize) -> usize {
        for done in 0..limit {
            let was_live = match index.expire_next(now, self.window) {
                None => return done,
                Some(Expired::Aged) => true,
                Some(Expired::Gone(record, was_live)) => {
                    self.shelf.remove(&record.key);
                    was_live
                }
            };
            if was_live {
                count(&self.counters.expirations);
            }
        }
        limit
    }
}

impl Sweep for Engine {
    fn sweep(&self) {
        self.expire_all();
    }
}

/// The record of a key, if it has not expired.
fn live<'a>(index: &'a Index, key: &Key, now: Duration) -> Option<&'a Arc<Record>> {
    index.get(key).filter(|record| record.is_fresh_at(now))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use persist_core::{ManualClock, Operation};

    use super::*;

    const BOUNDS: Bounds = Bounds { entries: 40, bytes: 64 << 10 };

    /// The same numbers on every run (xorshift64, Marsaglia 2003).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }

        fn key(&mut self) -> Key {
            Key::new(format!("{}/{}", self.roll(4), self.roll(40))).unwrap()
        }

        fn value(&mut self) -> Value {
            Value::bytes(vec![7; self.roll(6000) as usize])
        }

        fn options(&mut self) -> StoreOptions {
            let lifetime = Duration::from_millis(self.roll(20));
            match self.roll(4) {
                0 => StoreOptions::new(),
                1 => StoreOptions::new().ttl(lifetime),
                2 => StoreOptions::new().tag("t", self.roll(5).to_string()).ttl(lifetime),
                _ => StoreOptions::new().if_absent().tag("t", self.roll(5).to_string()),
            }
        }
    }

    fn engine(clock: &Arc<ManualClock>) -> Engine {
        let descriptor = Descriptor::new("test", "cache").with_clock(clock.clone());
        Engine::new(descriptor, BOUNDS, Duration::from_millis(5))
    }

    /// One random operation. Conflicts and refusals are as good as successes.
    fn act(engine: &Engine, clock: &ManualClock, dice: &mut Dice) {
        let key = dice.key();
        match dice.roll(12) {
            0..=4 => drop(engine.store(&key, dice.value(), dice.options())),
            5 => drop(engine.read(&key)),
            6 => drop(engine.delete(&key, DeleteOptions::new())),
            7 => drop(engine.touch(&key, Expiry::After(Duration::from_millis(dice.roll(20))))),
            8 => {
                let put = |dice: &mut Dice| Operation::put(dice.key(), dice.value(), dice.options());
                drop(engine.transact((0..dice.roll(5)).map(|_| put(dice)).collect()));
            }
            9 => drop(engine.page("1/", &ListOptions::new().limit(7))),
            10 => {
                let text = dice.roll(5).to_string();
                let pick = |index: &Index, limit: usize| index.tagged("t", &text, None, limit);
                drop(engine.invalidate("invalidate_tag", pick));
            }
            _ => clock.advance(Duration::from_millis(dice.roll(3))),
        }
    }

    /// The bounds hold, and the readers' map holds just the records of the index.
    fn inspect(engine: &Engine) {
        let index = engine.index.lock();
        assert!(
            BOUNDS.hold(index.len(), index.weight()),
            "{} entries, {} bytes",
            index.len(),
            index.weight()
        );
        let keys = index.under("", None, usize::MAX);
        assert_eq!(keys, engine.shelf.keys());
        let mut weight = 0;
        for key in &keys {
            let (known, read) = (index.get(key).unwrap(), engine.shelf.get(key).unwrap());
            assert!(Arc::ptr_eq(known, &read), "{key:?}");
            weight += known.weight;
        }
        assert_eq!((keys.len() as u64, weight), (index.len(), index.weight()));
    }

    #[test]
    fn eight_threads_break_no_bound_and_leave_index_and_shelf_alike() {
        let clock = Arc::new(ManualClock::default());
        let engine = engine(&clock);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|seed| {
                    let (engine, clock) = (&engine, &clock);
                    scope.spawn(move || {
                        let mut dice = Dice(seed * 77 + 1);
                        (0..4000).for_each(|_| act(engine, clock, &mut dice));
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    inspect(&engine);
                    engine.sweep();
                }
            });
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            done.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok));
        });
        inspect(&engine);
        for happened in ["evictions", "expirations", "invalidations", "deletes", "hits"] {
            assert!(engine.stats().counters[happened] > 0, "{happened} never happened");
        }
        clock.advance(Duration::from_secs(1));
        engine.sweep();
        engine.close();
        inspect(&engine);
    }

    #[test]
    fn what_is_listed_can_be_read() {
        let clock = Arc::new(ManualClock::default());
        let (engine, mut dice) = (engine(&clock), Dice(5));
        for _ in 0..5000 {
            act(&engine, &clock, &mut dice);
            let page = engine.page("", &ListOptions::new()).unwrap();
            for key in &page.keys {
                assert!(engine.peek(key).is_some(), "{key:?} is listed and cannot be read");
            }
            let keys = engine.shelf.keys();
            let live = keys.iter().filter(|key| engine.peek(key).is_some()).count();
            assert_eq!(live, page.keys.len());
        }
    }

    #[test]
    fn a_stale_record_is_found_within_the_window_only() {
        let clock = Arc::new(ManualClock::default());
        let engine = engine(&clock);
        let key = Key::new("k").unwrap();
        engine
            .store(&key, Value::bytes(vec![1]), StoreOptions::new().ttl(Duration::from_millis(10)))
            .unwrap();
        let mut seen = BTreeMap::new();
        for millis in 0..=16 {
            seen.insert(millis, (engine.peek(&key).is_some(), engine.stale(&key).is_some()));
            clock.advance(Duration::from_millis(1));
        }
        for (millis, found) in seen {
            assert_eq!(found, (millis < 10, (10..15).contains(&millis)), "after {millis} ms");
        }
    }

    #[test]
    fn renewing_is_fenced_by_the_version() {
        let clock = Arc::new(ManualClock::default());
        let engine = engine(&clock);
        let key = Key::new("k").unwrap();
        let stored = engine.store(&key, Value::bytes(vec![1]), StoreOptions::new()).unwrap();
        let renewed =
            |version| engine.renew(&key, version, Value::bytes(vec![2]), StoreOptions::new()).unwrap();
        let next = renewed(stored.version).unwrap();
        assert!(next.version > stored.version);
        assert_eq!(renewed(stored.version), None);
        assert_eq!(engine.peek(&key).unwrap().entry.value, Value::bytes(vec![2]));
    }
}
