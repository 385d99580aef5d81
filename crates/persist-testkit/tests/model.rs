//! The model test passes on sound storages and finds bugs.

use persist_testkit::broken::{BrokenHarness, Bug};
use persist_testkit::model::Model;

#[test]
fn a_sound_storage_passes() {
    Model::new().cases(200).run(BrokenHarness::sound);
}

#[test]
fn bugs_are_found() {
    let bugs = [
        Bug::RewriteKeepsTtl,
        Bug::CreatedReset,
        Bug::ExpiredLends,
        Bug::ListsExpired,
        Bug::PrefixIgnoresCase,
        Bug::PageDropsBorder,
        Bug::VersionRestarts,
        Bug::DeletesComeBack,
        Bug::ForgetsOnReopen,
        Bug::NeedsClose,
        Bug::LifetimesStop,
        Bug::Flattens,
        Bug::NullAsAbsent,
        Bug::TagsMerged,
        Bug::TransactTwice,
        Bug::TransactStepByStep,
        Bug::TransactReversed,
        Bug::ConflictFindsNothing,
        Bug::DeleteCountsExpired,
        Bug::SweepsMortals,
        Bug::RangeInclusive,
        Bug::BatchOnce,
    ];
    let missed: Vec<_> = bugs
        .into_iter()
        .filter(|bug| Model::new().cases(400).seed(1).search(|| BrokenHarness::new(*bug)).is_ok())
        .collect();
    assert!(missed.is_empty(), "not found in 400 sequences: {missed:?}");
}

#[test]
fn a_failure_shows_the_steps() {
    let found =
        Model::new().cases(400).seed(1).search(|| BrokenHarness::new(Bug::DeleteNeverTrue)).unwrap_err();
    assert!(found.contains("what delete") && found.contains("Delete"), "{found}");
}
