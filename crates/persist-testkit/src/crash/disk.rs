//! Files, folders and links as a crash model sees them: numbered nodes, and names that lead to them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::scratch::attributes;

/// The number of a node; 0 is the top folder.
pub(super) type Inode = usize;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A file with its bytes.
    File(Vec<u8>),
    /// A folder with its names.
    Folder(BTreeMap<Vec<u8>, Inode>),
    /// A symbolic link with its target.
    Link(Vec<u8>),
}

/// Extended attributes by name.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// A whole disk below its top folder.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// The nodes by number.
    pub(super) nodes: Vec<Node>,
    /// Their attributes by number.
    pub(super) attributes: Vec<Attributes>,
}

/// A name that leads somewhere else, or nowhere, from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    /// In which folder.
    pub(super) folder: Inode,
    /// Which name.
    pub(super) name: Vec<u8>,
    /// Where to; `None`: the name is gone.
    pub(super) inode: Option<Inode>,
}

/// A change of the bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// These bytes at this offset; a gap before it reads as zeros.
    Write(u64, Vec<u8>),
    /// Cut or grown with zeros to this length.
    Resize(u64),
    /// Zeros from the first offset to the second, growing the file if it is shorter.
    Zero(u64, u64),
}

impl Disk {
    /// An empty top folder.
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::Folder(BTreeMap::new())], attributes: vec![Attributes::new()] }
    }

    /// What lies in a folder of the real disk. A file with two names is one node: renaming one to the other does nothing.
    pub(super) fn load(top: &Path) -> std::io::Result<Self> {
        let mut disk = Self::new();
        disk.load_folder(top, 0, &mut HashMap::new())?;
        Ok(disk)
    }

    fn load_folder(
        &mut self,
        path: &Path,
        folder: Inode,
        linked: &mut HashMap<u64, Inode>,
    ) -> std::io::Result<()> {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        use std::os::unix::fs::DirEntryExt;
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if let Some(inode) = linked.get(&entry.ino()) {
                let name = entry.file_name().as_bytes().to_vec();
                self.name(&Naming { folder, name, inode: Some(*inode) });
                continue;
            }
            let node = if kind.is_dir() {
                Node::Folder(BTreeMap::new())
            } else if kind.is_symlink() {
                Node::Link(std::fs::read_link(entry.path())?.into_os_string().into_vec())
            } else {
                Node::File(std::fs::read(entry.path())?)
            };
            let inode = self.add(node);
            self.name(&Naming { folder, name: entry.file_name().as_bytes().to_vec(), inode: Some(inode) });
            linked.insert(entry.ino(), inode);
            if kind.is_dir() {
                self.load_folder(&entry.path(), inode, linked)?;
            }
            if !kind.is_symlink() {
                let found = attributes(&entry.path())?;
                self.attributes[inode] =
                    found.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            }
        }
        Ok(())
    }

    /// A further node, without a name yet.
    pub(super) fn add(&mut self, node: Node) -> Inode {
        self.nodes.push(node);
        self.attributes.push(Attributes::new());
        self.nodes.len() - 1
    }

    /// Where a name in a folder leads.
    pub(super) fn child(&self, folder: Inode, name: &[u8]) -> Option<Inode> {
        match &self.nodes[folder] {
            Node::Folder(names) => names.get(name).copied(),
            Node::File(_) | Node::Link(_) => None,
        }
    }

    /// Applies the change of a name.
    pub(super) fn name(&mut self, naming: &Naming) {
        if let Node::Folder(names) = &mut self.nodes[naming.folder] {
            match naming.inode {
                Some(inode) => names.insert(naming.name.clone(), inode),
                None => names.remove(&naming.name),
            };
        }
    }

    /// Applies the change of a file.
    pub(super) fn edit(&mut self, inode: Inode, edit: &Edit) {
        if let Node::File(bytes) = &mut self.nodes[inode] {
            edit.apply(bytes);
        }
    }

    /// Sets or removes an attribute.
    pub(super) fn set_attribute(&mut self, inode: Inode, name: &[u8], value: Option<&Vec<u8>>) {
        match value {
            Some(value) => self.attributes[inode].insert(name.to_vec(), value.clone()),
            None => self.attributes[inode].remove(name),
        };
    }

    /// The bytes of a file; empty for anything else.
    pub(super) fn bytes(&self, inode: Inode) -> &[u8] {
        match &self.nodes[inode] {
            Node::File(bytes) => bytes,
            Node::Folder(_) | Node::Link(_) => &[],
        }
    }
}

impl Edit {
    /// Applies it to the bytes of a file.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let (from, to) = (index(*offset), index(*offset) + data.len());
                if bytes.len() < to {
                    bytes.resize(to, 0);
                }
                bytes[from..to].copy_from_slice(data);
            }
            Self::Resize(length) => bytes.resize(index(*length), 0),
            Self::Zero(from, to) => {
                let (from, to) = (index(*from), index(*to));
                if bytes.len() < to {
                    bytes.resize(to, 0);
                }
                bytes[from..to].fill(0);
            }
        }
    }

    /// How long a file of `length` bytes is afterwards.
    pub(super) fn length_after(&self, length: u64) -> u64 {
        match self {
            Self::Write(offset, data) => length.max(offset + data.len() as u64),
            Self::Resize(length) => *length,
            Self::Zero(_, to) => length.max(*to),
        }
    }
}

/// Offsets of files that fit into memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
