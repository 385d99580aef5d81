//! The thread that writes: one sync for all that waits in its queue.
//!
//! A change is acknowledged after the sync that covers it. While one sync is under way the next changes gather in the
//! queue, so that many callers share one.

use std::sync::Arc;
use std::thread;

use persist_core::Result;
use persist_core::writing::{self, Calls, QUEUE, tell};
use tokio::sync::mpsc::Receiver;

use crate::change::Step;
use crate::core::Core;
use crate::engine::Engine;
use crate::fault::system;
use crate::folder::Lock;

/// A batch takes no more changes once it holds so many bytes.
pub(crate) const BATCH_BYTES: u64 = 16 << 20;

/// The way to the thread that writes.
pub(crate) type Writer = writing::Writer<Engine, Step>;

type Job = writing::Job<Engine, Step>;

/// Takes over the folder, whose lock is held, and starts the thread.
///
/// # Errors
/// Why nothing can be written.
pub(crate) fn start(core: &Arc<Core>, lock: Lock) -> Result<Writer> {
    let fail = |what| move |error| system(&core.descriptor, "open", what, error);
    let engine = Engine::open(Arc::clone(core), lock).map_err(fail("the folder of the packs"))?;
    let (writer, jobs) = Writer::new(&core.descriptor, &core.report.poison);
    thread::Builder::new()
        .name("persist-pack-writer".to_owned())
        .spawn(move || run(engine, jobs))
        .map_err(fail("the thread that writes"))?;
    Ok(writer)
}

fn commit(calls: &mut Calls<Step>, engine: &mut Engine) {
    let calls = std::mem::take(calls);
    if calls.is_empty() {
        return;
    }
    let answers = engine.commit(&calls.changes);
    tell(&engine.core().watchers, &calls.changes, &answers);
    calls.answer(answers);
}

fn run(mut engine: Engine, mut queue: Receiver<Job>) {
    let mut closing = Vec::new();
    let mut calls = Calls::default();
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(job) = next {
            match job {
                Job::Change(change, reply) => calls.push(change, reply),
                Job::Task(task) => {
                    commit(&mut calls, &mut engine);
                    task(&mut engine);
                }
                Job::Close(reply) => {
                    queue.close();
                    closing.push(reply);
                }
            }
            if calls.weight() >= BATCH_BYTES {
                commit(&mut calls, &mut engine);
            }
            count += 1;
            next = if count < QUEUE { queue.try_recv().ok() } else { None };
        }
        commit(&mut calls, &mut engine);
    }
    if closing.is_empty() {
        // Every handle was dropped: what was acknowledged is there, and nobody waits.
        return;
    }
    let mut ended = Some(engine.close());
    for reply in closing {
        let _ = reply.send(ended.take().unwrap_or(Ok(())));
    }
}
