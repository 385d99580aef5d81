//! zarrs: Zarr in Rust, a file for each chunk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use zarrs::array::codec::{GzipCodec, ShuffleCodec, ZstdCodec};
use zarrs::array::{Array, ArrayBuilder, BytesToBytesCodecTraits, data_type};
use zarrs::filesystem::FilesystemStore;

use crate::work::{
    APPENDED_TO, APPENDS, CHUNK, Contender, LARGE, Outcome, ROW, SLICE_ROWS, SLICES, SMALL, SMALL_LEN, Times,
    Work, doubles, slice_start, timed,
};

/// The crate `zarrs`. It syncs nothing by itself, so all files are synced after each writing.
pub struct Zarrs;

type Store = Arc<FilesystemStore>;
type Codecs = Vec<Arc<dyn BytesToBytesCodecTraits>>;

impl Contender for Zarrs {
    fn name(&self) -> &'static str {
        "zarrs"
    }

    fn run(&self, work: Work, folder: &Path) -> Outcome<Option<Times>> {
        let store = Arc::new(FilesystemStore::new(folder.join("zarrs"))?);
        let mut times = Times::new();
        let shuffled =
            |codec: Arc<dyn BytesToBytesCodecTraits>| vec![Arc::new(ShuffleCodec::new(8)) as _, codec];
        match work {
            // Files of 16 MiB: one for each megabyte would only be slower.
            Work::Plain => large(&store, folder, 16 * CHUNK, Vec::new(), &mut times)?,
            Work::Gzip => large(&store, folder, CHUNK, shuffled(Arc::new(GzipCodec::new(4)?)), &mut times)?,
            Work::Zstd => {
                large(&store, folder, CHUNK, shuffled(Arc::new(ZstdCodec::new(3, false))), &mut times)?
            }
            Work::Small => small(&store, folder, &mut times)?,
            Work::Slices => slices(&store, &mut times)?,
            Work::Appends => appends(&store, folder, &mut times)?,
            Work::Lzf => return Ok(None),
        }
        Ok(Some(times))
    }
}

fn create(
    store: &Store,
    path: &str,
    shape: &[usize],
    chunk: &[usize],
    codecs: Codecs,
) -> Outcome<Array<FilesystemStore>> {
    let wide = |axes: &[usize]| axes.iter().map(|len| *len as u64).collect::<Vec<_>>();
    let array = ArrayBuilder::new(wide(shape), wide(chunk), data_type::float64(), 0.0_f64)
        .bytes_to_bytes_codecs(codecs)
        .build(Arc::clone(store), path)?;
    array.store_metadata()?;
    Ok(array)
}

fn large(store: &Store, folder: &Path, chunk: usize, codecs: Codecs, times: &mut Times) -> Outcome<()> {
    let data = doubles(LARGE);
    timed(times, "write", || {
        let array = create(store, "/a", &[LARGE], &[chunk], codecs)?;
        array.store_array_subset(&array.subset_all(), data.as_slice())?;
        force(folder)
    })?;
    let read = timed(times, "read", || {
        let array = Array::open(Arc::clone(store), "/a")?;
        Ok(array.retrieve_array_subset::<Vec<f64>>(&array.subset_all())?)
    })?;
    assert!(read == data);
    Ok(())
}

fn small(store: &Store, folder: &Path, times: &mut Times) -> Outcome<()> {
    let data = doubles(SMALL * SMALL_LEN);
    timed(times, "write", || {
        for (number, part) in data.chunks(SMALL_LEN).enumerate() {
            let array = create(store, &format!("/all/{number}"), &[SMALL_LEN], &[SMALL_LEN], Vec::new())?;
            array.store_array_subset(&array.subset_all(), part)?;
        }
        force(folder)
    })?;
    timed(times, "read", || {
        for number in 0..SMALL {
            let array = Array::open(Arc::clone(store), &format!("/all/{number}"))?;
            array.retrieve_array_subset::<Vec<f64>>(&array.subset_all())?;
        }
        Ok(())
    })
}

fn slices(store: &Store, times: &mut Times) -> Outcome<()> {
    let array = create(store, "/a", &[LARGE / ROW, ROW], &[CHUNK / ROW, ROW], Vec::new())?;
    array.store_array_subset(&array.subset_all(), doubles(LARGE).as_slice())?;
    timed(times, "read", || {
        for number in 0..SLICES {
            let start = slice_start(number) as u64;
            let part = [start..start + SLICE_ROWS as u64, 0..ROW as u64];
            array.retrieve_array_subset::<Vec<f64>>(&part)?;
        }
        Ok(())
    })
}

fn appends(store: &Store, folder: &Path, times: &mut Times) -> Outcome<()> {
    let mut array = create(store, "/a", &[APPENDED_TO, ROW], &[CHUNK / ROW, ROW], Vec::new())?;
    array.store_array_subset(&array.subset_all(), doubles(APPENDED_TO * ROW).as_slice())?;
    force(folder)?;
    let row = doubles(ROW);
    let place = folder.join("zarrs/a");
    timed(times, "write", || {
        for number in APPENDED_TO..APPENDED_TO + APPENDS {
            array.set_shape(vec![number as u64 + 1, ROW as u64])?;
            array.store_metadata()?;
            array.store_array_subset(&[number as u64..number as u64 + 1, 0..ROW as u64], row.as_slice())?;
            // The description of the array and the one chunk that changed.
            force(&place.join("zarr.json"))?;
            force(&place.join(format!("c/{}/0", number / (CHUNK / ROW))))?;
        }
        Ok(())
    })
}

/// Puts a file, or all files of a folder and their names, on the disk.
fn force(path: &Path) -> Outcome<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            force(&entry?.path())?;
        }
    }
    Ok(File::open(path)?.sync_all()?)
}
