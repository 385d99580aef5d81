//! persist-hdf5 itself, strict.

use std::path::Path;

use persist_core::{Array, BaseStorage, ByteSize, Key, OpenContext, StoreItem, StoreOptions, Value};
use persist_hdf5::{Codec, Filters, Hdf5Config, Hdf5Storage, Shuffle};

use crate::work::{
    APPENDED_TO, APPENDS, CHUNK, Contender, LARGE, Outcome, ROW, SLICE_ROWS, SLICES, SMALL_LEN, Times, Work,
    doubles, slice_start,
};

/// A storage with the defaults, and filters where the work has some.
pub struct Persist;

impl Contender for Persist {
    fn name(&self) -> &'static str {
        "persist"
    }

    fn run(&self, work: Work, folder: &Path) -> Outcome<Option<Times>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
        runtime.block_on(async {
            let mut config = Hdf5Config::new(folder.join("persist.h5"));
            config.filters = filters(work);
            let storage = Hdf5Storage::open("bench", config, &OpenContext::default()).await?;
            let times = match work {
                Work::Plain | Work::Gzip | Work::Lzf | Work::Zstd => large(&storage).await?,
                Work::Small => small(&storage).await?,
                Work::Slices => slices(&storage).await?,
                Work::Appends => appends(&storage).await?,
            };
            storage.close().await?;
            Ok(Some(times))
        })
    }
}

fn filters(work: Work) -> Filters {
    let (codec, level) = match work {
        Work::Gzip => (Codec::Gzip, 4),
        Work::Lzf => (Codec::Lzf, 4),
        Work::Zstd => (Codec::Zstd, 3),
        Work::Appends => {
            let chunk_shape = Some(vec![CHUNK / ROW, ROW]);
            return Filters { chunk_shape, at_least: ByteSize(1), ..Filters::default() };
        }
        Work::Plain | Work::Small | Work::Slices => return Filters::default(),
    };
    Filters { codec, level, shuffle: Shuffle::On, ..Filters::default() }
}

/// As [`timed`](crate::work::timed), for what is awaited.
async fn timed<T>(
    times: &mut Times,
    name: &str,
    work: impl Future<Output = persist_core::Result<T>>,
) -> Outcome<T> {
    let begun = std::time::Instant::now();
    let done = work.await?;
    times.push((name.to_owned(), begun.elapsed()));
    Ok(done)
}

fn array(shape: Vec<usize>, elements: Vec<f64>) -> Outcome<Value> {
    Ok(Value::Array(Array::from_vec(shape, elements)?))
}

async fn large(storage: &Hdf5Storage) -> Outcome<Times> {
    let (key, value, mut times) = (Key::new("a")?, array(vec![LARGE], doubles(LARGE))?, Times::new());
    timed(&mut times, "write", storage.store(&key, value.clone(), StoreOptions::new())).await?;
    let read = timed(&mut times, "read", storage.retrieve(&key)).await?;
    assert!(read.is_some_and(|entry| entry.value == value));
    Ok(times)
}

async fn small(storage: &Hdf5Storage) -> Outcome<Times> {
    let data = doubles(crate::work::SMALL * SMALL_LEN);
    let item = |(number, part): (usize, &[f64])| -> Outcome<StoreItem> {
        Ok(StoreItem::new(Key::new(format!("all/{number}"))?, array(vec![SMALL_LEN], part.to_vec())?))
    };
    let items = data.chunks(SMALL_LEN).enumerate().map(item).collect::<Outcome<Vec<_>>>()?;
    let keys: Vec<Key> = items.iter().map(|item| item.key.clone()).collect();
    let mut times = Times::new();
    timed(&mut times, "write", async {
        storage.store_many(items).await.into_iter().try_for_each(|stored| stored.map(drop))
    })
    .await?;
    timed(&mut times, "read", async {
        for key in &keys {
            storage.retrieve(key).await?;
        }
        Ok(())
    })
    .await?;
    Ok(times)
}

async fn slices(storage: &Hdf5Storage) -> Outcome<Times> {
    let (key, mut times) = (Key::new("a")?, Times::new());
    storage.store(&key, array(vec![LARGE / ROW, ROW], doubles(LARGE))?, StoreOptions::new()).await?;
    timed(&mut times, "read", async {
        for number in 0..SLICES {
            let start = slice_start(number);
            storage.retrieve_slice(&key, &[start..start + SLICE_ROWS, 0..ROW]).await?;
        }
        Ok(())
    })
    .await?;
    Ok(times)
}

async fn appends(storage: &Hdf5Storage) -> Outcome<Times> {
    let (key, mut times) = (Key::new("a")?, Times::new());
    let data = doubles(APPENDED_TO * ROW);
    storage.store(&key, array(vec![APPENDED_TO, ROW], data)?, StoreOptions::new()).await?;
    let row = Array::from_vec(vec![1, ROW], doubles(ROW))?;
    timed(&mut times, "write", async {
        for _ in 0..APPENDS {
            storage.append(&key, &row).await?;
        }
        Ok(())
    })
    .await?;
    Ok(times)
}
