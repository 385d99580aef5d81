use std::sync::Arc;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::{StreamExt, TryStreamExt};
use persist_core::{BaseStorage, DeleteOptions, Key, StorageExt, Version};
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::args::DryRun;
use crate::exit::{Exit, Failure, Result};
use crate::key_path::folder_prefix;
use crate::spot::StoredKey;
use crate::storages::Access;
use crate::text;

/// How many keys are deleted in one call.
const BATCH: usize = 256;

/// Delete keys
///
/// With -r, main:a means the key a and everything below a/, never ab. A key that is absent is an error (exit code 3)
/// unless --force says otherwise.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The keys; with -r also folders
    #[arg(value_name = "NAME:KEY", required = true,
          value_parser = OsStringValueParser::new().try_map(Stored::parse))]
    addresses: Vec<Stored>,
    /// Everything below a key, too
    #[arg(short, long, conflicts_with = "if_version")]
    recursive: bool,
    /// Absent keys are no error, and -r may empty a whole storage
    #[arg(short, long)]
    force: bool,
    /// Delete only this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    dry: DryRun,
}

impl Rm {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        self.check()?;
        let (mut deleted, mut result) = (0, Ok(()));
        for address in &self.addresses {
            let here =
                if self.recursive { self.tree(app, address).await? } else { self.one(app, address).await? };
            deleted += here;
            if here == 0 && !self.force {
                app.console.fail(&Failure::absent(format!("there is nothing at {address}")));
                result = Err(Failure::Reported(Exit::Absent));
            }
        }
        self.finish(app, deleted)?;
        result
    }

    /// All mistakes are found before anything is deleted.
    fn check(&self) -> Result<()> {
        for address in self.addresses.iter().filter(|address| address.rest.is_empty()) {
            if !self.recursive {
                return Err(Failure::usage(format!(
                    "{address} is a whole storage; name a key: {address}KEY"
                )));
            }
            if !self.force && !self.dry.dry_run {
                return Err(Failure::usage(format!(
                    "this would delete everything in {address}; if that is what you want, add --force"
                )));
            }
        }
        Ok(())
    }

    async fn one(&self, app: &App, address: &Stored) -> Result<u64> {
        let (storage, name) = app.stored(address, Access::writing(self.dry.dry_run)).await?;
        let key = Key::new(address.rest.as_str())?;
        let options = self.if_version.map_or_else(DeleteOptions::new, |version| {
            DeleteOptions::new().if_version(Version::from_u64(version))
        });
        let was_there = if self.dry.dry_run {
            let current = storage.metadata(&key).await?;
            options.condition.check(&key, current.as_ref())?;
            current.is_some()
        } else {
            storage.delete(&key, options).await?
        };
        if was_there {
            self.tell(app, &StoredKey { storage, name, key })?;
        }
        Ok(u64::from(was_there))
    }

    async fn tree(&self, app: &App, address: &Stored) -> Result<u64> {
        let (storage, name) = app.stored(address, Access::writing(self.dry.dry_run)).await?;
        let progress = app.console.progress("deleting");
        let mut deleted = 0;
        // The key itself; what ends with a slash, or is nothing, names a folder alone.
        if !address.rest.is_empty() && !address.rest.ends_with('/') {
            deleted += self.batch(app, &storage, &name, vec![Key::new(address.rest.as_str())?]).await?;
        }
        let prefix = folder_prefix(&address.rest);
        let mut batches = std::pin::pin!(storage.keys(&prefix).try_chunks(BATCH));
        while let Some(keys) = batches.next().await {
            deleted += self.batch(app, &storage, &name, keys.map_err(|error| error.1)?).await?;
            progress.step(0);
        }
        Ok(deleted)
    }

    async fn batch(
        &self,
        app: &App,
        storage: &Arc<dyn BaseStorage>,
        name: &str,
        keys: Vec<Key>,
    ) -> Result<u64> {
        let results = if self.dry.dry_run {
            let mut found = Vec::with_capacity(keys.len());
            for key in &keys {
                found.push(storage.contains(key).await);
            }
            found
        } else {
            storage.delete_many(&keys).await
        };
        let mut deleted = 0;
        for (key, was_there) in keys.into_iter().zip(results) {
            if was_there? {
                deleted += 1;
                self.tell(app, &StoredKey { storage: Arc::clone(storage), name: name.to_owned(), key })?;
            }
        }
        Ok(deleted)
    }

    fn tell(&self, app: &App, place: &StoredKey) -> Result<()> {
        if app.out.is_json() {
            let storage = place.storage.describe().name();
            return app.out.json(&json!({ "action": "delete", "storage": storage, "key": place.key }));
        }
        if !self.dry.dry_run && !app.is_verbose() {
            return Ok(());
        }
        app.out.line(&format!("delete {}:{}", place.name, text::key_line(&place.key)))
    }

    fn finish(&self, app: &App, deleted: u64) -> Result<()> {
        let dry_run = self.dry.dry_run;
        if app.out.is_json() {
            return app.out.json(&json!({ "action": "summary", "deleted": deleted, "dry_run": dry_run }));
        }
        app.out.flush()?;
        let done = if dry_run { "would delete" } else { "deleted" };
        app.console.note(&format!("{done} {}", text::things(deleted, "key")));
        Ok(())
    }
}
