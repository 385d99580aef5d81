//! A server that answers nonsense: every call ends in time with an error that names the storage, none panics, and nothing is
//! taken for absent or for done.
#![allow(clippy::unwrap_used)] // A panic here is the report.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, Expiry, HealthStatus, HumanDuration, Key, ListOptions,
    OpenContext, Operation, Result, StorageError, StoreItem, StoreOptions, Value,
};
use persist_redis::{RedisConfig, RedisStorage};
use persist_testkit::redis::Impostor;

/// After this a call hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers that are no answer to anything that a storage asks.
const NONSENSE: &[&[u8]] = &[
    b"",
    b"-\r\n",
    b"-ERR\r\n",
    b"-ERR \x1b[31m forged\r\n",
    b"-MOVED\r\n",
    b"-MOVED 1 127.0.0.1:1\r\n",
    b"-MOVED 1 127.0.0.1:99999999\r\n",
    b"-ASK 1 127.0.0.1:1\r\n",
    b"-NOSCRIPT no\r\n",
    b"-FENCED no\r\n",
    b"-READONLY no\r\n",
    b"-LOADING no\r\n",
    b"-TRYAGAIN no\r\n",
    b"-CLUSTERDOWN no\r\n",
    b"-NOAUTH no\r\n",
    b"+OK\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",inf\r\n",
    b"$-1\r\n",
    b"$3\r\nabc\r\n",
    b"$9223372036854775807\r\nabc\r\n",
    b"$-9223372036854775808\r\n",
    b"*-1\r\n",
    b"*1\r\n$4\r\nlost\r\n",
    b"*2\r\n$4\r\ndone\r\n*1\r\n$1\r\n1\r\n",
    b"$4\r\ndone\r\n",
    b"$8\r\ndone\tx,y\r\n",
    b"$9\r\ndone\n\n\n\n\n\r\n",
    b"$12\r\nconflict\t1\t2\r\n",
    b"$11\r\nconflict\t9\t\r\n",
    b"$14\r\nerror\tWHAT \x1b[3\r\n",
    b"$6\r\nerror\t\r\n",
    b"*1000000000\r\n",
    b"*9223372036854775807\r\n:1\r\n",
    b"%9223372036854775807\r\n",
    b"%4611686018427387904\r\n:1\r\n",
    b"|1\r\n+a\r\n+b\r\n",
    b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
    b"=3\r\ntxt\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\xff\xfe\xfd\r\n",
];

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn value() -> Value {
    Value::bytes("x")
}

async fn open(impostor: &Impostor) -> Arc<RedisStorage> {
    let brief = Duration::from_secs(1);
    let config = RedisConfig::url(format!("redis://127.0.0.1:{}", impostor.port()));
    // The sweeper would spend connections of its own.
    let config = RedisConfig { sweep_interval: HumanDuration(100 * PATIENCE), ..config };
    let config = config.timeouts(2 * brief, brief, brief);
    Arc::new(RedisStorage::open("hot", config, &OpenContext::default()).await.unwrap())
}

/// The errors of all calls, made at once. A call that succeeds is a failure of the test.
async fn errors(storage: &RedisStorage) -> Vec<(&'static str, StorageError)> {
    fn error<T: std::fmt::Debug>(call: &'static str, answer: Result<T>) -> (&'static str, StorageError) {
        (call, answer.expect_err(call))
    }
    let name = key("k");
    let put = Operation::put(name.clone(), value(), StoreOptions::new());
    let item = StoreItem { key: name.clone(), value: value(), options: StoreOptions::new() };
    let named = [name.clone()];
    let reads = async {
        let (whole, metadata, part, page, contains, many, verify) = tokio::join!(
            storage.retrieve(&name),
            storage.metadata(&name),
            storage.retrieve_range(&name, 0..1),
            storage.list_keys("", ListOptions::new()),
            storage.contains(&name),
            storage.retrieve_many(&named),
            storage.verify(),
        );
        let many = many.into_iter().next().unwrap();
        vec![
            error("retrieve", whole),
            error("metadata", metadata),
            error("retrieve_range", part),
            error("list_keys", page),
            error("contains", contains),
            error("retrieve_many", many),
            error("verify", verify),
        ]
    };
    let changes = async {
        let (stored, deleted, touched, transacted, many) = tokio::join!(
            storage.store(&name, value(), StoreOptions::new()),
            storage.delete(&name, DeleteOptions::new()),
            storage.touch(&name, Expiry::After(PATIENCE)),
            storage.transact(vec![put]),
            storage.store_many(vec![item]),
        );
        let many = many.into_iter().next().unwrap();
        vec![
            error("store", stored),
            error("delete", deleted),
            error("touch", touched),
            error("transact", transacted),
            error("store_many", many),
        ]
    };
    let (reads, changes) = tokio::join!(reads, changes);
    reads.into_iter().chain(changes).collect()
}

/// Holds every call against one answer.
async fn meet(answer: &[u8]) {
    let shown = answer.escape_ascii();
    let impostor = Impostor::start().await.unwrap();
    let storage = open(&impostor).await;
    impostor.answer(answer);
    let errors = tokio::time::timeout(PATIENCE, errors(&storage)).await;
    for (call, error) in errors.unwrap_or_else(|_| panic!("a call hangs on {shown}")) {
        let told = error.to_string();
        assert!(told.contains("hot") && !told.contains('\x1b'), "{call} on {shown}: {told}");
        let kinds = [ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::InvalidValue];
        assert!(!kinds.contains(&error.kind()), "{call} on {shown}: {error:?}");
    }
    let health = tokio::time::timeout(PATIENCE, storage.health()).await.unwrap();
    assert_eq!(health.status, HealthStatus::Unhealthy, "{shown}: {health:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_an_error_in_time_and_never_an_answer() {
    join_all(NONSENSE.iter().map(|answer| meet(answer))).await;
}

/// An answer that cannot be read does not tell whether the change was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_cannot_be_read_has_an_unknown_outcome() {
    let impostor = Impostor::start().await.unwrap();
    let storage = open(&impostor).await;
    for answer in [&b"+OK\r\n"[..], b":1\r\n", b"$4\r\ndone\r\n", b"\xff\r\n", b""] {
        impostor.answer(answer);
        let error = storage.store(&key("k"), value(), StoreOptions::new()).await.unwrap_err();
        assert!(error.outcome_unknown(), "{}: {error:?}", answer.escape_ascii());
    }
    // A refusal does tell.
    for answer in [&b"-OOM command not allowed\r\n"[..], b"$29\r\nerror\tOOM command not allowed\r\n"] {
        impostor.answer(answer);
        let error = storage.store(&key("k"), value(), StoreOptions::new()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Capacity, false), "{error:?}");
    }
}

/// A listing that says again and again that there is more, and moves nowhere, ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_goes_nowhere_ends() {
    let impostor = Impostor::start().await.unwrap();
    let storage = open(&impostor).await;
    for answer in ["*2\r\n$1\r\n0\r\n$0\r\n\r\n", "*2\r\n$1\r\n0\r\n$1\r\nx\r\n", "*0\r\n"] {
        impostor.answer(answer.as_bytes());
        let page = tokio::time::timeout(PATIENCE, storage.list_keys("", ListOptions::new())).await;
        assert_eq!(page.unwrap().unwrap_err().kind(), ErrorKind::Corruption, "{answer:?}");
    }
}
