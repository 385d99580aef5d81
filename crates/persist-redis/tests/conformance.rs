//! The contract, against real servers: one with TLS and a restricted user, a cluster, and a primary behind sentinels.

#[path = "support/harness.rs"]
mod harness;

use std::process::ExitCode;

use harness::Place;
use persist_testkit::conformance;

fn main() -> ExitCode {
    if !harness::is_there() {
        return conformance::main(Vec::new());
    }
    let trials = [
        conformance::trials("standalone", Place::standalone),
        conformance::trials("cluster", Place::cluster),
        conformance::trials("cluster_on_one_slot", Place::one_slot),
        conformance::trials("sentinel", Place::sentinel),
    ];
    conformance::main(trials.into_iter().flatten().collect())
}
