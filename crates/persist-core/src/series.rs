use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_core::Stream;
use futures_util::stream;
use parking_lot::Mutex;

use crate::walk::Walk;
use crate::{
    BaseStorage, Entry, ErrorKind, Key, ListOptions, MAX_PAGE, Metadata, Result, StorageError, StoreOptions,
    Value,
};

/// The last moment that has a key: the end of the year 9999.
const LAST: Duration = Duration::new(253_402_300_799, 999_999_999);

const TICK: Duration = Duration::from_nanos(1);

/// Values in the order of time, in any storage: measurements, frames, checkpoints.
///
/// The value of a moment has the key `NAME/2026-11-21T18:00:00.000000000Z`, so that the order of keys is that of time.
///
/// ```
/// # async fn example(storage: std::sync::Arc<dyn persist_core::BaseStorage>) -> persist_core::Result<()> {
/// use std::time::{Duration, SystemTime};
///
/// use futures_util::{TryStreamExt, pin_mut};
/// use persist_core::{Array, Series};
///
/// let kitchen = Series::new(storage, "sensors/kitchen")?;
/// kitchen.append(Array::from_vec(vec![3], vec![20.5, 20.6, 20.4])?).await?;
/// let hour_ago = SystemTime::now() - Duration::from_secs(3600);
/// let entries = kitchen.range(hour_ago..);
/// pin_mut!(entries);
/// while let Some((moment, entry)) = entries.try_next().await? {
///     println!("{moment:?}: {:?}", entry.value.as_array()?.shape());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Series {
    storage: Arc<dyn BaseStorage>,
    /// How its keys begin.
    prefix: String,
    /// The moment of the last value that was appended here.
    last: Mutex<Option<SystemTime>>,
}

impl Series {
    /// The series of a name in a storage; nothing is read or written.
    ///
    /// # Errors
    /// `InvalidKey` if the name is too long for a key, or cannot be in one.
    pub fn new(storage: Arc<dyn BaseStorage>, name: &str) -> Result<Self> {
        let series = Self { storage, prefix: format!("{name}/"), last: Mutex::default() };
        series.key(UNIX_EPOCH)?;
        Ok(series)
    }

    /// Stores a value at the present moment by the storage's clock, and gives that moment. What one `Series` appends is in the order of the
    /// calls, even if the clock goes back: a moment that is taken, or not after the last one, is put off by a nanosecond.
    ///
    /// # Errors
    /// As [`BaseStorage::store`].
    pub async fn append(&self, value: impl Into<Value> + Send) -> Result<SystemTime> {
        let value = value.into();
        loop {
            let moment = self.next_moment();
            match self.append_at(moment, value.clone()).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                result => return result.map(|_| moment),
            }
        }
    }

    fn next_moment(&self) -> SystemTime {
        let now = self.storage.describe().clock().moment();
        let mut last = self.last.lock();
        let moment = last.map_or(now, |last| now.max(last + TICK));
        *last = Some(moment);
        moment
    }

    /// Stores a value at a moment at which there is none.
    ///
    /// # Errors
    /// `Conflict` if there is one; `InvalidValue` for a moment before 1970 or after 9999; as [`BaseStorage::store`].
    pub async fn append_at(&self, moment: SystemTime, value: impl Into<Value> + Send) -> Result<Metadata> {
        let key = self.key(moment)?;
        self.storage.store(&key, value.into(), StoreOptions::new().if_absent()).await
    }

    /// The values of a time, in order; some megabytes of them are held in memory. What is deleted on the way is left out, and
    /// so is what lies under other keys.
    pub fn range(
        &self,
        range: impl RangeBounds<SystemTime>,
    ) -> impl Stream<Item = Result<(SystemTime, Entry)>> + Send + '_ {
        let start = self.span(&range).map(|span| span.map(|(after, end)| (self.walk(after), end)));
        stream::try_unfold(Some(start), move |state| async move {
            let Some(start) = state else { return Ok(None) };
            let Some((mut walk, end)) = start? else { return Ok(None) };
            while let Some((key, found)) = walk.next().await? {
                if *key >= *end {
                    break;
                }
                let Some(moment) = self.moment(&key) else { continue };
                if let Some(entry) = found? {
                    return Ok(Some(((moment, entry), Some(Ok(Some((walk, end)))))));
                }
            }
            Ok(None)
        })
    }

    fn walk(&self, after: Option<Key>) -> Walk<'_, dyn BaseStorage> {
        Walk::within(&*self.storage, &self.prefix, after)
    }

    /// Deletes all values before a moment; gives how many there were.
    ///
    /// # Errors
    /// The first failure; what was deleted before stays deleted.
    pub async fn remove_before(&self, moment: SystemTime) -> Result<u64> {
        let (mut deleted, mut after, end) = (0, None, self.key(moment)?);
        loop {
            let page =
                self.storage.list_keys(&self.prefix, ListOptions::new().after(after).limit(MAX_PAGE)).await?;
            let old = page.keys.into_iter().filter(|key| **key < *end && self.moment(key).is_some());
            let old: Vec<Key> = old.collect();
            for result in self.storage.delete_many(&old).await {
                deleted += u64::from(result?);
            }
            after = page.next.filter(|next| **next < *end);
            if after.is_none() {
                return Ok(deleted);
            }
        }
    }

    /// The key of a moment.
    ///
    /// # Errors
    /// `InvalidValue` for a moment before 1970 or after 9999.
    pub fn key(&self, moment: SystemTime) -> Result<Key> {
        let since = moment.duration_since(UNIX_EPOCH).ok().filter(|since| *since <= LAST);
        let Some(since) = since else {
            let message = format!("{moment:?} has no key; moments are those from 1970 to 9999");
            return Err(StorageError::new(ErrorKind::InvalidValue, message)
                .with_storage(self.storage.describe().name()));
        };
        Key::new(format!("{}{}", self.prefix, humantime::format_rfc3339_nanos(UNIX_EPOCH + since)))
    }

    /// The moment of a key of this series; `None`: it is none of its keys.
    pub fn moment(&self, key: &Key) -> Option<SystemTime> {
        let moment = humantime::parse_rfc3339(key.strip_prefix(&*self.prefix)?).ok()?;
        // There are other ways to write a moment, but only one key of it.
        self.key(moment).is_ok_and(|of| of == *key).then_some(moment)
    }

    /// The key after which a range begins, and the text before which its keys lie; `None`: it is empty.
    fn span(&self, range: &impl RangeBounds<SystemTime>) -> Result<Option<(Option<Key>, String)>> {
        let (epoch, last) = (UNIX_EPOCH, UNIX_EPOCH + LAST);
        let from = match range.start_bound() {
            Bound::Unbounded => epoch,
            Bound::Included(start) => *start,
            Bound::Excluded(start) => *start + TICK,
        };
        let end = match range.end_bound() {
            Bound::Unbounded => None,
            Bound::Included(end) => Some(*end + TICK),
            Bound::Excluded(end) => Some(*end),
        };
        if from > last || end.is_some_and(|end| end <= from.max(epoch)) {
            return Ok(None);
        }
        let after = if from <= epoch { None } else { Some(self.key(from - TICK)?) };
        let end = match end.filter(|end| *end <= last) {
            Some(end) => self.key(end)?.to_string(),
            // What follows the `/` at the end of the prefix.
            None => format!("{}0", &self.prefix[..self.prefix.len() - 1]),
        };
        Ok(Some((after, end)))
    }
}
