use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Builder;
use tokio::task::JoinError;

use super::{Clause, Harness, Stop, Verdict, clauses};

/// How long a clause may take before the storage counts as hanging.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Checks one clause against a fresh harness. A panic of the storage and a storage that hangs break the clause; the
/// check is a task of its own, so on a runtime with several threads also one that never lets go of its thread.
pub async fn check(clause: &'static Clause, harness: Arc<dyn Harness>, limit: Duration) -> Verdict {
    if let Some(reason) = harness.skips(clause.id) {
        return Err(Stop::skipped(reason));
    }
    let task = tokio::spawn(async move { (clause.check)(&*harness).await });
    let abort = task.abort_handle();
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => Err(Stop::broken(panic_text(error))),
        Err(_) => {
            abort.abort();
            Err(Stop::broken(format!("no end after {limit:?}")))
        }
    }
}

fn panic_text(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "the check was cancelled".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.as_deref().unwrap_or("without a message"))
}

/// One test for each clause, named `prefix::C001_…`, for a test binary with its own `main`. `factory` makes a harness
/// on a fresh place.
pub fn trials<H: Harness>(prefix: &str, factory: impl Fn() -> H + Send + Sync + 'static) -> Vec<Trial> {
    let factory = Arc::new(factory);
    let trial = |clause: &'static Clause| {
        let factory = Arc::clone(&factory);
        let name = format!("{prefix}::{}", clause.test_name());
        Trial::ignorable_test(name, move || conclude(clause, run(clause, &*factory)))
    };
    clauses().map(trial).collect()
}

fn run<H: Harness>(clause: &'static Clause, factory: &dyn Fn() -> H) -> Verdict {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Stop::broken(format!("no runtime: {error}")))?;
    // The harness is made and dropped within the runtime, so that it may use it.
    let verdict = runtime.block_on(async { check(clause, Arc::new(factory()), TIME_LIMIT).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    verdict
}

fn conclude(clause: &Clause, verdict: Verdict) -> Result<Completion, Failed> {
    match verdict {
        Ok(()) => Ok(Completion::Completed),
        Err(Stop::Skipped(reason)) => Ok(Completion::ignored_with(reason)),
        Err(Stop::Broken(what)) => Err(format!("{} {}\n    {what}", clause.id, clause.title).into()),
    }
}

/// Runs tests as `cargo test` expects it; the body of [`conformance!`](crate::conformance!).
pub fn main(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

#[cfg(test)]
mod tests {
    use persist_core::{ErrorKind, StorageError};

    use super::*;
    use crate::memory::MemoryHarness;

    const SHORT: Duration = Duration::from_millis(200);

    async fn verdict_of(limit: Duration, checked: crate::conformance::Check) -> Verdict {
        let clause = Box::leak(Box::new(Clause { id: "C999", title: "A test", check: checked }));
        check(clause, Arc::new(MemoryHarness::new()), limit).await
    }

    fn broken(verdict: Verdict) -> String {
        match verdict {
            Err(Stop::Broken(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storage_that_hangs_breaks_the_clause() {
        let waiting = verdict_of(SHORT, |_| Box::pin(std::future::pending())).await;
        assert_eq!(broken(waiting), "no end after 200ms");
        let begun = std::time::Instant::now();
        let blocking = verdict_of(SHORT, |_| {
            Box::pin(async {
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            })
        });
        assert_eq!(broken(blocking.await), "no end after 200ms");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "a thread that is never let go held up the verdict"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_breaks_the_clause_and_an_error_is_shown() {
        assert_eq!(
            broken(verdict_of(TIME_LIMIT, |_| Box::pin(async { panic!("at {}", 7) })).await),
            "panicked: at 7"
        );
        let failed = verdict_of(TIME_LIMIT, |_| {
            Box::pin(async { Err(StorageError::new(ErrorKind::Capacity, "no room").into()) })
        });
        assert_eq!(broken(failed.await), "unexpected error: Capacity: no room");
    }

    #[test]
    fn verdicts_become_results_of_tests() {
        let clause = &Clause { id: "C999", title: "A test, of tests", check: |_| Box::pin(async { Ok(()) }) };
        assert_eq!(clause.test_name(), "C999_a_test_of_tests");
        let failed = conclude(clause, Err(Stop::broken("it is not so")));
        let message = failed.err().and_then(|failed| failed.message().map(str::to_owned));
        assert_eq!(message.as_deref(), Some("C999 A test, of tests\n    it is not so"));
        assert!(conclude(clause, Err(Stop::skipped("for a reason"))).is_ok());
    }
}
