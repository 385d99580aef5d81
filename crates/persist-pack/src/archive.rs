//! A sealed pack as a file of its own: what is in it, whether it is whole, and getting things out of it.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use persist_core::{Entry, ErrorKind, Key, Problem, Result, StorageError, escape};

use crate::fault::{Fault, system_of};
use crate::manifest::Item;
use crate::merkle::Hash;
use crate::name::Names;
use crate::note::Role;
use crate::parallel::in_parallel;
use crate::proof::Proof;
use crate::reading::MAX_ARRAY_HEADER;
use crate::sealed::{Known, Opened, Sealed};
use crate::signature::{PublicKey, Signature, SigningKey};
use crate::state::{Found, State, value_of};
use crate::structure;
use crate::tail::{Extras, Tail};
use crate::wire::Wrong;

/// The largest signature that is read, in bytes.
const MAX_SIGNATURE: u64 = 64 << 10;

/// How much of what is to be verified a thread takes at a time, in entries.
const PORTION: usize = 64;

/// A sealed pack, open for reading. It should come from where nobody changes it while it is read.
pub struct Archive {
    pack: Arc<Sealed>,
    state: State,
    path: PathBuf,
}

/// What a verification found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// How many values were read.
    pub checked: u64,
    /// How many bytes of plain values.
    pub bytes: u64,
    /// The root over all entries.
    pub root: Hash,
    /// Whose signature it has; the signature was checked.
    pub signed_by: Option<PublicKey>,
    /// What is wrong; empty: nothing is.
    pub problems: Vec<Problem>,
}

/// Which keys are extracted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// Those that begin with a text.
    Prefix(String),
    /// A single one.
    Entry(Key),
}

impl Selection {
    fn holds(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Entry(entry) => entry == key,
        }
    }

    /// What is said if there is no such key; `None`: an empty pack has all of its keys.
    fn missing(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Prefix(prefix) => Some(format!("no key begins with {}", escape(prefix))),
            Self::Entry(entry) => Some(format!("there is no key {}", escape(entry))),
        }
    }
}

/// What an extraction wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// How many files.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many of them have an escaped name under `.persist/keys/`, because their keys cannot be names of files.
    pub escaped: u64,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pack.fmt(f)
    }
}

impl Archive {
    /// Opens a sealed pack.
    ///
    /// # Errors
    /// `Corruption` if it is damaged at its beginning or end, cut off, or no sealed pack; what the disk says.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |error| system_of(&format!("cannot read {}", path.display()), error);
        let file = File::open(path).map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(corrupt(path, "it is no file"));
        }
        match Sealed::open(path, &file) {
            Ok(Opened::Sealed(sealed)) => {
                let pack: Arc<Sealed> = Arc::from(sealed);
                let state = State { packs: vec![Arc::clone(&pack)], ..State::default() };
                Ok(Self { pack, state, path: path.to_owned() })
            }
            Ok(Opened::Unsealed) => {
                Err(corrupt(path, "it is no sealed pack, or cut off, or its seal is damaged"))
            }
            Err(Fault::System(error)) => Err(fail(error)),
            Err(Fault::Damage(wrong)) => Err(corrupt(path, wrong.0)),
            Err(Fault::Pack(what)) => Err(corrupt(path, &what)),
        }
    }

    fn fault(&self, fault: impl Into<Fault>) -> StorageError {
        match fault.into() {
            Fault::System(error) => system_of(&format!("cannot read {}", self.path.display()), error),
            Fault::Damage(wrong) => corrupt(&self.path, wrong.0),
            Fault::Pack(what) => corrupt(&self.path, &what),
        }
    }

    /// The root over all entries, as the seal says; [`verify`](Self::verify) checks it.
    pub fn root(&self) -> Hash {
        self.pack.seal.root
    }

    /// Calls `visit` for each entry, in the byte order of the keys.
    ///
    /// # Errors
    /// `Corruption`; what `visit` says.
    pub fn each(&self, mut visit: impl FnMut(Key, Item) -> Result<()>) -> Result<()> {
        let mut failed = None;
        let walked = self.state.walk("", false, |layer, known| {
            if known.is_tombstone {
                return Ok(true);
            }
            let item = self.item(layer, &known)?;
            Ok(visit(known.key, item).map_err(|error| failed = Some(error)).is_ok())
        });
        walked.map_err(|wrong| self.fault(wrong))?;
        failed.map_or(Ok(()), Err)
    }

    fn item(&self, layer: usize, known: &Known) -> std::result::Result<Item, Wrong> {
        let found = self.state.record(layer, known)?;
        let metadata = found.metadata().ok_or(Wrong("it has no metadata"))?;
        Ok(Item::of(&known.key, metadata))
    }

    /// All entries.
    ///
    /// # Errors
    /// `Corruption`.
    pub fn items(&self) -> Result<Vec<(Key, Item)>> {
        let mut items = Vec::new();
        self.each(|key, item| {
            items.push((key, item));
            Ok(())
        })?;
        Ok(items)
    }

    /// The value of a key, with its checksum verified; `None`: there is none.
    ///
    /// # Errors
    /// `Corruption`; also for a value that lies in another pack of the folder that this one is from.
    pub fn read(&self, key: &Key) -> Result<Option<Entry>> {
        let found = self.state.find(key).map_err(|wrong| self.fault(wrong).with_key(key))?;
        found.map(|found| self.entry(key, &found)).transpose()
    }

    fn entry(&self, key: &Key, found: &Found) -> Result<Entry> {
        let read = || -> std::result::Result<Entry, Fault> {
            let metadata = found.metadata().ok_or(Wrong("it has no metadata"))?;
            let holder = self.state.holder(found)?;
            let limit = metadata.size.saturating_add(MAX_ARRAY_HEADER);
            let value = value_of(metadata.kind, holder.data(limit)?)?;
            if value.size() != metadata.size || value.checksum() != metadata.checksum {
                return Err(Wrong("the value does not match its checksum").into());
            }
            Ok(Entry::new(value, metadata.clone()))
        };
        read().map_err(|fault| self.fault(fault).with_key(key))
    }

    /// The signature, unchecked.
    ///
    /// # Errors
    /// `Corruption` if there is something else in its place.
    pub fn signature(&self) -> Result<Option<Signature>> {
        let manifest = structure::found(&self.pack, self.pack.seal.manifest_at, Role::Manifest);
        let manifest = manifest.map_err(|what| corrupt(&self.path, what))?;
        let next = self.pack.seal.manifest_at + manifest.head().record_len();
        if next == self.pack.seal.directory_at {
            return Ok(None);
        }
        let signature =
            structure::found(&self.pack, next, Role::Signature).map_err(|what| corrupt(&self.path, what))?;
        let text = signature.data(MAX_SIGNATURE).map_err(|fault| self.fault(fault))?;
        Signature::from_json(&text).map(Some)
    }

    /// Checks that the root is the one expected.
    ///
    /// # Errors
    /// `Corruption` if not.
    pub fn check_root(&self, root: &Hash) -> Result<()> {
        if self.root() == *root {
            Ok(())
        } else {
            Err(corrupt(&self.path, "its root is another than the one expected"))
        }
    }

    /// Checks the signature before anything of the content is looked at. `key`: whose it must be; then a missing one is
    /// an error. Without a key, one that is there must be valid for the key that it names, which anybody could have
    /// made.
    ///
    /// # Errors
    /// `Corruption` if it is missing, not valid, or of somebody else.
    pub fn check_signature(&self, key: Option<&PublicKey>) -> Result<Option<PublicKey>> {
        match (self.signature()?, key) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(corrupt(&self.path, "it has no signature, and one was asked for")),
            (Some(signature), key) => {
                let key = key.map_or_else(|| signature.claimed_key(), |key| Ok(*key))?;
                signature.check(&key, &self.root())?;
                Ok(Some(key))
            }
        }
    }

    /// Reads everything: the signature, each value with its checksum, and whether index, manifest and directory are
    /// those that follow from the records. `step` is told the bytes of each value.
    ///
    /// # Errors
    /// `Corruption` for a signature that is missing or not valid. What else is damaged is in the answer.
    pub fn verify(&self, key: Option<&PublicKey>, step: impl Fn(u64) + Sync) -> Result<Verified> {
        let signed_by = self.check_signature(key)?;
        let (mut checked, mut bytes, mut single, mut all) = (0, 0, Vec::new(), Vec::new());
        let mut problems = Vec::new();
        let walked = self.state.walk("", false, |_, known| {
            if !known.is_tombstone {
                checked += 1;
                bytes += known.size;
                all.push(known.key.clone());
                if known.is_reference {
                    single.push(known.key);
                }
            }
            Ok(true)
        });
        if let Err(wrong) = walked {
            problems.push(Problem::from(self.fault(wrong)));
        }
        let inspection = structure::inspect(&self.pack, &step);
        let asked = if inspection.is_broken { &all } else { &single };
        problems.extend(self.value_problems(asked));
        let told: HashSet<Key> = problems.iter().filter_map(|problem| problem.key.clone()).collect();
        for (key, what) in inspection.findings {
            if key.as_ref().is_none_or(|key| !told.contains(key)) {
                let error = StorageError::new(ErrorKind::Corruption, what);
                problems.push(key.iter().fold(error, |error, key| error.with_key(key)).into());
            }
        }
        Ok(Verified { checked, bytes, root: self.root(), signed_by, problems })
    }

    /// Reads values by their keys, which were there a moment ago.
    fn value_problems(&self, keys: &[Key]) -> Vec<Problem> {
        let portions: Vec<&[Key]> = keys.chunks(PORTION).collect();
        let parts = in_parallel(&portions, |portion| {
            let damaged = portion.iter().filter_map(|key| match self.read(key) {
                Ok(Some(_)) => None,
                Ok(None) => Some(corrupt(&self.path, "a key was there and is not").with_key(key)),
                Err(error) => Some(error),
            });
            damaged.map(Problem::from).collect::<Vec<_>>()
        });
        parts.into_iter().flatten().collect()
    }

    /// The proof that a key is in the pack; `None`: it is not.
    ///
    /// # Errors
    /// `Corruption`, also if the entries do not have the root of the seal.
    pub fn prove(&self, key: &Key) -> Result<Option<Proof>> {
        let items = self.items()?;
        let mut leaves = Vec::with_capacity(items.len());
        for (_, item) in &items {
            leaves.push(item.leaf().map_err(|wrong| self.fault(wrong))?);
        }
        if crate::merkle::root(&leaves) != self.root() {
            return Err(corrupt(&self.path, "its entries do not have the root of its seal"));
        }
        let Ok(index) = items.binary_search_by(|(found, _)| found.cmp(key)) else { return Ok(None) };
        Ok(items.get(index).and_then(|(_, item)| Proof::of(item.clone(), index, &leaves)))
    }

    /// Writes the values of some keys into a folder that is made for it, or empty: whole or not at all.
    /// Nothing is written outside of it: names come from the keys, never from the pack, and what cannot be a name of a
    /// file everywhere gets an escaped one; a key has the same name whatever else is extracted with it. `limit`: the most
    /// bytes that may be written.
    ///
    /// # Errors
    /// `Corruption`, then nothing is written; `NotFound` if there is no such key; `TooLarge` over the limit; `Conflict` if
    /// the folder is not empty; what the disk says.
    pub fn extract(
        &self,
        selection: &Selection,
        to: &Path,
        limit: u64,
        step: impl Fn(u64),
    ) -> Result<Extracted> {
        let fail = |what: &str, error| system_of(&format!("cannot {what} {}", to.display()), error);
        match fs::read_dir(to) {
            Ok(mut inside) => {
                if inside.next().is_some() {
                    let message = format!("{} is not empty; name a new folder", to.display());
                    return Err(StorageError::new(ErrorKind::Conflict, message));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail("read", error)),
        }
        let items = self.items()?;
        let wanted = || items.iter().filter(|(key, _)| selection.holds(key));
        if let (None, Some(missing)) = (wanted().next(), selection.missing()) {
            let message = format!("{}: {missing}; list its keys first", self.path.display());
            return Err(StorageError::new(ErrorKind::NotFound, message));
        }
        let total: u64 = wanted().map(|(_, item)| item.size).fold(0, u64::saturating_add);
        if total > limit {
            let message = format!(
                "{total} bytes would be written, and {limit} may be; raise the limit if you trust the pack"
            );
            return Err(StorageError::new(ErrorKind::TooLarge, message));
        }
        let mut name = to.as_os_str().to_owned();
        name.push(".unfinished");
        let staging = PathBuf::from(name);
        DirBuilder::new().create(&staging).map_err(|error| {
            system_of(
                &format!("cannot make {} (left by an earlier run? remove it)", staging.display()),
                error,
            )
        })?;
        let result = self
            .write_all(&items, selection, &staging, &step)
            .and_then(|done| fs::rename(&staging, to).map_err(|error| fail("make", error)).map(|()| done));
        if result.is_err() {
            // What is left has a name that says what it is.
            let _ = fs::remove_dir_all(&staging);
        }
        result
    }

    fn write_all(
        &self,
        items: &[(Key, Item)],
        selection: &Selection,
        folder: &Path,
        step: &impl Fn(u64),
    ) -> Result<Extracted> {
        let mut done = Extracted::default();
        let mut names = Names::default();
        for (key, item) in items {
            // Of all keys: what is extracted before says nothing of the name that a key has.
            let kind = item.kind.parse().map_err(|_| corrupt(&self.path, "a value has an unknown kind"))?;
            let name = names.take(key, kind);
            if !selection.holds(key) {
                continue;
            }
            let Some(entry) = self.read(key)? else { continue };
            done.escaped += u64::from(name.starts_with(".persist/"));
            let written = write_file(&folder.join(&name), &entry);
            done.bytes += written.map_err(|error| {
                system_of(&format!("cannot write {name:?} in {}", folder.display()), error)
            })?;
            done.files += 1;
            step(entry.metadata.size);
        }
        Ok(done)
    }
}

/// Writes a value as other tools read it. The file must be new, so that no link is followed.
fn write_file(path: &Path, entry: &Entry) -> std::io::Result<u64> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let head = match &entry.value {
        persist_core::Value::Array(array) => array.npy_header().encode(),
        _ => Vec::new(),
    };
    file.write_all(&head)?;
    file.write_all(entry.value.buffer())?;
    Ok(head.len() as u64 + entry.value.size())
}

fn corrupt(path: &Path, what: &str) -> StorageError {
    StorageError::new(ErrorKind::Corruption, format!("{}: {what}", path.display()))
}

/// Signs a sealed pack, which is replaced by one with the signature in it; an earlier signature goes.
///
/// # Errors
/// `Corruption` if the pack is not what follows from its records: nothing is signed that was not verified; what the disk
/// says.
pub fn sign(path: &Path, key: &SigningKey) -> Result<()> {
    let archive = Archive::open(path)?;
    // An earlier signature may be of anybody: it is replaced.
    let problems = structure::problems(&archive.pack);
    if let Some((_, what)) = problems.into_iter().next() {
        return Err(StorageError::new(ErrorKind::Corruption, what));
    }
    let pack = &archive.pack;
    let kept = structure::kept_manifest(pack).map_err(|what| corrupt(path, what))?;
    let signature = key.sign(&archive.root()).to_json();
    let extras = Extras { signature: Some(signature.as_bytes()), manifest: Some(kept), ..Extras::default() };
    let tail =
        Tail::of(pack.log(), &pack.pack, pack.start, &extras).map_err(|(_, wrong)| corrupt(path, wrong.0))?;
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let unfinished = PathBuf::from(name);
    let written = || -> std::io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.write_all(pack.log())?;
        file.write_all(&tail.bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        system_of(&format!("cannot write {}", path.display()), error)
    })
}
