//! Random operations, each answered as the model answers.

#[path = "support/harness.rs"]
mod harness;

use std::time::Duration;

use harness::Cache;
use persist_cache::CacheConfig;
use persist_testkit::model::Model;

#[test]
fn random_operations_answer_as_the_model_does() {
    Model::new().run(Cache::default);
}

#[test]
fn a_window_changes_no_answer() {
    Model::new().run(|| Cache::with(CacheConfig::default().stale_while_revalidate(Duration::from_secs(90))));
}
