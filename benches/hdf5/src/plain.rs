//! A plain file: what the disk and the operating system alone take.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::work::{
    APPENDED_TO, APPENDS, Contender, LARGE, Outcome, ROW, SLICE_ROWS, SLICES, Times, Work, doubles,
    slice_start, timed,
};

/// One file, `write` and `fsync`; no metadata, no checksum, no names.
pub struct Plain;

impl Contender for Plain {
    fn name(&self) -> &'static str {
        "plain file"
    }

    fn run(&self, work: Work, folder: &Path) -> Outcome<Option<Times>> {
        let (mut times, path) = (Times::new(), folder.join("plain"));
        match work {
            Work::Plain => {
                let data = bytes(&doubles(LARGE));
                timed(&mut times, "write", || write(&path, &data))?;
                let read = timed(&mut times, "read", || {
                    let mut read = Vec::with_capacity(data.len());
                    File::open(&path)?.read_to_end(&mut read)?;
                    Ok(read)
                })?;
                assert!(read == data);
            }
            Work::Slices => {
                write(&path, &bytes(&doubles(LARGE)))?;
                let file = File::open(&path)?;
                timed(&mut times, "read", || {
                    for number in 0..SLICES {
                        let mut part = vec![0; SLICE_ROWS * ROW * 8];
                        file.read_exact_at(&mut part, (slice_start(number) * ROW * 8) as u64)?;
                    }
                    Ok(())
                })?;
            }
            Work::Appends => {
                write(&path, &bytes(&doubles(APPENDED_TO * ROW)))?;
                let (mut file, row) = (File::options().append(true).open(&path)?, bytes(&doubles(ROW)));
                timed(&mut times, "write", || {
                    for _ in 0..APPENDS {
                        file.write_all(&row)?;
                        file.sync_data()?;
                    }
                    Ok(())
                })?;
            }
            Work::Gzip | Work::Lzf | Work::Zstd | Work::Small => return Ok(None),
        }
        Ok(Some(times))
    }
}

fn bytes(doubles: &[f64]) -> Vec<u8> {
    doubles.iter().flat_map(|double| double.to_le_bytes()).collect()
}

fn write(path: &Path, data: &[u8]) -> Outcome<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    Ok(file.sync_all()?)
}
