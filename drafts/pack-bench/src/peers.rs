//! Libraries that keep many records in few files.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;

use redb::ReadableTable as _;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::{Figures, Outcome, Records, time};

const TABLE: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("records");

pub(crate) fn redb(records: Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("records.redb");
    let (ingest, ()) = time(|| {
        let database = redb::Database::create(&path)?;
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for at in 0..records.count {
                table.insert(records.key(at).as_str(), records.value(at).as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    })?;
    let (open, database) = time(|| {
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
    let (list, seen) = time(|| {
        let mut seen = 0;
        for entry in table.iter()? {
            seen += u64::from(!entry?.0.value().to_owned().is_empty());
        }
        Ok(seen)
    })?;
    assert_eq!(seen, records.count);
    drop(table);
    let mut database = database;
    let (verify, _) = time(|| Ok(database.check_integrity()?))?;
    let lookup = Some((records.lookups, lookup));
    Ok(Figures { ingest: Some(ingest), open: Some(open), lookup, list: Some(list), verify: Some(verify) })
}

pub(crate) fn fjall(records: Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("fjall");
    let open = || -> Outcome<_> {
        let keyspace = fjall::Config::new(&path).open()?;
        let partition = keyspace.open_partition("records", fjall::PartitionCreateOptions::default())?;
        Ok((keyspace, partition))
    };
    let (ingest, ()) = time(|| {
        let (keyspace, partition) = open()?;
        for at in 0..records.count {
            partition.insert(records.key(at), records.value(at))?;
        }
        keyspace.persist(fjall::PersistMode::SyncAll)?;
        Ok(())
    })?;
    let (opening, (_keyspace, partition)) = time(|| {
        let opened = open()?;
        assert!(opened.1.get(records.key(records.count / 2))?.is_some());
        Ok(opened)
    })?;
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            let found = partition.get(records.key(at))?.map(|value| value.len());
            assert_eq!(found, Some(records.size));
        }
        Ok(())
    })?;
    let (list, seen) = time(|| {
        let mut seen = 0;
        for key in partition.keys() {
            seen += u64::from(!key?.is_empty());
        }
        Ok(seen)
    })?;
    assert_eq!(seen, records.count);
    let lookup = Some((records.lookups, lookup));
    Ok(Figures { ingest: Some(ingest), open: Some(opening), lookup, list: Some(list), verify: None })
}

pub(crate) fn zip(records: Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("records.zip");
    let (ingest, ()) = time(|| {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut writer = ZipWriter::new(BufWriter::with_capacity(1 << 20, file));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for at in 0..records.count {
            writer.start_file(records.key(at), options)?;
            writer.write_all(&records.value(at))?;
        }
        writer.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(())
    })?;
    let (open, mut archive) = time(|| Ok(ZipArchive::new(File::open(&path)?)?))?;
    let mut value = Vec::with_capacity(records.size);
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            value.clear();
            archive.by_name(&records.key(at))?.read_to_end(&mut value)?;
            assert_eq!(value.len(), records.size);
        }
        Ok(())
    })?;
    let (list, seen) = time(|| {
        let mut names: Vec<&str> = archive.file_names().collect();
        names.sort_unstable();
        Ok(names.len() as u64)
    })?;
    assert_eq!(seen, records.count);
    let (verify, ()) = time(|| {
        for at in 0..archive.len() {
            value.clear();
            archive.by_index(at)?.read_to_end(&mut value)?;
        }
        Ok(())
    })?;
    let lookup = Some((records.lookups, lookup));
    Ok(Figures { ingest: Some(ingest), open: Some(open), lookup, list: Some(list), verify: Some(verify) })
}
