use std::path::Path;

use persist_core::{Descriptor, ListOptions};

use crate::address::{Address, Stored};
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::key_path::{folder_prefix, last_level, to_path};
use crate::local_file::LocalFile;
use crate::place::Place;
use crate::spot::{Spot, StoredKey};
use crate::storages::Access;

/// Where something comes from and where it goes, worked out from two addresses.
pub(crate) enum Pair {
    /// One value.
    Single(Spot, Spot),
    /// All values below.
    Many(Place, Place),
}

impl Pair {
    /// Works it out for `cp` and `mv`. The target is opened for writing unless it is for show.
    ///
    /// # Errors
    /// If the two cannot be a pair, or `recursive` is missing or out of place.
    pub(crate) async fn resolve(
        app: &App,
        from: &Address,
        to: &Address,
        recursive: bool,
        (from_access, to_access): (Access, Access),
    ) -> Result<Self> {
        check_one_is_stored(from, to)?;
        check_recursive(from, recursive)?;
        if recursive && is_folder(app, from, from_access).await? {
            return Self::folders(app, from, to, (from_access, to_access)).await;
        }
        // The target first: a storage that is open for writing serves reading too.
        let to = target_spot(app, from, to, to_access).await?;
        let from = app.spot(from, from_access).await?;
        if let (Spot::Key(a), Spot::Key(b)) = (&from, &to)
            && a.key == b.key
            && may_be_same(a, b)
        {
            return Err(Failure::usage(format!("source and target are the same: {}", from.show())));
        }
        Ok(Self::Single(from, to))
    }

    /// Works it out where both are folders.
    ///
    /// # Errors
    /// If the two cannot be a pair, or one lies in the other.
    pub(crate) async fn folders(
        app: &App,
        from: &Address,
        to: &Address,
        (from_access, to_access): (Access, Access),
    ) -> Result<Self> {
        check_one_is_stored(from, to)?;
        let to = app.place(to, to_access).await?;
        let from = app.place(from, from_access).await?;
        if overlap(&from, &to) {
            return Err(Failure::usage(format!(
                "{} and {} lie in each other; copy to another prefix or another storage",
                from.show(""),
                to.show("")
            )));
        }
        if let (Place::Folder { root, .. }, Access::Write) = (&to, to_access) {
            std::fs::create_dir_all(root).map_err(|error| Failure::io("make the folder", root, &error))?;
        }
        Ok(Self::Many(from, to))
    }
}

fn check_one_is_stored(from: &Address, to: &Address) -> Result<()> {
    if matches!(from, Address::Stored(_)) || matches!(to, Address::Stored(_)) {
        return Ok(());
    }
    Err(Failure::usage("neither side is in a storage; write NAME:KEY for at least one of them"))
}

fn check_recursive(from: &Address, recursive: bool) -> Result<()> {
    let shown = match from {
        Address::Local(path) if path.is_dir() => format!("{} is a folder", path.display()),
        Address::Stored(stored) if stored.rest.is_empty() => format!("{stored} is a whole storage"),
        _ => return Ok(()),
    };
    if recursive { Ok(()) } else { Err(Failure::usage(format!("{shown}; add -r to take all of it"))) }
}

/// Whether a source means what lies below it rather than one value.
async fn is_folder(app: &App, from: &Address, access: Access) -> Result<bool> {
    match from {
        Address::Stdio => Ok(false),
        Address::Local(path) => Ok(path.is_dir()),
        Address::Stored(stored) if stored.rest.is_empty() || stored.rest.ends_with('/') => Ok(true),
        Address::Stored(stored) => {
            let (storage, _) = app.stored(stored, access).await?;
            let page = storage.list_keys(&folder_prefix(&stored.rest), ListOptions::new().limit(1)).await?;
            Ok(!page.keys.is_empty())
        }
    }
}

/// The target of one value; a target that is a folder gets the source's own name.
async fn target_spot(app: &App, from: &Address, to: &Address, access: Access) -> Result<Spot> {
    match to {
        Address::Stored(stored) if stored.rest.is_empty() || stored.rest.ends_with('/') => {
            let rest = format!("{}{}", stored.rest, own_name(from)?);
            app.spot(&Address::Stored(Stored { name: stored.name.clone(), rest }), access).await
        }
        Address::Local(path) if path.is_dir() => {
            let own = to_path(&own_name(from)?)?;
            Ok(Spot::File(LocalFile::below(path, own)))
        }
        _ => app.spot(to, access).await,
    }
}

fn own_name(from: &Address) -> Result<String> {
    let name = match from {
        Address::Stdio => None,
        Address::Local(path) => {
            path.file_name().map(|name| crate::key_path::to_key(Path::new(name))).transpose()?
        }
        Address::Stored(stored) => Some(last_level(&stored.rest).to_owned()).filter(|name| !name.is_empty()),
    };
    name.ok_or_else(|| Failure::usage("the source has no name that could be used; name the target in full"))
}

/// True if one could hold the other, so that a copy would find its own results.
fn overlap(from: &Place, to: &Place) -> bool {
    match (from, to) {
        (Place::Below { storage: a, prefix: from, .. }, Place::Below { storage: b, prefix: to, .. }) => {
            same_storage(a.describe(), b.describe()) && (from.starts_with(to) || to.starts_with(from))
        }
        _ => false,
    }
}

fn may_be_same(a: &StoredKey, b: &StoredKey) -> bool {
    same_storage(a.storage.describe(), b.storage.describe())
}

/// True if two may be one storage: by name, or because one is the routes, which may lead to the other.
fn same_storage(a: &Descriptor, b: &Descriptor) -> bool {
    a.name() == b.name() || a.backend() == "router" || b.backend() == "router"
}
