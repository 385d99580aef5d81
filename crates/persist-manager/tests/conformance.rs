//! The router of a manager keeps the contract of one storage over storages that it opened from a configuration.

use std::sync::Arc;

use persist_core::{BaseStorage, ManualClock, Result, async_trait};
use persist_manager::{Environment, LoadOptions, Plan, StorageManager};
use persist_testkit::conformance::{main as run, trials};
use persist_testkit::{Harness, Variant};

/// Storages of one type, opened by the manager from a configuration: all keys but a few in the first.
struct Managed {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    /// What stands in the section of a storage; `NAME` stands for its name.
    section: &'static str,
    /// What makes it small.
    small: Option<&'static str>,
}

impl Managed {
    fn new(section: &'static str, small: Option<&'static str>) -> Self {
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

fn main() -> std::process::ExitCode {
    let files = "type: file, path: data/NAME";
    let mut all = trials("strict_files", || Managed::new(files, None));
    let relaxed = "type: file, path: data/NAME, durability: relaxed";
    all.extend(trials("relaxed_files", move || Managed::new(relaxed, None)));
    all.extend(trials("caches", || Managed::new("type: cache", Some("max_bytes: 170KiB"))));
    run(all)
}
