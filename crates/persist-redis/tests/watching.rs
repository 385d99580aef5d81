//! Watching while servers are killed, cut off and replaced, and what a watch costs those who do not watch.
#![allow(clippy::unwrap_used)] // A panic here is the report.

#[path = "support/harness.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::config;
use persist_core::{BaseStorage, ErrorKind, Event, OpenContext, Retry, Secret, StorageExt, Version, Watch};
use persist_redis::{RedisConfig, RedisStorage};
use persist_testkit::redis::{Deployment, Proxy, Reply, Server};
use tokio::time::timeout;

const CALL: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(config: RedisConfig) -> Arc<RedisStorage> {
    let config = config.timeouts(CALL, ATTEMPT, ATTEMPT);
    Arc::new(RedisStorage::open("hot", config, &OpenContext::default()).await.unwrap())
}

/// Waits for an event that tells this version, or for `Lost`; true if it was lost.
async fn told_or_lost(watch: &mut Watch<'_>, version: Version) -> bool {
    let begun = Instant::now();
    loop {
        let left = PATIENCE.checked_sub(begun.elapsed()).expect("neither told nor lost");
        match timeout(left, watch.next()).await.expect("neither told nor lost") {
            Some(Ok(Event::Stored { metadata, .. })) if metadata.version >= version => return false,
            Some(Ok(Event::Lost)) => return true,
            // An older one, or why nothing is told at the moment.
            Some(_) => {}
            None => panic!("the watch ended"),
        }
    }
}

/// Stores until it works again, and until that is told without a loss.
async fn goes_on(storage: &RedisStorage, watch: &mut Watch<'_>) {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "nothing is told any more");
        let Ok(stored) = storage.put("after", &1).await else { continue };
        if !told_or_lost(watch, stored.version).await {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_the_death_of_the_server_and_says_that_it_lost() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1)).await;
    let mut watch = storage.watch("").await.unwrap();
    let stored = storage.put("k", &1).await.unwrap();
    assert!(!told_or_lost(&mut watch, stored.version).await);
    let server = &redis.servers()[0];
    server.kill();
    let error = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.storage(), error.operation()), (Some("hot"), Some("watch")), "{error}");
    assert_eq!(error.kind().retry(), Retry::Later, "{error}");
    server.start();
    assert_eq!(timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap(), Event::Lost);
    goes_on(&storage, &mut watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_hangs_is_noticed() {
    let Some(redis) = Deployment::standalone() else { return };
    let usual = config(&redis, false, 1);
    let proxy = Proxy::to(redis.servers()[0].port()).await.unwrap();
    let url = format!("redis://default:{}@127.0.0.1:{}", redis.password(), proxy.port());
    let hidden = open(RedisConfig::url(url).namespace(usual.namespace.clone())).await;
    let plain = open(usual).await;
    let mut watch = hidden.watch("").await.unwrap();
    proxy.hold_answers();
    plain.put("k", &1).await.unwrap();
    // Neither an event nor the end of the connection comes through.
    let error = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    proxy.open();
    assert_eq!(timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap(), Event::Lost);
    goes_on(&plain, &mut watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_follows_the_primary_that_sentinels_name() {
    let Some(redis) = Deployment::sentinel() else { return };
    let storage = open(config(&redis, false, 1)).await;
    let mut watch = storage.watch("").await.unwrap();
    redis.servers()[0].kill();
    goes_on(&storage, &mut watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_a_cluster_goes_on_with_the_replica() {
    let Some(redis) = Deployment::cluster() else { return };
    let storage = open(config(&redis, false, 16)).await;
    let mut watch = storage.watch("").await.unwrap();
    redis.servers()[1].kill();
    let begun = Instant::now();
    // Keys of every tag.
    for number in 0..100 {
        loop {
            assert!(begun.elapsed() < 4 * PATIENCE, "key {number} is told no more");
            let Ok(stored) = storage.put(format!("{number}"), &1).await else { continue };
            if !told_or_lost(&mut watch, stored.version).await {
                break;
            }
        }
    }
}

/// How many messages a server has sent to subscribers is not counted; how many commands it ran is.
fn publishes(server: &Server) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).text();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_while_nobody_watches() {
    let Some(redis) = Deployment::standalone() else { return };
    let storage = open(config(&redis, false, 1)).await;
    for number in 0..10 {
        storage.put("k", &number).await.unwrap();
    }
    assert_eq!(publishes(&redis.servers()[0]), 0);
    let watch = storage.watch("").await.unwrap();
    storage.put("k", &1).await.unwrap();
    assert_eq!(publishes(&redis.servers()[0]), 1);
    drop(watch);
    let begun = Instant::now();
    loop {
        let before = publishes(&redis.servers()[0]);
        storage.put("k", &1).await.unwrap();
        if publishes(&redis.servers()[0]) == before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it is published for nobody");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_that_was_taken_back_is_a_loss() {
    let Some(redis) = Deployment::standalone() else { return };
    let config = config(&redis, false, 1);
    let head = format!("{}:{{0}}#head", config.namespace);
    let storage = open(config).await;
    let mut watch = storage.watch("").await.unwrap();
    assert_eq!(redis.servers()[0].command(&["HDEL", &head, "watched"]), Reply::Integer(1));
    let stored = storage.put("k", &1).await.unwrap();
    assert!(told_or_lost(&mut watch, stored.version).await);
    goes_on(&storage, &mut watch).await;
}

/// A user who may change but not publish must not break a change, and must not keep it secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_without_the_right_to_publish_is_noticed() {
    let Some(redis) = Deployment::standalone() else { return };
    let usual = config(&redis, false, 1);
    let rights = ["ACL", "SETUSER", "mute", "on", ">word", "~test-*", "+@all", "-publish", "resetchannels"];
    assert_eq!(redis.servers()[0].command(&rights), Reply::Status("OK".into()));
    let url = format!("redis://127.0.0.1:{}", redis.servers()[0].port());
    let mute =
        RedisConfig::url(url).credentials("mute", Secret::new("word")).namespace(usual.namespace.clone());
    let (storage, mute) = (open(usual).await, open(mute).await);
    let mut watch = storage.watch("").await.unwrap();
    let stored = mute.put("k", &1).await.unwrap();
    assert_eq!(storage.get("k").await.unwrap(), Some(1));
    assert!(told_or_lost(&mut watch, stored.version).await);
    // He himself has to look again and again.
    let mut watch = mute.watch("").await.unwrap();
    let stored = storage.put("k", &2).await.unwrap();
    assert!(!told_or_lost(&mut watch, stored.version).await);
}
