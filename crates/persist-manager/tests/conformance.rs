//! The router keeps the contract of one storage, whatever it is made of.

use std::sync::Arc;

use persist_core::{BaseStorage, Key, ManualClock, Result, async_trait};
use persist_manager::Router;
use persist_testkit::memory::{MemoryBuilder, MemoryPlace, MemoryStorage};
use persist_testkit::{Harness, Variant};

/// The clauses that a router refuses, by design, where it sends neighbouring keys to different members.
const TRANSACTIONS: [&str; 9] = ["C066", "C076", "C077", "C078", "C080", "C081", "C114", "C160", "C177"];

/// Three members; `prefixes` lead to the second and the third in turn.
struct Routed {
    places: [MemoryPlace; 3],
    clock: Arc<ManualClock>,
    prefixes: Vec<String>,
}

impl Routed {
    fn new(prefixes: impl IntoIterator<Item = String>) -> Self {
        Self { places: Default::default(), clock: Arc::default(), prefixes: prefixes.into_iter().collect() }
    }

    fn open_with(&self, adjust: impl Fn(MemoryBuilder) -> MemoryBuilder) -> Result<Arc<dyn BaseStorage>> {
        // An error names the member it comes from, and the suite looks for the name of the storage it was given.
        let member = |number: usize| -> Arc<dyn BaseStorage> {
            let builder = MemoryStorage::builder("router").as_disk().clock(self.clock.clone());
            Arc::new(adjust(builder).open(&self.places[number]))
        };
        let members = [member(0), member(1), member(2)];
        let target =
            |(index, prefix): (usize, &String)| (prefix.clone(), Arc::clone(&members[1 + index % 2]));
        let routes = self.prefixes.iter().enumerate().map(target);
        Ok(Arc::new(Router::new("router", Arc::clone(&members[0]), routes)?))
    }

    fn set_down(&self, down: bool) {
        self.places.iter().for_each(|place| place.set_down(down));
    }
}

#[async_trait]
impl Harness for Routed {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.open_with(|builder| builder)
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.open().await.map(Some)
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        if variant == Variant::Small {
            return Ok(None);
        }
        self.open_with(|builder| builder.variant(variant).expect("not the small one")).map(Some)
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

    fn skips(&self, clause: &str) -> Option<&'static str> {
        let across = self.prefixes.len() > 3 && TRANSACTIONS.contains(&clause);
        across.then_some("its keys belong to several storages, and no transaction spans those")
    }

    async fn corrupt(&self, key: &Key) -> bool {
        self.places.iter().any(|place| place.corrupt(key))
    }
}

/// Routes that lead nearly every two neighbouring keys into different members.
fn scattering() -> Vec<String> {
    let letters = ('!'..='~').filter(|letter| u32::from(*letter).is_multiple_of(2)).map(String::from);
    let nested = ('a'..='z').flat_map(|letter| [format!("{letter}{letter}"), format!("{letter}/")]);
    letters.chain(nested).chain(["é", "e\u{301}", "日", "🦀"].map(str::to_owned)).collect()
}

/// Storages of one type, opened by the manager from a configuration: all keys but a few in the first.
#[cfg(any(feature = "file", feature = "cache"))]
mod managed {
    use persist_manager::{Environment, LoadOptions, Plan, StorageManager};

    use super::*;

    pub(super) struct Managed {
        folder: tempfile::TempDir,
        clock: Arc<ManualClock>,
        /// What stands in the section of a storage; `NAME` stands for its name.
        section: &'static str,
        /// What makes it small.
        small: Option<&'static str>,
    }

    impl Managed {
        pub(super) fn new(section: &'static str, small: Option<&'static str>) -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            Self { folder, clock: Arc::default(), section, small }
        }

        async fn open_with(&self, more: &str, read_only: bool) -> Result<Arc<dyn BaseStorage>> {
            let section = |name: &str| format!("{{ {}{more} }}", self.section.replace("NAME", name));
            // The first is called as the router is, because an error names the storage that it comes from.
            let yaml = format!(
                "storages:\n  router: {}\n  other: {}\ndefault_storage: router\n\
                 routes: [{{ prefix: \"b/\", storage: other }}, {{ prefix: \"users/\", storage: other }}]\n",
                section("router"),
                section("other")
            );
            let options = LoadOptions::new().environment(Environment::empty()).profile(None);
            let options = options.base(self.folder.path()).clock(self.clock.clone()).read_only(read_only);
            Ok(StorageManager::open(Plan::from_yaml(&yaml, &options)?).await?.router())
        }
    }

    #[async_trait]
    impl Harness for Managed {
        async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
            self.open_with("", false).await
        }

        async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
            let more = match variant {
                Variant::DefaultTtl(ttl) => format!(", ttl: {}ms", ttl.as_millis()),
                Variant::MaxValueBytes(bytes) => format!(", max_value: {bytes}"),
                Variant::ReadOnly => return self.open_with("", true).await.map(Some),
                Variant::Small => match self.small {
                    Some(small) => format!(", {small}"),
                    None => return Ok(None),
                },
            };
            self.open_with(&more, false).await.map(Some)
        }

        async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
            if self.small.is_some() { Ok(None) } else { self.open().await.map(Some) }
        }

        fn clock(&self) -> Option<Arc<ManualClock>> {
            Some(Arc::clone(&self.clock))
        }
    }
}

fn main() -> std::process::ExitCode {
    use persist_testkit::conformance::{main, trials};

    let mut all = trials("router", || Routed::new(["b/", "users/", "users/a"].map(str::to_owned)));
    all.extend(trials("alone", || Routed::new([])));
    all.extend(trials("scattered", || Routed::new(scattering())));
    #[cfg(feature = "file")]
    {
        use managed::Managed;
        all.extend(trials("strict_files", || Managed::new("type: file, path: data/NAME", None)));
        let relaxed = "type: file, path: data/NAME, durability: relaxed";
        all.extend(trials("relaxed_files", move || Managed::new(relaxed, None)));
    }
    #[cfg(feature = "cache")]
    all.extend(trials("caches", || managed::Managed::new("type: cache", Some("max_bytes: 170KiB"))));
    main(all)
}
