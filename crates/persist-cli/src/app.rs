use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use persist_core::{BaseStorage, Key, StorageError, StorageExt};
use tokio::sync::Mutex;

use crate::address::{Address, KeyAddress, Stored};
use crate::args::Global;
use crate::config_source::ConfigSource;
use crate::console::Console;
use crate::exit::{Exit, Failure, Result};
use crate::key_path::folder_prefix;
use crate::local_file::LocalFile;
use crate::output::Output;
use crate::place::Place;
use crate::spot::{Spot, StoredKey};
use crate::storages::{Access, Storages};

/// What every verb works with: the two outputs, the configuration, and the storages.
pub(crate) struct App {
    /// Data.
    pub(crate) out: Output,
    /// Everything else.
    pub(crate) console: Console,
    /// Where the configuration comes from.
    pub(crate) config: ConfigSource,
    verbose: bool,
    storages: Mutex<Storages>,
    leftovers: SyncMutex<Vec<(Arc<dyn BaseStorage>, String)>>,
    interrupted: AtomicBool,
}

impl App {
    /// An app that has opened nothing yet.
    pub(crate) fn new(global: &Global) -> Self {
        let console = Console::new(global.quiet, global.json);
        let config = ConfigSource::new(global);
        Self {
            out: Output::new(global.json),
            verbose: global.verbose > 0,
            storages: Mutex::new(Storages::new(config.clone(), console.clone())),
            leftovers: SyncMutex::default(),
            interrupted: AtomicBool::new(false),
            console,
            config,
        }
    }

    /// True if the user wants to see each value.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// The storage of an address, and what the user calls it.
    pub(crate) async fn stored(
        &self,
        address: &Stored,
        access: Access,
    ) -> Result<(Arc<dyn BaseStorage>, String)> {
        let mut storages = self.storages.lock().await;
        match &address.name {
            Some(name) => Ok((storages.named(name, access).await?, name.clone())),
            None => Ok((storages.routed(access).await?, String::new())),
        }
    }

    /// The key of an address.
    pub(crate) async fn key(&self, address: &KeyAddress, access: Access) -> Result<StoredKey> {
        let mut storages = self.storages.lock().await;
        let storage = match &address.name {
            Some(name) => storages.named(name, access).await?,
            None => storages.of_key(&address.key, access).await?,
        };
        Ok(StoredKey { storage, name: address.name.clone().unwrap_or_default(), key: address.key.clone() })
    }

    /// The spot of an address that names one value.
    pub(crate) async fn spot(&self, address: &Address, access: Access) -> Result<Spot> {
        Ok(match address {
            Address::Stdio => Spot::Stdio,
            Address::Local(path) => Spot::File(LocalFile::named(path)),
            Address::Stored(Stored { name, rest }) => {
                let key = Key::new(rest.as_str())?;
                Spot::Key(self.key(&KeyAddress { name: name.clone(), key }, access).await?)
            }
        })
    }

    /// The place of an address that names a folder.
    pub(crate) async fn place(&self, address: &Address, access: Access) -> Result<Place> {
        match address {
            Address::Stdio => {
                Err(Failure::usage("- is one value, not a folder; name a folder or NAME:FOLDER"))
            }
            Address::Local(root) => Ok(Place::Folder { root: root.clone(), avoid: self.own_folders()? }),
            Address::Stored(stored) => {
                let (storage, name) = self.stored(stored, access).await?;
                Ok(Place::Below { storage, name, prefix: folder_prefix(&stored.rest) })
            }
        }
    }

    /// The folders in which the configured storages keep their own files, as canonical paths: they are never copied
    /// as if they were the user's.
    fn own_folders(&self) -> Result<Vec<PathBuf>> {
        let paths = self.config.paths(&self.config.plan()?, None);
        Ok(paths.into_iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect())
    }

    /// Sees to it that everything below a prefix is deleted in the end, also if the user interrupts. Whoever calls
    /// this asks [`go_on`](Self::go_on) now and then, because nothing may be under way when that is done.
    pub(crate) fn delete_in_the_end(&self, storage: &Arc<dyn BaseStorage>, prefix: &str) {
        let mut leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
        leftovers.push((Arc::clone(storage), prefix.to_owned()));
    }

    /// Tells the verb to stop; true if it does so by itself.
    pub(crate) fn interrupt(&self) -> bool {
        self.interrupted.store(true, Ordering::Release);
        !self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether a verb that stops by itself may go on.
    ///
    /// # Errors
    /// If the user interrupted.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Acquire) {
            Err(Failure::Reported(Exit::Interrupted))
        } else {
            Ok(())
        }
    }

    /// Removes what was to be removed and closes every storage, the last opened first. All are tried.
    pub(crate) async fn finish(&self) -> Result<()> {
        let leftovers = std::mem::take(&mut *self.leftovers.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = Ok(());
        for (storage, prefix) in leftovers {
            self.keep_first(&mut result, storage.clear(&prefix).await.map(drop));
        }
        for storage in self.storages.lock().await.take().rev() {
            self.keep_first(&mut result, storage.close().await);
        }
        result
    }

    fn keep_first(&self, result: &mut Result<()>, step: Result<(), StorageError>) {
        match (step, &result) {
            (Ok(()), _) => {}
            (Err(error), Ok(())) => *result = Err(error.into()),
            (Err(error), Err(_)) => self.console.fail(&error.into()),
        }
    }
}
