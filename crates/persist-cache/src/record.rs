use std::mem::size_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use persist_core::{Array, Clock, Entry, Expiry, Json, Key, Metadata, Value};

/// What a value costs beside its key, its buffer and its tags: the record, its place in the ordered indexes and in the
/// readers' map, and the heads that the allocator adds. Measured as growth of the resident set (480 to 570 bytes with
/// glibc), rounded up.
pub(crate) const RECORD_BYTES: u64 = 640;

/// What having tags costs: a map of one node, which has room for eleven.
const TAGS_BYTES: u64 = 576;

/// What a tag costs beside its name and its text: its strings, and a set of keys in the index of tags if no other
/// value bears it.
const TAG_BYTES: u64 = 384;

/// A value as the cache keeps it. It never changes: a new value or a new expiry is a new record.
///
/// What a read looks at first comes first, on one cache line with the count of references.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Record {
    /// When it expires, by the monotonic clock; `None`: never.
    pub(crate) fresh_until: Option<Duration>,
    /// Whether it was read since the eviction hand last came by.
    visited: AtomicBool,
    pub(crate) entry: Entry,
    pub(crate) key: Key,
    /// What it counts against `max_bytes`.
    pub(crate) weight: u64,
}

impl Record {
    pub(crate) fn new(key: Key, entry: Entry, fresh_until: Option<Duration>) -> Self {
        let weight = weight(&key, &entry);
        Self { fresh_until, visited: AtomicBool::new(false), entry, key, weight }
    }

    /// The same value with other metadata and another expiry.
    pub(crate) fn touched(&self, metadata: Metadata, fresh_until: Option<Duration>) -> Self {
        Self::new(self.key.clone(), Entry::new(self.entry.value.clone(), metadata), fresh_until)
    }

    /// Whether it has not expired; asks the clock only where that matters.
    pub(crate) fn is_fresh(&self, clock: &dyn Clock) -> bool {
        self.fresh_until.is_none() || self.is_fresh_at(clock.monotonic())
    }

    /// Whether it has not expired at `now`. The moment of expiry itself counts as expired.
    pub(crate) fn is_fresh_at(&self, now: Duration) -> bool {
        self.fresh_until.is_none_or(|end| now < end)
    }

    /// Notes that it was read. Writes only the first time, so that readers of a hot key do not contend for it.
    pub(crate) fn visit(&self) {
        if !self.visited.load(Ordering::Relaxed) {
            self.visited.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was read since this was last asked.
    pub(crate) fn take_visit(&self) -> bool {
        self.visited.swap(false, Ordering::Relaxed)
    }
}

/// What a record counts against `max_bytes`.
fn weight(key: &Key, entry: &Entry) -> u64 {
    let tags = &entry.metadata.tags;
    let encodings: usize = entry.metadata.encodings.iter().map(|name| size_of::<String>() + name.len()).sum();
    let shape = match &entry.value {
        Value::Array(array) => size_of_val(array.shape()),
        Value::Json(_) | Value::Bytes(_) => 0,
    };
    // The texts of a tag stand in the metadata and in the index of tags.
    let each = 2 * tags.byte_size() as u64 + TAG_BYTES * tags.len() as u64;
    let tag_bytes = if tags.is_empty() { 0 } else { TAGS_BYTES + each };
    RECORD_BYTES + (key.len() + encodings + shape) as u64 + entry.value.size() + tag_bytes
}

/// When a value stored now expires by the monotonic clock; `None`: never, or too far off for the clock to reach.
pub(crate) fn fresh_until(expiry: Expiry, default: Option<Duration>, clock: &dyn Clock) -> Option<Duration> {
    let lifetime = match expiry {
        Expiry::Default => default?,
        Expiry::Never => return None,
        Expiry::After(lifetime) => lifetime,
        Expiry::At(moment) => moment.saturating_since(clock.now()),
    };
    clock.monotonic().checked_add(lifetime)
}

/// The value in a buffer of its own, of just its size: ten bytes cut out of a gigabyte must not keep the gigabyte, and
/// a buffer over memory that somebody else changes (a mapped file) must not change what is cached.
pub(crate) fn owned(value: Value) -> Value {
    match value {
        Value::Bytes(bytes) => Value::Bytes(own(bytes)),
        Value::Json(json) => Value::Json(Json::from_stored(Bytes::copy_from_slice(json.as_bytes()))),
        Value::Array(array) => {
            let data = Bytes::copy_from_slice(array.data());
            let copy = Array::new(array.dtype(), array.shape().to_vec(), data);
            copy.map_or(Value::Array(array), Value::Array)
        }
    }
}

/// Copies what is shared or borrowed; a buffer that nobody else holds is cut to size where it lies.
fn own(bytes: Bytes) -> Bytes {
    let mut content = Vec::from(bytes);
    content.shrink_to_fit();
    content.into()
}

/// What a value would count against `max_bytes` at most, without its tags and encodings.
pub(crate) fn largest_value(max_bytes: u64) -> u64 {
    let shape = persist_core::MAX_RANK * size_of::<usize>();
    max_bytes.saturating_sub(RECORD_BYTES + (persist_core::MAX_KEY_BYTES + shape) as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use persist_core::{Descriptor, ManualClock, StoreOptions, Timestamp};

    use super::*;

    fn record(key: &str, value: Value, options: &StoreOptions) -> Record {
        let metadata = Descriptor::new("c", "cache").draft_metadata(&value, options);
        Record::new(Key::new(key).unwrap(), Entry::new(value, metadata), None)
    }

    #[test]
    fn everything_that_takes_memory_weighs() {
        let weigh =
            |key: &str, value: &Value, options: &StoreOptions| record(key, value.clone(), options).weight;
        let (plain, value) = (StoreOptions::new(), Value::bytes(vec![7; 100]));
        assert_eq!(weigh("k", &value, &plain), RECORD_BYTES + 1 + 100);
        assert_eq!(weigh("longer", &value, &plain), RECORD_BYTES + 6 + 100);
        let tagged = plain.clone().tag("team", "engines").tag("a", "b");
        assert_eq!(weigh("k", &value, &tagged), RECORD_BYTES + 1 + 100 + TAGS_BYTES + 2 * 13 + 2 * TAG_BYTES);
        let encoded = StoreOptions { encodings: vec!["zstd".to_owned()], ..plain.clone() };
        assert_eq!(weigh("k", &value, &encoded), RECORD_BYTES + 1 + 100 + 28);
        let array = Value::Array(Array::from_vec(vec![2, 5], vec![0_u16; 10]).unwrap());
        assert_eq!(weigh("k", &array, &plain), RECORD_BYTES + 1 + 20 + 16);
    }

    #[test]
    fn a_lifetime_that_the_clock_cannot_reach_is_no_lifetime() {
        let clock = ManualClock::new(Timestamp::from_millis(10_000));
        clock.advance(Duration::from_secs(5));
        let (second, default) = (Duration::from_secs(1), Some(Duration::from_secs(7)));
        assert_eq!(fresh_until(Expiry::Default, default, &clock), Some(12 * second));
        assert_eq!(fresh_until(Expiry::Default, None, &clock), None);
        assert_eq!(fresh_until(Expiry::Never, default, &clock), None);
        assert_eq!(fresh_until(Expiry::After(second), default, &clock), Some(6 * second));
        assert_eq!(fresh_until(Expiry::After(Duration::MAX), default, &clock), None);
        assert_eq!(fresh_until(Expiry::At(Timestamp::from_millis(17_000)), None, &clock), Some(7 * second));
        assert_eq!(fresh_until(Expiry::At(Timestamp::from_millis(3)), None, &clock), Some(5 * second));
    }

    #[test]
    fn a_part_of_a_large_buffer_does_not_keep_it() {
        struct Large(Arc<[u8; 1000]>);
        impl AsRef<[u8]> for Large {
            fn as_ref(&self) -> &[u8] {
                &*self.0
            }
        }
        let alive = Arc::new([7; 1000]);
        let part = Bytes::from_owner(Large(Arc::clone(&alive))).slice(10..20);
        let kept = owned(Value::Bytes(part));
        assert_eq!(kept, Value::bytes(vec![7; 10]));
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn a_buffer_of_its_own_stays_where_it_is() {
        let bytes = Bytes::from(vec![7; 1000]);
        let address = bytes.as_ptr().addr();
        assert_eq!(owned(Value::Bytes(bytes)).buffer().as_ptr().addr(), address);
    }
}
