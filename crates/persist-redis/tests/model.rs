//! Random operations, each answered as the model answers.

#[path = "support/harness.rs"]
mod harness;

use harness::Place;
use persist_testkit::model::Model;

#[test]
fn one_server_answers_as_the_model_does() {
    if harness::is_there() {
        Model::new().run(Place::standalone);
    }
}

#[test]
fn a_cluster_answers_as_the_model_does() {
    if harness::is_there() {
        Model::new().cases(32).run(Place::one_slot);
    }
}

#[test]
fn a_primary_behind_sentinels_answers_as_the_model_does() {
    if harness::is_there() {
        Model::new().cases(32).run(Place::sentinel);
    }
}
