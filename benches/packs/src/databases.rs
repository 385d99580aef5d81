//! Databases in few files.

use std::path::Path;

use redb::{ReadableDatabase as _, ReadableTable as _};

use crate::figures::{Figures, PAGE, PAGES, rate, seconds};
use crate::records::Records;
use crate::{Outcome, time};

const TABLE: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("records");

/// Everything in one commit.
pub(crate) fn redb(records: &Records, place: &Path) -> Outcome<Figures> {
    redb_in(records, place, records.count)
}

/// As many in a commit as ours stores with one call.
pub(crate) fn redb_batches(records: &Records, place: &Path) -> Outcome<Figures> {
    redb_in(records, place, 4096)
}

fn redb_in(records: &Records, place: &Path, batch: u64) -> Outcome<Figures> {
    let path = place.join("records.redb");
    let (ingest, ()) = time(|| {
        let database = redb::Database::create(&path)?;
        let mut at = 0;
        while at < records.count {
            let transaction = database.begin_write()?;
            let mut table = transaction.open_table(TABLE)?;
            let end = (at + batch).min(records.count);
            for at in at..end {
                table.insert(records.key(at).as_str(), &*records.value(at))?;
            }
            drop(table);
            transaction.commit()?;
            at = end;
        }
        Ok(())
    })?;
    let (open, mut database) = time(|| {
        let database = redb::Database::open(&path)?;
        let table = database.begin_read()?.open_table(TABLE)?;
        assert!(table.get(records.key(records.count / 2).as_str())?.is_some());
        Ok(database)
    })?;
    let table = database.begin_read()?.open_table(TABLE)?;
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            let found = table.get(records.key(at).as_str())?.map(|value| value.value().to_vec());
            assert_eq!(found.map(|value| value.len()), Some(records.size));
        }
        Ok(())
    })?;
    let (paged, ()) = time(|| {
        for at in records.wanted().take(PAGES as usize) {
            for entry in table.range(records.key(at).as_str()..)?.take(PAGE) {
                assert!(!entry?.0.value().to_owned().is_empty());
            }
        }
        Ok(())
    })?;
    let (list, seen) = time(|| {
        table.iter()?.try_fold(0, |seen, entry| Ok(seen + u64::from(!entry?.0.value().to_owned().is_empty())))
    })?;
    assert_eq!(seen, records.count);
    drop(table);
    let (verify, _) = time(|| Ok(database.check_integrity()?))?;
    Ok(Figures {
        ingest: rate(records.count, ingest),
        open: seconds(open),
        lookup: rate(records.lookups, lookup),
        page: rate(PAGES.min(records.lookups), paged),
        list: seconds(list),
        verify: seconds(verify),
        ..Figures::default()
    })
}

/// An LSM tree; the journal is synced once, at the end.
pub(crate) fn fjall(records: &Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("fjall");
    let open = || -> Outcome<_> {
        let database = fjall::Database::builder(&path).open()?;
        let items = database.keyspace("records", fjall::KeyspaceCreateOptions::default)?;
        Ok((database, items))
    };
    let (ingest, ()) = time(|| {
        let (database, items) = open()?;
        for at in 0..records.count {
            items.insert(records.key(at), &*records.value(at))?;
        }
        Ok(database.persist(fjall::PersistMode::SyncAll)?)
    })?;
    let (opening, (_database, items)) = time(|| {
        let opened = open()?;
        assert!(opened.1.get(records.key(records.count / 2))?.is_some());
        Ok(opened)
    })?;
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            let found = items.get(records.key(at))?.map(|value| value.len());
            assert_eq!(found, Some(records.size));
        }
        Ok(())
    })?;
    let (paged, ()) = time(|| {
        for at in records.wanted().take(PAGES as usize) {
            for entry in items.range(records.key(at)..).take(PAGE) {
                assert!(!entry.key()?.is_empty());
            }
        }
        Ok(())
    })?;
    let (list, seen) = time(|| {
        items.iter().try_fold(0, |seen, entry| Ok(seen + u64::from(!entry.key()?.is_empty())))
    })?;
    assert_eq!(seen, records.count);
    Ok(Figures {
        ingest: rate(records.count, ingest),
        open: seconds(opening),
        lookup: rate(records.lookups, lookup),
        page: rate(PAGES.min(records.lookups), paged),
        list: seconds(list),
        ..Figures::default()
    })
}

/// The table of an SQLite archive (`sqlite3 -A`), filled in one transaction.
pub(crate) fn sqlite(records: &Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("records.sqlar");
    let (ingest, ()) = time(|| {
        let mut database = rusqlite::Connection::open(&path)?;
        let transaction = database.transaction()?;
        transaction.execute_batch(
            "CREATE TABLE sqlar(name TEXT PRIMARY KEY, mode INT, mtime INT, sz INT, data BLOB)",
        )?;
        let mut insert = transaction.prepare("INSERT INTO sqlar VALUES (?1, 33188, 0, ?2, ?3)")?;
        for at in 0..records.count {
            insert.execute((records.key(at), records.size as i64, &*records.value(at)))?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    })?;
    let (open, database) = time(|| {
        let database = rusqlite::Connection::open(&path)?;
        let key = records.key(records.count / 2);
        let found: Vec<u8> =
            database.query_row("SELECT data FROM sqlar WHERE name = ?1", [key], |row| row.get(0))?;
        assert_eq!(found.len(), records.size);
        Ok(database)
    })?;
    let mut get = database.prepare("SELECT data FROM sqlar WHERE name = ?1")?;
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            let found: Vec<u8> = get.query_row([records.key(at)], |row| row.get(0))?;
            assert_eq!(found.len(), records.size);
        }
        Ok(())
    })?;
    let mut page = database.prepare("SELECT name FROM sqlar WHERE name > ?1 ORDER BY name LIMIT ?2")?;
    let mut names = |after: String, limit: usize| -> Outcome<u64> {
        let mut rows = page.query((after, limit as i64))?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += u64::from(!row.get::<_, String>(0)?.is_empty());
        }
        Ok(seen)
    };
    let (paged, ()) = time(|| {
        for at in records.wanted().take(PAGES as usize) {
            names(records.key(at), PAGE)?;
        }
        Ok(())
    })?;
    let (list, seen) = time(|| names(String::new(), records.count as usize))?;
    assert_eq!(seen, records.count);
    let (verify, found) = time(|| {
        Ok(database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?)
    })?;
    assert_eq!(found, "ok");
    Ok(Figures {
        ingest: rate(records.count, ingest),
        open: seconds(open),
        lookup: rate(records.lookups, lookup),
        page: rate(PAGES.min(records.lookups), paged),
        list: seconds(list),
        verify: seconds(verify),
        ..Figures::default()
    })
}
