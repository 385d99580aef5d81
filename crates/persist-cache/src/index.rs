use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use persist_core::{Key, Page};

use crate::record::Record;
use crate::tag_index::TagIndex;

/// How many records the eviction hand spares at most before it takes the next one all the same, so that one store
/// never waits for a walk over the whole cache.
const MAX_SPARED: usize = 1024;

/// What the writers know of every record: its place in the order of keys, of eviction and of expiry, its tags, and
/// the sums that the bounds are held by. Readers have no part in it.
///
/// A record is *live* until its expiry was noticed, and after that *stale* for as long as it is kept for
/// `get_or_refresh`. Live records may have expired already: whoever reads them looks at the clock.
#[derive(Debug, Default)]
pub(crate) struct Index {
    live: BTreeMap<Key, Slot>,
    stale: BTreeMap<Key, Slot>,
    /// The live records in the order in which they were first stored: the queue of SIEVE (Zhang et al., "SIEVE is
    /// Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches", NSDI 2024).
    queue: BTreeMap<u64, Arc<Record>>,
    /// Where in the queue the eviction hand stands.
    hand: u64,
    next_turn: u64,
    /// When something has to be done about a record: its expiry, then the end of its time as a stale one.
    deadlines: BTreeSet<(Duration, Key)>,
    tags: TagIndex,
    weight: u64,
    live_bytes: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    record: Arc<Record>,
    /// Its place in the queue; kept when the key is stored again.
    turn: u64,
    /// What stands for it in the deadlines.
    deadline: Option<Duration>,
}

/// What became of a record whose time had come.
#[derive(Debug)]
pub(crate) enum Expired {
    /// It is kept for `get_or_refresh`.
    Aged,
    /// It is gone; true if it was live until now.
    Gone(Arc<Record>, bool),
}

impl Index {
    /// The record of a key, be it live or stale, expired or not.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Record>> {
        self.live.get(key).or_else(|| self.stale.get(key)).map(|slot| &slot.record)
    }

    /// Takes a record in; it replaces the one of the same key, whose place in the queue it keeps.
    pub(crate) fn put(&mut self, record: Arc<Record>) {
        let replaced = self.take(&record.key);
        let turn = match &replaced {
            Some(slot) => {
                record.visit();
                slot.turn
            }
            None => self.new_turn(),
        };
        let deadline = record.fresh_until;
        self.tags.insert(&record.entry.metadata.tags, &record.key);
        self.weight += record.weight;
        self.live_bytes += record.entry.value.size();
        self.deadlines.extend(deadline.map(|moment| (moment, record.key.clone())));
        self.queue.insert(turn, Arc::clone(&record));
        self.live.insert(record.key.clone(), Slot { record, turn, deadline });
    }

    /// Lets a record go.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Record>> {
        self.take(key).map(|slot| slot.record)
    }

    /// Deals with the record whose time came first, if it has come by `now`: it stays for `window` as a stale one, and
    /// then goes.
    pub(crate) fn expire_next(&mut self, now: Duration, window: Duration) -> Option<Expired> {
        let (moment, key) = self.deadlines.first()?.clone();
        if moment > now {
            return None;
        }
        let was_live = self.live.contains_key(&key);
        if was_live && !window.is_zero() {
            self.age(&key, moment.saturating_add(window));
            return Some(Expired::Aged);
        }
        self.remove(&key).map(|record| Expired::Gone(record, was_live))
    }

    /// Which record has to make room: a stale one if there is any, else the next one in the queue that was not read
    /// since the hand last came by. `None`: there is nothing but what `spared` spares.
    pub(crate) fn victim(&mut self, spared: impl Fn(&Key) -> bool) -> Option<Arc<Record>> {
        if let Some(slot) = self.stale.values().find(|slot| !spared(&slot.record.key)) {
            return Some(Arc::clone(&slot.record));
        }
        let round = || self.queue.range(self.hand..).chain(self.queue.range(..self.hand));
        let mut candidates = round().filter(|(_, record)| !spared(&record.key)).take(MAX_SPARED);
        let unread = candidates.find(|(_, record)| !record.take_visit());
        let (turn, record) = unread.or_else(|| round().find(|(_, record)| !spared(&record.key)))?;
        let record = Arc::clone(record);
        self.hand = turn + 1;
        Some(record)
    }

    /// A page of the live keys that have not expired by `now`.
    pub(crate) fn page(&self, prefix: &str, after: Option<&Key>, limit: usize, now: Duration) -> Page {
        // By the deadline in the slot: going to each record would double what a page takes in a large cache.
        let fresh = |slot: &Slot| slot.deadline.is_none_or(|end| now < end);
        let keys = under(&self.live, prefix, after).filter(|(_, slot)| fresh(slot));
        Page::collect(keys.map(|(key, _)| key.clone()), limit)
    }

    /// The first `limit` keys under a prefix after `after`, live or stale, expired or not.
    pub(crate) fn under(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Vec<Key> {
        let first = |map| under(map, prefix, after).take(limit).map(|(key, _)| key.clone());
        let mut keys: Vec<Key> = first(&self.live).chain(first(&self.stale)).collect();
        keys.sort_unstable();
        keys.truncate(limit);
        keys
    }

    /// The first `limit` keys after `after` that bear a tag, live or stale, expired or not.
    pub(crate) fn tagged(&self, name: &str, text: &str, after: Option<&Key>, limit: usize) -> Vec<Key> {
        self.tags.page(name, text, after, limit)
    }

    /// How many records there are, stale ones included: what `max_entries` bounds.
    pub(crate) fn len(&self) -> u64 {
        (self.live.len() + self.stale.len()) as u64
    }

    /// How many of them are stale.
    pub(crate) fn stale_len(&self) -> u64 {
        self.stale.len() as u64
    }

    /// What they take, stale ones included: what `max_bytes` bounds.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// The bytes of the live values alone.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn new_turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    /// Takes a record out of every order.
    fn take(&mut self, key: &Key) -> Option<Slot> {
        let (slot, live) = match self.live.remove(key) {
            Some(slot) => (slot, true),
            None => (self.stale.remove(key)?, false),
        };
        if live {
            self.queue.remove(&slot.turn);
            self.live_bytes -= slot.record.entry.value.size();
        }
        self.forget_deadline(&slot);
        self.tags.remove(&slot.record.entry.metadata.tags, key);
        self.weight -= slot.record.weight;
        Some(slot)
    }

    /// Makes a live record a stale one, to be kept until `end`.
    fn age(&mut self, key: &Key, end: Duration) {
        let Some(mut slot) = self.live.remove(key) else { return };
        self.queue.remove(&slot.turn);
        self.live_bytes -= slot.record.entry.value.size();
        self.forget_deadline(&slot);
        self.deadlines.insert((end, key.clone()));
        slot.deadline = Some(end);
        self.stale.insert(key.clone(), slot);
    }

    fn forget_deadline(&mut self, slot: &Slot) {
        if let Some(moment) = slot.deadline {
            self.deadlines.remove(&(moment, slot.record.key.clone()));
        }
    }
}

/// The entries of a map whose keys begin with `prefix` and come after `after`.
fn under<'a>(
    map: &'a BTreeMap<Key, Slot>,
    prefix: &'a str,
    after: Option<&'a Key>,
) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
    let start = match after {
        Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
        _ => Bound::Included(prefix),
    };
    map.range::<str, _>((start, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use persist_core::{Descriptor, Entry, StoreOptions, Value};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn record(text: &str, fresh_until: Option<Duration>) -> Arc<Record> {
        let (value, options) = (Value::bytes(vec![1; 10]), StoreOptions::new().tag("t", text));
        let metadata = Descriptor::new("c", "cache").draft_metadata(&value, &options);
        Arc::new(Record::new(key(text), Entry::new(value, metadata), fresh_until))
    }

    fn filled(texts: &[&str]) -> Index {
        let mut index = Index::default();
        for text in texts {
            index.put(record(text, None));
        }
        index
    }

    fn names(page: &Page) -> Vec<&str> {
        page.keys.iter().map(Key::as_str).collect()
    }

    #[test]
    fn a_page_starts_after_a_key_and_ends_with_the_prefix() {
        let index = filled(&["a", "b/1", "b/2", "b/3", "b0", "c"]);
        let page = |prefix: &str, after: Option<&str>, limit: usize| {
            index.page(prefix, after.map(key).as_ref(), limit, Duration::ZERO)
        };
        assert_eq!(names(&page("b/", None, 9)), ["b/1", "b/2", "b/3"]);
        assert_eq!(page("b/", None, 2).next, Some(key("b/2")));
        assert_eq!(page("b/", None, 3).next, None);
        assert_eq!(names(&page("b/", Some("b/1"), 9)), ["b/2", "b/3"]);
        assert_eq!(names(&page("b/", Some("b/15"), 9)), ["b/2", "b/3"]);
        assert_eq!(names(&page("b/", Some("a"), 9)), ["b/1", "b/2", "b/3"]);
        assert_eq!(names(&page("b/", Some("c"), 9)), [""; 0]);
        assert_eq!(names(&page("", None, 9)), ["a", "b/1", "b/2", "b/3", "b0", "c"]);
    }

    #[test]
    fn a_page_leaves_out_what_has_expired_and_was_not_swept() {
        let mut index = filled(&["a", "c"]);
        index.put(record("b", Some(SECOND)));
        assert_eq!(names(&index.page("", None, 9, SECOND - Duration::from_nanos(1))), ["a", "b", "c"]);
        assert_eq!(names(&index.page("", None, 9, SECOND)), ["a", "c"]);
    }

    #[test]
    fn everything_that_was_put_in_is_taken_out() {
        let mut index = Index::default();
        index.put(record("a", Some(SECOND)));
        index.put(record("a", Some(2 * SECOND)));
        index.put(record("b", None));
        assert_eq!((index.len(), index.live_bytes(), index.weight()), (2, 20, 2 * record("a", None).weight));
        assert_eq!(index.tagged("t", "a", None, 9), [key("a")]);
        assert_eq!(index.under("", None, 9), [key("a"), key("b")]);
        index.remove(&key("a")).unwrap();
        index.remove(&key("b")).unwrap();
        assert!(index.remove(&key("b")).is_none());
        assert_eq!((index.len(), index.live_bytes(), index.weight()), (0, 0, 0));
        assert!(index.deadlines.is_empty() && index.queue.is_empty() && index.tags.is_empty(), "{index:?}");
    }

    #[test]
    fn what_expires_goes_in_the_order_of_time_and_not_before() {
        let mut index = Index::default();
        for (text, end) in [("late", Some(3 * SECOND)), ("never", None), ("soon", Some(SECOND))] {
            index.put(record(text, end));
        }
        assert!(index.expire_next(SECOND - Duration::from_nanos(1), Duration::ZERO).is_none());
        let Some(Expired::Gone(gone, true)) = index.expire_next(SECOND, Duration::ZERO) else { panic!() };
        assert_eq!(gone.key, key("soon"));
        assert!(index.expire_next(SECOND, Duration::ZERO).is_none());
        index.put(record("late", Some(9 * SECOND)));
        assert!(index.expire_next(8 * SECOND, Duration::ZERO).is_none());
        assert!(index.expire_next(9 * SECOND, Duration::ZERO).is_some());
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn a_stale_record_is_kept_for_the_window_but_not_listed() {
        let mut index = Index::default();
        index.put(record("k", Some(SECOND)));
        assert!(matches!(index.expire_next(SECOND, 2 * SECOND), Some(Expired::Aged)));
        assert_eq!((index.len(), index.stale_len(), index.live_bytes()), (1, 1, 0));
        assert_eq!(names(&index.page("", None, 9, Duration::ZERO)), [""; 0]);
        assert_eq!(index.under("", None, 9), [key("k")]);
        assert!(index.get(&key("k")).is_some());
        assert!(index.expire_next(3 * SECOND - Duration::from_nanos(1), 2 * SECOND).is_none());
        assert!(matches!(index.expire_next(3 * SECOND, 2 * SECOND), Some(Expired::Gone(_, false))));
        assert_eq!((index.len(), index.weight()), (0, 0));
        assert!(index.deadlines.is_empty() && index.tags.is_empty());
    }

    #[test]
    fn the_hand_spares_what_was_read() {
        let mut index = filled(&["a", "b", "c", "d"]);
        let evict = |index: &mut Index| {
            let victim = index.victim(|_| false).unwrap();
            index.remove(&victim.key).unwrap();
            victim.key.to_string()
        };
        for text in ["a", "c"] {
            index.get(&key(text)).unwrap().visit();
        }
        assert_eq!(evict(&mut index), "b");
        // The hand goes on from there and spares `c`, once.
        assert_eq!(evict(&mut index), "d");
        assert_eq!(evict(&mut index), "a");
        assert_eq!(evict(&mut index), "c");
        assert!(index.victim(|_| false).is_none());
    }

    #[test]
    fn one_walk_of_the_hand_is_bounded() {
        let texts: Vec<String> = (0..2 * MAX_SPARED).map(|i| format!("{i:04}")).collect();
        let mut index = filled(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        for text in &texts {
            index.get(&key(text)).unwrap().visit();
        }
        assert_eq!(index.victim(|_| false).unwrap().key.as_str(), "0000");
        let still_marked = texts.iter().filter(|text| index.get(&key(text)).unwrap().take_visit()).count();
        assert_eq!(still_marked, MAX_SPARED);
    }

    #[test]
    fn stale_records_make_room_first() {
        let mut index = filled(&["a"]);
        index.put(record("z", Some(SECOND)));
        index.expire_next(SECOND, SECOND).unwrap();
        assert_eq!(index.victim(|_| false).unwrap().key, key("z"));
    }
}
