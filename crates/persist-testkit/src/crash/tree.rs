//! What a disk shows after a crash: paths with bytes and attributes, to compare, to tell apart, to lay down.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{XattrFlags, setxattr};

use super::disk::{Attributes, Disk, Inode, Node};

/// The bytes of a file with their hash, shared by all states that hold them.
#[derive(Debug)]
pub(super) struct Blob {
    bytes: Vec<u8>,
    hash: blake3::Hash,
}

impl Blob {
    /// Hashes once.
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        let hash = blake3::hash(&bytes);
        Arc::new(Self { bytes, hash })
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What lies at a path.
#[derive(Clone, Debug)]
pub(super) enum Leaf {
    /// A file.
    File(Arc<Blob>),
    /// A folder.
    Folder,
    /// A symbolic link.
    Link(Vec<u8>),
}

/// One path of a tree.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    path: PathBuf,
    inode: Inode,
    leaf: Leaf,
    attributes: Attributes,
}

/// Everything below the top, folders before what they hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(Vec<Branch>);

/// Deeper folders than this cannot be: a key has at most 1,024 bytes. (Guards against a loop.)
const DEEPEST: usize = 2_048;

impl Tree {
    /// Walks from the top. `names` gives the names of a folder, `leaf` what a node is.
    pub(super) fn grow<'n>(
        names: &impl Fn(Inode) -> Option<&'n BTreeMap<Vec<u8>, Inode>>,
        leaf: &mut impl FnMut(Inode) -> (Leaf, Attributes),
    ) -> Self {
        let mut tree = Self::default();
        tree.grow_folder(Path::new(""), 0, names, leaf, 0);
        tree
    }

    fn grow_folder<'n>(
        &mut self,
        path: &Path,
        folder: Inode,
        names: &impl Fn(Inode) -> Option<&'n BTreeMap<Vec<u8>, Inode>>,
        leaf: &mut impl FnMut(Inode) -> (Leaf, Attributes),
        depth: usize,
    ) {
        for (name, &inode) in names(folder).into_iter().flatten() {
            let path = path.join(OsStr::from_bytes(name));
            let (found, attributes) = leaf(inode);
            let deeper = matches!(found, Leaf::Folder) && depth < DEEPEST;
            self.0.push(Branch { path: path.clone(), inode, leaf: found, attributes });
            if deeper {
                self.grow_folder(&path, inode, names, leaf, depth + 1);
            }
        }
    }

    /// Equal for equal trees.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for branch in &self.0 {
            part(branch.path.as_os_str().as_bytes());
            match &branch.leaf {
                Leaf::File(blob) => part(blob.hash.as_bytes()),
                Leaf::Folder => part(b"folder"),
                Leaf::Link(target) => part(target),
            }
            part(&[u8::try_from(branch.attributes.len()).unwrap_or(u8::MAX)]);
            for (name, value) in &branch.attributes {
                part(name);
                part(value);
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// Lays it down in an empty folder.
    pub(super) fn lay(&self, top: &Path) -> std::io::Result<()> {
        let mut laid: HashMap<Inode, PathBuf> = HashMap::new();
        for branch in &self.0 {
            let path = top.join(&branch.path);
            match (&branch.leaf, laid.get(&branch.inode)) {
                (Leaf::File(_), Some(first)) => std::fs::hard_link(first, &path)?,
                (Leaf::File(blob), None) => std::fs::File::create(&path)?.write_all(blob.bytes())?,
                (Leaf::Folder, _) => std::fs::create_dir(&path)?,
                (Leaf::Link(target), _) => {
                    std::os::unix::fs::symlink(OsString::from_vec(target.clone()), &path)?;
                }
            }
            if !matches!(branch.leaf, Leaf::Link(_)) {
                for (name, value) in &branch.attributes {
                    setxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty())?;
                }
            }
            laid.insert(branch.inode, path);
        }
        Ok(())
    }

    fn of(disk: &Disk) -> Self {
        let names = |inode: Inode| match &disk.nodes[inode] {
            Node::Folder(names) => Some(names),
            Node::File(_) | Node::Link(_) => None,
        };
        let mut leaf = |inode: Inode| {
            let leaf = match &disk.nodes[inode] {
                Node::File(bytes) => Leaf::File(Blob::new(bytes.clone())),
                Node::Folder(_) => Leaf::Folder,
                Node::Link(target) => Leaf::Link(target.clone()),
            };
            (leaf, disk.attributes[inode].clone())
        };
        Self::grow(&names, &mut leaf)
    }
}

/// The first path at which two disks differ, in words; `None` if they show the same.
pub(super) fn difference(ours: &Disk, real: &Disk) -> Option<String> {
    let by_path = |disk: &Disk| -> BTreeMap<PathBuf, String> {
        let show = |branch: &Branch| match &branch.leaf {
            Leaf::File(blob) => format!("{} bytes {}, {:?}", blob.bytes.len(), blob.hash, branch.attributes),
            Leaf::Folder => format!("folder, {:?}", branch.attributes),
            Leaf::Link(target) => format!("link to {}", String::from_utf8_lossy(target)),
        };
        Tree::of(disk).0.iter().map(|branch| (branch.path.clone(), show(branch))).collect()
    };
    let (ours, real) = (by_path(ours), by_path(real));
    let paths = ours.keys().chain(real.keys());
    let differs = paths.into_iter().find(|path| ours.get(*path) != real.get(*path))?;
    Some(format!("{}: recorded {:?}, real {:?}", differs.display(), ours.get(differs), real.get(differs)))
}
