//! What is stored for a key now, and whether it is still the same a moment later.

use std::os::fd::OwnedFd;

use persist_core::Metadata;
use rustix::fs::{AtFlags, fstat, statat};
use rustix::io::Errno;

use crate::form::{self, Form, Trouble};
use crate::name::KeyPath;
use crate::root::Root;

/// A file as the kernel tells it apart: it has another inode after every replacement and another change time after
/// every `touch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    changed: (i64, u64),
}

/// The files of one key, at most one for each form; more than one only after a crash that was not yet repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe([Option<Identity>; 4]);

impl Probe {
    /// Looks for a name in a folder, in every form. `None`: the folder is not there, and so no file.
    pub(crate) fn look(folder: Option<&OwnedFd>, stem: &str) -> Result<Self, Errno> {
        let mut probe = Self::default();
        let Some(folder) = folder else { return Ok(probe) };
        for (form, slot) in Form::ALL.into_iter().zip(&mut probe.0) {
            let name = format!("{stem}.{}", form.ending());
            *slot = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    Some(Identity { inode: stat.st_ino, changed: (stat.st_ctime, stat.st_ctime_nsec) })
                }
                Err(Errno::NOENT) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(probe)
    }

    /// The forms in which there is a file.
    pub(crate) fn forms(&self) -> impl Iterator<Item = Form> + use<> {
        Form::ALL.into_iter().zip(self.0).filter_map(|(form, found)| found.map(|_| form))
    }

    /// Whether there is a file in this form.
    pub(crate) fn has(&self, wanted: Form) -> bool {
        self.forms().any(|form| form == wanted)
    }
}

/// What is stored for a key.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The form that readers see.
    pub(crate) form: Form,
    /// The open file.
    pub(crate) file: OwnedFd,
    /// Its metadata, expired or not; `Err` says what is wrong with it.
    pub(crate) metadata: Result<Metadata, String>,
    /// False for a file that some other program put there.
    pub(crate) ours: bool,
}

impl Stored {
    /// Opens what readers see of a key; `None` if it is absent.
    pub(crate) fn open(root: &Root, path: &KeyPath, probe: &Probe) -> Result<Option<Self>, Errno> {
        for form in probe.forms() {
            match root.open_file(&path.file(form.ending())) {
                Ok(file) => return Self::read(form, file).map(Some),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads the metadata of an open file.
    pub(crate) fn read(form: Form, file: OwnedFd) -> Result<Self, Errno> {
        let (metadata, ours) = match form::layout(&file, form) {
            Ok(layout) => match layout.metadata {
                Some(metadata) => (Ok(metadata), true),
                None => (Ok(form::foreign_draft(form, &fstat(&file)?)), false),
            },
            Err(Trouble::Damage(what)) => (Err(what), true),
            Err(Trouble::System(error)) => return Err(error),
        };
        Ok(Self { form, file, metadata, ours })
    }
}
