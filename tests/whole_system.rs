//! YAML in, bytes on disk out: what persist writes is read by other tools, and the other way round.
#![cfg(all(feature = "file", feature = "cache"))]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use persist::ndarray::{Array2, arr0, arr1};
use persist::{Key, LoadOptions, Plan, Result, StorageExt, StorageManager, StoreOptions};

const CONFIG: &str = "
persistence:
  default_storage: docs
  storages:
    docs: { type: file, base_path: store }
    hot: { type: cache, ttl: 1h }
  routes:
    - { prefix: 'session/', storage: hot }
";

async fn open(place: &Path) -> Result<StorageManager> {
    let path = place.join("persist.yaml");
    std::fs::write(&path, CONFIG).unwrap();
    StorageManager::open(Plan::from_file(path, &LoadOptions::default())?).await
}

/// Runs another program and gives what it prints; a program that is missing fails the test, with the cure.
fn run(program: &str, args: &[&str], place: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(place).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `bash tests/run` installs it"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn jq_reads_documents() {
    let place = tempfile::tempdir().unwrap();
    let manager = open(place.path()).await.unwrap();
    let docs = manager.default_storage();
    docs.put("users/ada", &serde_json::json!({ "born": 1815, "name": "Ada" })).await.unwrap();
    assert_eq!(run("jq", &["-r", ".name", "store/users/ada.json"], place.path()), "Ada");
}

#[tokio::test]
async fn numpy_reads_arrays_and_persist_reads_numpys() {
    let place = tempfile::tempdir().unwrap();
    let manager = open(place.path()).await.unwrap();
    let docs = manager.default_storage();
    docs.put_array("w", Array2::from_shape_fn((3, 2), |(i, j)| (i * 2 + j) as f32)).await.unwrap();
    docs.put_array("scalar", arr0(2.5_f64)).await.unwrap();
    docs.put_array("flags", arr1(&[true, false])).await.unwrap();
    docs.put_array("empty", Array2::<i16>::zeros((0, 4))).await.unwrap();
    let script = "
import numpy
for name in ['w', 'scalar', 'flags', 'empty']:
    a = numpy.load(f'store/{name}.npy')
    print(a.dtype, a.shape, a.tolist())
numpy.save('store/theirs.npy', numpy.arange(6, dtype='<u8').reshape(2, 3))
numpy.save('store/fortran.npy', numpy.asfortranarray(numpy.ones((2, 3))))
";
    let expected = "float32 (3, 2) [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
float64 () 2.5
bool (2,) [True, False]
int16 (0, 4) []";
    assert_eq!(run("/usr/bin/python3", &["-c", script], place.path()), expected);
    let theirs = docs.get_array::<u64>("theirs").await.unwrap().unwrap();
    assert_eq!((theirs.shape(), theirs[[1, 2]]), (&[2, 3][..], 5));
    let error = docs.get_array::<f64>("fortran").await.unwrap_err();
    assert!(error.to_string().contains("Fortran order"), "{error}");
}

#[tokio::test]
async fn routes_expiry_and_reopening() {
    let place = tempfile::tempdir().unwrap();
    let manager = open(place.path()).await.unwrap();
    let all = manager.router();
    all.put("session/1", &"hot").await.unwrap();
    let brief = StoreOptions::new().ttl(Duration::from_millis(30)).tag("kind", "brief");
    all.put_with("brief", &1, brief).await.unwrap();
    all.put("kept", &serde_json::Value::Null).await.unwrap();
    manager.close().await.unwrap();

    let manager = open(place.path()).await.unwrap();
    let all = manager.router();
    assert_eq!(all.get::<String>("session/1").await.unwrap(), None, "a cache does not outlive its process");
    assert_eq!(all.get::<Option<u8>>("kept").await.unwrap(), Some(None), "null is a value");
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(all.metadata(&Key::new("brief").unwrap()).await.unwrap(), None);
    assert!(place.path().join("store/brief.json").exists());
    manager.storage("docs").unwrap().maintain().await.unwrap();
    assert!(!place.path().join("store/brief.json").exists(), "maintenance removes what has expired");
    manager.close().await.unwrap();
}
