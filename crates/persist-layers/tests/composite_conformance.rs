//! Every composite keeps the whole contract over memory, with members that move keys and members that fail.

mod support;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use persist_core::{BaseStorage, Key, ManualClock, Result, async_trait};
use persist_layers::{
    Composite, Fault, FaultConfig, Guarded, Replicated, ReplicatedConfig, Router, Sharded, ShardedConfig,
};
use persist_testkit::conformance::{main as run, trials};
use persist_testkit::memory::{MemoryBuilder, MemoryPlace, MemoryStorage};
use persist_testkit::{Harness, Variant};
use support::{SPANNING, SPANS, Storage};

/// Clauses that do not apply, with the reason.
type Skips = Vec<(&'static str, &'static str)>;

/// The clauses whose transactions are over several members.
fn spanning() -> Skips {
    SPANNING.map(|clause| (clause, SPANS)).to_vec()
}

type Compose = Arc<dyn Fn(Vec<Storage>, usize) -> Storage + Send + Sync>;

/// Some memories as one storage; it is told how often it was opened before.
struct Composed {
    places: Vec<MemoryPlace>,
    clock: Arc<ManualClock>,
    compose: Compose,
    opened: Mutex<Vec<Weak<dyn BaseStorage>>>,
    skips: Skips,
}

impl Composed {
    fn new(count: usize, compose: impl Fn(Vec<Storage>, usize) -> Storage + Send + Sync + 'static) -> Self {
        Self {
            places: (0..count).map(|_| MemoryPlace::new()).collect(),
            clock: Arc::default(),
            compose: Arc::new(compose),
            opened: Mutex::default(),
            skips: Vec::new(),
        }
    }

    fn skipping(self, skips: Skips) -> Self {
        Self { skips, ..self }
    }

    fn open_with(&self, adjust: impl Fn(MemoryBuilder) -> MemoryBuilder) -> Storage {
        // An error names the member it comes from, and the suite looks for the name of the storage it was given.
        let open = |place: &MemoryPlace| -> Storage {
            let builder = MemoryStorage::builder("whole").as_disk().clock(self.clock.clone());
            Arc::new(adjust(builder).open(place))
        };
        let members = self.places.iter().map(open).collect();
        let mut opened = self.opened.lock();
        let storage = (self.compose)(members, opened.len());
        opened.push(Arc::downgrade(&storage));
        storage
    }

    fn set_down(&self, down: bool) {
        self.places.iter().for_each(|place| place.set_down(down));
    }
}

#[async_trait]
impl Harness for Composed {
    async fn open(&self) -> Result<Storage> {
        Ok(self.open_with(|builder| builder))
    }

    async fn open_another(&self) -> Result<Option<Storage>> {
        let storage = self.open_with(|builder| builder);
        Ok(storage.describe().capabilities().shared.then_some(storage))
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Storage>> {
        let adjust = |builder: MemoryBuilder| builder.variant(variant).expect("not the small one");
        Ok((variant != Variant::Small).then(|| self.open_with(adjust)))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    async fn break_down(&self) -> bool {
        self.set_down(true);
        true
    }

    async fn mend(&self) -> bool {
        self.set_down(false);
        true
    }

    async fn corrupt(&self, key: &Key) -> bool {
        // A good copy would make up for the damage, which is what it is for; so would one that is still being written.
        let opened: Vec<Storage> = self.opened.lock().iter().filter_map(Weak::upgrade).collect();
        for storage in opened {
            drop(storage.flush().await);
        }
        self.places.iter().filter(|place| place.corrupt(key)).count() > 0
    }

    fn skips(&self, clause: &str) -> Option<&'static str> {
        self.skips.iter().find(|(skipped, _)| *skipped == clause).map(|(_, reason)| *reason)
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Three members; the prefixes lead to the second and the third in turn.
fn router(prefixes: Vec<String>) -> Composed {
    Composed::new(3, move |members, _| {
        let members: [Storage; 3] = members.try_into().expect("three members");
        let target =
            |(index, prefix): (usize, &String)| (prefix.clone(), Arc::clone(&members[1 + index % 2]));
        let routes = prefixes.iter().enumerate().map(target);
        Arc::new(Router::new("whole", Arc::clone(&members[0]), routes).expect("a router"))
    })
}

/// Routes that lead nearly every two neighbouring keys into different members.
fn scattering() -> Vec<String> {
    let letters = ('!'..='~').filter(|letter| u32::from(*letter).is_multiple_of(2)).map(String::from);
    let nested = ('a'..='z').flat_map(|letter| [format!("{letter}{letter}"), format!("{letter}/")]);
    letters.chain(nested).chain(["é", "e\u{301}", "日", "🦀"].map(str::to_owned)).collect()
}

fn sharded(count: usize) -> Composed {
    Composed::new(count, |members, _| {
        let config = ShardedConfig::new((0..members.len()).map(|number| number.to_string()));
        Arc::new(Sharded::new("whole", &config, members).expect("shards"))
    })
}

/// Each time it is opened the shards are others, and what was stored before lies where it does not belong.
fn wandering() -> Composed {
    Composed::new(3, |members, opened| {
        let (shards, draining): (&[&str], &[&str]) = match opened % 3 {
            0 => (&["a", "b"], &["c"]),
            1 => (&["a", "b", "c"], &[]),
            _ => (&["c", "b"], &["a"]),
        };
        let config = ShardedConfig { shards: names(shards), draining: names(draining), rebalance: true };
        let member = |name: &String| Arc::clone(&members[usize::from(name.as_bytes()[0] - b'a')]);
        let named = Sharded::members(&config).iter().map(member).collect();
        Arc::new(Sharded::new("whole", &config, named).expect("shards"))
    })
}

fn replicated(count: usize, write_quorum: Option<usize>) -> Composed {
    Composed::new(count, move |members, _| {
        let replicas = (0..members.len()).map(|number| number.to_string());
        let config = ReplicatedConfig { write_quorum, ..ReplicatedConfig::new(replicas) };
        Arc::new(Replicated::new("whole", &config, members).expect("replicas"))
    })
}

/// One of three replicas fails every fifth time.
fn flaky(which: usize) -> Composed {
    Composed::new(3, move |mut members, _| {
        let fault = Fault::new(FaultConfig { seed: Some(5), ..FaultConfig::new(0.2) });
        members[which] = Arc::new(Guarded::new(Arc::clone(&members[which]), fault));
        let config = ReplicatedConfig::new(names(&["0", "1", "2"]));
        Arc::new(Replicated::new("whole", &config, members).expect("replicas"))
    })
}

fn main() -> std::process::ExitCode {
    let mut all = trials("router", || router(names(&["b/", "users/", "users/a"])));
    all.extend(trials("router_alone", || router(Vec::new())));
    all.extend(trials("router_scattered", || {
        // The two keys of this one lead to the same member.
        let across = spanning().into_iter().filter(|(clause, _)| *clause != "C170");
        router(scattering()).skipping(across.collect())
    }));
    all.extend(trials("one_shard", || sharded(1)));
    all.extend(trials("sharded", || sharded(3).skipping(spanning())));
    all.extend(trials("wandering", || {
        let moved = ["C164", "C169"]
            .map(|clause| (clause, "what moves to another shard has a new version and new times"));
        wandering().skipping([spanning(), moved.to_vec()].concat())
    }));
    all.extend(trials("replicated", || replicated(3, None)));
    all.extend(trials("replicated_both", || replicated(2, None)));
    all.extend(trials("replicated_one", || replicated(3, Some(1))));
    let still = || vec![("C147", "the replica that failed when the value was overwritten is still damaged")];
    all.extend(trials("flaky_first", move || flaky(0).skipping(still())));
    all.extend(trials("flaky_last", move || flaky(2).skipping(still())));
    run(all)
}
