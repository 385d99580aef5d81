//! Listing: sorted names of the folders that were listed, kept in memory and kept honest by the change time of each
//! folder.
//!
//! A folder is read once. After that this process's own changes are applied to what is kept, and a change time that
//! does not follow from them tells that somebody else changed the folder, which is then read again. So a page costs
//! what it holds as long as nobody else writes to the same folder.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use persist_core::{Key, Page};
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::form::Form;
use crate::name::{folder_key, leading_folder, stem_key};
use crate::root::Root;
use crate::session::names;

/// How many names are kept over all folders; about 100 bytes each.
const MAX_NAMES: usize = 4_000_000;

/// How many changes wait for the next listing before everything kept is forgotten instead.
const MAX_PENDING: usize = 200_000;

/// A folder as it was at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    inode: u64,
    changed: (i64, u64),
}

impl Stamp {
    /// The present stamp of an open folder.
    pub(crate) fn of(folder: &OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(folder)?;
        Ok(Self { inode: stat.st_ino, changed: (stat.st_mtime, stat.st_mtime_nsec) })
    }
}

/// What this process did to a folder between two stamps.
#[derive(Debug)]
pub(crate) struct Change {
    /// The folder, below the root.
    pub(crate) folder: String,
    /// Its stamps before and after.
    pub(crate) stamps: (Stamp, Stamp),
    /// A file's name without ending, its form, and whether the file is there now.
    pub(crate) file: (String, Form, bool),
}

/// What a listing asks for.
pub(crate) struct Query<'a> {
    /// Only keys that begin with this.
    pub(crate) prefix: &'a str,
    /// Only keys after this one.
    pub(crate) after: Option<&'a Key>,
    /// At most this many.
    pub(crate) limit: usize,
}

/// The sorted names of one folder, by what they add to a key.
#[derive(Debug, Default)]
struct Folder {
    stamp: Option<Stamp>,
    nodes: BTreeMap<Box<[u8]>, Node>,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A folder and its name.
    Folder(Box<str>),
    /// A file; one bit for each form it is there in.
    File(u8),
}

/// The index of one storage.
#[derive(Debug, Default)]
pub(crate) struct Index {
    folders: Mutex<HashMap<String, Arc<Mutex<Folder>>>>,
    pending: Mutex<Vec<Change>>,
    in_use: AtomicBool,
    /// About how many names are kept.
    names: AtomicUsize,
}

impl Index {
    /// True once somebody listed: from then on changes are to be noted.
    pub(crate) fn in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    /// Notes what this process did, for the next listing.
    pub(crate) fn note(&self, change: Change) {
        let mut pending = self.pending.lock();
        pending.push(change);
        if pending.len() > MAX_PENDING {
            pending.clear();
            drop(pending);
            self.folders.lock().clear();
        }
    }

    /// One page of keys. `live` says whether a key found is to be shown.
    pub(crate) fn page<E: From<Errno>>(
        &self,
        root: &Root,
        query: &Query<'_>,
        live: impl FnMut(&Key) -> Result<bool, E>,
    ) -> Result<Page, E> {
        self.in_use.store(true, Ordering::Release);
        let after = query.after.map_or("", Key::as_str);
        let start = query.prefix.max(after).as_bytes().to_vec();
        let mut walk = Walk { index: self, root, query, start, keys: Vec::new(), live };
        walk.folder("", &mut Vec::new())?;
        Ok(Page::collect(walk.keys, query.limit))
    }

    /// Every file below the root that is not ours: neither its name nor the way to it.
    pub(crate) fn strangers(root: &Root) -> Result<Vec<String>, Errno> {
        let (mut strangers, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(path) = folders.pop() {
            let folder = root.open_folder(&path)?;
            for name in names(&folder)? {
                let whole = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                match read_name(&name) {
                    _ if whole == crate::session::CONTROL => {}
                    Some((_, Node::Folder(_))) if root.open_folder(&whole).is_ok() => folders.push(whole),
                    Some((_, Node::File(_))) => {}
                    _ => strangers.push(whole),
                }
            }
        }
        strangers.sort();
        Ok(strangers)
    }

    /// Every folder below the root that is ours, the deepest first.
    pub(crate) fn folders(root: &Root) -> Result<Vec<String>, Errno> {
        let (mut found, mut at) = (vec![String::new()], 0);
        while at < found.len() {
            let path = found[at].clone();
            match root.open_folder(&path) {
                Ok(folder) => {
                    at += 1;
                    let folders = names(&folder)?
                        .into_iter()
                        .filter(|name| matches!(read_name(name), Some((_, Node::Folder(_)))));
                    found.extend(
                        folders.map(|name| if path.is_empty() { name } else { format!("{path}/{name}") }),
                    );
                }
                // A file or a link that some other program put there, or gone by now.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => drop(found.remove(at)),
                Err(error) => return Err(error),
            }
        }
        found.reverse();
        Ok(found)
    }

    /// The names of a folder, up to date.
    fn open(&self, root: &Root, path: &str) -> Result<Option<Arc<Mutex<Folder>>>, Errno> {
        let folder = match root.open_folder(path) {
            // Removed since its name was read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            found => found?,
        };
        self.apply_pending();
        if self.names.load(Ordering::Relaxed) > MAX_NAMES {
            self.folders.lock().clear();
            self.names.store(0, Ordering::Relaxed);
        }
        let kept = Arc::clone(self.folders.lock().entry(path.to_owned()).or_default());
        let mut names = kept.lock();
        let stamp = Stamp::of(&folder)?;
        if names.stamp != Some(stamp) {
            *names = Folder { stamp: Some(stamp), nodes: read_folder(&folder)? };
            self.names.fetch_add(names.nodes.len(), Ordering::Relaxed);
        }
        drop(names);
        Ok(Some(kept))
    }

    fn apply_pending(&self) {
        let pending = std::mem::take(&mut *self.pending.lock());
        for change in pending {
            let kept = self.folders.lock().get(&change.folder).map(Arc::clone);
            if let Some(kept) = kept {
                kept.lock().apply(change);
            }
        }
    }
}

impl Folder {
    fn apply(&mut self, change: Change) {
        let (before, after) = change.stamps;
        match self.stamp {
            Some(stamp) if stamp == before => self.stamp = Some(after),
            // Older than what was read since.
            Some(stamp) if stamp.inode == after.inode && stamp >= after => return,
            // Somebody else changed the folder in between.
            _ => {
                self.stamp = None;
                return;
            }
        }
        let (stem, form, there) = change.file;
        let Some(key) = stem_key(&stem) else { return };
        let bit = 1 << form as u8;
        let old = match self.nodes.get(key.as_slice()) {
            Some(Node::File(forms)) => *forms,
            _ => 0,
        };
        match if there { old | bit } else { old & !bit } {
            0 => drop(self.nodes.remove(key.as_slice())),
            forms => drop(self.nodes.insert(key.into(), Node::File(forms))),
        }
    }
}

fn read_folder(folder: &OwnedFd) -> Result<BTreeMap<Box<[u8]>, Node>, Errno> {
    let mut files: HashMap<Box<[u8]>, u8> = HashMap::new();
    let mut nodes = Vec::new();
    for name in names(folder)? {
        match read_name(&name) {
            Some((key, Node::File(form))) => *files.entry(key).or_default() |= form,
            Some(node) => nodes.push(node),
            None => {}
        }
    }
    nodes.extend(files.into_iter().map(|(key, forms)| (key, Node::File(forms))));
    Ok(nodes.into_iter().collect())
}

/// What a name adds to a key; `None` if it is not ours.
pub(crate) fn read_name(name: &str) -> Option<(Box<[u8]>, Node)> {
    match name.split_once('.') {
        Some((stem, ending)) => {
            let form = Form::of_ending(ending)?;
            Some((stem_key(stem)?.into(), Node::File(1 << form as u8)))
        }
        None => Some((folder_key(name)?.into(), Node::Folder(name.into()))),
    }
}

struct Walk<'a, L> {
    index: &'a Index,
    root: &'a Root,
    query: &'a Query<'a>,
    /// No key before this one is wanted.
    start: Vec<u8>,
    keys: Vec<Key>,
    live: L,
}

impl<E: From<Errno>, L: FnMut(&Key) -> Result<bool, E>> Walk<'_, L> {
    /// Collects from a folder whose keys begin with `lead`; false when the page is full or the prefix is passed.
    fn folder(&mut self, path: &str, lead: &mut Vec<u8>) -> Result<bool, E> {
        let Some(folder) = self.index.open(self.root, path)? else { return Ok(true) };
        let mut from: Bound<Vec<u8>> = match self.start.strip_prefix(&lead[..]) {
            Some(rest) => self.first(&folder, rest),
            None => Bound::Unbounded,
        };
        loop {
            // One name at a time, so that no lock is held while files are read.
            let next = {
                let names = folder.lock();
                let bounds = (from.as_ref().map(Vec::as_slice), Bound::Unbounded);
                names.nodes.range::<[u8], _>(bounds).next().map(|(key, node)| match node {
                    Node::Folder(name) => (key.to_vec(), Some(name.to_string())),
                    Node::File(_) => (key.to_vec(), None),
                })
            };
            let Some((added, name)) = next else { return Ok(true) };
            let len = lead.len();
            lead.extend_from_slice(&added);
            let more = match name {
                Some(name) if path.is_empty() => self.enter(&name, lead)?,
                Some(name) => self.enter(&format!("{path}/{name}"), lead)?,
                None => self.file(lead)?,
            };
            lead.truncate(len);
            if !more {
                return Ok(false);
            }
            from = Bound::Excluded(added);
        }
    }

    /// Where to begin in a folder when only keys from `rest` on are wanted: the folder that `rest` leads into comes
    /// before `rest` itself.
    fn first(&self, folder: &Mutex<Folder>, rest: &[u8]) -> Bound<Vec<u8>> {
        match leading_folder(rest) {
            Some(leading) if folder.lock().nodes.contains_key(leading) => Bound::Included(leading.to_vec()),
            _ => Bound::Included(rest.to_vec()),
        }
    }

    fn enter(&mut self, path: &str, lead: &mut Vec<u8>) -> Result<bool, E> {
        let prefix = self.query.prefix.as_bytes();
        if lead.starts_with(prefix) || prefix.starts_with(lead) {
            return self.folder(path, lead);
        }
        Ok(lead.as_slice() < prefix)
    }

    fn file(&mut self, key: &[u8]) -> Result<bool, E> {
        let prefix = self.query.prefix.as_bytes();
        if !key.starts_with(prefix) {
            return Ok(key < prefix);
        }
        // A file whose name decodes to no key is not ours.
        let Some(key) = std::str::from_utf8(key).ok().and_then(|key| Key::new(key).ok()) else {
            return Ok(true);
        };
        if self.query.after.is_some_and(|after| key <= *after) || !(self.live)(&key)? {
            return Ok(true);
        }
        self.keys.push(key);
        // One more than the page holds tells that there is a next one.
        Ok(self.keys.len() <= self.query.limit)
    }
}
