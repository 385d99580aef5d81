//! The inside of a worker process.

use std::process::ExitCode;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::acks::Acks;
use super::plan::{PLAN_VARIABLE, Plan};
use super::protocol::Line;
use super::subject::Subject;

/// Does what a worker has to do, if this process was started as one; to be called first in `main`.
///
/// `None`: it is an ordinary test run, go on. `Some`: the work is done, leave with this code.
pub fn serve(subjects: &[&Subject]) -> Option<ExitCode> {
    let text = std::env::var(PLAN_VARIABLE).ok()?;
    // A worker must not outlive the tool that started it, not even under a tracer.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let acks = Acks::new();
    match work(&text, subjects, &acks) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(text) => {
            acks.tell(&Line::Broken(text));
            Some(ExitCode::FAILURE)
        }
    }
}

fn work(text: &str, subjects: &[&Subject], acks: &Acks) -> Result<(), String> {
    let plan: Plan = serde_json::from_str(text).map_err(|error| format!("no plan: {error}"))?;
    let subject = subjects
        .iter()
        .find(|subject| subject.name() == plan.subject)
        .ok_or_else(|| format!("no subject named {}", plan.subject))?;
    subject.work(&plan, acks)
}
