//! Hearing of changes: one connection for each server, over which its events come, while somebody watches.
//!
//! A change is told only where its tag is watched, which the head of the tag says for some seconds at a time. So a change
//! that nobody watches costs nothing, and a watcher notices by the mark of that word if there was a gap.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use persist_core::{ErrorKind, Key, Watchers};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::answer;
use crate::fault::{Fault, Refusal};
use crate::keyspace::Tag;
use crate::link::{Link, Pause};
use crate::record::Record;
use crate::script;
use crate::storage::Inner;

/// How long the changes of a tag are told after somebody has asked for it.
const TERM: Duration = Duration::from_secs(15);

/// How often is asked again.
const RENEWAL: Duration = Duration::from_secs(3);

/// The task that listens, while somebody watches.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// Held while it is started or ended.
    turn: tokio::sync::Mutex<()>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Ends it.
    pub(crate) fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }

    fn is_running(&self) -> bool {
        self.task.lock().as_ref().is_some_and(|task| !task.is_finished())
    }
}

/// Sees to it that every change is told to the watchers from now on.
///
/// # Errors
/// Why the servers cannot be listened to.
pub(crate) async fn start(inner: &Arc<Inner>) -> Result<(), Fault> {
    let _turn = inner.listener.turn.lock().await;
    if inner.listener.is_running() {
        return Ok(());
    }
    let (deadline, mut pause) = (inner.engine.deadline(), Pause::default());
    let ears = loop {
        match Ears::open(inner).await {
            Ok(ears) => break ears,
            Err(fault) if !passes(&fault) => return Err(fault),
            Err(fault) if Instant::now() >= deadline => return Err(fault.out_of_time()),
            Err(_) => {
                pause.lengthen();
                let _ = tokio::time::timeout_at(deadline, pause.wait()).await;
            }
        }
    };
    let task = tokio::spawn(listen(Arc::downgrade(inner), ears));
    *inner.listener.task.lock() = Some(task);
    // It may have been closed meanwhile.
    if inner.descriptor.is_closed() {
        inner.listener.stop();
    }
    Ok(())
}

/// Whether trying again may help.
fn passes(fault: &Fault) -> bool {
    matches!(fault.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
}

/// Listens until nobody watches any more.
async fn listen(storage: Weak<Inner>, mut ears: Ears) {
    loop {
        let _ = timeout(RENEWAL, ears.line.alarm.notified()).await;
        let Some(inner) = storage.upgrade() else { return };
        if !inner.watchers.is_watched() {
            // Nobody begins to watch in between.
            let _turn = inner.listener.turn.lock().await;
            if !inner.watchers.is_watched() {
                *inner.listener.task.lock() = None;
                return;
            }
        }
        match ears.renew(&inner).await {
            Ok(true) => {}
            Ok(false) => inner.watchers.lost(),
            Err(fault) => {
                ears.line.hang_up();
                tell_fault(&inner, &fault);
                drop(inner);
                let Some(opened) = open_again(&storage).await else { return };
                ears = opened;
            }
        }
    }
}

fn tell_fault(inner: &Inner, fault: &Fault) {
    inner.watchers.failed(|| fault.clone().error(&inner.descriptor, "watch"));
}

/// Connects again, however long that takes; `None` once the storage is gone or nobody watches.
async fn open_again(storage: &Weak<Inner>) -> Option<Ears> {
    let mut pause = Pause::default();
    loop {
        pause.wait().await;
        pause.lengthen();
        let inner = storage.upgrade()?;
        if !inner.watchers.is_watched() {
            *inner.listener.task.lock() = None;
            return None;
        }
        if let Ok(ears) = Ears::open(&inner).await {
            inner.watchers.lost();
            return Some(ears);
        }
    }
}

/// What the connections of one time have in common.
#[derive(Debug, Default)]
struct Line {
    /// Once it is true nothing more is told: an event that was held up must not come after a newer one.
    ended: Mutex<bool>,
    /// Rung when one of the connections breaks.
    alarm: Notify,
}

impl Line {
    fn hang_up(&self) {
        *self.ended.lock() = true;
    }
}

/// Connections to all servers, over which the events of all tags come.
struct Ears {
    ears: Vec<Ear>,
    line: Arc<Line>,
    /// The mark that every tag was found with.
    marks: HashMap<Tag, String>,
    renewed: Instant,
}

/// One connection and the tags that are listened to over it.
struct Ear {
    link: Arc<Link>,
    connection: MultiplexedConnection,
    tags: Vec<Tag>,
}

impl Ears {
    /// Connects, subscribes, and asks that changes are told.
    async fn open(inner: &Inner) -> Result<Self, Fault> {
        let line = Arc::new(Line::default());
        let mut ears: Vec<Ear> = Vec::new();
        for tag in inner.engine.keyspace.tags() {
            let link = inner.engine.link(tag, inner.engine.deadline()).await?;
            match ears.iter_mut().find(|ear| Arc::ptr_eq(&ear.link, &link)) {
                Some(ear) => ear.tags.push(tag),
                None => {
                    let opened = Ear::open(inner, Arc::clone(&link), tag, &line).await;
                    ears.push(opened.inspect_err(|_| inner.engine.doubt(&link))?);
                }
            }
        }
        let mut all = Self { ears, line, marks: HashMap::new(), renewed: Instant::now() };
        for ear in &mut all.ears {
            ear.subscribe(inner).await?;
        }
        all.renew(inner).await?;
        Ok(all)
    }

    /// Asks that changes go on being told; false if there was a gap.
    async fn renew(&mut self, inner: &Inner) -> Result<bool, Fault> {
        let mut unbroken = self.marks.is_empty() || self.renewed.elapsed() < TERM;
        self.renewed = Instant::now();
        for ear in &mut self.ears {
            if !ear.is_right(inner).await? {
                return Err(Fault::new(ErrorKind::Unavailable, "some keys have moved to another server"));
            }
            let marks = ear.renew(inner).await.inspect_err(|_| inner.engine.doubt(&ear.link))?;
            for (tag, mark) in ear.tags.iter().zip(marks) {
                unbroken &= self.marks.get(tag).is_none_or(|known| *known == mark);
                self.marks.insert(*tag, mark);
            }
        }
        Ok(unbroken)
    }
}

impl Ear {
    async fn open(inner: &Inner, link: Arc<Link>, tag: Tag, line: &Arc<Line>) -> Result<Self, Fault> {
        let (watchers, line) = (inner.watchers.clone(), Arc::clone(line));
        let hear = move |message: PushInfo| hear(&watchers, &line, &message);
        let connection = inner.engine.dialer.listen(link.address(), link.role(), hear).await?;
        Ok(Self { link, connection, tags: vec![tag] })
    }

    async fn subscribe(&mut self, inner: &Inner) -> Result<(), Fault> {
        let place = self.link.address().to_string();
        let channels: Vec<String> = self.tags.iter().map(|tag| inner.engine.keyspace.events(*tag)).collect();
        let subscribed = self.connection.subscribe(channels).await;
        subscribed.map_err(|error| Fault::unreached(&place, &error))?;
        let loaded = self.connection.send_packed_command(&script::WATCH.load()).await;
        refuse(&place, &loaded.map_err(|error| Fault::unreached(&place, &error))?)
    }

    /// Whether all its tags still lie on its server.
    async fn is_right(&self, inner: &Inner) -> Result<bool, Fault> {
        for tag in &self.tags {
            let link = inner.engine.link(*tag, inner.engine.deadline()).await?;
            if link.address() != self.link.address() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The mark of each tag.
    async fn renew(&mut self, inner: &Inner) -> Result<Vec<String>, Fault> {
        let place = self.link.address().to_string();
        let mut renewal = Pipeline::with_capacity(self.tags.len());
        for tag in &self.tags {
            let mut cmd = script::WATCH.call(&[inner.engine.keyspace.head(*tag)]);
            cmd.arg(TERM.as_millis() as u64).arg(inner.engine.dialer.nonce());
            renewal.add_command(cmd);
        }
        let answers = self.connection.send_packed_commands(&renewal, 0, renewal.len()).await;
        let answers = answers.map_err(|error| Fault::unreached(&place, &error))?;
        let mark = |answer| {
            refuse(&place, &answer)?;
            answer::text(answer)
        };
        answers.into_iter().map(mark).collect()
    }
}

/// The fault that an answer is, if it is one.
fn refuse(place: &str, answer: &Value) -> Result<(), Fault> {
    let Value::ServerError(error) = answer else { return Ok(()) };
    match Refusal::of(place, error) {
        Refusal::Moved(_, fault)
        | Refusal::Moving(fault)
        | Refusal::Reconnect(fault)
        | Refusal::Later(fault)
        | Refusal::Final(fault) => Err(fault),
    }
}

/// Takes in what comes over a connection.
fn hear(watchers: &Watchers, line: &Line, message: &PushInfo) {
    let ended = line.ended.lock();
    if *ended {
        return;
    }
    match (&message.kind, message.data.as_slice()) {
        (PushKind::Disconnection, _) => line.alarm.notify_one(),
        (PushKind::Message, [_, Value::BulkString(event)]) if tell(watchers, event).is_none() => {
            // Somebody else's, or damaged.
            watchers.lost();
        }
        _ => {}
    }
}

/// Tells an event: `s`, the key, NUL and its record, or `d`, the key and NUL.
fn tell(watchers: &Watchers, event: &[u8]) -> Option<()> {
    let (what, rest) = event.split_first()?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let key = Key::new(std::str::from_utf8(&rest[..end]).ok()?).ok()?;
    match what {
        b's' => watchers.stored(&key, &Record::decode(&rest[end + 1..]).ok()?.metadata),
        b'd' => watchers.deleted(&key),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use persist_core::Event;

    use super::*;

    #[test]
    fn nonsense_is_a_loss_and_no_panic() {
        let watchers = Watchers::new();
        let mut watch = watchers.watch("");
        let line = Line::default();
        for event in [&b""[..], b"s", b"x\0", b"sk\0", b"sk\0 1", b"d\xff\0", b"d\0", b"dk"] {
            let data = vec![Value::BulkString(b"channel".to_vec()), Value::BulkString(event.to_vec())];
            hear(&watchers, &line, &PushInfo { kind: PushKind::Message, data });
            let told = watch.next().now_or_never().flatten();
            assert_eq!(told.map(|told| told.ok()), Some(Some(Event::Lost)), "{event:?}");
        }
        let event = |event: &[u8]| PushInfo {
            kind: PushKind::Message,
            data: vec![Value::BulkString(b"channel".to_vec()), Value::BulkString(event.to_vec())],
        };
        hear(&watchers, &line, &event(b"dk\0"));
        let told = watch.next().now_or_never().flatten();
        assert_eq!(told.map(|told| told.ok()), Some(Some(Event::Deleted { key: Key::new("k").unwrap() })));
        line.hang_up();
        hear(&watchers, &line, &event(b"dk\0"));
        assert!(watch.next().now_or_never().is_none(), "an event came over a line that has ended");
    }
}
