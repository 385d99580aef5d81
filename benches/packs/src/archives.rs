//! Archives written by libraries.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::figures::{Figures, rate, seconds};
use crate::records::Records;
use crate::{Outcome, time};

/// How much is written at a time.
const BUFFER: usize = 1 << 20;

/// A plain ZIP file; its directory is read whole when it is opened.
pub(crate) fn zip(records: &Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("records.zip");
    let (ingest, ()) = time(|| {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut writer = ZipWriter::new(BufWriter::with_capacity(BUFFER, file));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for at in 0..records.count {
            writer.start_file(records.key(at), options)?;
            writer.write_all(&records.value(at))?;
        }
        let file = writer.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(file.sync_all()?)
    })?;
    let mut value = Vec::with_capacity(records.size);
    let (open, mut archive) = time(|| {
        // Not buffered: a buffer would be filled anew for each seek.
        let mut archive = ZipArchive::new(File::open(&path)?)?;
        archive.by_name(&records.key(records.count / 2))?.read_to_end(&mut value)?;
        Ok(archive)
    })?;
    let (lookup, ()) = time(|| {
        for at in records.wanted() {
            value.clear();
            archive.by_name(&records.key(at))?.read_to_end(&mut value)?;
            assert_eq!(value.len(), records.size);
        }
        Ok(())
    })?;
    let (list, seen) = time(|| {
        let mut names = archive.file_names().collect::<Result<Vec<_>, _>>()?;
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
    Ok(Figures {
        ingest: rate(records.count, ingest),
        open: seconds(open),
        lookup: rate(records.lookups, lookup),
        list: seconds(list),
        verify: seconds(verify),
        ..Figures::default()
    })
}

/// A tar file has no index and no checksum of its data: finding an entry means reading what is before it.
pub(crate) fn tar(records: &Records, place: &Path) -> Outcome<Figures> {
    let path = place.join("records.tar");
    let (ingest, ()) = time(|| {
        let mut writer = tar::Builder::new(BufWriter::with_capacity(BUFFER, File::create(&path)?));
        for at in 0..records.count {
            let mut header = tar::Header::new_ustar();
            header.set_size(records.size as u64);
            header.set_mode(0o644);
            writer.append_data(&mut header, records.key(at), &*records.value(at))?;
        }
        let file = writer.into_inner()?.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(file.sync_all()?)
    })?;
    let (list, seen) = time(|| {
        let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER, File::open(&path)?));
        let names = archive.entries()?.map(|entry| Ok(entry?.path()?.into_owned()));
        let mut names = names.collect::<Outcome<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names.len() as u64)
    })?;
    assert_eq!(seen, records.count);
    Ok(Figures { ingest: rate(records.count, ingest), list: seconds(list), ..Figures::default() })
}
