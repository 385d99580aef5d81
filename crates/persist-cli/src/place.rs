use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use persist_core::{BaseStorage, Key, StorageExt};

use crate::exit::{Failure, Result};
use crate::key_path;
use crate::local_file::LocalFile;
use crate::spot::{Spot, StoredKey};
use crate::text::key_line;
use crate::walk::{Found, Walk};

/// The place of many values: a local folder, or what lies below a prefix of a storage. Each value has a name in it,
/// with `/` between levels, that means the same in every other place.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A local folder, walked without the folders in `avoid` (canonical paths).
    Folder {
        /// Where it is.
        root: PathBuf,
        /// What is left out.
        avoid: Vec<PathBuf>,
    },
    /// The keys of a storage that begin with a prefix.
    Below {
        /// The storage.
        storage: Arc<dyn BaseStorage>,
        /// What the user calls the storage; empty for the routes.
        name: String,
        /// Empty, or ends with `/`.
        prefix: String,
    },
}

/// What a place holds.
#[derive(Debug)]
pub(crate) enum Item {
    /// A value, by its name in the place.
    Value(String),
    /// Something that is no value, and why it is left out.
    Skipped(String, &'static str),
}

impl Place {
    /// Everything in it: keys in byte order, files folder by folder. A failure may concern one item alone.
    pub(crate) fn items(&self) -> BoxStream<'_, Result<Item>> {
        match self {
            Self::Folder { root, avoid } => match Walk::new(root, avoid.clone()) {
                Ok(walk) => stream::iter(walk).map(|found| self.item(found?)).boxed(),
                Err(failure) => stream::iter([Err(failure)]).boxed(),
            },
            Self::Below { storage, prefix, .. } => storage
                .keys(prefix)
                .map_ok(|key| Item::Value(key[prefix.len()..].to_owned()))
                .map_err(Failure::from)
                .boxed(),
        }
    }

    fn item(&self, found: Found) -> Result<Item> {
        match found {
            Found::File { relative, .. } => key_path::to_key(&relative).map(Item::Value),
            Found::Skipped { relative, why } => {
                Ok(Item::Skipped(self.show(&relative.to_string_lossy()), why))
            }
            Found::Folder(relative) => Ok(Item::Skipped(self.show(&relative.to_string_lossy()), "a folder")),
        }
    }

    /// The spot of one value.
    ///
    /// # Errors
    /// If the name can be no file below the folder, or no key below the prefix.
    pub(crate) fn spot(&self, name: &str) -> Result<Spot> {
        match self {
            Self::Folder { root, .. } => Ok(Spot::File(LocalFile::below(root, key_path::to_path(name)?))),
            Self::Below { storage, name: storage_name, prefix } => Ok(Spot::Key(StoredKey {
                storage: Arc::clone(storage),
                name: storage_name.clone(),
                key: Key::new(format!("{prefix}{name}"))?,
            })),
        }
    }

    /// Returns when what was written to it is as durable as it promises.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self {
            Self::Folder { .. } => Ok(()),
            Self::Below { storage, .. } => Ok(storage.flush().await?),
        }
    }

    /// The address of a value in it as the user would write it.
    pub(crate) fn show(&self, name: &str) -> String {
        match self {
            Self::Folder { root, .. } => key_line(&root.join(name).to_string_lossy()),
            Self::Below { name: storage, prefix, .. } => {
                format!("{storage}:{}", key_line(&format!("{prefix}{name}")))
            }
        }
    }
}
