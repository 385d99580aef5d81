use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use persist_core::ErrorKind;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::change::Change;
use crate::config::RedisConfig;
use crate::dialer::Dialer;
use crate::fault::{Fate, Fault, Refusal};
use crate::keyspace::{Keyspace, Tag};
use crate::link::{Link, Live, Pause};
use crate::recovery;
use crate::route::Route;

/// The most commands that go out in one piece.
const MOST_COMMANDS: usize = 512;

/// The most bytes that go out in one piece, a single command aside.
const MOST_BYTES: usize = 4 << 20;

/// How long a call may take whose configured time is beyond the clock's reach.
const FOREVER: Duration = Duration::from_secs(30 * 366 * 86_400);

/// How often in a row a call is sent elsewhere without a pause: nodes that name each other must not keep it spinning.
const REDIRECTS: u32 = 3;

/// Carries out commands: finds the server, connects, sends, understands refusals, and tries again while that is safe
/// and the time of the call is not over.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) keyspace: Keyspace,
    pub(crate) dialer: Arc<Dialer>,
    route: Route,
    timeout: Duration,
    /// How many replicas must have a change, and how long that may take in milliseconds.
    replicas: (u32, u64),
}

/// A command for the server that has a tag.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tag: Tag,
    /// How many bytes it moves, roughly.
    pub(crate) bytes: usize,
    pub(crate) body: Body,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// A command that may be repeated at will.
    Read(Cmd),
    /// A change: built for the era of the connection, and never repeated when its answer was lost.
    Change(Arc<Change>),
}

/// What became of a command in one attempt.
enum Verdict {
    Done(Result<Value, Fault>),
    /// It was not carried out, or may be repeated.
    Again(Fault),
    /// The same, at first without a pause: the next attempt goes to another place or over another connection.
    AtOnce(Fault),
}

impl Engine {
    pub(crate) fn new(config: &RedisConfig, route: Route, dialer: Arc<Dialer>) -> Self {
        let patience = u64::try_from(config.attempt_timeout.0.as_millis() / 2).unwrap_or(u64::MAX);
        Self {
            keyspace: Keyspace::new(config.namespace.as_str(), config.tags()),
            dialer,
            route,
            timeout: config.timeout.0,
            replicas: (config.replicas, patience.max(1)),
        }
    }

    /// When a call that begins now must end.
    pub(crate) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or_else(|| now + FOREVER)
    }

    /// Carries out one command.
    pub(crate) async fn run_one(&self, call: Call, deadline: Instant) -> Result<Value, Fault> {
        match self.try_one(&call, deadline).await {
            Some(Verdict::Done(answer)) => return answer,
            Some(Verdict::Again(fault) | Verdict::AtOnce(fault)) if Instant::now() >= deadline => {
                return Err(fault.out_of_time());
            }
            _ => {}
        }
        let answer = self.run(vec![call], deadline).await.pop();
        answer.unwrap_or_else(|| Err(Fault::garbled("no answer")))
    }

    /// One attempt over a connection that is there already, which nearly always is all there is to do. `None`: there is
    /// no connection, or the change is to be acknowledged by replicas.
    async fn try_one(&self, call: &Call, deadline: Instant) -> Option<Verdict> {
        let link = self.route.ready(call.tag)?;
        let mut live = link.ready()?;
        let change;
        let cmd = match &call.body {
            Body::Read(cmd) => cmd,
            Body::Change(_) if self.replicas.0 > 0 => return None,
            Body::Change(_) => {
                change = self.command(call, &live, deadline);
                &change
            }
        };
        match live.send(cmd, call.bytes).await {
            Ok(answer) => Some(self.judge(&link, &live, call, answer, &Ok(()))),
            Err(fault) => {
                link.give_up(live.era);
                self.route.doubt(&link);
                Some(lost(call, fault))
            }
        }
    }

    /// Carries out commands at once, those for one server in their order, and answers each in its place.
    pub(crate) async fn run(&self, calls: Vec<Call>, deadline: Instant) -> Vec<Result<Value, Fault>> {
        let mut answers: Vec<_> = calls.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..calls.len()).collect();
        let mut pause = Pause::default();
        let mut redirects = 0;
        while !open.is_empty() {
            let mut slow = false;
            let mut left = Vec::new();
            for (place, verdict) in self.attempt(&calls, open, deadline).await {
                let (fault, patient) = match verdict {
                    Verdict::Done(answer) => {
                        answers[place] = Some(answer);
                        continue;
                    }
                    Verdict::Again(fault) => (fault, true),
                    Verdict::AtOnce(fault) => (fault, redirects >= REDIRECTS),
                };
                if Instant::now() >= deadline {
                    answers[place] = Some(Err(fault.out_of_time()));
                } else {
                    slow |= patient;
                    left.push(place);
                }
            }
            open = left;
            redirects += 1;
            if slow {
                pause.lengthen();
                let _ = tokio::time::timeout_at(deadline, pause.wait()).await;
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(Fault::garbled("no answer")))).collect()
    }

    /// One attempt for each of the open calls.
    async fn attempt(&self, calls: &[Call], open: Vec<usize>, deadline: Instant) -> Vec<(usize, Verdict)> {
        let mut verdicts = Vec::with_capacity(open.len());
        let mut groups: Vec<(Arc<Link>, Vec<usize>)> = Vec::new();
        for place in open {
            match self.route.link(calls[place].tag, deadline).await {
                Ok(link) => match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &link)) {
                    Some((_, places)) => places.push(place),
                    None => groups.push((link, vec![place])),
                },
                Err(fault) => verdicts.push((place, retry(fault))),
            }
        }
        if let [(link, places)] = groups.as_slice() {
            verdicts.extend(self.attempt_on(link, calls, places, deadline).await);
        } else {
            let attempts = groups.iter().map(|(link, places)| self.attempt_on(link, calls, places, deadline));
            verdicts.extend(join_all(attempts).await.into_iter().flatten());
        }
        verdicts
    }

    /// One attempt on one server, in pieces of bearable size.
    async fn attempt_on(
        &self,
        link: &Arc<Link>,
        calls: &[Call],
        places: &[usize],
        deadline: Instant,
    ) -> Vec<(usize, Verdict)> {
        let mut verdicts = Vec::with_capacity(places.len());
        let mut rest = places;
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(piece(calls, rest));
            rest = others;
            let found = match link.live(deadline).await {
                Ok(mut live) => self.send(link, &mut live, calls, piece, deadline).await,
                Err(fault) => {
                    self.route.doubt(link);
                    piece.iter().map(|_| retry(fault.clone())).collect()
                }
            };
            verdicts.extend(piece.iter().copied().zip(found));
        }
        verdicts
    }

    /// Sends some calls over a connection.
    async fn send(
        &self,
        link: &Arc<Link>,
        live: &mut Live,
        calls: &[Call],
        piece: &[usize],
        deadline: Instant,
    ) -> Vec<Verdict> {
        let bytes = piece.iter().map(|place| calls[*place].bytes).sum();
        let changes = piece.iter().any(|place| matches!(calls[*place].body, Body::Change(_)));
        let acknowledged = changes && self.replicas.0 > 0;
        let answers = match piece {
            [place] if !acknowledged => {
                let cmd = self.command(&calls[*place], live, deadline);
                live.send(&cmd, bytes).await.map(|answer| vec![answer])
            }
            _ => {
                let mut pipeline = Pipeline::with_capacity(piece.len() + 1);
                piece.iter().for_each(|place| {
                    pipeline.add_command(self.command(&calls[*place], live, deadline));
                });
                if acknowledged {
                    pipeline.cmd("WAIT").arg(self.replicas.0).arg(self.replicas.1);
                }
                live.send_all(&pipeline, bytes).await
            }
        };
        match answers {
            Ok(mut answers) => {
                let replicated = if acknowledged { self.replicated(live, answers.pop()) } else { Ok(()) };
                let judge = |(answer, place): (Value, &usize)| {
                    self.judge(link, live, &calls[*place], answer, &replicated)
                };
                answers.into_iter().zip(piece).map(judge).collect()
            }
            Err(fault) => {
                link.give_up(live.era);
                self.route.doubt(link);
                piece.iter().map(|place| lost(&calls[*place], fault.clone())).collect()
            }
        }
    }

    fn command(&self, call: &Call, live: &Live, deadline: Instant) -> Cmd {
        match &call.body {
            Body::Read(cmd) => cmd.clone(),
            Body::Change(change) => {
                let latest = live.server_time(deadline);
                change.command(&self.keyspace, self.dialer.client(), live.era, latest)
            }
        }
    }

    /// What WAIT said.
    fn replicated(&self, live: &Live, answer: Option<Value>) -> Result<(), Fault> {
        let wanted = i64::from(self.replicas.0);
        let reached = crate::answer::integer(answer.unwrap_or_default()).unwrap_or(0);
        if reached >= wanted {
            return Ok(());
        }
        let message = format!(
            "{} has the change, and {reached} of {wanted} replicas; start more replicas or lower `replicas`",
            live.place()
        );
        Err(Fault { kind: ErrorKind::Unavailable, message, fate: Fate::Unreplicated })
    }

    /// What an answer means.
    fn judge(
        &self,
        link: &Arc<Link>,
        live: &Live,
        call: &Call,
        answer: Value,
        replicated: &Result<(), Fault>,
    ) -> Verdict {
        let Value::ServerError(error) = &answer else {
            return match (&call.body, replicated) {
                // A conflict has changed nothing, so it does not matter who has it.
                (Body::Change(_), Err(fault)) if !recovery::is_conflict(&answer) => {
                    Verdict::Done(Err(fault.clone()))
                }
                _ => Verdict::Done(Ok(answer)),
            };
        };
        match Refusal::of(live.place(), error) {
            Refusal::Moved(address, fault) => {
                self.route.moved(call.tag, link, &address);
                Verdict::AtOnce(fault)
            }
            // A change needs all keys of the slot in one place, so it waits until the slot has arrived.
            Refusal::Moving(fault) => retry(fault),
            Refusal::Reconnect(fault) => {
                link.give_up(live.era);
                Verdict::AtOnce(fault)
            }
            Refusal::Later(fault) => {
                link.give_up(live.era);
                self.route.doubt(link);
                retry(fault)
            }
            Refusal::Final(fault) => Verdict::Done(Err(fault)),
        }
    }

    /// The way to the server that has a tag.
    ///
    /// # Errors
    /// That nobody can say where it is.
    pub(crate) async fn link(&self, tag: Tag, deadline: Instant) -> Result<Arc<Link>, Fault> {
        self.route.link(tag, deadline).await
    }

    /// A server does not do its duty: where the tags are is asked anew.
    pub(crate) fn doubt(&self, link: &Arc<Link>) {
        self.route.doubt(link);
    }

    /// Gives up all connections; a call that is on its way keeps its own until it has its answer.
    pub(crate) fn close(&self) {
        self.route.close();
    }

    /// All servers that have tags, each with one of them.
    pub(crate) async fn servers(&self, deadline: Instant) -> Result<Vec<Tag>, Fault> {
        let mut links: Vec<Arc<Link>> = Vec::new();
        let mut tags = Vec::new();
        for tag in self.keyspace.tags() {
            let link = self.route.link(tag, deadline).await?;
            if !links.iter().any(|known| Arc::ptr_eq(known, &link)) {
                links.push(link);
                tags.push(tag);
            }
        }
        Ok(tags)
    }
}

/// A fault after which nothing was carried out: most of them pass.
fn retry(fault: Fault) -> Verdict {
    match fault.kind {
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::ReadOnly => Verdict::Again(fault),
        _ => Verdict::Done(Err(fault)),
    }
}

/// An answer that was lost: reading may be repeated, a change may not.
fn lost(call: &Call, fault: Fault) -> Verdict {
    match call.body {
        Body::Read(_) => Verdict::Again(Fault { fate: Fate::Untouched, ..fault }),
        Body::Change(_) => Verdict::Done(Err(fault)),
    }
}

/// How many of these calls go out together.
fn piece(calls: &[Call], places: &[usize]) -> usize {
    let mut bytes = 0;
    let fits = |place: &&usize| {
        bytes += calls[**place].bytes;
        bytes <= MOST_BYTES
    };
    places.iter().take(MOST_COMMANDS).take_while(fits).count().max(1)
}
