//! The same work with persist and with h5py, interleaved, medians: `cargo bench -p persist-hdf5`. A name among the arguments
//! (`large`, `gzip`, `lzf`, `small`, `slices`, `appends`) picks one piece of work, `--rounds N` says how often.
//!
//! Both start from an empty file, and both end with everything on the disk (`os.fsync` for h5py, strict durability here).
//! The time of h5py is its own, without the start of Python.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and a panic is its report")]

#[path = "../tests/h5py/mod.rs"]
mod h5py;

use std::path::Path;
use std::time::{Duration, Instant};

use persist_core::{Array, BaseStorage, Key, OpenContext, StoreItem, StoreOptions, Value};
use persist_hdf5::{Codec, Filters, Hdf5Config, Hdf5Storage};

/// One array of doubles: 256 MiB.
const LARGE: usize = 32 << 20;

/// How many small arrays of 128 doubles.
const SMALL: usize = 10_000;

/// How many slices of 16 rows, and how many rows are appended one by one.
const SLICES: usize = 500;
const APPENDS: usize = 200;

/// Elements of a row, where there are rows.
const ROW: usize = 1024;

/// What h5py does for each piece of work; it prints seconds, each with the name of what took them.
const SCRIPTS: &str = "
import time
def noted(name, since): print(name, time.perf_counter() - since)
def synced(f):
    f.flush(); fd = os.open(path, os.O_RDWR); os.fsync(fd); os.close(fd)
path, what, large, small, slices, appends, row = args[0], args[1], *map(int, args[2:])
data = (np.arange(large) % 100003) * 0.001
filters = {'gzip': dict(chunks=(1 << 17,), compression='gzip', shuffle=True), 'lzf': dict(chunks=(1 << 17,), compression='lzf', shuffle=True)}
if what in ('large', 'gzip', 'lzf'):
    with h5py.File(path, 'w') as f:
        t = time.perf_counter(); f.create_dataset('a', data=data, **filters.get(what, {})); synced(f); noted('write', t)
    with h5py.File(path, 'r') as f:
        t = time.perf_counter(); read = f['a'][()]; noted('read', t)
        assert read[77] == data[77]
if what == 'small':
    arrays = data[:small * 128].reshape(small, 128)
    with h5py.File(path, 'w', libver='latest') as f:
        t = time.perf_counter()
        for i in range(small): f.create_dataset(f'all/{i}', data=arrays[i])
        synced(f); noted('write', t)
    with h5py.File(path, 'r') as f:
        t = time.perf_counter()
        for i in range(small): f[f'all/{i}'][()]
        noted('read', t)
if what == 'slices':
    with h5py.File(path, 'w') as f: f.create_dataset('a', data=data.reshape(-1, row))
    with h5py.File(path, 'r') as f:
        d = f['a']; rows = d.shape[0]; t = time.perf_counter()
        for i in range(slices): d[(i * 7919) % (rows - 16):(i * 7919) % (rows - 16) + 16]
        noted('read', t)
if what == 'appends':
    with h5py.File(path, 'w') as f:
        d = f.create_dataset('a', shape=(0, row), maxshape=(None, row), chunks=(128, row), dtype='f8')
        t = time.perf_counter()
        for i in range(appends):
            d.resize(i + 1, axis=0); d[i] = data[:row]; synced(f)
        noted('write', t)
";

type Times = Vec<(String, Duration)>;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let rounds = args
        .iter()
        .position(|arg| arg == "--rounds")
        .and_then(|at| args.get(at + 1)?.parse().ok())
        .unwrap_or(3);
    let works = ["large", "gzip", "lzf", "small", "slices", "appends"];
    let picked: Vec<&str> = works.into_iter().filter(|work| args.iter().any(|arg| arg == work)).collect();
    println!("| work | persist | h5py | h5py / persist |\n|---|---|---|---|");
    for work in if picked.is_empty() { works.to_vec() } else { picked } {
        let (mut ours, mut theirs): (Vec<Times>, Vec<Times>) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let place =
                tempfile::tempdir_in(std::env::var("PERSIST_BENCH_FOLDER").unwrap_or_else(|_| ".".into()))
                    .unwrap();
            ours.push(persist(work, &place.path().join("persist.h5")));
            theirs.push(by_h5py(work, &place.path().join("h5py.h5")));
        }
        for (at, (name, _)) in ours[0].iter().enumerate() {
            let (one, other) = (median(&ours, at), median(&theirs, at));
            let ratio = other.as_secs_f64() / one.as_secs_f64();
            println!("| {work}, {name} | {one:.3?} | {other:.3?} | {ratio:.2} |");
        }
    }
}

fn median(times: &[Times], at: usize) -> Duration {
    let mut all: Vec<Duration> = times.iter().map(|round| round[at].1).collect();
    all.sort();
    all[all.len() / 2]
}

fn by_h5py(work: &str, path: &Path) -> Times {
    let numbers = [LARGE, SMALL, SLICES, APPENDS, ROW].map(|number| number.to_string());
    let mut args = vec![path.to_str().unwrap(), work];
    args.extend(numbers.iter().map(String::as_str));
    let output = h5py::run(SCRIPTS, &args).unwrap();
    let line = |line: &str| {
        let (name, seconds) = line.split_once(' ').unwrap();
        (name.to_owned(), Duration::from_secs_f64(seconds.parse().unwrap()))
    };
    output.lines().map(line).collect()
}

fn persist(work: &str, path: &Path) -> Times {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let mut config = Hdf5Config::new(path);
        config.filters = match work {
            "gzip" => {
                Filters { codec: Codec::Gzip, shuffle: persist_hdf5::Shuffle::On, ..Filters::default() }
            }
            "lzf" => Filters { codec: Codec::Lzf, shuffle: persist_hdf5::Shuffle::On, ..Filters::default() },
            "appends" => Filters {
                chunk_shape: Some(vec![128, ROW]),
                at_least: persist_core::ByteSize(1),
                ..Filters::default()
            },
            _ => Filters::default(),
        };
        let storage = Hdf5Storage::open("bench", config, &OpenContext::default()).await.unwrap();
        let times = match work {
            "small" => small(&storage).await,
            "slices" => slices(&storage).await,
            "appends" => appends(&storage).await,
            _ => large(&storage).await,
        };
        storage.close().await.unwrap();
        times
    })
}

fn doubles(count: usize) -> Vec<f64> {
    (0..count).map(|at| (at % 100_003) as f64 * 0.001).collect()
}

fn array(shape: Vec<usize>, elements: Vec<f64>) -> Value {
    Value::Array(Array::from_vec(shape, elements).unwrap())
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn large(storage: &Hdf5Storage) -> Times {
    let value = array(vec![LARGE], doubles(LARGE));
    let begun = Instant::now();
    storage.store(&key("a"), value.clone(), StoreOptions::new()).await.unwrap();
    let written = begun.elapsed();
    let begun = Instant::now();
    let read = storage.retrieve(&key("a")).await.unwrap().unwrap();
    let times = vec![("write".to_owned(), written), ("read".to_owned(), begun.elapsed())];
    assert!(read.value == value);
    times
}

async fn small(storage: &Hdf5Storage) -> Times {
    let all = doubles(SMALL * 128);
    let items: Vec<StoreItem> = all
        .chunks(128)
        .enumerate()
        .map(|(at, part)| StoreItem::new(key(&format!("all/{at}")), array(vec![128], part.to_vec())))
        .collect();
    let begun = Instant::now();
    assert!(storage.store_many(items).await.iter().all(Result::is_ok));
    let written = begun.elapsed();
    let begun = Instant::now();
    for at in 0..SMALL {
        storage.retrieve(&key(&format!("all/{at}"))).await.unwrap().unwrap();
    }
    vec![("write".to_owned(), written), ("read".to_owned(), begun.elapsed())]
}

async fn slices(storage: &Hdf5Storage) -> Times {
    let rows = LARGE / ROW;
    storage.store(&key("a"), array(vec![rows, ROW], doubles(LARGE)), StoreOptions::new()).await.unwrap();
    let begun = Instant::now();
    for at in 0..SLICES {
        let from = (at * 7919) % (rows - 16);
        storage.retrieve_slice(&key("a"), &[from..from + 16, 0..ROW]).await.unwrap().unwrap();
    }
    vec![("read".to_owned(), begun.elapsed())]
}

async fn appends(storage: &Hdf5Storage) -> Times {
    let row = Array::from_vec(vec![1, ROW], doubles(ROW)).unwrap();
    let begun = Instant::now();
    for _ in 0..APPENDS {
        storage.append(&key("a"), &row).await.unwrap();
    }
    vec![("write".to_owned(), begun.elapsed())]
}
