use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::{
    BaseStorage, ErrorKind, Event, Key, ListOptions, Metadata, Result, StorageError, Timestamp, Version,
    Watch,
};

/// How often a storage is looked at that does not notice changes by itself.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How many keys are asked for their metadata at once.
const AT_ONCE: usize = 32;

type Events = VecDeque<Result<Event>>;

/// What a watcher knows of the keys under a prefix: about 100 bytes a key and the key itself.
#[derive(Debug)]
struct Survey {
    prefix: String,
    known: BTreeMap<Key, Known>,
    /// The number of the present look.
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// `None`: the metadata cannot be read.
    version: Option<Version>,
    expires_at: Option<Timestamp>,
    /// The last look that found it.
    round: u64,
}

impl Survey {
    fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), known: BTreeMap::new(), round: 0 }
    }

    /// Looks at everything and adds an event for each difference. After an error it has seen a part; the next look finds
    /// the rest.
    async fn look<S: BaseStorage + ?Sized>(
        &mut self,
        storage: &S,
        mut tell: impl FnMut(Result<Event>),
    ) -> Result<()> {
        self.round += 1;
        let mut after = None;
        loop {
            let page = storage.list_keys(&self.prefix, ListOptions::new().after(after)).await?;
            let asked = page.keys.into_iter().map(|key| async move { (storage.metadata(&key).await, key) });
            let mut answers = stream::iter(asked).buffered(AT_ONCE);
            while let Some((metadata, key)) = answers.next().await {
                match metadata {
                    Ok(Some(metadata)) => {
                        self.found(key, metadata).into_iter().for_each(|event| tell(Ok(event)));
                    }
                    // Gone since the page was read; the sweep below tells.
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::Corruption => {
                        self.damaged(key, error).into_iter().for_each(|error| tell(Err(error)));
                    }
                    Err(error) => return Err(error),
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.sweep(storage.describe().now(), tell);
        Ok(())
    }

    /// Notes what is stored; an event if that is news.
    fn found(&mut self, key: Key, metadata: Metadata) -> Option<Event> {
        let now =
            Known { version: Some(metadata.version), expires_at: metadata.expires_at, round: self.round };
        match self.known.get_mut(&key) {
            Some(known) if known.version >= now.version => {
                known.round = self.round;
                None
            }
            Some(known) => {
                *known = now;
                Some(Event::Stored { key, metadata })
            }
            None => {
                self.known.insert(key.clone(), now);
                Some(Event::Stored { key, metadata })
            }
        }
    }

    /// Notes a key whose metadata cannot be read; the error if that is news.
    fn damaged(&mut self, key: Key, error: StorageError) -> Option<StorageError> {
        let now = Known { version: None, expires_at: None, round: self.round };
        let before = self.known.insert(key, now);
        before.is_none_or(|known| known.version.is_some()).then_some(error)
    }

    /// Forgets what the present look did not find.
    fn sweep(&mut self, now: Timestamp, mut tell: impl FnMut(Result<Event>)) {
        let round = self.round;
        self.known.retain(|key, known| {
            let there = known.round == round;
            if !there && known.expires_at.is_none_or(|end| end > now) {
                tell(Ok(Event::Deleted { key: key.clone() }));
            }
            there
        });
    }

    /// Takes in what a watch tells; gives what is news of it.
    fn told(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Stored { key, metadata } => self.found(key, metadata),
            Event::Deleted { key } => self.known.remove(&key).map(|_| Event::Deleted { key }),
            Event::Lost => Some(Event::Lost),
        }
    }
}

/// Watches a storage by listing it again and again: what [`BaseStorage::watch`] does by default. It never misses what is
/// different from one look to the next, so it tells no [`Event::Lost`]; of several changes in between it tells the last.
/// Each look asks for the metadata of every key under the prefix.
///
/// # Errors
/// What keeps it from looking the first time.
pub async fn watch_by_polling<'a, S: BaseStorage + ?Sized>(
    storage: &'a S,
    prefix: &str,
    interval: Duration,
) -> Result<Watch<'a>> {
    let mut poll =
        Poll { storage, survey: Survey::new(prefix), interval, waiting: Events::new(), failed: false };
    poll.survey.look(storage, |_| {}).await?;
    Ok(Watch::new(stream::unfold(
        poll,
        |mut poll| async move { poll.next().await.map(|event| (event, poll)) },
    )))
}

struct Poll<'a, S: ?Sized> {
    storage: &'a S,
    survey: Survey,
    interval: Duration,
    waiting: Events,
    /// The last look failed, and the watcher was told.
    failed: bool,
}

impl<S: BaseStorage + ?Sized> Poll<'_, S> {
    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            tokio::time::sleep(self.interval).await;
            let waiting = &mut self.waiting;
            match self.survey.look(self.storage, |event| waiting.push_back(event)).await {
                Ok(()) => self.failed = false,
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(_) if self.failed => {}
                Err(error) => {
                    self.failed = true;
                    self.waiting.push_back(Err(error));
                }
            }
        }
    }
}

/// Watches a storage and finds by listing what its watch has lost: the work of
/// [`StorageExt::follow`](crate::StorageExt::follow).
pub(crate) async fn follow<'a, S: BaseStorage + ?Sized>(storage: &'a S, prefix: &str) -> Result<Watch<'a>> {
    let watch = storage.watch(prefix).await?;
    let mut survey = Survey::new(prefix);
    survey.look(storage, |_| {}).await?;
    let follow = Follow { storage, watch, survey, waiting: Events::new(), behind: None };
    Ok(Watch::new(stream::unfold(follow, |mut follow| async move {
        follow.next().await.map(|event| (event, follow))
    })))
}

struct Follow<'a, S: ?Sized> {
    storage: &'a S,
    watch: Watch<'a>,
    survey: Survey,
    waiting: Events,
    /// Something was lost and could not be found again; when to try once more.
    behind: Option<Instant>,
}

impl<S: BaseStorage + ?Sized> Follow<'_, S> {
    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            match self.told().await? {
                Ok(Event::Lost) => self.look().await,
                Ok(event) => self.waiting.extend(self.survey.told(event).map(Ok)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn told(&mut self) -> Option<Result<Event>> {
        match self.behind {
            None => self.watch.next().await,
            Some(at) if at <= Instant::now() => Some(Ok(Event::Lost)),
            Some(at) => timeout_at(at, self.watch.next()).await.unwrap_or(Some(Ok(Event::Lost))),
        }
    }

    async fn look(&mut self) {
        let (waiting, was_behind) = (&mut self.waiting, self.behind.take().is_some());
        if let Err(error) = self.survey.look(self.storage, |event| waiting.push_back(event)).await {
            // Not at once: what keeps it from looking may take a while.
            self.behind = Some(Instant::now() + POLL_INTERVAL);
            if !was_behind {
                self.waiting.push_back(Err(error));
            }
        }
    }
}
