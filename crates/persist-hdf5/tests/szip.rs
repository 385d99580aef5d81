//! szip, where the HDF5 library of the tests has it; where it has not, it is refused by name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

mod h5py;

use persist_core::{Array, BaseStorage, ByteSize, DType, ErrorKind, Key, OpenContext, StoreOptions, Value};
use persist_hdf5::{Codec, Filters, Hdf5Config, Hdf5Storage};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// An array of 301 rows of 97 numbers that differ little from each other.
fn slow(dtype: DType) -> Array {
    let size = dtype.size();
    let element = |at: usize| {
        let mut bytes = ((at / 50) as u128).to_le_bytes()[..size].to_vec();
        if dtype == DType::Bool {
            bytes = vec![u8::from((at / 50).is_multiple_of(2))];
        }
        bytes
    };
    let bytes: Vec<u8> = (0..301 * 97).flat_map(element).collect();
    Array::new(dtype, vec![301, 97], bytes.into()).unwrap()
}

#[tokio::test]
async fn szip_is_written_read_appended_and_cut() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.h5");
    let mut config = Hdf5Config::new(&path);
    // Several chunks an array, the last one not full, and several pieces.
    config.filters = Filters {
        codec: Codec::Szip,
        fletcher32: true,
        chunk: ByteSize(32 << 10),
        at_least: ByteSize(1),
        ..Filters::default()
    };
    config.piece = ByteSize(64 << 10);
    let storage = match Hdf5Storage::open("main", config.clone(), &OpenContext::default()).await {
        Ok(storage) => storage,
        Err(refused) => {
            assert_eq!(refused.kind(), ErrorKind::InvalidConfig, "{refused}");
            assert!(
                refused.to_string().contains("szip is not in the HDF5 library of this program"),
                "{refused}"
            );
            if cfg!(not(feature = "static")) {
                panic!("the library of Debian has szip: {refused}");
            }
            return;
        }
    };
    let all = DType::ALL;
    for dtype in all {
        let name = key(&format!("{dtype}"));
        storage.store(&name, Value::Array(slow(dtype)), StoreOptions::new()).await.unwrap();
        storage.append(&name, &slow(dtype)).await.unwrap();
    }
    let noise: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    storage.store(&key("noise"), Value::bytes(noise.clone()), StoreOptions::new()).await.unwrap();
    storage.store(&key("one"), Value::bytes("x"), StoreOptions::new()).await.unwrap();
    storage.close().await.unwrap();
    let storage = Hdf5Storage::open("main", config, &OpenContext::default()).await.unwrap();
    for dtype in all {
        let found = storage.retrieve(&key(&format!("{dtype}"))).await.unwrap().unwrap();
        let Value::Array(found) = found.value else { panic!("{dtype} is no array") };
        let expected = [&slow(dtype).data()[..], &slow(dtype).data()[..]].concat();
        assert_eq!(found.shape(), [602, 97], "{dtype}");
        assert!(found.data() == &expected[..], "{dtype}");
        let part =
            storage.retrieve_slice(&key(&format!("{dtype}")), &[299..303, 5..7]).await.unwrap().unwrap();
        assert_eq!(part.shape(), [4, 2]);
        assert_eq!(
            part.data()[..2 * dtype.size()],
            expected[(299 * 97 + 5) * dtype.size()..][..2 * dtype.size()]
        );
    }
    assert_eq!(storage.retrieve(&key("noise")).await.unwrap().unwrap().value, Value::bytes(noise));
    assert_eq!(storage.retrieve(&key("one")).await.unwrap().unwrap().value, Value::bytes("x"));
    assert!(storage.verify().await.unwrap().is_clean());
    storage.close().await.unwrap();

    if !h5py::is_there() {
        return persist_testkit::crash::skip("python3-h5py is not installed").unwrap();
    }
    let script = "
if h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
    with h5py.File(args[0], 'r') as f:
        d = f['float64']
        once = (np.arange(301 * 97, dtype='u8') // 50).reshape(301, 97)
        whole = np.concatenate([once, once])
        print(d.compression, d.compression_opts[1], d.id.get_storage_size() < 602 * 97 * 4, bool((d[()].view('u8') == whole).all()))
        print(f['uint8'].compression, bool((f['uint8'][()] == whole.astype('u1')).all()))
";
    match h5py::run(script, &[path.to_str().unwrap()]).unwrap().as_str() {
        "" => {}
        answer => assert_eq!(answer, "szip 8 True True\nszip True\n"),
    }
}
