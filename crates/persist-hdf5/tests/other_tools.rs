//! What h5py reads of persist's files, and persist of h5py's: every dtype, strings, attributes, while a storage is open
//! and when it is closed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

mod h5py;

use std::path::Path;

use persist_core::{
    Array, BaseStorage, DType, DeleteOptions, ErrorKind, Expiry, Key, Kind, ListOptions, OpenContext,
    StorageExt, StoreOptions, Value,
};
use persist_hdf5::{Codec, FilterRule, Filters, Hdf5Config, Hdf5Storage, Shuffle};
use persist_testkit::crash;

async fn open(path: &Path) -> Hdf5Storage {
    Hdf5Storage::open("main", Hdf5Config::new(path), &OpenContext::default()).await.unwrap()
}

/// True if there is no h5py, which is said loudly and fails in CI.
fn without_h5py() -> bool {
    let missing = !h5py::is_there();
    if missing {
        crash::skip("python3-h5py is not installed").unwrap();
    }
    missing
}

/// Said loudly, and no failure in CI either: not every distribution has it.
#[allow(clippy::print_stderr, reason = "whoever runs the tests must see it")]
fn say_skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn keys(storage: &Hdf5Storage) -> Vec<String> {
    let page = storage.list_keys("", ListOptions::new()).await.unwrap();
    page.keys.iter().map(|key| key.to_string()).collect()
}

/// An array of two rows of three elements whose bytes are all different.
fn array(dtype: DType) -> Array {
    let count = u8::try_from(6 * dtype.size()).unwrap();
    let bytes: Vec<u8> = match dtype {
        DType::Bool => vec![1, 0, 1, 1, 0, 0],
        _ => (0..count).map(|byte| byte.wrapping_mul(37) & 0x7e).collect(),
    };
    Array::new(dtype, vec![2, 3], bytes.into()).unwrap()
}

#[tokio::test]
async fn h5py_reads_every_dtype_kind_and_tag() {
    if without_h5py() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let storage = open(&path).await;
    for dtype in DType::ALL {
        let value = Value::Array(array(dtype));
        storage.store(&key(&format!("all/{dtype}")), value, StoreOptions::new()).await.unwrap();
    }
    let tags = StoreOptions::new().tag("unit", "mV");
    storage.put_with("doc", &serde_json::json!({"ü": [1, null]}), tags).await.unwrap();
    storage.store(&key("raw"), Value::bytes(vec![0, 255, 10]), StoreOptions::new()).await.unwrap();
    storage.store(&key("empty"), Value::bytes(vec![]), StoreOptions::new()).await.unwrap();
    h5py::settle(&path);
    let script = "
with h5py.File(args[0], 'r') as f:
    for name in sorted(f['all']):
        d = f['all'][name]
        print(name, d.dtype.name, d.shape, d[()].tobytes().hex(), d[1:, 0].tobytes().hex())
    print(json.loads(f['doc'][()]), f['doc'].asstr()[()])
    print(json.loads(f['doc'].attrs['persist'])['metadata']['tags'])
    print(f['raw'].dtype, f['raw'][()].tolist(), f['empty'].shape)
";
    let mut expected = String::new();
    let mut dtypes = DType::ALL;
    dtypes.sort_by_key(|dtype| dtype.as_str());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for dtype in dtypes {
        let array = array(dtype);
        let fourth = &array.data()[3 * dtype.size()..4 * dtype.size()];
        expected += &format!("{dtype} {dtype} (2, 3) {} {}\n", hex(array.data()), hex(fourth));
    }
    expected += "{'ü': [1, None]} {\"ü\":[1,null]}\n{'unit': 'mV'}\nuint8 [0, 255, 10] (0,)\n";
    // While it is open, and once it is closed.
    for _ in 0..2 {
        assert_eq!(h5py::run(script, &[path.to_str().unwrap()]).unwrap(), expected);
        storage.close().await.unwrap();
    }
}

/// Makes a file with h5py that has what people have in files.
const FOREIGN: &str = "
with h5py.File(args[0], 'w', libver=args[1]) as f:
    g = f.create_group('exp/run 1')
    g['counts'] = np.arange(6, dtype='>i4').reshape(2, 3)
    g['mask'] = np.array([True, False])
    g['wave'] = np.array([1+2j, -0.5j], dtype='complex64')
    f.create_dataset('packed', data=np.arange(10000, dtype='f8').reshape(100, 100), chunks=(10, 100), compression='gzip', shuffle=True, fletcher32=True)
    f.create_dataset('lzf', data=np.arange(1000, dtype='u2'), compression='lzf')
    f['half'] = np.array([0.5, 2], dtype='f2')
    f['scalar'] = 42.5
    f['text'] = 'grüß'
    f['fixed'] = np.bytes_('abc')
    f['names'] = np.array(['a', 'bc', ''], dtype=h5py.string_dtype())
    f['table'] = np.array([(1, 2.5)], dtype=[('id', 'i4'), ('x', 'f8')])
    f['nothing'] = h5py.Empty('f4')
    f['50%'] = np.int8(1)
    f['%odd'] = np.int8(2)
    f['soft'] = h5py.SoftLink('/scalar')
    f['outside'] = h5py.ExternalLink('other.h5', '/x')
    f['loop/back'] = f['/']
    f['scalar'].attrs['unit'] = 'V'
";

#[tokio::test]
async fn a_file_of_h5py_is_read_and_changed() {
    if without_h5py() {
        return;
    }
    // What is newer than the library cannot be read by it.
    for libver in ["earliest", "v110"] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("foreign.h5");
        h5py::run(FOREIGN, &[path.to_str().unwrap(), libver]).unwrap();
        read_foreign(&open(&path).await).await;
        let storage = open(&path).await;
        change_foreign(&storage).await;
        storage.close().await.unwrap();
        let script = "
with h5py.File(args[0], 'r') as f:
    print(f['scalar'][()], f['scalar'].attrs['unit'], f['soft'][()], f['packed'][99, 99], json.loads(f['half'][()]), 'text' in f)
";
        let answer = h5py::run(script, &[path.to_str().unwrap()]).unwrap();
        assert_eq!(answer, "42.5 V 42.5 9999.0 {'x': 1} False\n");
    }
}

async fn read_foreign(storage: &Hdf5Storage) {
    let all = [
        "%odd",
        "50%",
        "exp/run 1/counts",
        "exp/run 1/mask",
        "exp/run 1/wave",
        "fixed",
        "half",
        "lzf",
        "names",
        "nothing",
        "packed",
        "scalar",
        "table",
        "text",
    ];
    assert_eq!(keys(storage).await, all);
    let values = async |name: &str| storage.retrieve(&key(name)).await.unwrap().unwrap().value;
    let counts = values("exp/run 1/counts").await;
    assert_eq!(counts, Value::Array(Array::from_vec(vec![2, 3], vec![0_i32, 1, 2, 3, 4, 5]).unwrap()));
    assert_eq!(
        values("exp/run 1/mask").await,
        Value::Array(Array::from_vec(vec![2], vec![true, false]).unwrap())
    );
    let Value::Array(wave) = values("exp/run 1/wave").await else { panic!("no array") };
    assert_eq!((wave.dtype(), wave.data()[4..8].to_vec()), (DType::Complex64, 2_f32.to_le_bytes().to_vec()));
    let packed = Array::from_vec(vec![100, 100], (0..10000).map(f64::from).collect()).unwrap();
    assert_eq!(values("packed").await, Value::Array(packed));
    assert_eq!(values("half").await, Value::Array(Array::from_vec(vec![2], vec![0.5_f32, 2.0]).unwrap()));
    assert_eq!(values("scalar").await, Value::Array(Array::from_vec(vec![], vec![42.5]).unwrap()));
    assert_eq!(values("%odd").await, Value::Array(Array::from_vec(vec![], vec![2_i8]).unwrap()));
    assert_eq!(values("text").await, Value::json_text("\"grüß\"").unwrap());
    assert_eq!(values("fixed").await, Value::json_text("\"abc\"").unwrap());
    assert_eq!(values("names").await, Value::json_text("[\"a\",\"bc\",\"\"]").unwrap());
    for (name, kind) in [("table", ErrorKind::Unsupported), ("nothing", ErrorKind::Unsupported)] {
        assert_eq!(storage.retrieve(&key(name)).await.unwrap_err().kind(), kind, "{name}");
    }
    let metadata = storage.metadata(&key("scalar")).await.unwrap().unwrap();
    assert_eq!((metadata.kind, metadata.size, metadata.expires_at), (Kind::Array, 8, None));
    assert_eq!(
        storage.retrieve_range(&key("packed"), 8..16).await.unwrap().unwrap()[..],
        1_f64.to_le_bytes()
    );
    assert_eq!(storage.retrieve_range(&key("absent"), 8..16).await.unwrap(), None);
    storage.close().await.unwrap();
}

async fn change_foreign(storage: &Hdf5Storage) {
    let before = storage.metadata(&key("half")).await.unwrap().unwrap();
    let stale = StoreOptions::new().if_absent();
    let refused = storage.put_with("half", &1, stale).await.unwrap_err();
    assert_eq!((refused.kind(), refused.found()), (ErrorKind::Conflict, Some(before.version)));
    let options = StoreOptions::new().if_version(before.version);
    let stored = storage.put_with("half", &serde_json::json!({"x": 1}), options).await.unwrap();
    assert!(stored.version > before.version);
    assert!(storage.delete(&key("text"), DeleteOptions::new()).await.unwrap());
    // What is not persist's to change stays, and the change says why.
    let forever = storage.touch(&key("scalar"), Expiry::Never).await.unwrap_err();
    assert_eq!(forever.kind(), ErrorKind::Unsupported, "{forever}");
    for taken in ["soft", "soft/below", "outside"] {
        let refused = storage.put(taken, &1).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    }
    assert_eq!(storage.retrieve(&key("text")).await.unwrap(), None);
}

/// Others read while a storage writes: each sees one moment, and keeps the file from being changed under its eyes.
#[tokio::test]
async fn h5py_reads_one_moment_while_others_write() {
    one_moment("False").await;
}

/// `swmr` makes no difference: such a reader holds the same lock.
#[tokio::test]
async fn h5py_reads_one_moment_with_swmr_too() {
    one_moment("True").await;
}

async fn one_moment(swmr: &str) {
    if without_h5py() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let storage = open(&path).await;
    for name in ["a", "b"] {
        storage.put(name, &0).await.unwrap();
    }
    h5py::settle(&path);
    let (go, done) = (place.path().join("go"), place.path().join("done"));
    let reader = {
        let (path, go, done, swmr) = (path.clone(), go.clone(), done.clone(), swmr.to_owned());
        let script = "
import time
with h5py.File(args[0], 'r', swmr=args[2] == 'True') as f:
    first = [bytes(f[name][()]) for name in ('a', 'b')]
    open(args[1], 'w').close()
    end = time.monotonic() + 60
    while not os.path.exists(args[3]) and time.monotonic() < end:
        time.sleep(0.01)
    print(first, [bytes(f[name][()]) for name in ('a', 'b')])
";
        std::thread::spawn(move || {
            let args = [&path, &go].map(|path| path.to_str().unwrap());
            h5py::run(script, &[args[0], args[1], &swmr, done.to_str().unwrap()])
        })
    };
    while !go.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for round in 1..=20 {
        for name in ["a", "b"] {
            storage.put(name, &round).await.unwrap();
        }
    }
    let delayed = || async { storage.stats().await.unwrap().counters["delayed_checkpoints"] };
    storage.maintain().await.unwrap();
    assert!(delayed().await > 0, "the file was changed while somebody read it");
    std::fs::write(&done, "").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), "[b'0', b'0'] [b'0', b'0']\n");
    h5py::settle(&path);
    let script = "
with h5py.File(args[0], 'r') as f:
    print(f['a'][()], f['b'][()])
try:
    h5py.File(args[0], 'r+')
except OSError as error:
    print('lock' in str(error))
";
    let answer = h5py::run(script, &[path.to_str().unwrap()]).unwrap();
    assert_eq!(answer, "b'20' b'20'\nTrue\n", "another writer was let in");
    storage.close().await.unwrap();
}

/// A reader of persist sees what was acknowledged when it was opened, although the file does not have it yet.
#[tokio::test]
async fn a_read_only_storage_beside_a_writer_sees_what_was_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let writer = open(&path).await;
    writer.put("k", &1).await.unwrap();
    let config = Hdf5Config::new(&path).read_only();
    let reader = Hdf5Storage::open("main", config.clone(), &OpenContext::default()).await.unwrap();
    assert_eq!(reader.get::<u8>("k").await.unwrap(), Some(1));
    writer.put("k", &2).await.unwrap();
    let later = Hdf5Storage::open("main", config, &OpenContext::default()).await.unwrap();
    assert_eq!(later.get::<u8>("k").await.unwrap(), Some(2), "the log was not read");
    assert_eq!(reader.get::<u8>("k").await.unwrap(), Some(1), "the moment changed");
    assert_eq!(reader.put("k", &3).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    reader.close().await.unwrap();
    later.close().await.unwrap();
    writer.close().await.unwrap();
    assert!(!place.path().join("main.h5-log").exists(), "the log was left");
}

/// Chunks that persist compressed are read by h5py, with every filter, and come back whole and in part.
#[tokio::test]
async fn h5py_reads_what_went_through_filters() {
    if without_h5py() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let filters = |codec, shuffle, fletcher32| Filters { codec, shuffle, fletcher32, ..Filters::default() };
    let rule = |prefix: &str, filters| FilterRule { prefix: prefix.to_owned(), filters };
    let mut config = Hdf5Config::new(&path);
    config.filters = filters(Codec::Gzip, Shuffle::On, true);
    config.filter_rules = vec![
        rule("lzf/", filters(Codec::Lzf, Shuffle::Auto, false)),
        rule("sum/", filters(Codec::None, Shuffle::Off, true)),
        rule("zstd/", filters(Codec::Zstd, Shuffle::On, false)),
        rule("cut/", Filters { chunk_shape: Some(vec![30, 7]), ..filters(Codec::Gzip, Shuffle::Off, false) }),
    ];
    let array =
        Array::from_vec(vec![401, 97], (0..401 * 97).map(|at| f64::from(at) * 0.25).collect()).unwrap();
    let noise: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let names = ["gzip/a", "lzf/a", "sum/a", "cut/a", "zstd/a"];
    let storage = Hdf5Storage::open("main", config.clone(), &OpenContext::default()).await.unwrap();
    for name in names {
        storage.store(&key(name), Value::Array(array.clone()), StoreOptions::new()).await.unwrap();
    }
    storage.store(&key("gzip/noise"), Value::bytes(noise.clone()), StoreOptions::new()).await.unwrap();
    storage.store(&key("gzip/small"), Value::bytes(vec![1; 100]), StoreOptions::new()).await.unwrap();
    for reopened in [false, true] {
        let storage = if reopened {
            storage.close().await.unwrap();
            Hdf5Storage::open("main", config.clone(), &OpenContext::default()).await.unwrap()
        } else {
            storage.clone()
        };
        for name in names {
            let found = storage.retrieve(&key(name)).await.unwrap().unwrap();
            assert_eq!(found.value, Value::Array(array.clone()), "{name}");
        }
        let found = storage.retrieve(&key("gzip/noise")).await.unwrap().unwrap();
        assert_eq!(found.value, Value::bytes(noise.clone()));
        assert!(storage.verify().await.unwrap().is_clean());
        storage.close().await.unwrap();
    }
    let script = "
with h5py.File(args[0], 'r') as f:
    expected = np.arange(401 * 97).reshape(401, 97) * 0.25
    for name in ('gzip', 'lzf', 'sum', 'cut'):
        d = f[name]['a']
        print(name, d.compression, d.shuffle, d.fletcher32, d.chunks, bool((d[()] == expected).all()), d.maxshape)
    print(len(f['gzip/noise']), f['gzip/small'].chunks)
";
    let answer = h5py::run(script, &[path.to_str().unwrap()]).unwrap();
    let expected = "gzip gzip True True (401, 97) True (None, 97)
lzf lzf True False (401, 97) True (None, 97)
sum None False True (401, 97) True (None, 97)
cut gzip False False (30, 7) True (None, 97)
100000 None
";
    assert_eq!(answer, expected);
    // zstd needs a plugin, which is there where it was installed from PyPI.
    let script = "
import importlib.util
if importlib.util.find_spec('hdf5plugin'):
    import hdf5plugin
    with h5py.File(args[0], 'r') as f:
        print(f['zstd/a'].shuffle, bool((f['zstd/a'][()] == np.arange(401 * 97).reshape(401, 97) * 0.25).all()))
";
    match h5py::run(script, &[path.to_str().unwrap()]).unwrap().as_str() {
        "" => say_skipped("hdf5plugin is not installed, so zstd is not read with h5py"),
        answer => assert_eq!(answer, "True True\n"),
    }
}

/// Chunks that h5py compressed with zstd are read; a filter that is not built in is named.
#[tokio::test]
async fn filters_of_plugins_are_read_or_named() {
    if without_h5py() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let script = "
import importlib.util
if importlib.util.find_spec('hdf5plugin'):
    import hdf5plugin
    with h5py.File(args[0], 'w') as f:
        data = np.arange(10000, dtype='f8')
        f.create_dataset('zstd', data=data, chunks=(1000,), **hdf5plugin.Zstd(clevel=5))
        f.create_dataset('blosc', data=data, chunks=(1000,), **hdf5plugin.Blosc())
    print('made')
";
    if h5py::run(script, &[path.to_str().unwrap()]).unwrap().is_empty() {
        return say_skipped("hdf5plugin is not installed, so nothing that it wrote is read");
    }
    let storage = open(&path).await;
    let expected = Value::Array(Array::from_vec(vec![10_000], (0..10_000).map(f64::from).collect()).unwrap());
    assert_eq!(storage.retrieve(&key("zstd")).await.unwrap().unwrap().value, expected);
    let refused = storage.retrieve(&key("blosc")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("blosc (32001)"), "{refused}");
    storage.close().await.unwrap();
}
