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
use crate::piece::{self, Order, Piece};
use crate::recovery;
use crate::route::Route;

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
#[derive(Debug)]
pub(crate) enum Verdict {
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
    pub(crate) async fn run_one(self: &Arc<Self>, call: Call, deadline: Instant) -> Result<Value, Fault> {
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
    /// none, or nothing was sent over it.
    async fn try_one(self: &Arc<Self>, call: &Call, deadline: Instant) -> Option<Verdict> {
        let link = self.route.ready(call.tag)?;
        let Body::Read(cmd) = &call.body else { return self.take_turns(link, call, deadline).await };
        let mut live = link.ready()?;
        Some(match live.send(cmd, call.bytes).await {
            Ok(answer) => self.judge(&link, &live, call, answer, &Ok(())),
            Err(fault) => self.lost(&link, &live, call, fault),
        })
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
            let (some, others) = rest.split_at(piece::fitting(rest.iter().map(|place| &calls[*place])));
            rest = others;
            let orders: Vec<_> = some.iter().map(|place| Order { call: &calls[*place], deadline }).collect();
            let found = match link.live(deadline).await {
                Ok(mut live) => self.send(link, &mut live, &orders).await,
                Err(fault) => {
                    self.route.doubt(link);
                    some.iter().map(|_| retry(fault.clone())).collect()
                }
            };
            verdicts.extend(some.iter().copied().zip(found));
        }
        verdicts
    }

    /// Sends some calls over a connection, in one piece.
    pub(crate) async fn send(&self, link: &Arc<Link>, live: &mut Live, orders: &[Order<'_>]) -> Vec<Verdict> {
        if let Some(denied) = live.denied()
            && orders.iter().any(Order::is_change)
        {
            // The next connection will know whether the right was given meanwhile.
            link.give_up(live.era);
            return orders.iter().map(|_| Verdict::Done(Err(denied.clone()))).collect();
        }
        let bytes = orders.iter().map(|order| order.call.bytes).sum();
        let acknowledged = self.replicas.0 > 0 && orders.iter().any(Order::is_change);
        let Piece { commands, places } = Piece::new(orders, &self.keyspace, self.dialer.client(), live);
        let answers = match commands.as_slice() {
            [cmd] if !acknowledged => live.send(cmd, bytes).await.map(|answer| vec![answer]),
            _ => {
                let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
                for cmd in commands {
                    pipeline.add_command(cmd);
                }
                if acknowledged {
                    pipeline.cmd("WAIT").arg(self.replicas.0).arg(self.replicas.1);
                }
                live.send_all(&pipeline, bytes).await
            }
        };
        match answers {
            Ok(mut answers) => {
                let replicated = if acknowledged { self.replicated(live, answers.pop()) } else { Ok(()) };
                let answers = piece::deal(&places, orders, answers).into_iter().zip(orders);
                answers
                    .map(|(answer, order)| self.judge(link, live, order.call, answer, &replicated))
                    .collect()
            }
            Err(fault) => {
                orders.iter().map(|order| self.lost(link, live, order.call, fault.clone())).collect()
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
        let place = live.place();
        let refusal = match &answer {
            Value::ServerError(error) => Some(Refusal::of(place, error)),
            answer => {
                recovery::refused(call, answer).map(|(code, detail)| Refusal::said(place, &code, &detail))
            }
        };
        let Some(refusal) = refusal else {
            return match (&call.body, replicated) {
                // A conflict has changed nothing, so it does not matter who has it.
                (Body::Change(_), Err(fault)) if !recovery::is_conflict(&answer) => {
                    Verdict::Done(Err(fault.clone()))
                }
                _ => Verdict::Done(Ok(answer)),
            };
        };
        match refusal {
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

    /// An answer that was lost: reading may be repeated, a change may not.
    fn lost(&self, link: &Arc<Link>, live: &Live, call: &Call, fault: Fault) -> Verdict {
        link.give_up(live.era);
        self.route.doubt(link);
        match call.body {
            Body::Read(_) => Verdict::Again(Fault { fate: Fate::Untouched, ..fault }),
            Body::Change(_) => Verdict::Done(Err(fault)),
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
