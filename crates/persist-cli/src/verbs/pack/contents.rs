//! What a pack can be made of and compared with: a folder, a storage, another pack.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use persist_core::{BaseStorage, Key, StorageExt, Value};
use persist_pack::{Archive, Item};

use crate::address::Address;
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::key_path::to_key;
use crate::local_file::LocalFile;
use crate::storages::Access;
use crate::walk::{Found, Walk};

/// Where entries come from.
pub(super) enum Source {
    Folder(PathBuf),
    Pack(Box<Archive>),
    Stored { storage: Arc<dyn BaseStorage>, prefix: String },
}

impl Source {
    /// A folder, a pack, or a storage.
    pub(super) async fn open(app: &App, address: &Address) -> Result<Self> {
        match address {
            Address::Stdio => Err(Failure::usage("- is one value; name a folder, a pack or NAME:")),
            Address::Local(path) if path.is_dir() => Ok(Self::Folder(path.clone())),
            Address::Local(path) => Ok(Self::Pack(Box::new(super::open(path)?))),
            Address::Stored(stored) => {
                let (storage, _) = app.stored(stored, Access::Read).await?;
                Ok(Self::Stored { storage, prefix: stored.rest.clone() })
            }
        }
    }

    /// What a manifest would say of each entry, in the byte order of the keys. Every value is read and hashed, but those of
    /// a pack, whose manifest is taken at its word: verify it first.
    pub(super) async fn items(self, app: &App) -> Result<Vec<Item>> {
        let progress = app.console.progress("reading");
        match self {
            Self::Pack(archive) => {
                super::blocking(move || Ok(archive.items()?.into_iter().map(|(_, item)| item).collect()))
                    .await
            }
            Self::Folder(root) => {
                let files = files(app, &root)?;
                super::blocking(move || {
                    let mut items = Vec::with_capacity(files.len());
                    for (key, file) in files {
                        let value = value(&file)?;
                        progress.step(value.size());
                        items.push(Item::of_value(&key, &value));
                    }
                    Ok(items)
                })
                .await
            }
            Self::Stored { storage, prefix } => {
                let mut items = Vec::new();
                let mut keys = std::pin::pin!(storage.keys(&prefix));
                while let Some(key) = futures_util::StreamExt::next(&mut keys).await {
                    let key = key?;
                    let Some(entry) = storage.retrieve(&key).await? else { continue };
                    progress.step(entry.metadata.size);
                    items.push(Item::of(&key, &entry.metadata));
                }
                Ok(items)
            }
        }
    }
}

/// The files below a folder, each under the key that is its path, in the byte order of the keys.
pub(super) fn files(app: &App, root: &Path) -> Result<Vec<(Key, LocalFile)>> {
    let mut files = Vec::new();
    for found in Walk::new(root, Vec::new())? {
        match found? {
            Found::File { relative, .. } => {
                let key = Key::new(to_key(&relative)?)?;
                files.push((key, LocalFile::below(root, relative)));
            }
            Found::Skipped { relative, why } => {
                app.console.warn(&format!("{} is left out: {why}", root.join(relative).display()));
            }
            Found::Folder(_) => {}
        }
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

/// A file as bytes, whatever is in it.
pub(super) fn value(file: &LocalFile) -> Result<Value> {
    Ok(Value::bytes(file.read(u64::MAX)?))
}
