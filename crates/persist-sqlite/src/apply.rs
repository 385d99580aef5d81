//! Applying changes within a transaction: conditions, versions, rows.

use persist_core::writing::{Answer, Done, Step as _};
use persist_core::{Descriptor, Expiry, Key, Metadata, Result, StorageError, Timestamp, Value, Version};
use rusqlite::{Connection, params};

use crate::change::{Change, Draft, Step};
use crate::error::damage;
use crate::query::{self, Text};
use crate::row::{Head, Notes, RowError, seal_of};

/// An open transaction and what it needs to know.
pub(crate) struct Transaction<'t> {
    connection: &'t Connection,
    descriptor: &'t Descriptor,
    /// No version up to this one may be given to a key that is absent: a deleted key may have had it.
    floor: u64,
    /// What the database says of the floor.
    stored_floor: u64,
}

/// What is stored under a key.
enum Found {
    Nothing,
    Row(Head),
    /// A row that cannot be read; it may be replaced and deleted.
    Damaged(&'static str),
}

impl Found {
    fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Row(head) => Some(&head.metadata),
            Self::Nothing | Self::Damaged(_) => None,
        }
    }
}

impl<'t> Transaction<'t> {
    /// Reads what the database says of versions. The transaction has begun, for writing.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn new(connection: &'t Connection, descriptor: &'t Descriptor) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT floor FROM state WHERE id = 1")?;
        let floor = statement.query_row((), |row| row.get::<_, i64>(0))?.cast_unsigned();
        Ok(Self { connection, descriptor, floor, stored_floor: floor })
    }

    /// Applies a change. An answer that is an error changed nothing of its step, or of its change if that is all or
    /// nothing.
    ///
    /// # Errors
    /// What SQLite says; the transaction must be rolled back then.
    pub(crate) fn apply(&mut self, change: &Change) -> rusqlite::Result<Result<Answer>> {
        let mut answer = Vec::with_capacity(change.steps.len());
        if !change.together {
            for at in 0..change.steps.len() {
                answer.push(self.apply_step(change, at)?);
            }
            return Ok(Ok(answer));
        }
        let mut admitted = Vec::with_capacity(change.steps.len());
        for step in &change.steps {
            match self.admit(change.operation, step)? {
                Ok(found) => admitted.push(found),
                Err(error) => return Ok(Err(error)),
            }
        }
        for (step, found) in change.steps.iter().zip(admitted) {
            answer.push(Ok(self.step(step, found)?));
        }
        Ok(Ok(answer))
    }

    /// Applies one step of a change as if it stood alone.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub(crate) fn apply_step(&mut self, change: &Change, at: usize) -> rusqlite::Result<Result<Done>> {
        let step = &change.steps[at];
        Ok(match self.admit(change.operation, step)? {
            Ok(found) => Ok(self.step(step, found)?),
            Err(error) => Err(error),
        })
    }

    /// Keeps what was learned of versions, before the commit.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn finish(self) -> rusqlite::Result<()> {
        if self.floor > self.stored_floor {
            let mut statement = self.connection.prepare_cached("UPDATE state SET floor = ?1 WHERE id = 1")?;
            statement.execute([self.floor.cast_signed()])?;
        }
        Ok(())
    }

    /// Removes up to `limit` entries that expired before `now`; how many, and how many bytes of values.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn sweep(&mut self, now: Timestamp, limit: usize) -> rusqlite::Result<(u64, u64)> {
        let sql = "SELECT id, version, size FROM entries WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map((now.as_millis(), limit), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })?;
        let expired = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let (mut removed, mut bytes) = (0, 0);
        for (id, version, size) in expired {
            self.raise_floor(version.cast_unsigned());
            removed += 1;
            bytes += u64::try_from(size).unwrap_or(0);
            self.connection.prepare_cached("DELETE FROM entries WHERE id = ?1")?.execute([id])?;
        }
        Ok((removed, bytes))
    }

    /// What is stored under the key of a step, if the step may take place.
    fn admit(&self, operation: &'static str, step: &Step) -> rusqlite::Result<Result<Found>> {
        let found = match query::head(self.connection, step.key()) {
            Ok(Some(head)) => Found::Row(head),
            Ok(None) => Found::Nothing,
            Err(RowError::Damage(what)) => Found::Damaged(what),
            Err(RowError::Sqlite(error)) => return Err(error),
        };
        Ok(self.may(operation, step, &found).map(|()| found))
    }

    fn may(&self, operation: &'static str, step: &Step, found: &Found) -> Result<(), StorageError> {
        let needs_metadata = step.condition() != Default::default() || matches!(step, Step::Touch { .. });
        if let (Found::Damaged(what), true) = (found, needs_metadata) {
            return Err(damage(self.descriptor, operation, Some(step.key()), what));
        }
        self.descriptor.check_condition(operation, step.condition(), step.key(), found.metadata())
    }

    fn step(&mut self, step: &Step, found: Found) -> rusqlite::Result<Done> {
        match step {
            Step::Put(draft) => self.put(draft, &found).map(Done::Stored),
            Step::Delete { key, .. } => self.delete(key, &found).map(Done::Deleted),
            Step::Touch { key, expiry } => self.touch(key, *expiry, found).map(Done::Touched),
            Step::Check { .. } => Ok(Done::Checked),
        }
    }

    fn put(&mut self, draft: &Draft, found: &Found) -> rusqlite::Result<Metadata> {
        let mut metadata = draft.metadata.clone();
        self.descriptor.settle_metadata(&mut metadata, found.metadata());
        if found.metadata().is_none() && metadata.version.as_u64() <= self.floor {
            metadata.version = self.descriptor.next_version(Some(Version::from_u64(self.floor)));
        }
        match found {
            Found::Row(head) => self.update(head.id, draft, &metadata)?,
            Found::Nothing => self.insert(draft, &metadata)?,
            Found::Damaged(_) => {
                self.remove(&draft.key)?;
                self.insert(draft, &metadata)?;
            }
        }
        Ok(metadata)
    }

    fn insert(&self, draft: &Draft, metadata: &Metadata) -> rusqlite::Result<()> {
        let sql = "INSERT INTO entries (kind, size, version, created_at, modified_at, expires_at, checksum, dtype, \
                   shape, tags, encodings, seal, value, key) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
        self.write(sql, draft, metadata, &Text(draft.key.as_bytes()))
    }

    fn update(&self, id: i64, draft: &Draft, metadata: &Metadata) -> rusqlite::Result<()> {
        let sql = "UPDATE entries SET kind = ?1, size = ?2, version = ?3, created_at = ?4, modified_at = ?5, \
                   expires_at = ?6, checksum = ?7, dtype = ?8, shape = ?9, tags = ?10, encodings = ?11, seal = ?12, \
                   value = ?13 WHERE id = ?14";
        self.write(sql, draft, metadata, &id)
    }

    fn write(
        &self,
        sql: &str,
        draft: &Draft,
        metadata: &Metadata,
        place: &dyn rusqlite::ToSql,
    ) -> rusqlite::Result<()> {
        let Notes { dtype, shape, tags, encodings } = &draft.notes;
        let text;
        let value: &dyn rusqlite::ToSql = match &draft.value {
            Value::Json(json) => {
                text = Text(json.as_bytes());
                &text
            }
            other => &&other.buffer()[..],
        };
        self.connection.prepare_cached(sql)?.execute(params![
            metadata.kind.as_str(),
            metadata.size.cast_signed(),
            metadata.version.as_u64().cast_signed(),
            metadata.created_at.as_millis(),
            metadata.modified_at.as_millis(),
            metadata.expires_at.map(Timestamp::as_millis),
            &metadata.checksum.as_bytes()[..],
            dtype,
            shape,
            tags,
            encodings,
            seal_of(draft.key.as_bytes(), metadata, &draft.notes),
            value,
            place,
        ])?;
        Ok(())
    }

    fn touch(&mut self, key: &Key, expiry: Expiry, found: Found) -> rusqlite::Result<Option<Metadata>> {
        let Found::Row(head) = found else { return Ok(None) };
        if self.descriptor.live(Some(&head.metadata)).is_none() {
            return Ok(None);
        }
        let metadata = self.descriptor.touched_metadata(&head.metadata, expiry);
        let seal = seal_of(key.as_bytes(), &metadata, &head.notes());
        let sql =
            "UPDATE entries SET version = ?1, modified_at = ?2, expires_at = ?3, seal = ?4 WHERE id = ?5";
        self.connection.prepare_cached(sql)?.execute((
            metadata.version.as_u64().cast_signed(),
            metadata.modified_at.as_millis(),
            metadata.expires_at.map(Timestamp::as_millis),
            seal,
            head.id,
        ))?;
        Ok(Some(metadata))
    }

    /// What has expired is removed too, and was not there.
    fn delete(&mut self, key: &Key, found: &Found) -> rusqlite::Result<bool> {
        let live = match found {
            Found::Nothing => return Ok(false),
            Found::Damaged(_) => true,
            Found::Row(head) => self.descriptor.live(Some(&head.metadata)).is_some(),
        };
        match found.metadata() {
            Some(metadata) => self.raise_floor(metadata.version.as_u64()),
            // It cannot be read which version it had; a new one is greater by the clock.
            None => self.raise_floor(self.descriptor.next_version(None).as_u64()),
        }
        self.remove(key)?;
        Ok(live)
    }

    fn remove(&self, key: &Key) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM entries WHERE key = ?1")?
            .execute([Text(key.as_bytes())])?;
        Ok(())
    }

    fn raise_floor(&mut self, version: u64) {
        self.floor = self.floor.max(version);
    }
}
