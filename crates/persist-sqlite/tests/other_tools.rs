//! What the `sqlite3` shell shows, by the queries of `docs/formats/sqlite.md`.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::Path;
use std::process::Command;

use persist_core::{Array, BaseStorage, OpenContext, StorageExt, StoreOptions, Value};
use persist_sqlite::{SqliteConfig, SqliteStorage};
use persist_testkit::crash;
use serde_json::json;

const DOCUMENT: &str = include_str!("../../../docs/formats/sqlite.md");

/// The blocks of SQL in the document, each with what the shell answers on the database below.
const ANSWERS: [&str; 4] = [
    "users/ada|1815\nusers/grace|1906\n",
    "weights/first|float64|[2,3]|2|48\n",
    "users/ada|mathematics\n",
    "1885696627\n1\nwal\n",
];

/// The queries of the document, in its order.
fn queries() -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

fn shell(path: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg("-readonly").arg(path).arg(sql).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{sql}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_shell_answers_the_queries_of_the_document() {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        crash::skip("the sqlite3 shell is not installed").unwrap();
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("main.db");
    let storage =
        SqliteStorage::open("main", SqliteConfig::new(&path), &OpenContext::default()).await.unwrap();
    let tags = StoreOptions::new().tag("field", "mathematics");
    storage.put_with("users/ada", &json!({"name": "Ada", "born": 1815}), tags).await.unwrap();
    storage.put("users/grace", &json!({"name": "Grace", "born": 1906})).await.unwrap();
    let elements: Vec<f64> = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    let array = Array::from_vec(vec![2, 3], elements).unwrap();
    storage.store(&"weights/first".parse().unwrap(), Value::from(array), StoreOptions::new()).await.unwrap();
    // While the storage is open, and once it is closed.
    for _ in 0..2 {
        let answers: Vec<String> = queries().into_iter().map(|sql| shell(&path, sql)).collect();
        assert_eq!(answers, ANSWERS);
        // 1.0 is the second element: bytes 9 to 16, little-endian.
        let second = shell(&path, "select hex(substr(value, 9, 8)) from entries where key = 'weights/first'");
        assert_eq!(second, "000000000000F03F\n");
        storage.close().await.unwrap();
    }
}
