//! The binary that a backend's crash tests are.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use super::extent::{scale, seed};
use super::inject::{self, Inject};
use super::kill::{self, Kill};
use super::record::Record;
use super::replay::{self, Replay};
use super::report::{Report, Trouble, judge};
use super::subject::Subject;
use super::sweep::{self, Sweep};
use super::worker::serve;

/// The tests of a binary with `harness = false`: tools of this module, each let loose on a subject. `PERSIST_CRASH_SCALE=10` runs
/// ten times as many cases, `PERSIST_CRASH_SEED=2` others.
///
/// # Example
///
/// ```no_run
/// use std::process::ExitCode;
/// use std::sync::Arc;
///
/// use persist_testkit::crash::kill::Kill;
/// use persist_testkit::crash::replay::Replay;
/// use persist_testkit::crash::suite::{Suite, kills, replays};
/// use persist_testkit::crash::Subject;
///
/// # async fn open(_: std::path::PathBuf) -> persist_core::Result<Arc<dyn persist_core::BaseStorage>> { todo!() }
/// fn main() -> ExitCode {
///     let subject = Subject::storage("file", |root| async move { open(root).await });
///     Suite::default()
///         .test("kill", &subject, kills(Kill::default()))
///         .test("replay", &subject, replays(Replay::default()))
///         .main()
/// }
/// ```
#[derive(Debug, Default)]
pub struct Suite {
    subjects: Vec<Subject>,
    trials: Vec<Trial>,
}

impl Suite {
    /// One test more: what `tool` reports of `subject`.
    #[must_use]
    pub fn test(
        mut self,
        name: &str,
        subject: &Subject,
        tool: impl Fn(&Subject) -> Result<Report, Trouble> + Send + 'static,
    ) -> Self {
        let under_test = subject.clone();
        self.trials.push(Trial::test(name, move || Ok(judge(tool(&under_test))?)));
        self.subjects.push(subject.clone());
        self
    }

    /// One test more that is like no other.
    #[must_use]
    pub fn trial(mut self, trial: Trial) -> Self {
        self.trials.push(trial);
        self
    }

    /// What `main` does: the work of a worker, if this process was started as one, or the tests.
    pub fn main(self) -> ExitCode {
        if let Some(code) = serve(&self.subjects.iter().collect::<Vec<_>>()) {
            return code;
        }
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }
}

/// Kills at random moments, as many as `kill` says for each unit of the scale.
pub fn kills(kill: Kill) -> impl Fn(&Subject) -> Result<Report, Trouble> + Send {
    move |subject| kill::run(subject, &Kill { cycles: kill.cycles * scale(), seed: seed(), ..kill.clone() })
}

/// Kills before system calls.
pub fn sweeps(sweep: Sweep) -> impl Fn(&Subject) -> Result<Report, Trouble> + Send {
    move |subject| sweep::run(subject, &sweep)
}

/// Power cuts, as many as `replay` says for each unit of the scale.
pub fn replays(replay: Replay) -> impl Fn(&Subject) -> Result<Report, Trouble> + Send {
    move |subject| {
        let record = Record { seed: seed(), ..replay.record.clone() };
        replay::run(subject, &Replay { record, states: replay.states * scale(), ..replay.clone() })
    }
}

/// System calls that fail.
pub fn faults(inject: Inject) -> impl Fn(&Subject) -> Result<Report, Trouble> + Send {
    move |subject| inject::run(subject, &Inject { seed: seed(), ..inject.clone() })
}
