//! Servers that are killed, paused, cut off and replaced under load: no wrong answer, no acknowledged write lost where
//! the deployment keeps it, no call that hangs, and no restart of the client.
#![allow(clippy::unwrap_used)] // A panic here is the report.

#[path = "support/harness.rs"]
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{config, namespace};
use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, Key, OpenContext, StorageExt, StoreOptions, Value,
};
use persist_redis::{RedisConfig, RedisStorage};
use persist_testkit::redis::{Deployment, Proxy, Reply, Server};

const CALL: Duration = Duration::from_secs(4);
const ATTEMPT: Duration = Duration::from_millis(400);

/// How much longer than its time a call may take on a machine that does other things too: what is looked for is a call
/// that hangs, not how long one takes.
const LATE: Duration = Duration::from_secs(20);

async fn open(config: RedisConfig) -> Arc<RedisStorage> {
    Arc::new(RedisStorage::open("hot", config, &OpenContext::default()).await.unwrap())
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn number(value: u64) -> Value {
    Value::json(&value).unwrap()
}

/// What one writer knows of its key.
#[derive(Debug, Default)]
struct Account {
    acknowledged: u64,
    /// Greater than what was acknowledged: stores of unknown outcome.
    possible: Vec<u64>,
    failures: u64,
    longest: Duration,
}

impl Account {
    fn allows(&self, found: u64) -> bool {
        found == self.acknowledged || self.possible.contains(&found)
    }
}

/// Counts up under one key, reading now and then, until told to stop; every answer is held against the account.
async fn write(storage: Arc<RedisStorage>, key: Key, stop: Arc<AtomicBool>) -> Account {
    let mut account = Account::default();
    for count in 1.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let begun = Instant::now();
        match storage.store(&key, number(count), StoreOptions::new()).await {
            Ok(_) => {
                account.acknowledged = count;
                account.possible.clear();
            }
            Err(error) => {
                account.failures += 1;
                let honest = [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::ReadOnly];
                assert!(honest.contains(&error.kind()), "{error:?}");
                if error.outcome_unknown() {
                    account.possible.push(count);
                }
            }
        }
        account.longest = account.longest.max(begun.elapsed());
        if count % 7 == 0 {
            let begun = Instant::now();
            if let Ok(found) = storage.get::<u64>(&key).await {
                let found = found.unwrap_or(0);
                assert!(account.allows(found), "{key:?} holds {found}, and {account:?}");
            }
            account.longest = account.longest.max(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    account
}

/// Lets eight writers work while `trouble` goes on, and then holds what is there against what they know.
async fn under_load(storage: Arc<RedisStorage>, trouble: impl Future<Output = ()>) -> u64 {
    let stop = Arc::new(AtomicBool::new(false));
    let keys: Vec<Key> = (0..8).map(|writer| key(&format!("writer/{writer}"))).collect();
    let writers: Vec<_> =
        keys.iter().map(|key| tokio::spawn(write(storage.clone(), key.clone(), stop.clone()))).collect();
    trouble.await;
    stop.store(true, Ordering::Release);
    let mut failures = 0;
    for (key, writer) in keys.iter().zip(writers) {
        let account = writer.await.unwrap();
        let found = storage.get::<u64>(key).await.unwrap().unwrap_or(0);
        assert!(account.allows(found), "{key:?} holds {found} in the end, and {account:?}");
        assert!(account.acknowledged > 20, "nothing was going on: {account:?}");
        assert!(account.longest < CALL + LATE, "a call took {:?}", account.longest);
        failures += account.failures;
        storage.store(key, number(0), StoreOptions::new()).await.unwrap();
    }
    assert!(storage.verify().await.unwrap().is_clean());
    failures
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_nothing() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, true, 1).timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let server = redis.servers()[0].clone();
    under_load(storage, async {
        for _ in 0..3 {
            pause(500).await;
            server.kill();
            pause(300).await;
            server.start();
        }
        pause(500).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_holds_nobody_up() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1).timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let server = redis.servers()[0].clone();
    let failures = under_load(storage.clone(), async {
        for millis in [100, 1000, 6000] {
            pause(300).await;
            server.pause();
            pause(millis).await;
            server.resume();
        }
        pause(500).await;
    })
    .await;
    assert!(failures > 0, "no call failed on a server that stood still longer than a call may take");
    server.pause();
    let begun = Instant::now();
    let error = storage.retrieve(&key("absent")).await.unwrap_err();
    assert!(begun.elapsed() < CALL + LATE, "{:?}", begun.elapsed());
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Timeout, false), "{error:?}");
    server.resume();
    assert_eq!(storage.retrieve(&key("absent")).await.unwrap(), None);
}

/// A storage behind a network that the test can cut, and one with a way of its own to the same values.
async fn behind_a_proxy(redis: &Deployment) -> (Arc<RedisStorage>, Arc<RedisStorage>, Proxy) {
    let proxy = Proxy::to(redis.servers()[0].port()).await.unwrap();
    let direct = config(redis, false, 1).timeouts(CALL, ATTEMPT, ATTEMPT);
    let url = format!("redis://default:{}@127.0.0.1:{}", redis.password(), proxy.port());
    let through = RedisConfig::url(url).namespace(direct.namespace.clone()).timeouts(CALL, ATTEMPT, ATTEMPT);
    (open(through).await, open(direct).await, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_makes_no_answer_wrong() {
    let Some(redis) = Deployment::standalone() else { return };
    let (storage, _, proxy) = behind_a_proxy(&redis).await;
    under_load(storage, async {
        for round in 0..12 {
            pause(150).await;
            match round % 3 {
                0 => proxy.cut(),
                1 => proxy.hold_answers(),
                _ => proxy.hold_requests(),
            }
            pause(600).await;
            proxy.open();
        }
        pause(300).await;
    })
    .await;
}

/// The answer is lost, the change took place: it is found by its mark, and not made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_answer_was_lost_is_read_back() {
    let Some(redis) = Deployment::standalone() else { return };
    let (storage, direct, proxy) = behind_a_proxy(&redis).await;
    for round in 0..5_u64 {
        let key = key(&format!("k{round}"));
        proxy.hold_answers();
        let call = tokio::spawn({
            let (storage, key) = (storage.clone(), key.clone());
            async move { storage.store(&key, number(round), StoreOptions::new().if_absent()).await }
        });
        while !direct.contains(&key).await.unwrap() {
            pause(10).await;
        }
        pause(u64::try_from(ATTEMPT.as_millis()).unwrap() + 200).await;
        proxy.open();
        let stored = call.await.unwrap().unwrap();
        let found = direct.metadata(&key).await.unwrap();
        assert_eq!(
            found,
            Some(stored),
            "a condition that the call itself had made false must not be a conflict"
        );
    }
}

/// The request is held up until its caller has given up and somebody else has stored: it must not come back. What waited
/// behind it was not sent, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_up_does_not_come_back_over_something_newer() {
    let Some(redis) = Deployment::standalone() else { return };
    let proxy = Proxy::to(redis.servers()[0].port()).await.unwrap();
    let namespace = namespace();
    let config = |port| {
        let url = format!("redis://default:{}@127.0.0.1:{port}", redis.password());
        RedisConfig::url(url).namespace(namespace.clone()).timeouts(CALL, ATTEMPT, ATTEMPT)
    };
    let (storage, other) = (open(config(proxy.port())).await, open(config(proxy.port())).await);
    let direct = open(config(redis.servers()[0].port())).await;
    let names: Vec<Key> = ["stored", "deleted", "touched"].iter().map(|name| key(name)).collect();
    for key in &names {
        direct.store(key, number(0), StoreOptions::new()).await.unwrap();
    }
    proxy.hold_requests();
    let behind = key("behind");
    let (store, delete, waiting, touch) = tokio::join!(
        storage.store(&names[0], number(1), StoreOptions::new()),
        storage.delete(&names[1], DeleteOptions::new()),
        storage.store(&behind, number(1), StoreOptions::new()),
        other.touch(&names[2], persist_core::Expiry::After(Duration::from_secs(3600))),
    );
    for error in [store.unwrap_err(), delete.unwrap_err(), touch.unwrap_err()] {
        assert!(error.outcome_unknown() && error.retry() == persist_core::Retry::Later, "{error:?}");
    }
    let error = waiting.unwrap_err();
    assert!(!error.outcome_unknown() && error.retry() == persist_core::Retry::Later, "{error:?}");
    for key in &names {
        direct.store(key, number(2), StoreOptions::new()).await.unwrap();
    }
    proxy.open();
    pause(500).await;
    for key in &names {
        let found = direct.retrieve(key).await.unwrap().unwrap();
        assert_eq!(found.to::<u64>().unwrap(), 2, "{key:?}");
        assert_eq!(found.metadata.expires_at, None, "{key:?}");
    }
    assert_eq!(direct.retrieve(&behind).await.unwrap(), None);
    storage.store(&names[0], number(3), StoreOptions::new()).await.unwrap();
}

/// The same while the call goes on: the first attempt is held up, and the second must not be followed by the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_given_up_is_fenced_off() {
    let Some(redis) = Deployment::standalone() else { return };
    let proxy = Proxy::to(redis.servers()[0].port()).await.unwrap();
    let url = format!("redis://default:{}@127.0.0.1:{}", redis.password(), proxy.port());
    let config =
        RedisConfig::url(url).namespace(namespace()).timeouts(Duration::from_secs(30), ATTEMPT, ATTEMPT);
    let storage = open(config).await;
    let server = redis.servers()[0].clone();
    storage.store(&key("k"), number(0), StoreOptions::new()).await.unwrap();
    // The server stands still with the request in its buffer; it reads it when it goes on.
    server.pause();
    let first = tokio::spawn({
        let storage = storage.clone();
        async move { storage.store(&key("k"), number(1), StoreOptions::new()).await }
    });
    pause(1000).await;
    server.resume();
    first.await.unwrap().unwrap();
    storage.store(&key("k"), number(2), StoreOptions::new()).await.unwrap();
    pause(300).await;
    assert_eq!(storage.get::<u64>("k").await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgot_its_scripts_and_connections_is_no_trouble() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, true, 1).timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let server = redis.servers()[0].clone();
    under_load(storage, async {
        for _ in 0..20 {
            pause(50).await;
            assert_eq!(server.command(&["SCRIPT", "FLUSH"]), Reply::Status("OK".into()));
            server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_memory_says_so_and_keeps_what_it_has() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, true, 1).timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let server = redis.servers()[0].clone();
    storage.store(&key("k"), number(1), StoreOptions::new()).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let error = storage.store(&key("k"), number(2), StoreOptions::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Capacity, false), "{error:?}");
    assert_eq!(storage.get::<u64>("k").await.unwrap(), Some(1));
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let health = storage.health().await;
    assert!(health.detail.contains("allkeys-lru"), "{health:?}");
    assert_eq!(storage.stats().await.unwrap().counters["server_may_evict"], 1);
}

/// What too few replicas have may get lost, and says so; what changed nothing does not wait for replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_too_few_replicas_have_is_not_acknowledged() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = RedisConfig { replicas: 1, ..config(&redis, false, 1) };
    let storage = open(config.timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let error = storage.store(&key("k"), number(1), StoreOptions::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Unavailable, true), "{error:?}");
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    let error = storage.store(&key("k"), number(2), StoreOptions::new().if_absent()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome_unknown()), (ErrorKind::Conflict, false), "{error:?}");
    assert_eq!(storage.get::<u64>("k").await.unwrap(), Some(1));
}

/// Values up to the limit are kept; a server that takes less ends the connection, which is an error and nothing worse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_too_large_for_the_storage_or_the_server_is_refused() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1)).await;
    let limit = usize::try_from(storage.describe().max_value_bytes()).unwrap();
    let options = StoreOptions::new;
    storage.store(&key("k"), Value::bytes(vec![7; limit]), options()).await.unwrap();
    let found = storage.retrieve(&key("k")).await.unwrap().unwrap();
    assert!(found.value == Value::bytes(vec![7; limit]), "what was read back is not what was stored");
    let error = storage.store(&key("k"), Value::bytes(vec![8; limit + 1]), options()).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::TooLarge, Some(&key("k"))), "{error:?}");
    let set = redis.servers()[0].command(&["CONFIG", "SET", "maxmemory-clients", "1mb"]);
    assert_eq!(set, Reply::Status("OK".into()));
    let brief = config(&redis, false, 1).timeouts(CALL / 4, ATTEMPT, ATTEMPT);
    let storage = open(brief).await;
    storage.store(&key("k"), number(1), options()).await.unwrap();
    let error = storage.store(&key("k"), Value::bytes(vec![8; 4 << 20]), options()).await.unwrap_err();
    let honest = [ErrorKind::Unavailable, ErrorKind::Timeout];
    assert!(honest.contains(&error.kind()), "{error:?}");
    assert_eq!(storage.get::<u64>("k").await.unwrap(), Some(1), "the storage works as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_storage_keeps_no_connection() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1)).await;
    let clients = || redis.servers()[0].command(&["CLIENT", "LIST"]).text().lines().count();
    // The one that asks is one of them.
    assert!(clients() > 1, "{} clients", clients());
    storage.close().await.unwrap();
    let begun = Instant::now();
    while clients() > 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} clients are left", clients());
        pause(20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_primary_dies_goes_on_with_its_replica() {
    let Some(redis) = Deployment::cluster() else { return };
    let config = RedisConfig { replicas: 1, ..config(&redis, false, 16) };
    let storage = open(config.timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let node = redis.servers()[0].clone();
    under_load(storage, async {
        pause(1000).await;
        node.kill();
        wait_for_primary(&redis.servers()[3]).await;
        pause(2000).await;
        node.start();
        wait_for_replica(&redis.servers()[3]).await;
        pause(1000).await;
    })
    .await;
}

/// The slot of the first tag, `CLUSTER KEYSLOT {0}`; it begins on the third node.
const SLOT: &str = "13907";

/// Moves the slot and everything in it from one node to another, as `redis-cli --cluster reshard` does.
fn move_slot(from: &Server, to: &Server, all: &[Server], password: &str) {
    let id = |server: &Server| server.command(&["CLUSTER", "MYID"]).text();
    let set = |server: &Server, state: &str, node: &str| {
        let answer = server.command(&["CLUSTER", "SETSLOT", SLOT, state, node]);
        assert_eq!(answer, Reply::Status("OK".into()), "{} {state}", server.name());
    };
    set(to, "IMPORTING", &id(from));
    set(from, "MIGRATING", &id(to));
    loop {
        let Reply::Array(names) = from.command(&["CLUSTER", "GETKEYSINSLOT", SLOT, "1"]) else { panic!() };
        let Some(Reply::Bulk(Some(name))) = names.into_iter().next() else { break };
        let port = to.port().to_string();
        let head: [&[u8]; 6] = [b"MIGRATE", b"127.0.0.1", port.as_bytes(), &name, b"0", b"10000"];
        let answer = from.command(&[&head[..], &[b"AUTH", password.as_bytes()]].concat());
        // NOKEY: it has expired meanwhile.
        assert!(matches!(answer, Reply::Status(_)), "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    all.iter().for_each(|server| set(server, "NODE", &id(to)));
}

/// While a slot is on its way its calls wait, and nothing is answered that is only half there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_to_another_node_takes_everything_along() {
    let Some(redis) = Deployment::cluster() else { return };
    let storage = open(config(&redis, false, 1).timeouts(4 * CALL, ATTEMPT, ATTEMPT)).await;
    let expiring = StoreOptions::new().ttl(Duration::from_secs(3600));
    for i in 0..20 {
        storage.store(&key(&format!("quiet/{i:02}")), number(i), expiring.clone()).await.unwrap();
    }
    let servers = redis.servers().to_vec();
    let password = redis.password();
    under_load(storage.clone(), async move {
        for (from, to) in [(2, 0), (0, 1)] {
            pause(300).await;
            let servers = servers.clone();
            let moved = move || move_slot(&servers[from], &servers[to], &servers[..3], password);
            tokio::task::spawn_blocking(moved).await.unwrap();
        }
        pause(300).await;
    })
    .await;
    let page = storage.list_keys("quiet/", persist_core::ListOptions::new()).await.unwrap();
    assert_eq!(page.keys.len(), 20);
    for (i, key) in page.keys.iter().enumerate() {
        assert_eq!(storage.get::<u64>(key).await.unwrap(), Some(i as u64), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_another_primary_when_one_dies() {
    let Some(redis) = Deployment::sentinel() else { return };
    let config = RedisConfig { replicas: 1, ..config(&redis, false, 1) };
    let storage = open(config.timeouts(CALL, ATTEMPT, ATTEMPT)).await;
    let primary = redis.servers()[0].clone();
    under_load(storage, async {
        pause(1000).await;
        primary.kill();
        wait_for_primary(&redis.servers()[1]).await;
        pause(1000).await;
        // The new primary has no replica yet, so nothing is acknowledged until the old one has come back as one.
        primary.start();
        wait_for_replica(&redis.servers()[1]).await;
        pause(1000).await;
    })
    .await;
}

async fn wait_for_replica(primary: &Server) {
    let begun = Instant::now();
    while !primary.command(&["INFO", "replication"]).text().contains("state=online") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} gets no replica", primary.name());
        pause(100).await;
    }
}

async fn wait_for_primary(server: &Server) {
    let begun = Instant::now();
    let is_primary =
        || matches!(server.command(&["ROLE"]), Reply::Array(parts) if parts[0].text() == "master");
    while !is_primary() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} has not taken over", server.name());
        pause(100).await;
    }
}
