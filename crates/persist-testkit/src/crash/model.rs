//! Which changes survive a power cut: two models of a file system's promises.
//!
//! A file's durable bytes are those of its last `fsync`. What was written since may survive whole, in part or not at
//! all ([`Loss`]). Changes of names survive as a prefix of those that are not durable yet. The models differ in what
//! makes names and attributes durable:
//!
//! - [`Model::Journal`] (ext4, XFS): metadata are logged in one order; an `fsync` commits the log up to the last
//!   change of the synced file or folder, and with it everything logged before. It commits the log to its end if the
//!   file has grown since, because room has to be allocated.
//! - [`Model::Strict`] (what POSIX says and no more): a name is durable after `fsync` of its folder, an attribute after
//!   `fsync` of its file. After a move, `fsync` of the target's folder alone may leave the old name there as well.
//!
//! `fdatasync` of a file makes its bytes durable, in neither model a later change of its attributes or its name;
//! `syncfs` and `sync` make everything durable. A sync covers only what had ended before it began.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::disk::{Attributes, Disk, Edit, Inode, Naming, Node};
use super::record::{Change, Recording};
use super::tree::{Blob, Leaf, Tree};

/// A model of what a file system promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// As ext4 and XFS do.
    Journal,
    /// As POSIX says.
    Strict,
}

/// What becomes of bytes that were written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    /// They are all gone.
    All,
    /// They are all there.
    None,
    /// The first half of them is there.
    Half,
    /// Of the last write only the first half is there.
    TornLast,
    /// Files have their new length, but what was appended reads as zeros.
    Zeros,
    /// As `All` for this file, as `None` for the others.
    Only(Inode),
    /// As `None` for this file, as `All` for the others.
    AllBut(Inode),
}

/// Which of the changes of names and attributes that are not durable survive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survival {
    /// How many of them, from the first.
    pub(super) prefix: usize,
    /// Attributes are lost, whatever the prefix.
    pub(super) no_attributes: bool,
}

#[derive(Clone, Debug)]
enum Meta {
    Names(Vec<Naming>),
    Attribute(Inode, Vec<u8>, Option<Vec<u8>>),
}

#[derive(Clone, Debug)]
struct Logged {
    sequence: usize,
    meta: Meta,
    durable: bool,
}

#[derive(Clone, Debug)]
struct Pending {
    sequence: usize,
    edit: Edit,
    grows: bool,
}

/// One file's bytes: what is durable, what is not yet, and what the living system shows.
#[derive(Debug)]
struct Contents {
    durable: Arc<Blob>,
    pending: Vec<Pending>,
    images: HashMap<&'static str, Arc<Blob>>,
}

/// A disk on its way through a recording.
#[derive(Debug)]
pub(super) struct Surface {
    model: Model,
    nodes: Vec<Node>,
    folders: BTreeMap<Inode, BTreeMap<Vec<u8>, Inode>>,
    attributes: Vec<Attributes>,
    contents: Vec<Contents>,
    log: Vec<Logged>,
    /// When the metadata of a node last changed, and when it first got a name.
    changed: Vec<Option<usize>>,
    created: Vec<Option<usize>>,
    sequence: usize,
}

impl Surface {
    /// The disk before the recording, all of it durable.
    pub(super) fn new(recording: &Recording, model: Model) -> Self {
        let before = &recording.before;
        let count = recording.after.nodes.len();
        let bytes =
            |inode: Inode| if inode < before.nodes.len() { before.bytes(inode).to_vec() } else { Vec::new() };
        let contents = |inode| Contents {
            durable: Blob::new(bytes(inode)),
            pending: Vec::new(),
            images: HashMap::new(),
        };
        let mut attributes = before.attributes.clone();
        attributes.resize(count, Attributes::new());
        Self {
            model,
            nodes: recording.after.nodes.iter().map(kind_only).collect(),
            folders: folders(before),
            attributes,
            contents: (0..count).map(contents).collect(),
            log: Vec::new(),
            changed: vec![None; count],
            created: vec![None; count],
            sequence: 0,
        }
    }

    /// Takes the next change of the recording.
    pub(super) fn take(&mut self, change: &Change) {
        let sequence = self.sequence;
        self.sequence += 1;
        match change {
            Change::Data { inode, edit, grows } => {
                let contents = &mut self.contents[*inode];
                contents.pending.push(Pending { sequence, edit: edit.clone(), grows: *grows });
                contents.images.clear();
            }
            Change::Names(names) => self.log_names(sequence, names),
            Change::Attribute { inode, name, value } => {
                self.changed[*inode] = Some(sequence);
                let meta = Meta::Attribute(*inode, name.clone(), value.clone());
                self.log.push(Logged { sequence, meta, durable: false });
            }
            Change::Sync { inode: None, covers, .. } => self.sync_all(*covers),
            Change::Sync { inode: Some(inode), data_only, covers } => self.sync(*inode, *data_only, *covers),
        }
        self.fold();
    }

    fn log_names(&mut self, sequence: usize, names: &[Naming]) {
        for naming in names {
            self.changed[naming.folder] = Some(sequence);
            if let Some(inode) = naming.inode {
                self.created[inode].get_or_insert(sequence);
                self.changed[inode] = Some(sequence);
            }
        }
        self.log.push(Logged { sequence, meta: Meta::Names(names.to_vec()), durable: false });
    }

    fn sync_all(&mut self, covers: usize) {
        for contents in &mut self.contents {
            contents.settle(covers);
        }
        self.log
            .iter_mut()
            .filter(|logged| logged.sequence < covers)
            .for_each(|logged| logged.durable = true);
    }

    fn sync(&mut self, inode: Inode, data_only: bool, covers: usize) {
        let grew = self.contents[inode].settle(covers);
        match self.model {
            Model::Journal => {
                let last = if data_only { self.created[inode] } else { self.changed[inode] };
                let end = if grew { covers } else { last.map_or(0, |last| covers.min(last + 1)) };
                self.log
                    .iter_mut()
                    .filter(|logged| logged.sequence < end)
                    .for_each(|logged| logged.durable = true);
            }
            Model::Strict => {
                let log = std::mem::take(&mut self.log);
                let synced = log.into_iter().flat_map(|logged| match logged.sequence < covers {
                    true => logged.sync_strictly(inode, data_only),
                    false => vec![logged],
                });
                self.log = synced.collect();
            }
        }
    }

    /// Durable changes that nothing undecided precedes become the ground.
    fn fold(&mut self) {
        let settled = self.log.iter().take_while(|logged| logged.durable).count();
        for logged in self.log.drain(..settled) {
            match logged.meta {
                Meta::Names(names) => names.iter().for_each(|naming| rename(&mut self.folders, naming)),
                Meta::Attribute(inode, name, value) => attribute(&mut self.attributes[inode], name, value),
            }
        }
    }

    /// How many changes of names and attributes are undecided.
    pub(super) fn undecided(&self) -> usize {
        self.log.iter().filter(|logged| !logged.durable).count()
    }

    /// True if attributes are among them (they may be lost alone only in the strict model).
    pub(super) fn may_lose_attributes(&self) -> bool {
        let attribute = |logged: &Logged| !logged.durable && matches!(logged.meta, Meta::Attribute(..));
        self.model == Model::Strict && self.log.iter().any(attribute)
    }

    /// The ways in which written bytes may be lost now.
    pub(super) fn losses(&self) -> Vec<Loss> {
        let pending: Vec<Inode> =
            (0..self.contents.len()).filter(|&inode| !self.contents[inode].pending.is_empty()).collect();
        if pending.is_empty() {
            return vec![Loss::None];
        }
        let mut losses = vec![Loss::None, Loss::All, Loss::Half, Loss::TornLast, Loss::Zeros];
        if pending.len() > 1 {
            let latest = &pending[pending.len().saturating_sub(6)..];
            losses.extend(latest.iter().flat_map(|&inode| [Loss::Only(inode), Loss::AllBut(inode)]));
        }
        losses
    }

    /// What the disk shows if the power is cut now.
    pub(super) fn tree(&mut self, loss: Loss, survival: Survival) -> Tree {
        let mut folders = self.folders.clone();
        let mut attributes = self.attributes.clone();
        let mut left = survival.prefix;
        for logged in &self.log {
            let survives = logged.durable || left > 0;
            left -= usize::from(!logged.durable && left > 0);
            match &logged.meta {
                Meta::Names(names) if survives => {
                    names.iter().for_each(|naming| rename(&mut folders, naming));
                }
                Meta::Attribute(inode, name, value)
                    if survives && (logged.durable || !survival.no_attributes) =>
                {
                    attribute(&mut attributes[*inode], name.clone(), value.clone());
                }
                _ => {}
            }
        }
        let (nodes, contents) = (&self.nodes, &mut self.contents);
        let mut leaf = |inode: Inode| {
            let leaf = match &nodes[inode] {
                Node::File(_) => Leaf::File(contents[inode].after(inode, loss)),
                Node::Folder(_) => Leaf::Folder,
                Node::Link(target) => Leaf::Link(target.clone()),
            };
            (leaf, attributes[inode].clone())
        };
        Tree::grow(&|inode| folders.get(&inode), &mut leaf)
    }
}

impl Logged {
    /// The names in a synced folder are durable; those in another folder, of the same move, are not yet.
    fn sync_strictly(mut self, inode: Inode, data_only: bool) -> Vec<Self> {
        let sequence = self.sequence;
        match self.meta {
            Meta::Names(names) if !self.durable => {
                let (synced, other): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|naming| naming.folder == inode);
                let part = |names, durable| Self { sequence, meta: Meta::Names(names), durable };
                let parts = [part(synced, true), part(other, false)];
                let some = |part: &Self| matches!(&part.meta, Meta::Names(names) if !names.is_empty());
                parts.into_iter().filter(some).collect()
            }
            Meta::Attribute(of, ..) if of == inode && !data_only => {
                self.durable = true;
                vec![self]
            }
            _ => vec![self],
        }
    }
}

impl Contents {
    /// Makes durable what was written before; true if the file had grown or shrunk.
    fn settle(&mut self, covers: usize) -> bool {
        let settled = self.pending.iter().take_while(|pending| pending.sequence < covers).count();
        if settled == 0 {
            return false;
        }
        let mut bytes = self.durable.bytes().to_vec();
        let mut grew = false;
        for pending in self.pending.drain(..settled) {
            pending.edit.apply(&mut bytes);
            grew |= pending.grows;
        }
        self.durable = Blob::new(bytes);
        self.images.clear();
        grew
    }

    /// The bytes after a loss.
    fn after(&mut self, inode: Inode, loss: Loss) -> Arc<Blob> {
        if self.pending.is_empty() {
            return Arc::clone(&self.durable);
        }
        let (name, count) = match loss {
            Loss::All => return Arc::clone(&self.durable),
            Loss::Only(other) if other == inode => return Arc::clone(&self.durable),
            Loss::AllBut(other) if other != inode => return Arc::clone(&self.durable),
            Loss::None | Loss::Only(_) | Loss::AllBut(_) => ("none", self.pending.len()),
            Loss::Half => ("half", self.pending.len()),
            Loss::TornLast => ("torn", self.pending.len()),
            Loss::Zeros => ("zeros", self.pending.len()),
        };
        if let Some(image) = self.images.get(name) {
            return Arc::clone(image);
        }
        let mut bytes = self.durable.bytes().to_vec();
        match name {
            "half" => apply_bytes(&self.pending, &mut bytes, written(&self.pending) / 2),
            "torn" => {
                let (last, before) = self.pending.split_at(count - 1);
                apply_bytes(last, &mut bytes, u64::MAX);
                apply_bytes(before, &mut bytes, written(before) / 2);
            }
            "zeros" => apply_zeros(&self.pending, &mut bytes),
            _ => apply_bytes(&self.pending, &mut bytes, u64::MAX),
        }
        let image = Blob::new(bytes);
        self.images.insert(name, Arc::clone(&image));
        image
    }
}

fn written(pending: &[Pending]) -> u64 {
    let bytes = |pending: &Pending| match &pending.edit {
        Edit::Write(_, data) => data.len() as u64,
        Edit::Resize(_) | Edit::Zero(..) => 0,
    };
    pending.iter().map(bytes).sum()
}

/// Applies edits until `room` bytes were written; the last write is cut there.
fn apply_bytes(pending: &[Pending], bytes: &mut Vec<u8>, mut room: u64) {
    for Pending { edit, .. } in pending {
        match edit {
            Edit::Write(offset, data) if (data.len() as u64) > room => {
                let kept = data[..usize::try_from(room).unwrap_or(0)].to_vec();
                Edit::Write(*offset, kept).apply(bytes);
                return;
            }
            Edit::Write(_, data) => room -= data.len() as u64,
            Edit::Resize(_) | Edit::Zero(..) => {}
        }
        edit.apply(bytes);
    }
}

/// Lengths change, but what was appended reads as zeros and what was overwritten as before.
fn apply_zeros(pending: &[Pending], bytes: &mut Vec<u8>) {
    for Pending { edit, .. } in pending {
        let length = edit.length_after(bytes.len() as u64);
        Edit::Resize(length).apply(bytes);
    }
}

fn kind_only(node: &Node) -> Node {
    match node {
        Node::File(_) => Node::File(Vec::new()),
        Node::Folder(_) => Node::Folder(BTreeMap::new()),
        Node::Link(target) => Node::Link(target.clone()),
    }
}

fn folders(disk: &Disk) -> BTreeMap<Inode, BTreeMap<Vec<u8>, Inode>> {
    let names = |(inode, node): (Inode, &Node)| match node {
        Node::Folder(names) => Some((inode, names.clone())),
        Node::File(_) | Node::Link(_) => None,
    };
    disk.nodes.iter().enumerate().filter_map(names).collect()
}

fn rename(folders: &mut BTreeMap<Inode, BTreeMap<Vec<u8>, Inode>>, naming: &Naming) {
    let names = folders.entry(naming.folder).or_default();
    match naming.inode {
        Some(inode) => names.insert(naming.name.clone(), inode),
        None => names.remove(&naming.name),
    };
}

fn attribute(attributes: &mut Attributes, name: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => attributes.insert(name, value),
        None => attributes.remove(&name),
    };
}
