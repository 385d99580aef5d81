//! Watching: the kernel says in which folder what has changed (inotify), and what is there now is looked up.
//!
//! A watch owns its inotify queue. The kernel bounds it (`fs.inotify.max_queued_events`) and says when it was full, so a
//! watcher that does not listen holds up nobody. Whoever makes the change, it is noticed: another process of persist, an
//! editor, `cp`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;

use futures_util::stream::{self, ReadyChunks, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use persist_core::{BaseStorage, ErrorKind, Event, Key, POLL_INTERVAL, Result, StorageError, Watch};
use rustix::io::Errno;
use tokio::time::{Instant, sleep_until};

use crate::FileStorage;
use crate::error::system;
use crate::index::{Node, read_name};
use crate::place::Place;
use crate::session::names;

/// What is to be noticed in a folder.
const CHANGES: WatchMask = WatchMask::CREATE
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::DELETE)
    .union(WatchMask::ONLYDIR);

/// How many bytes of events are read at a time.
const BUFFER: usize = 64 << 10;

/// How many events are taken at a time. A key that is in several of them is looked up once.
const AT_ONCE: usize = 4096;

impl FileStorage {
    pub(crate) async fn watch_prefix(&self, prefix: &str) -> Result<Watch<'static>> {
        self.describe().admit_watch(prefix)?;
        let ended = self.ending().watch("");
        let folders = Folders::watch(self, prefix).await?;
        let (keys, waiting) = (BTreeSet::new(), VecDeque::new());
        let prefix = prefix.to_owned();
        let watching = Watching { storage: self.clone(), prefix, ended, folders: Ok(folders), keys, waiting };
        let next =
            |mut watching: Watching| async move { watching.next().await.map(|event| (event, watching)) };
        Ok(Watch::new(stream::unfold(watching, next)))
    }
}

/// One watch.
struct Watching {
    storage: FileStorage,
    prefix: String,
    /// Tells nothing, and ends with the storage.
    ended: Watch<'static>,
    /// When to try again, if the folders cannot be watched.
    folders: std::result::Result<Folders, Instant>,
    /// What has changed and was not looked up yet.
    keys: BTreeSet<Key>,
    waiting: VecDeque<Result<Event>>,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if let Some(key) = self.keys.pop_first() {
                return self.look(key).await;
            }
            match &mut self.folders {
                Err(at) => {
                    tokio::select! {
                        _ = self.ended.next() => return None,
                        () = sleep_until(*at) => {}
                    }
                    self.begin_anew().await;
                }
                Ok(folders) => {
                    let heard = tokio::select! {
                        _ = self.ended.next() => return None,
                        heard = folders.hear() => heard,
                    };
                    self.take(heard).await;
                }
            }
        }
    }

    /// Tells what is under a key now; the present state is at least as new as the change that was noticed.
    async fn look(&mut self, key: Key) -> Option<Result<Event>> {
        match self.storage.metadata(&key).await {
            Ok(Some(metadata)) => Some(Ok(Event::Stored { key, metadata })),
            Ok(None) => Some(Ok(Event::Deleted { key })),
            Err(error) if error.kind() == ErrorKind::Closed => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes in what the kernel said.
    async fn take(&mut self, heard: io::Result<Vec<EventOwned>>) {
        let Ok(folders) = &mut self.folders else { return };
        let taken = match heard {
            Ok(noticed) => folders.take(&self.storage, &self.prefix, noticed, &mut self.keys).await,
            Err(error) => Err(unwatched(&self.storage, error)),
        };
        match taken {
            Ok(true) => {}
            // What was lost may have been a new folder.
            Ok(false) => self.begin_anew().await,
            Err(error) => {
                self.folders = Err(Instant::now() + POLL_INTERVAL);
                self.waiting.push_back(Err(error));
            }
        }
    }

    /// Watches all folders anew after something was missed.
    async fn begin_anew(&mut self) {
        match Folders::watch(&self.storage, &self.prefix).await {
            Ok(folders) => {
                self.folders = Ok(folders);
                self.keys.clear();
                self.waiting.push_back(Ok(Event::Lost));
            }
            Err(error) => {
                if self.folders.is_ok() {
                    self.waiting.push_back(Err(error));
                }
                self.folders = Err(Instant::now() + POLL_INTERVAL);
            }
        }
    }
}

/// The error of folders that cannot be watched.
fn unwatched(storage: &FileStorage, error: impl Into<io::Error>) -> StorageError {
    let (descriptor, error) = (storage.describe(), error.into());
    match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::MFILE) => descriptor
            .error(
                ErrorKind::Capacity,
                "watch",
                "the system lets this user watch no more folders; raise fs.inotify.max_user_watches (one for each folder) \
                 or fs.inotify.max_user_instances (one for each watch)",
            )
            .with_source(error),
        _ => system(descriptor, "watch", "the folders cannot be watched", error),
    }
}

/// The folders that are watched.
struct Folders {
    events: ReadyChunks<EventStream<Vec<u8>>>,
    watches: Watches,
    known: HashMap<WatchDescriptor, Folder>,
}

/// A folder below the root.
#[derive(Clone, Debug)]
struct Folder {
    path: String,
    /// How the keys in it begin.
    lead: Vec<u8>,
}

impl Folder {
    /// A folder in it; `None` if it is not ours.
    fn inner(&self, name: &str) -> Option<Self> {
        let (added, Node::Folder(_)) = read_name(name)? else { return None };
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Some(Self { path, lead: [&self.lead, &added[..]].concat() })
    }

    /// The key of a file in it; `None` if it is not ours.
    fn key(&self, name: &str) -> Option<Key> {
        let (added, Node::File(_)) = read_name(name)? else { return None };
        let key = String::from_utf8([&self.lead, &added[..]].concat()).ok()?;
        Key::new(key).ok()
    }

    /// Whether a key below it can begin with this.
    fn may_hold(&self, prefix: &str) -> bool {
        let prefix = prefix.as_bytes();
        self.lead.starts_with(prefix) || prefix.starts_with(&self.lead)
    }
}

impl Folders {
    /// Watches every folder that may hold keys with a prefix.
    async fn watch(storage: &FileStorage, prefix: &str) -> Result<Self> {
        let fail = |error: io::Error| unwatched(storage, error);
        let events =
            Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; BUFFER])).map_err(fail)?;
        let watches = events.watches();
        let root = Folder { path: String::new(), lead: Vec::new() };
        let entered = enter(storage, watches.clone(), root, prefix).await?;
        let known = entered.folders.into_iter().collect();
        Ok(Self { events: events.ready_chunks(AT_ONCE), watches, known })
    }

    /// What was noticed since the last time.
    async fn hear(&mut self) -> io::Result<Vec<EventOwned>> {
        let ended = || Err(Errno::IO.into());
        self.events.next().await.map_or_else(ended, |events| events.into_iter().collect())
    }

    /// Adds the keys concerned; false if something was missed.
    async fn take(
        &mut self,
        storage: &FileStorage,
        prefix: &str,
        noticed: Vec<EventOwned>,
        keys: &mut BTreeSet<Key>,
    ) -> Result<bool> {
        for EventOwned { wd: watched, mask: what, name, .. } in noticed {
            if what.contains(EventMask::Q_OVERFLOW) {
                return Ok(false);
            }
            if what.contains(EventMask::IGNORED) {
                self.known.remove(&watched);
                continue;
            }
            // The folder itself has no name, and what is no text is not ours.
            let name = name.and_then(|name| name.into_string().ok());
            let (Some(folder), Some(name)) = (self.known.get(&watched), name) else { continue };
            if !what.contains(EventMask::ISDIR) {
                keys.extend(folder.key(&name).filter(|key| key.starts_with(prefix)));
                continue;
            }
            let Some(inner) = folder.inner(&name).filter(|inner| inner.may_hold(prefix)) else { continue };
            if what.contains(EventMask::MOVED_FROM) {
                return Ok(false);
            }
            if what.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
                let entered = enter(storage, self.watches.clone(), inner, prefix).await?;
                self.known.extend(entered.folders);
                keys.extend(entered.keys);
            }
        }
        Ok(true)
    }
}

/// The folders that were found, and the keys in them.
#[derive(Default)]
struct Entered {
    folders: Vec<(WatchDescriptor, Folder)>,
    keys: Vec<Key>,
}

/// Watches a folder and all that are in it. Each is watched before it is read, so that nothing falls in between.
async fn enter(storage: &FileStorage, mut watches: Watches, folder: Folder, prefix: &str) -> Result<Entered> {
    let prefix = prefix.to_owned();
    storage
        .read("watch", move |place| {
            let (mut entered, mut open) = (Entered::default(), vec![folder]);
            while let Some(folder) = open.pop() {
                match enter_one(place, &mut watches, folder, &prefix, &mut open, &mut entered) {
                    Ok(()) => {}
                    Err(error) => match Errno::from_io_error(&error) {
                        // Gone by now, or no folder.
                        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        _ => return Ok(Err(error)),
                    },
                }
            }
            Ok(Ok(entered))
        })
        .await?
        .map_err(|error| unwatched(storage, error))
}

fn enter_one(
    place: &Place,
    watches: &mut Watches,
    folder: Folder,
    prefix: &str,
    open: &mut Vec<Folder>,
    entered: &mut Entered,
) -> io::Result<()> {
    let opened = place.root.open_folder(&folder.path)?;
    // By its descriptor, so that no link is followed on the way.
    let watched = watches.add(format!("/proc/self/fd/{}", opened.as_raw_fd()), CHANGES)?;
    for name in names(&opened)? {
        if let Some(inner) = folder.inner(&name).filter(|inner| inner.may_hold(prefix)) {
            open.push(inner);
        }
        entered.keys.extend(folder.key(&name).filter(|key| key.starts_with(prefix)));
    }
    entered.folders.push((watched, folder));
    Ok(())
}
