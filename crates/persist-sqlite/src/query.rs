//! What is asked of the table `entries`, over one connection.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use persist_core::{Entry, Key, Metadata, Page, Timestamp};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, MAIN_DB, Row, ToSql};

use crate::row::{COLUMNS, EXTRA, Head, RowError, reserved};

/// Values up to this size are read, written and hashed on the caller's thread: about a hundred microseconds.
pub(crate) const INLINE_BYTES: u64 = 256 << 10;

/// So many keys are listed on the caller's thread.
const INLINE_KEYS: usize = 128;

/// A range of a value up to this size is read with the whole value, and so verified.
const VERIFIED_RANGE: u64 = 8 << 20;

/// Whose thread a query runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The caller's, which must not be held up.
    Inline,
    /// One that may be held up.
    Patient,
}

/// Why a query has no answer.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// A row is damaged, or SQLite says so.
    Row(RowError),
    /// A key in the database is not what it was.
    Key(&'static str),
    /// It would take too long for the caller's thread.
    TooLong,
}

impl From<RowError> for QueryError {
    fn from(error: RowError) -> Self {
        Self::Row(error)
    }
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Row(RowError::Sqlite(error))
    }
}

/// Text with any bytes in it, such as the end of a range of keys.
pub(crate) struct Text<'t>(pub(crate) &'t [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// The metadata of one key.
static SELECT_HEAD: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS} FROM entries WHERE key = ?1"));

/// The metadata of one key, and the value unless it is a large one: SQLite puts a value together as soon as a row is
/// asked for, and only then is it known whether it may be read here.
static SELECT_ENTRY: LazyLock<String> = LazyLock::new(|| {
    let value = format!("CASE WHEN size <= {INLINE_BYTES} THEN value END");
    format!("SELECT {COLUMNS}, {value} FROM entries WHERE key = ?1")
});

/// A range of keys from the index, and the row of each. Written as a join, because SQLite would take the key from the
/// index alone.
static LISTING: LazyLock<String> = LazyLock::new(|| {
    let columns =
        COLUMNS.split(", ").map(|column| format!("e.{}", column.trim())).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {columns}, i.key, e.key FROM entries AS i LEFT JOIN entries AS e ON e.id = i.id \
         WHERE i.key >= ?1 AND i.key < ?2 ORDER BY i.key"
    )
});

/// What is stored under a key beside the value, expired or not.
pub(crate) fn head(connection: &Connection, key: &Key) -> Result<Option<Head>, RowError> {
    let mut statement = connection.prepare_cached(SELECT_HEAD.as_str())?;
    let mut rows = statement.query([Text(key.as_bytes())])?;
    match rows.next()? {
        Some(row) => Head::read(row, key.as_bytes()).map(Some),
        None => Ok(None),
    }
}

/// The metadata of a key; `None` if it is absent or has expired.
pub(crate) fn metadata(
    connection: &Connection,
    key: &Key,
    now: Timestamp,
) -> Result<Option<Metadata>, QueryError> {
    let found = head(connection, key)?;
    Ok(found.map(|head| head.metadata).filter(|metadata| !metadata.is_expired(now)))
}

/// The value and metadata of a key; `None` if it is absent or has expired.
pub(crate) fn entry(
    connection: &Connection,
    key: &Key,
    now: Timestamp,
    reach: Reach,
) -> Result<Option<Entry>, QueryError> {
    let mut statement = connection.prepare_cached(SELECT_ENTRY.as_str())?;
    let mut rows = statement.query([Text(key.as_bytes())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let head = Head::read(row, key.as_bytes())?;
    if head.metadata.is_expired(now) {
        return Ok(None);
    }
    let value = match (head.metadata.size <= INLINE_BYTES, reach) {
        (true, _) => head.value(row.get_ref(EXTRA)?)?,
        (false, Reach::Inline) => return Err(QueryError::TooLong),
        // The row is still held, so this is the same view of the database.
        (false, Reach::Patient) => head.checked(part(connection, &head, 0..head.metadata.size)?)?,
    };
    Ok(Some(Entry { value, metadata: head.metadata }))
}

/// A part of the buffer of a value; `None` if it is absent or has expired.
///
/// A part of a large value is read alone, and its checksum is not verified.
pub(crate) fn range(
    connection: &Connection,
    key: &Key,
    now: Timestamp,
    range: Range<u64>,
    reach: Reach,
) -> Result<Option<Bytes>, QueryError> {
    // One view of the database for both steps.
    let view = connection.unchecked_transaction()?;
    let Some(head) = head(&view, key)? else { return Ok(None) };
    if head.metadata.is_expired(now) {
        return Ok(None);
    }
    if head.metadata.size <= VERIFIED_RANGE {
        return Ok(entry(&view, key, now, reach)?.map(|entry| entry.value.range(range)));
    }
    if reach == Reach::Inline {
        return Err(QueryError::TooLong);
    }
    let (start, end) = (range.start.min(head.metadata.size), range.end.min(head.metadata.size));
    part(&view, &head, start..end.max(start)).map(Some)
}

fn part(connection: &Connection, head: &Head, range: Range<u64>) -> Result<Bytes, QueryError> {
    let cut = || RowError::Damage("its value is cut off");
    let blob = connection.blob_open(MAIN_DB, "entries", "value", head.id, true)?;
    if blob.len() as u64 != head.metadata.size {
        return Err(cut().into());
    }
    let start = usize::try_from(range.start).map_err(|_| cut())?;
    let len = usize::try_from(range.end - range.start).map_err(|_| cut())?;
    let mut buffer = reserved(len)?;
    buffer.resize(len, 0);
    blob.read_at_exact(&mut buffer, start)?;
    Ok(buffer.into())
}

/// Which part of a listing.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) prefix: String,
    pub(crate) after: Option<Key>,
    pub(crate) limit: usize,
}

impl Listing {
    /// The first key that may be in it. What follows a key in the order of bytes is the key with a NUL behind it, which
    /// no key holds.
    fn start(&self) -> Vec<u8> {
        match &self.after {
            Some(after) if after.as_str() >= self.prefix.as_str() => [after.as_bytes(), b"\0"].concat(),
            _ => self.prefix.clone().into_bytes(),
        }
    }

    /// The first text beyond the prefix. No text of UTF-8 has 0xFF in it, so the last byte can always be raised.
    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone().into_bytes();
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(0xFF),
        }
        end
    }
}

/// A page of keys that have not expired, in the order of their bytes.
pub(crate) fn page(
    connection: &Connection,
    listing: &Listing,
    now: Timestamp,
    reach: Reach,
) -> Result<Page, QueryError> {
    if reach == Reach::Inline && listing.limit > INLINE_KEYS {
        return Err(QueryError::TooLong);
    }
    let mut statement = connection.prepare_cached(LISTING.as_str())?;
    let mut rows = statement.query((Text(&listing.start()), Text(&listing.end())))?;
    let (mut keys, mut passed) = (Vec::new(), 0);
    while keys.len() <= listing.limit {
        let Some(row) = rows.next()? else { break };
        passed += 1;
        if reach == Reach::Inline && passed > 4 * INLINE_KEYS {
            return Err(QueryError::TooLong);
        }
        let key = next_key(row, keys.last())?;
        if is_listed(row, &key, now)? {
            keys.push(key);
        }
    }
    Ok(Page::collect(keys, listing.limit))
}

fn next_key(row: &Row<'_>, last: Option<&Key>) -> Result<Key, QueryError> {
    let key = key_of(row, EXTRA)?;
    if last.is_some_and(|last| *last >= key) {
        return Err(QueryError::Key("the index of keys is out of order"));
    }
    Ok(key)
}

/// Not what has expired. What is damaged is there until it is dealt with, if only the key is right: it stands in the
/// index and in the row.
fn is_listed(row: &Row<'_>, key: &Key, now: Timestamp) -> Result<bool, QueryError> {
    match Head::read(row, key.as_bytes()) {
        Ok(head) => Ok(!head.metadata.is_expired(now)),
        Err(RowError::Damage(_)) if row.get_ref(EXTRA + 1)? == ValueRef::Text(key.as_bytes()) => Ok(true),
        Err(RowError::Damage(_)) => Err(QueryError::Key("the index of keys does not agree with the rows")),
        Err(error) => Err(error.into()),
    }
}

/// The key in a column.
pub(crate) fn key_of(row: &Row<'_>, column: usize) -> Result<Key, QueryError> {
    let ValueRef::Text(text) = row.get_ref(column)? else { return Err(QueryError::Key("a key is no text")) };
    let text = std::str::from_utf8(text).map_err(|_| QueryError::Key("a key is not UTF-8"))?;
    Key::new(text).map_err(|_| QueryError::Key("a key is empty, too long or holds a NUL"))
}
