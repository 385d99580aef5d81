//! The example backend keeps the whole contract, stays under sixty lines, and runs as an example.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use persist::{BaseStorage, Capabilities, Descriptor, ManualClock, Result, async_trait};
use persist_testkit::{Harness, Variant, conformance};

#[path = "../examples/custom_backend.rs"]
mod custom_backend;

use custom_backend::MapStorage;

/// Opens map storages with a clock that can be moved. They keep nothing over a reopening and claim nothing.
#[derive(Default)]
struct Maps {
    clock: Arc<ManualClock>,
}

impl Maps {
    fn about(&self) -> Descriptor {
        Descriptor::new("map", "map").with_clock(self.clock.clone())
    }
}

#[async_trait]
impl Harness for Maps {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        Ok(Arc::new(MapStorage::new(self.about())))
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let about = match variant {
            Variant::DefaultTtl(lifetime) => self.about().with_default_ttl(Some(lifetime)),
            Variant::MaxValueBytes(bytes) => self.about().with_max_value_bytes(bytes),
            Variant::ReadOnly => {
                self.about().with_capabilities(Capabilities { read_only: true, ..Capabilities::NONE })
            }
            Variant::Small => return Ok(None),
        };
        Ok(Some(Arc::new(MapStorage::new(about))))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }
}

/// Counts the lines before `main` that are neither empty nor comments.
fn lines_of_code() -> Result<(), Failed> {
    let source = include_str!("../examples/custom_backend.rs");
    let (source, _) = source.split_once("#[tokio::main]").ok_or("the example has no main")?;
    let code =
        source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    if (30..60).contains(&code) {
        Ok(())
    } else {
        Err(format!("the example has {code} lines of code").into())
    }
}

fn runs() -> Result<(), Failed> {
    custom_backend::main().map_err(|error| format!("{error:?}").into())
}

fn main() -> ExitCode {
    let mut trials = conformance::trials("map", Maps::default);
    trials.push(Trial::test("the_example_has_less_than_sixty_lines", lines_of_code));
    trials.push(Trial::test("the_example_runs", runs));
    conformance::main(trials)
}
