use std::sync::Arc;

use persist_core::{BaseStorage, Key, StorageError};
use persist_manager::{Plan, Router};

use crate::config_source::ConfigSource;
use crate::console::Console;
use crate::exit::{Failure, Result};
use crate::missing::Missing;

/// What a storage is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading alone, which also works on a medium that cannot be written to.
    Read,
    /// Reading and writing.
    Write,
    /// Looking at what a change would meet. A storage that does not exist yet is empty then, and is not made.
    Rehearse,
}

impl Access {
    /// For writing, unless it is only for show.
    pub(crate) fn writing(dry_run: bool) -> Self {
        if dry_run { Self::Rehearse } else { Self::Write }
    }
}

/// The storages opened so far: each only when it is asked for, and at most once for reading and once for writing.
pub(crate) struct Storages {
    source: ConfigSource,
    console: Console,
    reading: Option<Plan>,
    writing: Option<Plan>,
    opened: Vec<Opened>,
}

struct Opened {
    name: String,
    /// `Rehearse`: it does not exist, and what is kept here stands in for it.
    access: Access,
    storage: Arc<dyn BaseStorage>,
}

impl Storages {
    /// Nothing opened yet.
    pub(crate) fn new(source: ConfigSource, console: Console) -> Self {
        Self { source, console, reading: None, writing: None, opened: Vec::new() }
    }

    /// A storage by name.
    pub(crate) async fn named(&mut self, name: &str, access: Access) -> Result<Arc<dyn BaseStorage>> {
        let fits = |opened: &&Opened| {
            let serves = match opened.access {
                Access::Write => true,
                Access::Read => access != Access::Write,
                Access::Rehearse => access == Access::Rehearse,
            };
            opened.name == name && serves
        };
        if let Some(opened) = self.opened.iter().find(fits) {
            return Ok(Arc::clone(&opened.storage));
        }
        let plan = self.plan(access)?;
        let (storage, how) = match plan.open_storage(name).await {
            Ok(storage) => (storage, if access == Access::Write { access } else { Access::Read }),
            Err(error) => (self.stand_in(name, access, error)?, Access::Rehearse),
        };
        self.opened.push(Opened { name: name.to_owned(), access: how, storage: Arc::clone(&storage) });
        Ok(storage)
    }

    /// The storage that a key belongs to: that of the longest route that matches, else the default.
    pub(crate) async fn of_key(&mut self, key: &Key, access: Access) -> Result<Arc<dyn BaseStorage>> {
        let plan = self.plan(access)?;
        let matching = plan.routes().filter(|(prefix, _)| key.starts_with(prefix));
        let longest = matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, name)| name);
        let name = longest.unwrap_or_else(|| plan.default_storage()).to_owned();
        self.named(&name, access).await
    }

    /// The default storage and all that the routes lead to, as one. For reading it is enough that one of them exists.
    pub(crate) async fn routed(&mut self, access: Access) -> Result<Arc<dyn BaseStorage>> {
        let plan = self.plan(access)?;
        let default = plan.default_storage().to_owned();
        let routes: Vec<(String, String)> =
            plan.routes().map(|(prefix, name)| (prefix.to_owned(), name.to_owned())).collect();
        if routes.is_empty() {
            return self.named(&default, access).await;
        }
        let lenient = if access == Access::Read { Access::Rehearse } else { access };
        let first = self.named(&default, lenient).await?;
        let mut members = Vec::with_capacity(routes.len());
        for (prefix, name) in routes {
            members.push((prefix, self.named(&name, lenient).await?));
        }
        if access == Access::Read && self.opened.iter().all(|opened| opened.access == Access::Rehearse) {
            let plan = self.source.plan()?;
            return Err(self
                .absent(&plan, &default)
                .unwrap_or_else(|| Failure::new("nothing could be opened")));
        }
        Ok(Arc::new(Router::new("routes", first, members)?))
    }

    /// Takes all storages out, in the order of opening.
    pub(crate) fn take(&mut self) -> impl DoubleEndedIterator<Item = Arc<dyn BaseStorage>> {
        std::mem::take(&mut self.opened).into_iter().map(|opened| opened.storage)
    }

    fn plan(&mut self, access: Access) -> Result<&mut Plan> {
        let first = self.reading.is_none() && self.writing.is_none();
        let slot = if access == Access::Write { &mut self.writing } else { &mut self.reading };
        let plan = match slot.take() {
            Some(plan) => plan,
            None => self.source.plan_with(&self.source.options().read_only(access != Access::Write))?,
        };
        if first {
            plan.warnings().iter().for_each(|warning| self.console.warn(warning));
        }
        Ok(slot.insert(plan))
    }

    /// What stands in for a storage that cannot be opened: an empty one, if it just does not exist yet and the change
    /// is only for show; else there is nothing.
    fn stand_in(&mut self, name: &str, access: Access, error: StorageError) -> Result<Arc<dyn BaseStorage>> {
        if access == Access::Write {
            return Err(error.into());
        }
        let plan = self.source.plan()?;
        match self.absent(&plan, name) {
            None => Err(error.into()),
            Some(_) if access == Access::Rehearse => {
                Ok(Arc::new(Missing::new(name, plan.backend(name).unwrap_or_default())))
            }
            Some(failure) => Err(failure),
        }
    }

    /// The failure for a storage whose files are not there; `None` if they are, or if it has none.
    fn absent(&self, plan: &Plan, name: &str) -> Option<Failure> {
        let path = self.source.paths(plan, Some(name)).into_iter().find(|path| !path.exists())?;
        Some(Failure::absent(format!(
            "the storage `{name}` does not exist yet: there is no {}; store something in it, or correct the \
             configuration (see persist config show)",
            path.display()
        )))
    }
}
