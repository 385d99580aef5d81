//! The suite is put to the test: for every bug it must report the right clauses, and every clause must be seen to fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use persist_testkit::broken::{BrokenHarness, Bug};
use persist_testkit::conformance::{Clause, Stop, Verdict, check, clauses};

/// For every bug the clauses that it must break. (Most break others as well.)
const BROKEN_BY: &[(Bug, &str)] = &[
    (Bug::LosesValues, "C001 C022 C036 C152 C153"),
    (Bug::KeepsOldTail, "C003"),
    (Bug::DeleteAlwaysTrue, "C005 C070 C149"),
    (Bug::DeleteNeverTrue, "C004 C070 C172"),
    (Bug::DeletesNothing, "C004 C189"),
    (Bug::TouchesNeighbours, "C007"),
    (Bug::ReadsTouch, "C008 C190"),
    (Bug::MetadataOfItsOwn, "C009"),
    (Bug::StaleReads, "C010"),
    (Bug::OneSlot, "C011"),
    (Bug::MetadataApart, "C012"),
    (Bug::StartsWithSomething, "C006 C056 C185"),
    (Bug::AbsentIsAnError, "C002"),
    (Bug::NullAsAbsent, "C014"),
    (Bug::EmptyAsAbsent, "C015"),
    (Bug::ReformatsJson, "C013"),
    (Bug::NumbersAsDoubles, "C013 C020 C150 C157"),
    (Bug::CutsAtNul, "C016"),
    (Bug::GuessesTheKind, "C017 C045"),
    (Bug::CutsLargeValues, "C018 C019 C051"),
    (Bug::KeepsTheOldKind, "C021"),
    (Bug::FoldsCase, "C027"),
    (Bug::NormalisesUnicode, "C027"),
    (Bug::DecodesPercent, "C028"),
    (Bug::CutsKeys, "C032 C033 C034"),
    (Bug::TrimsKeys, "C025"),
    (Bug::ResolvesPaths, "C024"),
    (Bug::SanitisesKeys, "C023 C029"),
    (Bug::DropsInvisible, "C030"),
    (Bug::FileOrFolder, "C031"),
    (Bug::HidesOwnNames, "C026"),
    (Bug::Flattens, "C037 C043"),
    (Bug::EmptyLosesShape, "C039 C180"),
    (Bug::ScalarToVector, "C038"),
    (Bug::Squeezes, "C041"),
    (Bug::NanToZero, "C040 C044"),
    (Bug::ArraysAsBytes, "C037"),
    (Bug::ChecksumWithoutShape, "C042 C120"),
    (Bug::RangeInclusive, "C046"),
    (Bug::RangePanics, "C047"),
    (Bug::RangeReversedAll, "C048"),
    (Bug::RangeOfAbsent, "C049"),
    (Bug::RangeCountsHeader, "C050"),
    (Bug::RangeInBlocks, "C051"),
    (Bug::RangeReadsAll, "C179"),
    (Bug::PrefixByLike, "C053"),
    (Bug::PrefixIgnoresCase, "C035 C055 C155"),
    (Bug::PrefixByLevel, "C054"),
    (Bug::Unordered, "C052"),
    (Bug::OrderedByUtf16, "C052"),
    (Bug::PageIncludesAfter, "C059"),
    (Bug::PageDropsBorder, "C057"),
    (Bug::NextAlwaysNone, "C058 C067"),
    (Bug::NextUntilEmpty, "C058"),
    (Bug::AfterMustExist, "C059 C111"),
    (Bug::AfterLeavesPrefix, "C060 C154 C156"),
    (Bug::AcceptsLimitZero, "C061"),
    (Bug::UnboundedPages, "C062"),
    (Bug::CursorByOffset, "C063 C064"),
    (Bug::AcceptsAnyPrefix, "C065"),
    (Bug::ListsTempFiles, "C066"),
    (Bug::ListsExpired, "C111"),
    (Bug::ListsDeleted, "C004"),
    (Bug::BatchStops, "C071"),
    (Bug::BatchReversed, "C068 C069"),
    (Bug::BatchOnce, "C070 C072"),
    (Bug::BatchWithoutOptions, "C073"),
    (Bug::EmptyTransactFails, "C074"),
    (Bug::BatchOf500, "C075"),
    (Bug::TransactStepByStep, "C077"),
    (Bug::TransactReversed, "C076"),
    (Bug::TransactNamesNoKey, "C078"),
    (Bug::TransactTwice, "C079"),
    (Bug::CheckTouches, "C080"),
    (Bug::TransactUnchecked, "C081"),
    (Bug::TransactWithoutOptions, "C082"),
    (Bug::TransactNotAtomic, "C083 C177"),
    (Bug::IgnoresIfAbsent, "C084"),
    (Bug::IgnoresIfVersion, "C086"),
    (Bug::ConflictStores, "C086"),
    (Bug::VersionCreates, "C087"),
    (Bug::IgnoresDeleteCondition, "C088 C089"),
    (Bug::ConflictFindsNothing, "C084"),
    (Bug::IfAbsentNotAtomic, "C090 C173"),
    (Bug::SwapNotAtomic, "C091 C151 C174"),
    (Bug::DeleteNotAtomic, "C092 C097"),
    (Bug::VersionStandsStill, "C093"),
    (Bug::VersionRestarts, "C094"),
    (Bug::VersionByClock, "C085 C093 C096"),
    (Bug::VersionTooEarly, "C095"),
    (Bug::VersionsPerHandle, "C175"),
    (Bug::NeverExpires, "C098"),
    (Bug::ZeroIsForever, "C099"),
    (Bug::PastIsForever, "C100"),
    (Bug::WholeSeconds, "C101"),
    (Bug::RewriteKeepsTtl, "C102"),
    (Bug::FirstTtlStays, "C103"),
    (Bug::TouchIgnored, "C104"),
    (Bug::TouchCreates, "C105"),
    (Bug::TouchDropsTags, "C106"),
    (Bug::TouchIgnoresPast, "C107"),
    (Bug::DefaultTtlInStoreAlone, "C108"),
    (Bug::NeverTakesDefault, "C109"),
    (Bug::ShowsExpired, "C098 C110"),
    (Bug::DeleteCountsExpired, "C112"),
    (Bug::ExpiredBlocks, "C113"),
    (Bug::TransactSeesExpired, "C114"),
    (Bug::ExpiredLends, "C115"),
    (Bug::LongLifeOverflows, "C116"),
    (Bug::SweepsMortals, "C117"),
    (Bug::EndsLate, "C118"),
    (Bug::ClaimsNativeExpiry, "C178"),
    (Bug::WrongSize, "C119"),
    (Bug::WrongChecksum, "C120"),
    (Bug::CreatedReset, "C121"),
    (Bug::CreatedSurvives, "C122"),
    (Bug::SystemTime, "C123"),
    (Bug::TagsByLine, "C124"),
    (Bug::TagsMerged, "C125"),
    (Bug::TagsOneKib, "C126"),
    (Bug::TagsUnlimited, "C127"),
    (Bug::LosesTags, "C124"),
    (Bug::LosesEncodings, "C128"),
    (Bug::WorksAfterClose, "C129"),
    (Bug::SecondCloseFails, "C130"),
    (Bug::NeverHealthy, "C131"),
    (Bug::HealthyWhenClosed, "C132"),
    (Bug::FlushFails, "C133"),
    (Bug::CountsStores, "C134"),
    (Bug::VerifySkips, "C135 C146"),
    (Bug::MaintainRewrites, "C136"),
    (Bug::RenamedByClose, "C137"),
    (Bug::ClosedIsUnavailable, "C129 C138"),
    (Bug::DebugShowsValues, "C139"),
    (Bug::ErrorsWithoutStorage, "C140"),
    (Bug::RawKeys, "C141"),
    (Bug::UnavailableAsAbsent, "C142"),
    (Bug::HealthyWhenDown, "C143"),
    (Bug::ForgetsWhenDown, "C144"),
    (Bug::NoVerification, "C145"),
    (Bug::CorruptionAsAbsent, "C145"),
    (Bug::VerifyStops, "C146"),
    (Bug::DamageStays, "C147"),
    (Bug::NoSizeLimit, "C148"),
    (Bug::TornStore, "C158"),
    (Bug::TornDelete, "C159"),
    (Bug::TornTransact, "C160"),
    (Bug::TornTouch, "C163"),
    (Bug::LateStore, "C161"),
    (Bug::StuckLock, "C162"),
    (Bug::ForgetsOnReopen, "C164 C165"),
    (Bug::DeletesComeBack, "C166 C168 C170"),
    (Bug::LifetimesStop, "C167"),
    (Bug::NeedsClose, "C169"),
    (Bug::HidesDurability, "C171"),
    (Bug::HidesSharing, "C176"),
    (Bug::EvictsUnclaimed, "C181"),
    (Bug::ClaimsToEvict, "C182"),
    (Bug::WritesReadOnly, "C183"),
    (Bug::SnapshotSkips, "C184"),
    (Bug::SnapshotShowsExpired, "C186"),
    (Bug::SnapshotTears, "C187"),
    (Bug::SnapshotSkipsDamage, "C188"),
    (Bug::WatchMissesDeletes, "C191"),
    (Bug::WatchIgnoresPrefix, "C192"),
    (Bug::WatchTellsConflicts, "C193"),
    (Bug::WatchRepeats, "C194"),
    (Bug::WatchHidesLost, "C195 C201"),
    (Bug::WatchServesOne, "C196"),
    (Bug::WatchOutlivesClose, "C197"),
    (Bug::WatchesItselfAlone, "C198"),
    (Bug::ClaimsNativeWatch, "C199"),
    (Bug::WatchNeedsWriting, "C200"),
];

/// Clauses that no bug breaks, each with the reason.
const NEVER_SEEN_TO_FAIL: &[(&str, &str)] = &[];

const LIMIT: Duration = Duration::from_secs(30);

fn clause(id: &str) -> &'static Clause {
    clauses()
        .find(|clause| clause.id == id)
        .unwrap_or_else(|| panic!("the table names {id}, which is no clause"))
}

async fn verdict(bug: Bug, id: &str) -> Verdict {
    check(clause(id), Arc::new(BrokenHarness::new(bug)), LIMIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bug_is_reported_by_the_right_clauses() {
    // Some bugs panic on purpose; their messages would drown the report.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (bug, ids) in BROKEN_BY {
        for id in ids.split(' ') {
            match verdict(*bug, id).await {
                Err(Stop::Broken(_)) => {}
                other => missed.push(format!("{bug:?} should break {id}: {other:?}")),
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_bug_every_clause_holds() {
    for clause in clauses() {
        let verdict = check(clause, Arc::new(BrokenHarness::sound()), LIMIT).await;
        assert!(!matches!(verdict, Err(Stop::Broken(_))), "{clause:?}: {verdict:?}");
    }
}

#[test]
fn every_bug_is_in_the_table_once() {
    let listed: Vec<_> = BROKEN_BY.iter().map(|(bug, _)| *bug).collect();
    assert_eq!(listed, Bug::ALL);
    assert!(listed.len() >= 25);
}

#[test]
fn every_clause_is_seen_to_fail() {
    let seen: BTreeSet<_> = BROKEN_BY.iter().flat_map(|(_, ids)| ids.split(' ')).collect();
    let unseen: Vec<_> = clauses().map(|clause| clause.id).filter(|id| !seen.contains(id)).collect();
    let excused: Vec<_> = NEVER_SEEN_TO_FAIL.iter().map(|(id, _)| *id).collect();
    assert_eq!(unseen, excused, "clauses that no bug of the table breaks");
}
