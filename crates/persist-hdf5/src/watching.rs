//! Watching: the thread that writes tells what it has committed. A storage that only reads shows one moment.

use persist_core::writing::{self, Answer, Done};
use persist_core::{Result, Watchers};

use crate::change::{Change, Step};

/// Tells those who watch what became of changes, in their order; called before they are acknowledged.
pub(crate) fn tell(watchers: &Watchers, changes: &[Change], answers: &[Result<Answer>]) {
    if !watchers.is_watched() {
        return;
    }
    for (change, answer) in changes.iter().zip(answers) {
        writing::tell(watchers, std::slice::from_ref(change), std::slice::from_ref(answer));
        tell_retired(watchers, change, answer);
    }
}

/// What is removed because it is old was there until then, unlike what has expired.
fn tell_retired(watchers: &Watchers, change: &Change, answer: &Result<Answer>) {
    let Ok(answer) = answer else { return };
    for pair in change.steps.iter().zip(answer) {
        if let (Step::Sweep { key, before: Some(_) }, Ok(Done::Swept(Some(_)))) = pair {
            watchers.deleted(key);
        }
    }
}
