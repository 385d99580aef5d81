//! TLS on both sides: the server shows a certificate, and asks for one.
#![allow(clippy::unwrap_used)] // A panic here is the report.

#[path = "support/harness.rs"]
mod harness;

use std::path::PathBuf;
use std::time::Duration;

use harness::config;
use persist_core::{ErrorKind, OpenContext, Result, StorageExt};
use persist_redis::{RedisConfig, RedisStorage, TlsConfig};
use persist_testkit::redis::{Deployment, Reply};

async fn open(redis: &Deployment, identity: Option<(PathBuf, PathBuf)>) -> Result<RedisStorage> {
    let (cert, key) = identity.unzip();
    let tls = TlsConfig { ca: Some(redis.authority()), cert, key };
    let times = [2000, 1000, 1000].map(Duration::from_millis);
    let config =
        RedisConfig { tls: Some(tls), ..config(redis, true, 1) }.timeouts(times[0], times[1], times[2]);
    RedisStorage::open("hot", config, &OpenContext::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_a_certificate_gets_the_configured_one() {
    let Some(redis) = Deployment::standalone() else { return };
    let demand = redis.servers()[0].command(&["CONFIG", "SET", "tls-auth-clients", "yes"]);
    assert_eq!(demand, Reply::Status("OK".into()));
    let storage = open(&redis, Some(redis.identity("client"))).await.unwrap();
    storage.put("k", &1).await.unwrap();
    assert_eq!(storage.get("k").await.unwrap(), Some(1));
    for (who, identity) in [("nobody", None), ("a stranger", Some(redis.identity("stranger")))] {
        let error = open(&redis, identity).await.unwrap_err();
        assert_eq!((error.kind(), error.storage()), (ErrorKind::AccessDenied, Some("hot")), "{who}: {error}");
        assert!(error.message().contains("check tls.cert"), "{who} is not told what to do: {error}");
    }
    let missing = (redis.identity("client").0, PathBuf::from("nowhere.key"));
    let error = open(&redis, Some(missing)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("nowhere.key"), "{error}");
}
