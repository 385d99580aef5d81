//! Changes of many callers on their way to one server. A few pieces are under way at a time, and what comes meanwhile goes
//! out together in the next one: the more callers there are, the less each of them costs.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use persist_core::ErrorKind;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::engine::{Call, Engine, Verdict};
use crate::fault::{Fate, Fault};
use crate::link::Link;
use crate::piece::{self, Order};

/// How many pieces are under way at a time: one that the server works on, and one that is written or read meanwhile.
const UNDER_WAY: usize = 2;

/// Who has a turn to send over a connection, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

/// What became of a call that waited; `None`: it was not sent, because there is no connection.
type Outcome = Option<Verdict>;

/// A call that waits. When its caller goes away it is not sent.
#[derive(Debug)]
struct Waiting {
    call: Call,
    deadline: Instant,
    outcome: oneshot::Sender<Outcome>,
}

impl Waiting {
    fn order(&self) -> Order<'_> {
        Order { call: &self.call, deadline: self.deadline }
    }
}

impl Turns {
    /// Takes a turn; if there is none left, others will send the call.
    fn enter(&self, call: &Call, deadline: Instant) -> Option<oneshot::Receiver<Outcome>> {
        let mut state = self.0.lock();
        if state.under_way < UNDER_WAY {
            state.under_way += 1;
            return None;
        }
        let (outcome, receiver) = oneshot::channel();
        state.waiting.push_back(Waiting { call: call.clone(), deadline, outcome });
        Some(receiver)
    }

    /// Those who go out next: as many as fit into one piece.
    fn next(&self) -> Vec<Waiting> {
        let mut state = self.0.lock();
        state.waiting.retain(|waiting| !waiting.outcome.is_closed());
        let fitting = piece::fitting(state.waiting.iter().map(|waiting| &waiting.call));
        let count = fitting.min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// Gives a turn back. False: it is still needed, because somebody waits.
    fn give_back(&self) -> bool {
        let mut state = self.0.lock();
        let over = state.waiting.is_empty();
        state.under_way -= usize::from(over);
        over
    }

    /// Gives a turn back, and leaves those who wait to themselves.
    fn give_up(&self) {
        let mut state = self.0.lock();
        state.under_way -= 1;
        for waiting in state.waiting.drain(..) {
            let _ = waiting.outcome.send(None);
        }
    }
}

/// The turn of a caller, who sends its own call. What has come meanwhile is sent by a task, so that nobody waits for a
/// caller who may go away.
struct Turn {
    engine: Arc<Engine>,
    link: Arc<Link>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.link.turns.give_back() {
            return;
        }
        let shift = Shift { engine: Arc::clone(&self.engine), link: Arc::clone(&self.link), over: false };
        // Without a runtime the shift ends here and sends those who wait away.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(shift.work());
        }
    }
}

/// The turn of a task, which sends what waits until nothing does.
struct Shift {
    engine: Arc<Engine>,
    link: Arc<Link>,
    over: bool,
}

impl Shift {
    async fn work(mut self) {
        while !self.over {
            // Those who were just answered may come again at once; they are waited for.
            yield_now().await;
            let waiting = self.link.turns.next();
            if waiting.is_empty() {
                self.over = self.link.turns.give_back();
            } else {
                self.send(waiting).await;
            }
        }
    }

    async fn send(&self, waiting: Vec<Waiting>) {
        let now = Instant::now();
        let (waiting, late): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|waiting| waiting.deadline > now);
        for waiting in late {
            let _ = waiting.outcome.send(Some(Verdict::Again(too_late())));
        }
        let Some(mut live) = self.link.ready() else {
            return waiting.into_iter().for_each(|waiting| drop(waiting.outcome.send(None)));
        };
        let orders: Vec<_> = waiting.iter().map(Waiting::order).collect();
        let verdicts = self.engine.send(&self.link, &mut live, &orders).await;
        for (waiting, verdict) in waiting.into_iter().zip(verdicts) {
            let _ = waiting.outcome.send(Some(verdict));
        }
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        if !self.over {
            self.link.turns.give_up();
        }
    }
}

impl Engine {
    /// One attempt over the connection there is, together with the calls of others. `None`: nothing was sent.
    pub(crate) async fn take_turns(
        self: &Arc<Self>,
        link: Arc<Link>,
        call: &Call,
        deadline: Instant,
    ) -> Option<Verdict> {
        match link.turns.enter(call, deadline) {
            Some(outcome) => outcome.await.unwrap_or_else(|_| Some(abandoned(&link))),
            None => {
                let turn = Turn { engine: Arc::clone(self), link };
                let mut live = turn.link.ready()?;
                self.send(&turn.link, &mut live, &[Order { call, deadline }]).await.pop()
            }
        }
    }
}

/// The time of a call ended before it was sent.
fn too_late() -> Fault {
    let message = "the server took too long with the calls before this one; check its load, or raise timeout";
    Fault::new(ErrorKind::Timeout, message)
}

/// The task that sent a call was ended with its runtime. What it sent is refused from the next connection on.
fn abandoned(link: &Link) -> Verdict {
    link.hang_up();
    let message = "the runtime that sent the call has ended; call again".to_owned();
    Verdict::Done(Err(Fault { kind: ErrorKind::Unavailable, message, fate: Fate::Lost }))
}
